package helm_test

import (
	"strings"
	"testing"

	"github.com/trickle-verify/trickle/internal/testbed/helm"
)

// A mistake in the values is refused before anything is made, by a message that names the field.
func TestMistakesAreRefused(t *testing.T) {
	t.Parallel()
	for set, words := range map[string][]string{
		"broker=kafka:9092":                                   {"'broker'"},
		"brokers=kafka":                                       {"/brokers"},
		"source.dsn=postgres://x":                             {"/source", "'dsn'"}, // secrets have no place in values
		"source.existingSecret=Shop_Source":                   {"/source/existingSecret"},
		"replicas[0].existingSecrets=a":                       {"/replicas/0", "'existingSecrets'"},
		"replicas[0].name=Cache":                              {"/replicas/0/name"},
		"replicas[0].existingSecret=":                         {"/replicas/0/existingSecret"},
		"replicas[0].instances=many":                          {"/replicas/0/instances"},
		"publisher.replicas=2":                                {"/publisher", "'replicas'"},
		"publisher.instances=-1":                              {"/publisher/instances"},
		"kafka.sasl.mechanism=SCRAM":                          {"/kafka/sasl/mechanism", "SCRAM-SHA-512"},
		"kafka.sasl.password=secret":                          {"/kafka/sasl", "'password'"},
		"policy.config.detect.action=fix":                     {"/policy/config/detect/action", "correct"},
		"policy.config.schedule.cycel=1h":                     {"/policy/config/schedule", "'cycel'"},
		"policy.config.schedule.cycle=1 hour":                 {"/policy/config/schedule/cycle"},
		"policy.config.tables[0].tabel=public.a":              {"/policy/config/tables/0", "'tabel'"},
		"policy.config.pipeline=a b":                          {"/policy/config/pipeline"},
		"image.digest=latest":                                 {"/image/digest"},
		"securityContext.runAsUser=0":                         {"/securityContext/runAsUser"},
		"networkPolicy.from=all":                              {"/networkPolicy/from"},
		"monitoring.podMonitor.interval=30":                   {"/monitoring/podMonitor/interval"},
		"otel.endpoint=collector:4317":                        {"/otel/endpoint"},
		"kafka.oauth.extensions.a=b\\,c":                      {"/kafka/oauth/extensions/a"},
		"otel.resourceAttributes.a b=c":                       {"/otel/resourceAttributes"},
		"policy.config.tables=null":                           {"/policy/config", "'tables'"},
		"policy.config=null":                                  {"policy.config.tables"},
		"logLevel=trace":                                      {"/logLevel", "debug"},
		"probes.liveness.failureThreshold=0":                  {"/probes/liveness/failureThreshold"},
		"extraEnv[0].Name=A":                                  {"/extraEnv/0", "'Name'"},
		"podDisruptionBudget.maxUnavailable=0":                {"/podDisruptionBudget/maxUnavailable"},
		"brokers=":                                            {"brokers: give Kafka's bootstrap servers", "--set brokers=kafka:9092"},
		"source.existingSecret=,publisher.instances=2":        {"source.existingSecret: name the Secret", "kubectl create secret"},
		"replicas=null":                                       {"replicas: name the Secret", "replicas[0].existingSecret"},
		"replicas=null,publisher.enabled=false":               {"replicas: name the Secret"},
		"replicas[1].existingSecret=trickle-replica":          {"replicas[1].name", "replicas[0]"},
		"kafka.tls.enabled=true,kafka.tls.certKey=tls.crt":    {"kafka.tls.existingSecret"},
		"kafka.sasl.mechanism=PLAIN":                          {"kafka.sasl.existingSecret"},
		"kafka.sasl.mechanism=OAUTHBEARER":                    {"kafka.oauth"},
		"kafka.sasl.existingSecret=login":                     {"kafka.sasl.mechanism"},
		"baseline.existingClaim=c,publisher.instances=2":      {"baseline.existingClaim", "publisher.instances"},
		"policy.config.baseline.url=file:///var/lib/trickle/": {"baseline.existingClaim"},
	} {
		t.Run(set, func(t *testing.T) {
			t.Parallel()
			out, err := helm.Run(t.Context(), append(append([]string{"template", "trickle", "trickle"}, three...), "--set", set)...)
			if err == nil {
				t.Fatalf("it was taken:\n%.200s", out)
			}
			for _, word := range words {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("no %q in: %v", word, err)
				}
			}
		})
	}
}

// All that is missing is told at once.
func TestWithoutValues(t *testing.T) {
	t.Parallel()
	_, err := helm.Run(t.Context(), "template", "trickle", "trickle")
	for _, word := range []string{"brokers: ", "source.existingSecret: ", "replicas: "} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("no %q in: %v", word, err)
		}
	}
}

// What is said after an installation fits it.
func TestNotes(t *testing.T) {
	t.Parallel()
	for set, words := range map[string][]string{
		"logLevel=info":                       {"helm test trickle --namespace data", "deploy/trickle-detector-trickle-replica -- trickle-consumer status", "Drift is REPORTED and nothing is corrected", "NOTHING IS PROVEN", "policy.config.gate.slot", "configmap trickle-policy"},
		"policy.config.detect.action=correct": {"NOTHING IS CORRECTED"},
		"policy.config.detect.action=correct,policy.config.gate.assume_lag=1m": {"Drift is corrected while the gate is open"},
		"policy.existingConfigMap=shop":                                        {"ConfigMap shop"},
		"publisher.alone=true,replicas=null":                                   {"helm test trickle"},
	} {
		out, err := helm.Run(t.Context(), append(append([]string{"install", "trickle", "trickle", "--namespace", "data", "--dry-run=client"}, three...), "--set", set)...)
		if err != nil {
			t.Fatal(err)
		}
		_, notes, _ := strings.Cut(out, "NOTES:")
		for _, word := range words {
			if !strings.Contains(notes, word) {
				t.Errorf("%s: no %q in the notes:\n%s", set, word, notes)
			}
		}
	}
}
