{{/* The environment that every command takes: what run, check and an operator's kubectl exec all read. (dict "root" $) */}}
{{- define "trickle.env" -}}
{{- $v := .root.Values -}}
- name: TRICKLE_POLICY
  value: {{ printf "/etc/trickle/policy/%s" $v.policy.key | quote }}
- name: TRICKLE_BROKERS
  value: {{ kindIs "string" $v.brokers | ternary $v.brokers (join "," $v.brokers) | quote }}
{{- with $v.kafka }}
{{- if or .tls.enabled .tls.serverName .tls.existingSecret }}
- name: TRICKLE_KAFKA_TLS
  value: "true"
{{- end }}
{{- with .tls.serverName }}
- name: TRICKLE_KAFKA_SERVER_NAME
  value: {{ . | quote }}
{{- end }}
{{- if .tls.existingSecret }}
{{- with .tls.caKey }}
- name: TRICKLE_KAFKA_CA_FILE
  value: /etc/trickle/kafka-tls/{{ . }}
{{- end }}
{{- with .tls.certKey }}
- name: TRICKLE_KAFKA_CERT_FILE
  value: /etc/trickle/kafka-tls/{{ . }}
{{- end }}
{{- with .tls.keyKey }}
- name: TRICKLE_KAFKA_KEY_FILE
  value: /etc/trickle/kafka-tls/{{ . }}
{{- end }}
{{- end }}
{{- with .sasl.mechanism }}
- name: TRICKLE_KAFKA_SASL_MECHANISM
  value: {{ . | quote }}
{{- end }}
{{- if .sasl.existingSecret }}
- name: TRICKLE_KAFKA_SASL_USER
  valueFrom: {secretKeyRef: {name: {{ .sasl.existingSecret | quote }}, key: {{ .sasl.userKey | quote }}}}
- name: TRICKLE_KAFKA_SASL_PASSWORD_FILE
  value: /etc/trickle/kafka-login/{{ .sasl.passwordKey }}
{{- end }}
{{- with .oauth.tokenFile }}
- name: TRICKLE_KAFKA_OAUTH_TOKEN_FILE
  value: {{ . | quote }}
{{- end }}
{{- with .oauth.tokenURL }}
- name: TRICKLE_KAFKA_OAUTH_TOKEN_URL
  value: {{ . | quote }}
{{- end }}
{{- if .oauth.existingSecret }}
- name: TRICKLE_KAFKA_OAUTH_CLIENT_ID
  valueFrom: {secretKeyRef: {name: {{ .oauth.existingSecret | quote }}, key: {{ .oauth.clientIDKey | quote }}}}
- name: TRICKLE_KAFKA_OAUTH_CLIENT_SECRET_FILE
  value: /etc/trickle/kafka-oauth/{{ .oauth.clientSecretKey }}
{{- end }}
{{- with .oauth.scope }}
- name: TRICKLE_KAFKA_OAUTH_SCOPE
  value: {{ . | quote }}
{{- end }}
{{- with .oauth.extensions }}
{{- $pairs := list }}
{{- range $name, $value := . }}
{{- $pairs = append $pairs (printf "%s=%s" $name $value) }}
{{- end }}
- name: TRICKLE_KAFKA_OAUTH_EXTENSIONS
  value: {{ join "," $pairs | quote }}
{{- end }}
{{- end }}
{{- with $v.signing }}
{{- if .existingSecret }}
- name: TRICKLE_SIGNING_KEY
  valueFrom: {secretKeyRef: {name: {{ .existingSecret | quote }}, key: {{ .key | quote }}}}
{{- end }}
{{- end }}
{{- end }}

{{/* What only run tells others. (dict "root" $) */}}
{{- define "trickle.otel" -}}
{{- with .root.Values.otel }}
{{- if .endpoint -}}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ .endpoint | quote }}
{{- with .protocol }}
- name: OTEL_EXPORTER_OTLP_PROTOCOL
  value: {{ . | quote }}
{{- end }}
{{- if not .traces }}
- name: OTEL_TRACES_EXPORTER
  value: none
{{- end }}
{{- if not .metrics }}
- name: OTEL_METRICS_EXPORTER
  value: none
{{- end }}
{{- if .existingSecret }}
- name: OTEL_EXPORTER_OTLP_HEADERS
  valueFrom: {secretKeyRef: {name: {{ .existingSecret | quote }}, key: {{ .key | quote }}}}
{{- end }}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
{{- $pairs := list (printf "k8s.namespace.name=%s" $.root.Release.Namespace) "k8s.pod.name=$(POD_NAME)" "k8s.node.name=$(NODE_NAME)" }}
{{- range $name, $value := .resourceAttributes }}
{{- $pairs = append $pairs (printf "%s=%s" $name ($value | urlquery | replace "+" "%20")) }}
{{- end }}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: {{ join "," $pairs | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/* (dict "name" … "key" …) of a DSN's Secret, under a variable's name. */}}
{{- define "trickle.dsn" -}}
- name: {{ .variable }}
  valueFrom: {secretKeyRef: {name: {{ .secret.existingSecret | quote }}, key: {{ default "dsn" .secret.key | quote }}}}
{{- end }}

