{{- define "trickle.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 28 | trimSuffix "-" }}
{{- end }}

{{/* At most 28, so that names of Deployments fit into 63 whatever comes behind. */}}
{{- define "trickle.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 28 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- include "trickle.short" (dict "name" .Release.Name "most" 28) }}
{{- else }}
{{- include "trickle.short" (dict "name" (printf "%s-%s" .Release.Name $name) "most" 28) }}
{{- end }}
{{- end }}
{{- end }}

{{/* A name of DNS that is no longer than most: what is cut off is told apart by a digest, so that two long names never become one. */}}
{{- define "trickle.short" -}}
{{- $name := .name | replace "." "-" }}
{{- if gt (len $name) (int .most) }}
{{- printf "%s-%s" ($name | trunc (sub .most 7 | int) | trimSuffix "-") (sha256sum .name | trunc 6) }}
{{- else }}
{{- $name }}
{{- end }}
{{- end }}

{{/* What a replica is called here. Its place in the list has no part in it, so that another order changes nothing. */}}
{{- define "trickle.replicaName" -}}
{{- include "trickle.short" (dict "name" (default .existingSecret .name) "most" 24) }}
{{- end }}

{{- define "trickle.detectorName" -}}
{{- printf "%s-detector-%s" (include "trickle.fullname" .root) (include "trickle.replicaName" .replica) }}
{{- end }}

{{/* Of selectors, which can't be changed: nothing in here depends on a version. */}}
{{- define "trickle.selector" -}}
app.kubernetes.io/name: {{ include "trickle.name" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- with .replica }}
trickle/replica: {{ . | quote }}
{{- end }}
{{- end }}

{{/* All of an object's: what the values add takes nothing from what selectors go by. */}}
{{- define "trickle.labels" -}}
{{- $ours := include "trickle.ownLabels" . | fromYaml }}
{{- mergeOverwrite dict (default dict .root.Values.commonLabels) (default dict .labels) $ours | toYaml }}
{{- end }}

{{- define "trickle.ownLabels" -}}
{{ include "trickle.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: trickle
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* The beginning of every object: (dict "root" $ "name" … "component" … "labels" … "annotations" …). */}}
{{- define "trickle.metadata" -}}
name: {{ .name | quote }}
namespace: {{ .root.Release.Namespace | quote }}
labels:
  {{- include "trickle.labels" . | nindent 2 }}
{{- with mergeOverwrite dict (default dict .root.Values.commonAnnotations) (default dict .annotations) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "trickle.image" -}}
{{- with .Values.image }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "trickle.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "trickle.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "trickle.policyConfigMap" -}}
{{- default (printf "%s-policy" (include "trickle.fullname" .)) .Values.policy.existingConfigMap }}
{{- end }}

{{/* What only several values together can tell: all that is wrong, at once. */}}
{{- define "trickle.check" -}}
{{- $faults := list }}
{{- $v := .Values }}
{{- if not $v.brokers }}
{{- $faults = append $faults "brokers: give Kafka's bootstrap servers: --set brokers=kafka:9092" }}
{{- end }}
{{- if and $v.publisher.enabled (not $v.source.existingSecret) }}
{{- $faults = append $faults "source.existingSecret: name the Secret that holds the source's DSN: --set source.existingSecret=NAME, made by kubectl create secret generic NAME --from-literal=dsn=postgres://…; or, where the publisher runs elsewhere, --set publisher.enabled=false" }}
{{- end }}
{{- if and (not $v.replicas) (not (and $v.publisher.enabled $v.publisher.alone)) }}
{{- $faults = append $faults "replicas: name the Secret that holds a replica's DSN: --set 'replicas[0].existingSecret=NAME'; or, where all detectors run elsewhere, --set publisher.alone=true" }}
{{- end }}
{{- with $v.kafka }}
{{- if and (or .tls.certKey .tls.keyKey) (not .tls.existingSecret) }}
{{- $faults = append $faults "kafka.tls.existingSecret: name the Secret that kafka.tls.certKey and kafka.tls.keyKey are in" }}
{{- end }}
{{- if ne (empty .tls.certKey) (empty .tls.keyKey) }}
{{- $faults = append $faults "kafka.tls: certKey and keyKey belong together: give both or none" }}
{{- end }}
{{- if and .sasl.mechanism (ne .sasl.mechanism "OAUTHBEARER") (not .sasl.existingSecret) }}
{{- $faults = append $faults (printf "kafka.sasl.existingSecret: name the Secret with user and password for %s" .sasl.mechanism) }}
{{- end }}
{{- if and .sasl.existingSecret (not .sasl.mechanism) }}
{{- $faults = append $faults "kafka.sasl.mechanism: say how to log in with kafka.sasl.existingSecret: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512" }}
{{- end }}
{{- if and (eq .sasl.mechanism "OAUTHBEARER") (not .oauth.tokenFile) (not (and .oauth.tokenURL .oauth.existingSecret)) }}
{{- $faults = append $faults "kafka.oauth: OAUTHBEARER takes tokenURL and existingSecret, or tokenFile" }}
{{- end }}
{{- end }}
{{- if and $v.baseline.existingClaim (gt (int $v.publisher.instances) 1) }}
{{- $faults = append $faults "publisher.instances: one, where the base-line view is on a volume (baseline.existingClaim): put it in a bucket for more" }}
{{- end }}
{{- $policy := default dict $v.policy.config }}
{{- if not (or $v.policy.existingConfigMap $policy.tables) }}
{{- $faults = append $faults "policy.config.tables: name at least one table: --set 'policy.config.tables[0].table=public.*'" }}
{{- end }}
{{- $url := dig "baseline" "url" "" $policy }}
{{- if and (hasPrefix "file:" $url) (not $v.baseline.existingClaim) (not $v.policy.existingConfigMap) $v.publisher.enabled (not $v.extraVolumeMounts) }}
{{- $faults = append $faults (printf "baseline.existingClaim: policy.config.baseline.url is %s, and the pod's own file system can't be written and goes with it: name a PersistentVolumeClaim" $url) }}
{{- end }}
{{- $taken := dict }}
{{- range $i, $r := $v.replicas }}
{{- $name := include "trickle.replicaName" $r }}
{{- if hasKey $taken $name }}
{{- $faults = append $faults (printf "replicas[%d].name: %q is that of replicas[%v] as well: give each a name of its own" $i $name (get $taken $name)) }}
{{- end }}
{{- $_ := set $taken $name $i }}
{{- end }}
{{- with $faults }}
{{- fail (printf "\n  - %s" (join "\n  - " .)) }}
{{- end }}
{{- end }}
