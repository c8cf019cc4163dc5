package check_test

import (
	"context"
	"errors"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	sasl "github.com/twmb/franz-go/pkg/sasl/plain"

	"github.com/trickle-verify/trickle/check"
	"github.com/trickle-verify/trickle/transport"
)

// needs are a publisher's.
func needs() ([]transport.TopicSpec, []transport.Right) {
	may := func(name string, ops ...transport.Operation) transport.Right {
		return transport.Right{Resource: transport.Topic, Name: name, Operations: ops, Why: "to work"}
	}
	return []transport.TopicSpec{{Name: "shop.verify", Partitions: 8}, {Name: "shop.requests", Partitions: 4}, {Name: "shop.cursors", Partitions: 1, Compacted: true}},
		[]transport.Right{
			may("shop.verify", transport.Write), may("shop.requests", transport.Read), may("shop.cursors", transport.Read, transport.Write),
			{Resource: transport.Group, Name: "shop.publisher", Operations: []transport.Operation{transport.Read}, Why: "to share"},
		}
}

// broker adds what package transport keeps apart, as package app does.
type broker struct{ *transport.Kafka }

func (b broker) Progress(ctx context.Context, group string) (transport.Progress, error) {
	return b.Follow().Progress(ctx, group)
}

// brokers is a Kafka, and an administrator's client.
type brokers struct {
	t       *testing.T
	cluster *kfake.Cluster
	admin   *kadm.Client
	options transport.KafkaOptions
	wishes  []transport.Right
}

func newBrokers(t *testing.T, opts ...kfake.Opt) *brokers {
	t.Helper()
	cluster, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	return &brokers{t: t, cluster: cluster, options: transport.KafkaOptions{Brokers: cluster.ListenAddrs()}}
}

func (b *brokers) connect(opts ...kgo.Opt) {
	client, err := kgo.NewClient(append(opts, kgo.SeedBrokers(b.cluster.ListenAddrs()...))...)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(client.Close)
	b.admin = kadm.NewClient(client)
}

func (b *brokers) look(sink string) check.Report {
	b.t.Helper()
	k := &check.Kafka{Brokers: b.options.Brokers, Principal: "User:trickle", Sink: sink}
	k.Needs = func() ([]transport.TopicSpec, []transport.Right, error) {
		specs, rights := needs()
		return specs, rights, nil
	}
	if b.wishes != nil {
		k.Wishes = func() ([]transport.Right, error) { return b.wishes, nil }
	}
	k.Open = func(ctx context.Context) (check.Broker, error) {
		bus, err := transport.NewKafka(ctx, b.options)
		if err == nil {
			b.t.Cleanup(func() { _ = bus.Close() })
		}
		return broker{bus}, err
	}
	return check.Run(b.t.Context(), k.Checks(), patience)
}

var pair = regexp.MustCompile(`--(\S+) ([^-]\S*)`)

