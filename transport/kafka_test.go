package transport_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/trickle-verify/trickle/transport"
)

func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// freePort is one that nobody listens on.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func TestABrokerThatIsDownAtStartIsNamed(t *testing.T) {
	t.Parallel()
	address := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	_, err := transport.NewKafka(t.Context(), transport.KafkaOptions{Brokers: []string{address}, ConnectTimeout: 400 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), address) || !strings.Contains(err.Error(), "--brokers") ||
		!strings.Contains(err.Error(), "refused") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
}

func TestAWrongPasswordIsTold(t *testing.T) {
	t.Parallel()
	login := func(cluster *kfake.Cluster, patience time.Duration) error {
		_, err := transport.NewKafka(t.Context(), transport.KafkaOptions{
			Brokers: cluster.ListenAddrs(), ConnectTimeout: patience,
			Security: transport.Security{Login: transport.Login{Mechanism: "PLAIN", User: "trickle", Password: "wrong"}},
		})
		return err
	}
	cluster := newCluster(t, kfake.EnableSASL(), kfake.Superuser("PLAIN", "trickle", "right"))
	if err := login(cluster, 3*time.Second); err == nil || !strings.Contains(err.Error(), "check the login") {
		t.Errorf("by a broker that hangs up: %v", err)
	}
	cluster.ControlKey(int16(kmsg.SASLAuthenticate), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		answer := req.ResponseKind().(*kmsg.SASLAuthenticateResponse)
		answer.ErrorCode = kerr.SaslAuthenticationFailed.Code
		return answer, nil, true
	})
	began := time.Now()
	if err := login(cluster, time.Minute); err == nil || !strings.Contains(err.Error(), "TRICKLE_KAFKA_SASL_USER") || time.Since(began) > 20*time.Second {
		t.Errorf("by a broker that says so, after %s: %v", time.Since(began), err)
	}
}

// A busy broker may hear of a topic seconds after its controller has made it.
func TestATopicThatWasMadeIsWaitedFor(t *testing.T) {
	t.Parallel()
	const late = 3 * time.Second
	cluster := newCluster(t)
	bus := newKafka(t, cluster.ListenAddrs())
	host, port, err := net.SplitHostPort(cluster.ListenAddrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	var made time.Time
	cluster.ControlKey(int16(kmsg.CreateTopics), func(kmsg.Request) (kmsg.Response, error, bool) {
		made = time.Now()
		return nil, nil, false
	})
	cluster.ControlKey(int16(kmsg.Metadata), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		asked := req.(*kmsg.MetadataRequest).Topics
		if len(asked) != 1 || asked[0].Topic == nil || *asked[0].Topic != "late" || !made.IsZero() && time.Since(made) > late {
			return nil, nil, false
		}
		answer := req.ResponseKind().(*kmsg.MetadataResponse)
		b := kmsg.NewMetadataResponseBroker()
		b.NodeID, b.Host, b.Port = 0, host, int32(number)
		unknown := kmsg.NewMetadataResponseTopic()
		unknown.Topic, unknown.ErrorCode = kmsg.StringPtr("late"), kerr.UnknownTopicOrPartition.Code
		answer.Brokers, answer.Topics = append(answer.Brokers, b), append(answer.Topics, unknown)
		return answer, nil, true
	})
	ensure(bounded(t), t, bus, transport.TopicSpec{Name: "late", Partitions: 1})
	if made.IsZero() || time.Since(made) < late {
		t.Errorf("it was made at %s and not waited for", made)
	}
}

func TestEnsureSetsWhatWasAskedFor(t *testing.T) {
	t.Parallel()
	cluster := newCluster(t)
	bus := newKafka(t, cluster.ListenAddrs())
	ensure(bounded(t), t, bus, transport.TopicSpec{Name: "x", Partitions: 3, Retention: time.Hour}, transport.TopicSpec{Name: "y", Partitions: 1, Compacted: true})
	x, y := cluster.TopicInfo("x"), cluster.TopicInfo("y")
	if got := x.Configs["retention.ms"]; got == nil || *got != "3600000" {
		t.Errorf("x: %v", got)
	}
	if got := y.Configs["cleanup.policy"]; got == nil || *got != "compact" {
		t.Errorf("y: %v", got)
	}
	if n := len(cluster.PartitionInfos("x")); n != 3 {
		t.Errorf("x has %d partitions", n)
	}
}

