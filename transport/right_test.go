package transport_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/trickle-verify/trickle/transport"
)

func acl(kind kmsg.ACLResourceType, name string, op kmsg.ACLOperation) kfake.ACL {
	return kfake.ACL{Resource: kind, Name: name, Pattern: kmsg.ACLResourcePatternTypeLiteral, Operation: op, Allow: true}
}

func topicACL(name string, op kmsg.ACLOperation) kfake.ACL {
	return acl(kmsg.ACLResourceTypeTopic, name, op)
}

// limited is a bus whose login has these rights only, on a cluster with these topics.
func limited(t *testing.T, topics []string, rights ...kfake.ACL) (*transport.Kafka, *kfake.Cluster) {
	t.Helper()
	cluster := newCluster(t, kfake.EnableSASL(), kfake.EnableACLs(), kfake.SeedTopics(1, topics...), kfake.User("PLAIN", "trickle", "secret", rights...))
	bus, err := transport.NewKafka(t.Context(), transport.KafkaOptions{
		Brokers: cluster.ListenAddrs(), Security: transport.Security{Login: transport.Login{Mechanism: "PLAIN", User: "trickle", Password: "secret"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, bus) })
	return bus, cluster
}

// All topics that are missing are told at once, with the lines that make them and those that let this login make them.
func TestTopicsThatMayNotBeMadeAreToldWithTheCommands(t *testing.T) {
	t.Parallel()
	bus, cluster := limited(t, []string{"there", "hidden"}, topicACL("there", kmsg.ACLOperationDescribe), topicACL("gone", kmsg.ACLOperationDescribe))
	err := bus.Ensure(bounded(t),
		transport.TopicSpec{Name: "there", Partitions: 1},
		transport.TopicSpec{Name: "gone", Partitions: 3, Retention: time.Hour},
		transport.TopicSpec{Name: "hidden", Partitions: 1, Compacted: true})
	var missing *transport.NotCreatedError
	if !errors.As(err, &missing) || !errors.Is(err, kerr.TopicAuthorizationFailed) || len(missing.Topics) != 2 {
		t.Fatalf("got %v", err)
	}
	at := " --bootstrap-server " + cluster.ListenAddrs()[0]
	for _, cluster := range cluster.ListenAddrs()[1:] {
		at += "," + cluster
	}
	for _, want := range []string{
		"topics gone, hidden: not there for this login, which may not create them",
		"kafka-topics.sh" + at + " --command-config admin.properties --create --topic gone --partitions 3 --config cleanup.policy=delete --config retention.ms=3600000 --config max.message.bytes=1048576\n",
		"--create --topic hidden --partitions 1 --config cleanup.policy=compact --config max.message.bytes=1048576 --config segment.ms=14400000 --config segment.bytes=52428800\n",
		"kafka-acls.sh" + at + " --command-config admin.properties --add --allow-principal 'User:trickle' --operation Create --operation Describe --topic gone\n",
		"--operation Describe --topic hidden",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "there,") {
		t.Error(err)
	}
}

func TestTopicsThatMayBeMadeAreMadeAsTheyShould(t *testing.T) {
	t.Parallel()
	bus, cluster := limited(t, nil, topicACL("x", kmsg.ACLOperationCreate), topicACL("x", kmsg.ACLOperationDescribe))
	ensure(bounded(t), t, bus, transport.TopicSpec{Name: "x", Partitions: 2, Compacted: true})
	x := cluster.TopicInfo("x")
	for name, want := range map[string]string{"cleanup.policy": "compact", "max.message.bytes": "1048576", "segment.ms": "14400000", "segment.bytes": "52428800"} {
		if got := x.Configs[name]; got == nil || *got != want {
			t.Errorf("%s: %v, want %s", name, got, want)
		}
	}
	if n := len(cluster.PartitionInfos("x")); n != 2 {
		t.Errorf("it has %d partitions", n)
	}
}

// Hosted clusters refuse some settings: the topic is made without those that it can do without.
func TestATopicIsMadeWithFewerSettingsWhereSomeAreRefused(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t)
	bus := newKafka(t, cluster.ListenAddrs())
	cluster.ControlKey(int16(kmsg.CreateTopics), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		for _, c := range req.(*kmsg.CreateTopicsRequest).Topics[0].Configs {
			if strings.HasPrefix(c.Name, "segment.") {
				answer := req.ResponseKind().(*kmsg.CreateTopicsResponse)
				topic := kmsg.NewCreateTopicsResponseTopic()
				topic.Topic, topic.ErrorCode = "x", kerr.PolicyViolation.Code
				answer.Topics = append(answer.Topics, topic)
				return answer, nil, true
			}
		}
		return nil, nil, false
	})
	ensure(bounded(t), t, bus, transport.TopicSpec{Name: "x", Partitions: 1, Compacted: true})
	if got := cluster.TopicInfo("x").Configs["cleanup.policy"]; got == nil || *got != "compact" {
		t.Errorf("cleanup.policy is %v", got)
	}
}