{{- define "trickle.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* (dict "root" $): what every pod is under. */}}
{{- define "trickle.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false
serviceAccountName: {{ include "trickle.serviceAccountName" .root | quote }}
securityContext:
  runAsNonRoot: true
  {{- with .root.Values.securityContext.runAsUser }}
  runAsUser: {{ int64 . }}
  {{- end }}
  {{- with .root.Values.securityContext.runAsGroup }}
  runAsGroup: {{ int64 . }}
  {{- end }}
  {{- with .root.Values.securityContext.fsGroup }}
  fsGroup: {{ int64 . }}
  fsGroupChangePolicy: OnRootMismatch
  {{- end }}
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Folders, never single files: what is mounted with subPath would not follow an edit. (dict "root" $ "claim" bool) */}}
{{- define "trickle.mounts" -}}
{{- $v := .root.Values -}}
- {name: policy, mountPath: /etc/trickle/policy, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- if $v.kafka.tls.existingSecret }}
- {name: kafka-tls, mountPath: /etc/trickle/kafka-tls, readOnly: true}
{{- end }}
{{- if $v.kafka.sasl.existingSecret }}
- {name: kafka-login, mountPath: /etc/trickle/kafka-login, readOnly: true}
{{- end }}
{{- if $v.kafka.oauth.existingSecret }}
- {name: kafka-oauth, mountPath: /etc/trickle/kafka-oauth, readOnly: true}
{{- end }}
{{- if .claim }}
- {name: baseline, mountPath: {{ $v.baseline.mountPath | quote }}, readOnly: {{ eq .claim "read" }}}
{{- end }}
{{- with $v.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "trickle.volumes" -}}
{{- $v := .root.Values -}}
- name: policy
  configMap:
    name: {{ include "trickle.policyConfigMap" .root | quote }}
- name: tmp
  emptyDir: {sizeLimit: 64Mi}
{{- with $v.kafka.tls }}
{{- if .existingSecret }}
- name: kafka-tls
  secret: {secretName: {{ .existingSecret | quote }}, defaultMode: 0440}
{{- end }}
{{- end }}
{{- with $v.kafka.sasl }}
{{- if .existingSecret }}
- name: kafka-login
  secret: {secretName: {{ .existingSecret | quote }}, defaultMode: 0440, items: [{key: {{ .passwordKey | quote }}, path: {{ .passwordKey | quote }}}]}
{{- end }}
{{- end }}
{{- with $v.kafka.oauth }}
{{- if .existingSecret }}
- name: kafka-oauth
  secret: {secretName: {{ .existingSecret | quote }}, defaultMode: 0440, items: [{key: {{ .clientSecretKey | quote }}, path: {{ .clientSecretKey | quote }}}]}
{{- end }}
{{- end }}
{{- if .claim }}
- name: baseline
  persistentVolumeClaim: {claimName: {{ .claimName | quote }}, readOnly: {{ eq .claim "read" }}}
{{- end }}
{{- with $v.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/*
A Deployment of either side: (dict "root" $ "name" … "component" … "replica" … "command" … "instances" … "values" …, the side's own, "env" …, a list as YAML, "envFrom" …, a Secret's
name, "claim" …).
*/}}
{{- define "trickle.deployment" -}}
{{- $v := .root.Values }}
{{- $own := .values }}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "trickle.metadata" . | nindent 2 }}
spec:
  replicas: {{ int .instances }}
  revisionHistoryLimit: 5
  {{- if eq .claim "write" }}
  strategy: {type: Recreate} # a volume that one pod holds at a time
  {{- else }}
  strategy:
    type: RollingUpdate
    rollingUpdate: {maxSurge: 1, maxUnavailable: 0}
  {{- end }}
  selector:
    matchLabels:
      {{- include "trickle.selector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "trickle.labels" (merge (dict "labels" $own.podLabels) .) | nindent 8 }}
      annotations:
        {{- mergeOverwrite (dict "kubectl.kubernetes.io/default-container" .component) (default dict $own.podAnnotations) | toYaml | nindent 8 }}
    spec:
      {{- include "trickle.podSecurity" . | nindent 6 }}
      terminationGracePeriodSeconds: {{ int $v.terminationGracePeriodSeconds }}
      containers:
        - name: {{ .component }}
          image: {{ include "trickle.image" .root | quote }}
          imagePullPolicy: {{ $v.image.pullPolicy }}
          command: [{{ .command }}]
          args: [run, "--listen=:8480", "--wait=24h", --log-level={{ $v.logLevel }}]
          env:
            {{- include "trickle.env" . | nindent 12 }}
            {{- .env | nindent 12 }}
            {{- with include "trickle.otel" . }}
            {{- . | nindent 12 }}
            {{- end }}
            {{- with concat (default list $v.extraEnv) (default list $own.extraEnv) }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          {{- with .envFrom }}
          envFrom:
            - secretRef: {name: {{ . | quote }}}
          {{- end }}
          ports:
            - {name: status, containerPort: 8480, protocol: TCP}
          # Not connected yet; a loop that is stuck; at work. What is away, a closed gate and the brake restart nothing.
          startupProbe:
            httpGet: {path: /startupz, port: status}
            periodSeconds: {{ int $v.probes.startup.periodSeconds }}
            timeoutSeconds: 3
            failureThreshold: {{ int $v.probes.startup.failureThreshold }}
          livenessProbe:
            httpGet: {path: /livez, port: status}
            periodSeconds: {{ int $v.probes.liveness.periodSeconds }}
            timeoutSeconds: 5
            failureThreshold: {{ int $v.probes.liveness.failureThreshold }}
          readinessProbe:
            httpGet: {path: /readyz, port: status}
            periodSeconds: {{ int $v.probes.readiness.periodSeconds }}
            timeoutSeconds: 3
            failureThreshold: {{ int $v.probes.readiness.failureThreshold }}
          resources:
            {{- toYaml $own.resources | nindent 12 }}
          securityContext:
            {{- include "trickle.containerSecurity" . | nindent 12 }}
          volumeMounts:
            {{- include "trickle.mounts" . | nindent 12 }}
      volumes:
        {{- include "trickle.volumes" . | nindent 8 }}
      topologySpreadConstraints:
        {{- if $own.topologySpreadConstraints }}
        {{- toYaml $own.topologySpreadConstraints | nindent 8 }}
        {{- else }}
        {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
        - topologyKey: {{ . }}
          maxSkew: 1
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- include "trickle.selector" $ | nindent 14 }}
        {{- end }}
        {{- end }}
      {{- include "trickle.placing" $own | nindent 6 }}
{{- end }}

{{/* Where a side's pods may run. */}}
{{- define "trickle.placing" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- end }}

{{- define "trickle.pdb" -}}
{{- if and .root.Values.podDisruptionBudget.enabled (gt (int .instances) 1) }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "trickle.metadata" . | nindent 2 }}
spec:
  maxUnavailable: {{ .root.Values.podDisruptionBudget.maxUnavailable }}
  selector:
    matchLabels:
      {{- include "trickle.selector" . | nindent 6 }}
{{- end }}
{{- end }}

{{/* The parts that tell the two sides' pods apart, as JSON. */}}
{{- define "trickle.publisher" -}}
{{- $v := .Values }}
{{- $env := include "trickle.dsn" (dict "variable" "TRICKLE_SOURCE_DSN" "secret" $v.source) }}
{{- if $v.source.primary.existingSecret }}
{{- $env = printf "%s\n%s" $env (include "trickle.dsn" (dict "variable" "TRICKLE_PRIMARY_DSN" "secret" $v.source.primary)) }}
{{- end }}
{{- dict "values" $v.publisher "name" (printf "%s-publisher" (include "trickle.fullname" .)) "component" "publisher" "command" "trickle" "instances" $v.publisher.instances "env" $env
  "envFrom" $v.baseline.existingSecret "claim" (ternary "write" "" (ne $v.baseline.existingClaim "")) "claimName" $v.baseline.existingClaim | toJson }}
{{- end }}

{{- define "trickle.detector" -}}
{{- $v := .root.Values }}
{{- $env := include "trickle.dsn" (dict "variable" "TRICKLE_REPLICA_DSN" "secret" .replica) }}
{{- with .replica.consumer }}
{{- $env = printf "%s\n- name: TRICKLE_CONSUMER\n  value: %s" $env (quote .) }}
{{- end }}
{{- $own := deepCopy $v.detector }}
{{- range list "resources" "topologySpreadConstraints" "nodeSelector" "tolerations" "affinity" "priorityClassName" "podAnnotations" "podLabels" "extraEnv" }}
{{- if hasKey $.replica . }}
{{- $_ := set $own . (get $.replica .) }}
{{- end }}
{{- end }}
{{- dict "values" $own "name" (include "trickle.detectorName" .) "component" "detector" "command" "trickle-consumer" "instances" (hasKey .replica "instances" | ternary .replica.instances 1) "env" $env
  "envFrom" $v.baseline.restoreSecret "claim" (ternary "read" "" (ne $v.baseline.restoreClaim "")) "claimName" $v.baseline.restoreClaim "replica" (include "trickle.replicaName" .replica) | toJson }}
{{- end }}