func TestABrokerThatRestartsIsWaitedFor(t *testing.T) {
	t.Parallel()
	ctx, port, dir := bounded(t), freePort(t), t.TempDir()
	boot := func() *kfake.Cluster {
		cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(port), kfake.DataDir(dir))
		if err != nil {
			t.Fatal(err)
		}
		return cluster
	}
	cluster := boot()
	bus := newKafka(t, []string{"127.0.0.1:" + strconv.Itoa(port)})
	ensure(ctx, t, bus, transport.TopicSpec{Name: "a", Partitions: 2}, transport.TopicSpec{Name: "fresh", Partitions: 1})
	r := join(ctx, t, bus, "g", "a")
	send(ctx, t, bus, "a", "before")
	same(t, read(ctx, t, r, 1), []string{"before"})
	cluster.Close()

	for _, topic := range []string{"a", "fresh"} {
		short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		err := bus.Send(short, transport.Record{Topic: topic, Value: []byte("away")})
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("sending while the broker is away: %v", err)
		}
	}
	results, committed := make(chan error, 2), make(chan error, 1)
	go func() { results <- bus.Send(ctx, transport.Record{Topic: "a", Value: []byte("during")}) }()
	go func() { results <- bus.Send(ctx, transport.Record{Topic: "fresh", Value: []byte("during")}) }()
	go func() { committed <- r.Commit(ctx) }() // may end early, when the client counts its partitions as lost
	select {
	case err := <-results:
		t.Fatalf("a sender did not wait for the broker: %v", err)
	case <-time.After(time.Second): // it is the broker's absence that passes here
	}
	cluster = boot()
	t.Cleanup(cluster.Close)
	if err := errors.Join(<-results, <-results, <-committed); err != nil {
		t.Errorf("after the broker's return: %v", err)
	}
	if got := read(ctx, t, r, 2); !slices.Contains(got, "during") {
		t.Errorf("got %q", got)
	}
}

func TestACallerWhoHoldsRecordsHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	ctx, cluster := bounded(t), newCluster(t)
	bus := newKafka(t, cluster.ListenAddrs())
	ensure(ctx, t, bus, transport.TopicSpec{Name: "a", Partitions: 4})
	send(ctx, t, bus, "a", numbers(0, 40)...)
	slow := join(ctx, t, bus, "g", "a")
	read(ctx, t, slow, 40) // and it is still busy with them when another one comes
	quick := join(ctx, t, bus, "g", "a")
	got, err := quick.Fetch(ctx)
	if err != nil || len(got) == 0 {
		t.Fatalf("the new member got %v, %v", got, err)
	}
	if err := slow.Commit(ctx); err != nil {
		t.Errorf("committing after partitions went away: %v", err)
	}
	if err := quick.Commit(ctx); err != nil {
		t.Error(err)
	}
	send(ctx, t, bus, "a", numbers(100, 140)...)
	fetched := make(chan error, 1)
	go func() {
		_, err := slow.Fetch(ctx)
		fetched <- err
	}()
	read(ctx, t, quick, 1)
	if err := <-fetched; err != nil {
		t.Errorf("the first member is out of the group: %v", err)
	}
}

func TestACommitThatComesTooLateIsNoError(t *testing.T) {
	t.Parallel()
	for _, answer := range []*kerr.Error{kerr.IllegalGeneration, kerr.UnknownMemberID, kerr.RebalanceInProgress} {
		t.Run(answer.Message, func(t *testing.T) {
			t.Parallel()
			ctx, cluster := bounded(t), newCluster(t)
			bus := newKafka(t, cluster.ListenAddrs())
			ensure(ctx, t, bus, transport.TopicSpec{Name: "a", Partitions: 1})
			send(ctx, t, bus, "a", "x")
			r := join(ctx, t, bus, "g", "a")
			read(ctx, t, r, 1)
			fault := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Err: answer, Count: 1})
			if err := r.Commit(ctx); err != nil {
				t.Errorf("got %v", err)
			}
			if fault.Hits() != 1 {
				t.Errorf("the fault was met %d times", fault.Hits())
			}
		})
	}
}

