package helm_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Pod Security's "restricted", and more: of every pod that is rendered, each container of it.
func TestPodsAreRestricted(t *testing.T) {
	t.Parallel()
	matrix(t, func(t *testing.T, name string, all []object) {
		found := pods(all)
		if len(found) == 0 {
			t.Fatal("no pods")
		}
		for _, p := range found {
			wrong := func(format string, args ...any) {
				t.Helper()
				t.Errorf("%s: %s", p.owner, fmt.Sprintf(format, args...))
			}
			if token, said := p.spec["automountServiceAccountToken"].(bool); token || !said {
				wrong("a token of the cluster is mounted")
			}
			if links, said := p.spec["enableServiceLinks"].(bool); links || !said {
				wrong("other Services are in the environment")
			}
			for _, host := range []string{"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} {
				if p.spec[host] != nil {
					wrong("%s", host)
				}
			}
			security := at[map[string]any](p.spec, "securityContext")
			if !at[bool](security, "runAsNonRoot") || at[string](security, "seccompProfile", "type") != "RuntimeDefault" {
				wrong("the pod's securityContext is %v", security)
			}
			for _, id := range []string{"runAsUser", "runAsGroup", "fsGroup"} {
				if given := security[id] != nil; given != (name != "openshift") {
					wrong("%s is %v", id, security[id])
				} else if given && at[uint64](security, id) < 1000 {
					wrong("%s is %v", id, security[id])
				}
			}
			for _, v := range at[[]any](p.spec, "volumes") {
				for kind := range v.(map[string]any) {
					if !slices.Contains([]string{"name", "configMap", "secret", "emptyDir", "projected", "persistentVolumeClaim"}, kind) {
						wrong("a volume of kind %s", kind)
					}
				}
			}
			containers := p.containers()
			if len(containers) == 0 {
				wrong("no containers")
			}
			for _, c := range containers {
				s := at[map[string]any](c, "securityContext")
				for what, ok := range map[string]bool{
					"may become more":         s["allowPrivilegeEscalation"] == false,
					"is privileged":           s["privileged"] == false,
					"may write to its root":   at[bool](s, "readOnlyRootFilesystem"),
					"may be root":             at[bool](s, "runAsNonRoot"),
					"has no seccomp":          at[string](s, "seccompProfile", "type") == "RuntimeDefault",
					"keeps capabilities":      reflect.DeepEqual(at[map[string]any](s, "capabilities"), map[string]any{"drop": []any{"ALL"}}),
					"has no memory limit":     at[string](c, "resources", "limits", "memory") != "",
					"has an image of no name": regexp.MustCompile(`^\S+(:[^:@\s]+|@sha256:[0-9a-f]{64})$`).MatchString(at[string](c, "image")) && !strings.HasSuffix(at[string](c, "image"), ":latest"),
				} {
					if !ok {
						wrong("container %s %s: %v", at[string](c, "name"), what, s)
					}
				}
				for _, m := range at[[]any](c, "volumeMounts") {
					mount := m.(map[string]any)
					if mount["subPath"] != nil || mount["subPathExpr"] != nil {
						wrong("%v is mounted by subPath, and follows no edit", mount["name"])
					}
					if writes := !at[bool](mount, "readOnly"); writes && mount["name"] != "tmp" && mount["name"] != "baseline" {
						wrong("%v may be written", mount["name"])
					}
				}
			}
		}
		for _, o := range of(all, "ServiceAccount") {
			if o["automountServiceAccountToken"] != false {
				t.Errorf("ServiceAccount %s gives its token away", o.name())
			}
		}
		for _, o := range all {
			if kind := o.kind(); kind == "Secret" || strings.Contains(kind, "Role") {
				t.Errorf("%s %s: secrets are there already, and rights are not needed", kind, o.name())
			}
		}
	})
}