// obey carries out one of Kafka's commands, as it was printed.
func (b *brokers) obey(command string) {
	b.t.Helper()
	flags := map[string][]string{}
	for _, m := range pair.FindAllStringSubmatch(command, -1) {
		flags[m[1]] = append(flags[m[1]], m[2])
	}
	ctx := b.t.Context()
	if flags["bootstrap-server"][0] != strings.Join(b.options.Brokers, ",") {
		b.t.Fatalf("which brokers? %s", command)
	}
	var err error
	switch tool, _, _ := strings.Cut(command, " "); tool {
	case "kafka-topics.sh":
		n, _ := strconv.Atoi(flags["partitions"][0])
		topic := flags["topic"][0]
		if strings.Contains(command, "--alter") {
			_, err = b.admin.UpdatePartitions(ctx, n, topic)
			break
		}
		configs := map[string]*string{}
		for _, c := range flags["config"] {
			name, value, _ := strings.Cut(c, "=")
			configs[name] = &value
		}
		_, err = b.admin.CreateTopic(ctx, int32(n), 1, configs, topic)
	case "kafka-configs.sh":
		name, value, _ := strings.Cut(flags["add-config"][0], "=")
		_, err = b.admin.AlterTopicConfigs(ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: name, Value: &value}}, flags["entity-name"][0])
	case "kafka-acls.sh":
		acl := kadm.NewACLs().Allow(strings.Trim(flags["allow-principal"][0], "'")).AllowHosts("*").ResourcePatternType(kadm.ACLPatternLiteral)
		acl = acl.Topics(flags["topic"]...).MaybeGroups(flags["group"]...)
		var ops []kadm.ACLOperation
		for _, o := range flags["operation"] {
			op, err := kmsg.ParseACLOperation(strings.ToUpper(o))
			if err != nil {
				b.t.Fatal(err)
			}
			ops = append(ops, op)
		}
		_, err = b.admin.CreateACLs(ctx, acl.Operations(ops...))
	default:
		b.t.Fatalf("no command of Kafka: %s", command)
	}
	if err != nil {
		b.t.Fatalf("%s: %v", command, err)
	}
}

func TestTopicsAreMadeLater(t *testing.T) {
	t.Parallel()
	b := newBrokers(t)
	b.connect()
	r := b.look("")
	if !r.OK || r.Counts.OK != 5 {
		t.Errorf("nothing is there yet:\n%s", lines(r))
	}
	if topics, err := b.admin.ListTopics(t.Context()); err != nil || len(topics) > 0 {
		t.Errorf("the check made topics: %v, %v", topics, err)
	}
	bus, err := transport.NewKafka(t.Context(), b.options)
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	specs, _ := needs()
	if err := bus.Ensure(t.Context(), specs...); err != nil {
		t.Fatal(err)
	}
	if r = b.look(""); r.Counts.OK != 5 {
		t.Errorf("as trickle makes them:\n%s", lines(r))
	}
}

func TestFaultsOfTopics(t *testing.T) {
	t.Parallel()
	for _, f := range []struct {
		name, topic       string
		partitions        int
		setting, to, says string
		verdict           check.Verdict
	}{
		{"cursors that are deleted", "shop.cursors", 1, "cleanup.policy", "delete", "would get lost", check.Failure},
		{"cursors that are deleted late", "shop.cursors", 1, "cleanup.policy", "compact,delete", "would get lost", check.Failure},
		{"verification that is compacted", "shop.verify", 8, "cleanup.policy", "compact", "would get lost", check.Failure},
		{"too few partitions", "shop.requests", 1, "", "", "1 partitions and not 4", check.Warning},
		{"small messages", "shop.verify", 8, "max.message.bytes", "100000", "max.message.bytes=100000", check.Failure},
		{"short retention", "shop.verify", 8, "retention.ms", "60000", "retention.ms=60000", check.Warning},
		{"more in sync than there are", "shop.verify", 8, "min.insync.replicas", "2", "nothing can be written", check.Failure},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			b := newBrokers(t)
			b.connect()
			configs := map[string]*string{}
			if f.topic == "shop.cursors" {
				configs["cleanup.policy"] = kadm.StringPtr("compact")
			}
			if f.setting != "" {
				configs[f.setting] = &f.to
			}
			if _, err := b.admin.CreateTopic(t.Context(), int32(f.partitions), 1, configs, f.topic); err != nil {
				t.Fatal(err)
			}
			r := b.look("")
			found := bad(r, "kafka", "topics", f.topic)
			if len(found) != 1 || found[0].Verdict != f.verdict || !strings.Contains(found[0].Detail, f.says) || r.OK != (f.verdict != check.Failure) {
				t.Fatal(lines(r))
			}
			b.obey(found[0].Fix)
			if r = b.look(""); len(bad(r, "kafka", "topics", f.topic)) > 0 {
				t.Errorf("after %s:\n%s", found[0].Fix, lines(r))
			}
		})
	}
}