func TestAMessageThatIsNotCompleteHoldsTheCommit(t *testing.T) {
	t.Parallel()
	ctx, cluster := bounded(t), newCluster(t)
	bus := newKafka(t, cluster.ListenAddrs())
	ensure(ctx, t, bus, transport.TopicSpec{Name: "a", Partitions: 1})
	piece := func(index int, value string) {
		header := fmt.Sprintf("%s/1/%d/2", strings.Repeat("ab", 16), index)
		r := transport.Record{Topic: "a", Value: []byte(value), Headers: map[string]string{"trickle-part": header}}
		if err := bus.Send(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	send(ctx, t, bus, "a", "1")
	piece(0, "first,")
	send(ctx, t, bus, "a", "2")
	r := join(ctx, t, bus, "g", "a")
	same(t, read(ctx, t, r, 2), []string{"1", "2"})
	if err := r.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	closed(t, r)
	piece(1, "second")
	again := join(ctx, t, bus, "g", "a")
	same(t, read(ctx, t, again, 2), []string{"2", "first,second"})
	if err := again.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	closed(t, again)
	send(ctx, t, bus, "a", "3")
	same(t, read(ctx, t, join(ctx, t, bus, "g", "a"), 1), []string{"3"})
}

func TestReplayEndsBehindTransactionMarkersAndCompaction(t *testing.T) {
	t.Parallel()
	ctx, cluster := bounded(t), newCluster(t)
	bus := newKafka(t, cluster.ListenAddrs())
	ensure(ctx, t, bus, transport.TopicSpec{Name: "marked", Partitions: 1}, transport.TopicSpec{Name: "compacted", Partitions: 1, Compacted: true},
		transport.TopicSpec{Name: "deleted", Partitions: 1})
	txn, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.TransactionalID("t"), kgo.DefaultProduceTopic("marked"))
	if err != nil {
		t.Fatal(err)
	}
	defer txn.Close()
	for i := range 3 {
		if err := txn.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := txn.ProduceSync(ctx, kgo.StringRecord(fmt.Sprint(i))).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := txn.EndTransaction(ctx, kgo.TryCommit); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		if err := bus.Send(ctx, transport.Record{Topic: "compacted", Key: []byte("k"), Value: fmt.Append(nil, i)}); err != nil {
			t.Fatal(err)
		}
	}
	cluster.Compact()
	send(ctx, t, bus, "deleted", numbers(0, 10)...)
	if err := cluster.DeleteRecords("deleted", 0, 10); err != nil {
		t.Fatal(err)
	}
	for topic, want := range map[string][]string{"marked": {"0", "1", "2"}, "compacted": {"19"}, "deleted": nil} {
		records, err := bus.Replay(ctx, topic)
		if err != nil {
			t.Errorf("%s: %v", topic, err)
		}
		var got []string
		for _, r := range records {
			got = append(got, string(r.Value))
		}
		same(t, got, want)
	}
}

func TestWhatIsTooLargeIsRefused(t *testing.T) {
	t.Parallel()
	ctx, cluster := bounded(t), newCluster(t)
	bus := newKafka(t, cluster.ListenAddrs())
	ensure(ctx, t, bus, transport.TopicSpec{Name: "a", Partitions: 1, Compacted: true}, transport.TopicSpec{Name: "b", Partitions: 1})
	if err := bus.Send(ctx, transport.Record{Topic: "a", Value: make([]byte, 1<<20)}); !errors.Is(err, transport.ErrTooLarge) {
		t.Errorf("parts on a compacted topic: %v", err)
	}
	if err := bus.Send(ctx, transport.Record{Topic: "b", Value: make([]byte, 257<<20)}); !errors.Is(err, transport.ErrTooLarge) {
		t.Errorf("more than travels: %v", err)
	}
	cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.MessageTooLarge, Count: -1})
	if err := bus.Send(ctx, transport.Record{Topic: "b", Value: []byte("x")}); !errors.Is(err, transport.ErrTooLarge) || !strings.Contains(err.Error(), "max.message.bytes") {
		t.Errorf("more than the broker takes: %v", err)
	}
}

// The broker answers as it does where compaction took everything up to the end: nothing there, and an end further on.
func TestReplayEndsInAGap(t *testing.T) {
	t.Parallel()
	ctx, cluster := bounded(t), newCluster(t)
	bus := newKafka(t, cluster.ListenAddrs())
	ensure(ctx, t, bus, transport.TopicSpec{Name: "a", Partitions: 1})
	send(ctx, t, bus, "a", numbers(0, 10)...)
	cluster.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		asked := req.(*kmsg.FetchRequest).Topics[0]
		answer := req.ResponseKind().(*kmsg.FetchResponse)
		topic, part := kmsg.NewFetchResponseTopic(), kmsg.NewFetchResponseTopicPartition()
		topic.Topic, topic.TopicID, part.HighWatermark = asked.Topic, asked.TopicID, 10
		topic.Partitions = append(topic.Partitions, part)
		answer.Topics = append(answer.Topics, topic)
		return answer, nil, true
	})
	if records, err := bus.Replay(ctx, "a"); err != nil || len(records) != 0 {
		t.Errorf("got %v, %v", records, err)
	}
}

// How much another program has yet to read is known from what its group committed, and otherwise not known.
func TestUnread(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	bus := newKafka(t, newCluster(t).ListenAddrs())
	if err := bus.Ensure(ctx, transport.TopicSpec{Name: "signals", Partitions: 1}, transport.TopicSpec{Name: "other", Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	unread := func(topic string, want int64, wantKnown bool) {
		t.Helper()
		if n, known, err := bus.Unread(ctx, "theirs", topic); err != nil || n != want || known != wantKnown {
			t.Errorf("%s: %d, %t, %v, want %d, %t", topic, n, known, err, want, wantKnown)
		}
	}
	unread("signals", 0, false)
	send := func(topic string) {
		t.Helper()
		if err := bus.SendTo(ctx, 0, transport.Record{Topic: topic, Value: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	send("signals")
	reader, err := bus.Group(ctx, "theirs", "signals")
	if err != nil {
		t.Fatal(err)
	}
	defer closed(t, reader)
	if _, err := reader.Fetch(ctx); err != nil {
		t.Fatal(err)
	}
	if err := reader.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	unread("signals", 0, true)
	send("signals")
	send("signals")
	send("other")
	unread("signals", 2, true)
	unread("other", 0, false)
}
