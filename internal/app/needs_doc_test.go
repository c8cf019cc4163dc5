package app

import (
	"os"
	"strings"
	"testing"

	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/transport"
)

// The commands in the documents are those that trickle prints.
func TestTheRightsInTheDocumentsAreThoseThatAreNeeded(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	brokers := []string{"kafka:9093"}
	seen := map[string]bool{}
	check := func(n Needs, principal string) {
		for _, r := range n.Rights {
			seen[r.GrantCommand(brokers, principal)] = true
		}
		for _, topic := range n.Topics {
			seen[topic.CreateCommand(brokers)] = true
		}
		for _, r := range n.OptionalRights() {
			if len(r.Operations) != 2 || r.Operations[0] != transport.Create || r.Operations[1] != transport.DescribeConfigs {
				t.Errorf("the document has another list of what a side works better with: %s", r)
			}
		}
	}
	check(PublisherNeeds("orders"), "User:trickle")
	check(DetectorNeeds("orders", "cache"), "User:trickle-cache")
	through := &policy.Policy{Pipeline: "orders", Resync: policy.Resync{Debezium: policy.Debezium{SignalTopic: "shop-signal", NotificationTopic: "shop-notifications"}}}
	check(DebeziumNeeds(through, "cache"), "User:trickle-cache")
	view := &policy.Policy{Pipeline: "orders", Resync: policy.Resync{Debezium: policy.Debezium{TopicPrefix: "shop"}}}
	check(BaselineNeeds(view), "User:trickle")
	view.Gate.Group = "connect-cache-sink"
	check(RestoreNeeds(view, "cache"), "User:trickle-cache")
	for line := range seen {
		if !strings.Contains(string(text), "    "+line+"\n") {
			t.Errorf("docs/security.md lacks: %s", line)
		}
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "kafka-") && !seen[line] {
			t.Errorf("docs/security.md has what trickle does not need: %s", line)
		}
	}
}