func TestTopicsThatAreNotAsTheyShouldAreTold(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t)
	bus := newKafka(t, cluster.ListenAddrs())
	ctx := bounded(t)
	admin, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	for name, config := range map[string]map[string]string{
		"cursors":  {"cleanup.policy": "delete"},
		"expiring": {"cleanup.policy": "compact,delete"},
		"verify":   {"cleanup.policy": "compact"},
		"small":    {"max.message.bytes": "1000"},
		"short":    {"retention.ms": "1000"},
		"stuck":    {"min.insync.replicas": "2"},
		"few":      {},
		"fine":     {"retention.ms": "-1", "max.message.bytes": "10485760"},
	} {
		create(ctx, t, admin, name, config)
	}
	hour := time.Hour
	states, err := bus.Inspect(ctx,
		transport.TopicSpec{Name: "cursors", Compacted: true}, transport.TopicSpec{Name: "expiring", Compacted: true}, transport.TopicSpec{Name: "verify"},
		transport.TopicSpec{Name: "small"}, transport.TopicSpec{Name: "short", Retention: hour}, transport.TopicSpec{Name: "stuck"},
		transport.TopicSpec{Name: "few", Partitions: 8}, transport.TopicSpec{Name: "fine", Partitions: 1, Retention: hour}, transport.TopicSpec{Name: "absent"})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{
		"--entity-name cursors --add-config cleanup.policy=compact", "cleanup.policy=compact,delete and not compact", "--entity-name verify --add-config cleanup.policy=delete",
		"--add-config max.message.bytes=1048576", "--add-config retention.ms=3600000", "min.insync.replicas=2 and 1 replicas",
		"--alter --topic few --partitions 8", "", "",
	} {
		var got []string
		for _, f := range states[i].Faults {
			got = append(got, f.String())
		}
		if (want == "") != (len(got) == 0) || len(got) > 1 || !strings.Contains(strings.Join(got, ""), want) {
			t.Errorf("%s: %q, want %q", states[i].Spec.Name, got, want)
		}
	}
	if last := states[len(states)-1]; last.Exists || last.Denied {
		t.Errorf("%+v", last)
	}
}

// A fault is logged once, however many parts ensure its topic.
func TestATopicsFaultIsLoggedOnce(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t, kfake.SeedTopics(1, "few"))
	var log bytes.Buffer
	bus, err := transport.NewKafka(t.Context(), transport.KafkaOptions{
		Brokers: cluster.ListenAddrs(), Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		ensure(bounded(t), t, bus, transport.TopicSpec{Name: "few", Partitions: 8})
	}
	closed(t, bus)
	if n := strings.Count(log.String(), "--alter --topic few --partitions 8"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, log.String())
	}
}

func create(ctx context.Context, t *testing.T, admin *kgo.Client, name string, config map[string]string) {
	t.Helper()
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = name, 1, 1
	for key, value := range config {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = key, &value
		topic.Configs = append(topic.Configs, c)
	}
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Topics = append(req.Topics, topic)
	answer, err := req.RequestWith(ctx, admin)
	if err == nil {
		err = kerr.ErrorForCode(answer.Topics[0].ErrorCode)
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func TestRightsThatAreLackingAreTold(t *testing.T) {
	t.Parallel()
	bus, _ := limited(t, []string{"a", "b", "hidden"},
		topicACL("a", kmsg.ACLOperationRead), topicACL("b", kmsg.ACLOperationAll), acl(kmsg.ACLResourceTypeGroup, "g", kmsg.ACLOperationRead),
		acl(kmsg.ACLResourceTypeGroup, "seen", kmsg.ACLOperationDescribe))
	right := func(kind transport.Resource, name string, ops ...transport.Operation) transport.Right {
		return transport.Right{Resource: kind, Name: name, Operations: ops, Why: "for a test"}
	}
	ctx := bounded(t)
	if err := bus.Require(ctx, right(transport.Topic, "a", transport.Read, transport.Describe), right(transport.Topic, "b", transport.Write, transport.Read),
		right(transport.Group, "g", transport.Read), transport.Right{Resource: transport.Topic, Name: "b", Prefix: true, Operations: []transport.Operation{transport.Write}}); err != nil {
		t.Errorf("rights that are there: %v", err)
	}
	err := bus.Require(ctx, right(transport.Topic, "a", transport.Read, transport.Write), right(transport.Topic, "hidden", transport.Read),
		right(transport.Group, "seen", transport.Read), right(transport.Group, "hidden", transport.Read))
	var lacking *transport.RightsError
	if !errors.As(err, &lacking) {
		t.Fatalf("got %v", err)
	}
	var got []string
	for _, r := range lacking.Rights {
		got = append(got, r.String())
	}
	want := []string{"WRITE on topic a", "READ on topic hidden", "READ on consumer group seen", "READ on consumer group hidden"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if !strings.Contains(err.Error(), "--allow-principal 'User:trickle' --operation Write --topic a\n") || !strings.Contains(err.Error(), "WRITE on topic a (for a test)") {
		t.Error(err)
	}
}

// What is taken away while trickle runs is told by the call that meets it.
func TestARightThatIsMissingIsNamedByWhatNeedsIt(t *testing.T) {
	t.Parallel()
	bus, _ := limited(t, []string{"a"}, topicACL("a", kmsg.ACLOperationDescribe), acl(kmsg.ACLResourceTypeGroup, "g", kmsg.ACLOperationRead))
	ctx := bounded(t)
	for want, do := range map[string]func() error{
		"WRITE on topic a": func() error { return bus.Send(ctx, transport.Record{Topic: "a", Value: []byte("x")}) },
		"READ on topic a": func() error {
			r, err := bus.Tail(ctx, "a")
			if err == nil {
				defer closed(t, r)
				_, err = r.Fetch(ctx)
			}
			return err
		},
		"DESCRIBE on topic b": func() error { _, err := bus.Replay(ctx, "b"); return err },
		"READ on consumer group h": func() error {
			r, err := bus.Group(ctx, "h", "a")
			if err == nil {
				defer closed(t, r)
				_, err = r.Fetch(ctx)
			}
			return err
		},
	} {
		err := do()
		var lacking *transport.RightsError
		if !errors.As(err, &lacking) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
