package message

import (
	"fmt"
	"regexp"
)

// Topics names the topics and consumer groups of a pipeline.
type Topics struct {
	Pipeline string
}

// Verify carries verification from the publisher to every replica.
func (t Topics) Verify() string { return t.Pipeline + ".verify" }

// Requests carries what replicas ask of the publisher.
func (t Topics) Requests() string { return t.Pipeline + ".requests" }

// Cursors is the publishers' memory; compacted.
func (t Topics) Cursors() string { return t.Pipeline + ".cursors" }

// Replies carries answers to one consumer, which nobody else hears.
func (t Topics) Replies(consumer string) string { return t.Pipeline + ".replies." + consumer }

// PublisherGroup is the consumer group in which publishers share the requests.
func (t Topics) PublisherGroup() string { return t.Pipeline + ".publisher" }

// CursorGroup is the consumer group in which publishers share the tables.
func (t Topics) CursorGroup() string { return t.Pipeline + ".cursors" }

// DetectorGroup is the consumer group in which the instances of one consumer share the verification.
func (t Topics) DetectorGroup(consumer string) string { return t.Pipeline + ".detector." + consumer }

// PlayGroup is the group under which one replica that plays the CDC's log forward by itself shows how far it has got.
func (t Topics) PlayGroup(consumer string) string { return t.Pipeline + ".playforward." + consumer }

// DebeziumGroup is the consumer group in which the instances of one consumer share what a Debezium connector tells.
func (t Topics) DebeziumGroup(consumer string) string { return t.Pipeline + ".debezium." + consumer }

// maxName keeps "<pipeline>.replies.<consumer>" below Kafka's limit of 249 characters.
const maxName = 100

var nameRule = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]*$`)

// CheckName says whether a pipeline or a consumer may be called that, since its name becomes part of a topic's name: 1 to 100 of
// A-Z, a-z, 0-9, dot, underscore and hyphen, not beginning with a dot. What names it in the error ("consumer").
func CheckName(what, name string) error {
	if len(name) > maxName || !nameRule.MatchString(name) {
		return fmt.Errorf("%s name %q: use 1 to %d letters, digits, dots, underscores and hyphens, not a dot first, since it becomes part of a topic's name",
			what, name, maxName)
	}
	return nil
}