func TestRightsOnKafka(t *testing.T) {
	t.Parallel()
	b := newBrokers(t, kfake.EnableSASL(), kfake.EnableACLs(), kfake.Superuser("PLAIN", "admin", "a"), kfake.User("PLAIN", "trickle", "t"))
	b.connect(kgo.SASL(sasl.Auth{User: "admin", Pass: "a"}.AsMechanism()))
	b.options.Security.Login = transport.Login{Mechanism: "PLAIN", User: "trickle", Password: "t"}
	if _, err := b.admin.CreateTopic(t.Context(), 8, 1, nil, "shop.verify"); err != nil {
		t.Fatal(err)
	}
	for round := 0; ; round++ {
		r := b.look("")
		var fixes []string
		for _, f := range r.Checks {
			if f.Verdict == check.Failure {
				fixes = append(fixes, f.Fix)
			}
		}
		if round == 0 && len(fixes) < 4 { // three topics and the group
			t.Fatalf("without any right:\n%s", lines(r))
		}
		if len(fixes) == 0 {
			break
		}
		if round == 4 {
			t.Fatalf("no end of it:\n%s", lines(r))
		}
		for _, fix := range fixes {
			b.obey(fix)
		}
	}
	// What is done in need only is a warning.
	b.wishes = []transport.Right{{Resource: transport.Group, Name: "shop.playforward.cache", Operations: []transport.Operation{transport.Read}, Why: "to restore"}}
	for _, want := range []check.Verdict{check.Warning, check.OK} {
		r := b.look("")
		for _, f := range r.Checks {
			if f.Check != "rights" || f.Object == "" {
				continue
			}
			if f.Verdict != want || !strings.Contains(f.Detail, "READ on consumer group shop.playforward.cache, to restore") {
				t.Errorf("got %+v", f)
			}
			b.obey(f.Fix)
		}
		if (r.Counts.Warning > 0) != (want == check.Warning) || r.Counts.Failure > 0 {
			t.Errorf("want %s:\n%s", want, lines(r))
		}
	}
	// What was granted is what it takes.
	bus, err := transport.NewKafka(t.Context(), b.options)
	if err != nil {
		t.Fatal(err)
	}
	defer bus.Close()
	if err := bus.Send(t.Context(), transport.Record{Topic: "shop.verify", Value: []byte("v")}, transport.Record{Topic: "shop.cursors", Key: []byte("k"), Value: []byte("v")}); err != nil {
		t.Error(err)
	}
	reader, err := bus.Group(t.Context(), "shop.publisher", "shop.requests")
	if err != nil {
		t.Fatal(err)
	}
	if err := reader.Close(); err != nil {
		t.Error(err)
	}
}

func TestASinkThatMayNotBeLookedAt(t *testing.T) {
	t.Parallel()
	b := newBrokers(t, kfake.EnableSASL(), kfake.EnableACLs(), kfake.Superuser("PLAIN", "admin", "a"), kfake.User("PLAIN", "trickle", "t"))
	b.connect(kgo.SASL(sasl.Auth{User: "admin", Pass: "a"}.AsMechanism()))
	b.options.Security.Login = transport.Login{Mechanism: "PLAIN", User: "trickle", Password: "t"}
	found := bad(b.look("sink"), "kafka", "sink", "sink")
	if len(found) != 1 || found[0].Verdict != check.Failure {
		t.Fatal(found)
	}
	b.obey(found[0].Fix)
	if found = bad(b.look("sink"), "kafka", "sink", "sink"); len(found) != 1 || !strings.Contains(found[0].Detail, "no such group") {
		t.Errorf("it may, and there is none: %v", found)
	}
}