// Who gets which secret: each side its own and no other.
func TestSecretsGoWhereTheyBelong(t *testing.T) {
	t.Parallel()
	all := rendered(t, "trickle/ci/full-values.yaml")
	long := "trickle-detector-a-secret-whose-na-" // and a digest
	want := map[string]map[string]string{
		"trickle-publisher":      {"TRICKLE_SOURCE_DSN": "secret shop/standby", "TRICKLE_PRIMARY_DSN": "secret shop/primary", "TRICKLE_REPLICA_DSN": "", "": "lifeboat-writer"},
		"trickle-detector-cache": {"TRICKLE_REPLICA_DSN": "secret shop.cache/dsn", "TRICKLE_SOURCE_DSN": "", "TRICKLE_CONSUMER": "cache", "PGSSLMODE": "verify-full", "": "lifeboat-reader"},
		long: {"TRICKLE_REPLICA_DSN": "secret a-secret-whose-name-is-so-long-that-no-name-of-an-object-has-room-for-it.example.com/analytics", "TRICKLE_CONSUMER": "",
			"PGSSLMODE": "", "": "lifeboat-reader"},
	}
	for _, p := range pods(all) {
		owner := strings.TrimSuffix(p.owner, "-check")
		if strings.HasPrefix(owner, long) {
			owner = long
		}
		c := p.containers()[0]
		have := env(c)
		for name, value := range want[owner] {
			if name == "" {
				if from := at[string](c, "envFrom", 0, "secretRef", "name"); from != value {
					t.Errorf("%s: the store's credentials are from %q, want %q", p.owner, from, value)
				}
				continue
			}
			if have[name] != value {
				t.Errorf("%s: %s is %q, want %q", p.owner, name, have[name], value)
			}
		}
		for name, value := range map[string]string{
			"TRICKLE_SIGNING_KEY": "secret signing/key", "TRICKLE_KAFKA_SASL_USER": "secret kafka-login/username", "TRICKLE_KAFKA_SASL_PASSWORD_FILE": "/etc/trickle/kafka-login/password",
			"TRICKLE_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512", "TRICKLE_KAFKA_CA_FILE": "/etc/trickle/kafka-tls/ca.crt", "TRICKLE_KAFKA_CERT_FILE": "/etc/trickle/kafka-tls/tls.crt",
			"TRICKLE_KAFKA_KEY_FILE": "/etc/trickle/kafka-tls/tls.key", "TRICKLE_KAFKA_TLS": "true", "TRICKLE_BROKERS": "kafka-0.kafka:9093,kafka-1.kafka:9093",
		} {
			if have[name] != value {
				t.Errorf("%s: %s is %q, want %q", p.owner, name, have[name], value)
			}
		}
	}
	publisher := env(pods([]object{named(t, all, "Deployment", "trickle-publisher")})[0].containers()[0])
	if got, want := publisher["OTEL_RESOURCE_ATTRIBUTES"], "k8s.namespace.name=data,k8s.pod.name=$(POD_NAME),k8s.node.name=$(NODE_NAME),deployment.environment=test%2C%20and%20more%3D100%25"; got != want {
		t.Errorf("the resource's attributes are %s, want %s", got, want)
	}
	for _, p := range pods(rendered(t, "trickle/ci/oauth-values.yaml")) {
		have := env(p.containers()[0])
		for name, value := range map[string]string{
			"TRICKLE_KAFKA_OAUTH_CLIENT_ID": "secret kafka-oauth/client-id", "TRICKLE_KAFKA_OAUTH_CLIENT_SECRET_FILE": "/etc/trickle/kafka-oauth/client-secret",
			"TRICKLE_KAFKA_OAUTH_TOKEN_URL": "https://login.example/token", "TRICKLE_KAFKA_OAUTH_EXTENSIONS": "identityPoolId=pool-1,logicalCluster=lkc-1", "TRICKLE_KAFKA_TLS": "true",
		} {
			if have[name] != value {
				t.Errorf("%s: %s is %q, want %q", p.owner, name, have[name], value)
			}
		}
	}
}

// Whatever a mount is of is among the volumes, and a file that the environment names lies in a mount.
func TestFilesAreMounted(t *testing.T) {
	t.Parallel()
	matrix(t, func(t *testing.T, _ string, all []object) {
		for _, p := range pods(all) {
			volumes := map[string]bool{}
			for _, v := range at[[]any](p.spec, "volumes") {
				volumes[at[string](v, "name")] = true
			}
			for _, c := range p.containers() {
				var places []string
				for _, m := range at[[]any](c, "volumeMounts") {
					if name := at[string](m, "name"); !volumes[name] {
						t.Errorf("%s mounts %s, which is no volume", p.owner, name)
					}
					places = append(places, at[string](m, "mountPath"))
				}
				for name, value := range env(c) {
					if strings.HasPrefix(value, "/") && !slices.Contains(places, filepath.Dir(value)) {
						t.Errorf("%s: %s is %s, and mounted are %v", p.owner, name, value, places)
					}
				}
			}
		}
	})
}

// What the chart sets is what the commands read: a variable that nobody reads would be a setting without effect.
func TestVariablesAreRead(t *testing.T) {
	t.Parallel()
	var source strings.Builder
	for _, pattern := range []string{"../../internal/command/*.go", "../../telemetry/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatal(pattern, err)
		}
		for _, f := range files {
			if !strings.HasSuffix(f, "_test.go") {
				source.WriteString(read(t, f))
			}
		}
	}
	// Those of OpenTelemetry that its own libraries read.
	standard := []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_RESOURCE_ATTRIBUTES"}
	matrix(t, func(t *testing.T, _ string, all []object) {
		for _, p := range pods(all) {
			for _, c := range p.containers() {
				for name, value := range env(c) {
					switch {
					case strings.HasPrefix(name, "TRICKLE_"):
						if !strings.Contains(source.String(), `"`+name+`"`) {
							t.Errorf("%s: no command reads %s", p.owner, name)
						}
					case strings.HasPrefix(name, "OTEL_"):
						if !slices.Contains(standard, name) {
							t.Errorf("%s: %s is no variable of OpenTelemetry", p.owner, name)
						}
					case strings.HasPrefix(value, "field "):
						if !strings.Contains(env(c)["OTEL_RESOURCE_ATTRIBUTES"], "$("+name+")") {
							t.Errorf("%s: nothing is made of %s", p.owner, name)
						}
					}
				}
			}
		}
	})
}

// Selectors can't be changed: another version, other values and another order of the replicas leave them, and the names, as they are.
func TestUpgradesKeepNamesAndSelectors(t *testing.T) {
	t.Parallel()
	identity := func(all []object) map[string]string {
		out := map[string]string{}
		for _, o := range of(all, "Deployment") {
			text, err := json.Marshal(at[map[string]any](o, "spec", "selector"))
			if err != nil {
				t.Fatal(err)
			}
			out[o.name()] = string(text)
			for key, value := range at[map[string]any](o, "spec", "selector", "matchLabels") {
				if at[string](o, "spec", "template", "metadata", "labels", key) != value {
					t.Errorf("%s does not select its own pods by %s", o.name(), key)
				}
			}
		}
		return out
	}
	before := identity(render(t, "--set", "brokers=kafka:9092,source.existingSecret=s,replicas[0].existingSecret=a,replicas[1].existingSecret=b"))
	after := identity(render(t, "--set", "brokers=other:9092,source.existingSecret=other,replicas[0].existingSecret=b,replicas[0].instances=3,replicas[1].existingSecret=c,replicas[1].name=a",
		"--set", "image.tag=9.9.9,commonLabels.team=x,detector.podLabels.app\\.kubernetes\\.io/name=other,publisher.instances=2"))
	if len(before) != 3 || !reflect.DeepEqual(before, after) {
		t.Errorf("before %v, after %v", before, after)
	}
	if seen := map[string]bool{}; true {
		for name, selector := range before {
			if seen[selector] {
				t.Errorf("%s selects what another selects", name)
			}
			seen[selector] = true
		}
	}
}