func TestTheSinksGroup(t *testing.T) {
	t.Parallel()
	b := newBrokers(t, kfake.SeedTopics(1, "orders"))
	b.connect()
	look := func() []check.Finding { return bad(b.look("sink"), "kafka", "sink", "sink") }
	if found := look(); len(found) != 1 || found[0].Verdict != check.Warning || !strings.Contains(found[0].Detail, "no such group") {
		t.Errorf("there is none: %v", found)
	}
	sink, err := kgo.NewClient(kgo.SeedBrokers(b.cluster.ListenAddrs()...), kgo.ConsumerGroup("sink"), kgo.ConsumeTopics("orders"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	if err := sink.ProduceSync(t.Context(), kgo.StringRecord("one")).FirstErr(); err == nil {
		t.Fatal("a record without a topic was taken")
	}
	if err := sink.ProduceSync(t.Context(), &kgo.Record{Topic: "orders", Value: []byte("one")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	sink.PollFetches(t.Context())
	if err := sink.CommitUncommittedOffsets(t.Context()); err != nil {
		t.Fatal(err)
	}
	if found := look(); len(found) > 0 {
		t.Errorf("it reads: %v", found)
	}
	if err := sink.LeaveGroupContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	sink.Close()
	if found := look(); len(found) != 1 || found[0].Verdict != check.Warning || !strings.Contains(found[0].Detail, "nobody reads") {
		t.Errorf("it left: %v", found)
	}
}

func TestOneReplicaOnSeveralBrokers(t *testing.T) {
	t.Parallel()
	b := newBrokers(t, kfake.NumBrokers(3))
	b.connect()
	if _, err := b.admin.CreateTopic(t.Context(), 4, 1, nil, "shop.requests"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.admin.CreateTopic(t.Context(), 8, 2, nil, "shop.verify"); err != nil {
		t.Fatal(err)
	}
	r := b.look("")
	found := bad(r, "kafka", "topics", "shop.requests")
	if len(found) != 1 || found[0].Verdict != check.Warning || !strings.Contains(found[0].Detail, "1 replica on 3 brokers") || !strings.Contains(found[0].Fix, " --replication-factor 3, after") || len(bad(r, "kafka", "topics", "shop.verify")) > 0 {
		t.Fatal(lines(r))
	}
}

func TestNoBrokers(t *testing.T) {
	t.Parallel()
	k := &check.Kafka{Needs: func() ([]transport.TopicSpec, []transport.Right, error) {
		return nil, nil, errors.New("never asked for")
	}}
	r := check.Run(t.Context(), k.Checks(), time.Minute)
	if !r.OK || r.Counts.NotChecked != 3 {
		t.Errorf("none are given:\n%s", lines(r))
	}
	k.Sides = check.BothSides
	if r = check.Run(t.Context(), k.Checks(), time.Minute); r.Counts.OK != 1 || len(r.Checks) != 1 || !strings.Contains(r.Checks[0].Detail, "not needed") {
		t.Errorf("both sides run in one process:\n%s", lines(r))
	}
	k.Wanted = "gate.group"
	r = check.Run(t.Context(), k.Checks(), time.Minute)
	if found := bad(r, "kafka", "connect", ""); len(found) != 1 || found[0].Verdict != check.Failure || !strings.Contains(found[0].Detail, "gate.group") {
		t.Errorf("the policy takes some:\n%s", lines(r))
	}
	k.Open = func(ctx context.Context) (check.Broker, error) {
		bus, err := transport.NewKafka(ctx, transport.KafkaOptions{Brokers: []string{"127.0.0.1:1"}, ConnectTimeout: time.Second})
		return broker{bus}, err
	}
	began := time.Now()
	r = check.Run(t.Context(), k.Checks(), time.Minute)
	if r.OK || r.Counts.Failure != 1 || r.Counts.NotChecked != 2 || r.Checks[0].Fix != "check --brokers" || strings.Contains(r.Checks[0].Detail, "--brokers") || time.Since(began) > 30*time.Second {
		t.Errorf("none answers (%s):\n%s", time.Since(began), lines(r))
	}
}
