package transport

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/semaphore"

	"github.com/trickle-verify/trickle/telemetry/pulse"
)

const (
	defaultMaxMessage     = 900 << 10
	defaultConnectTimeout = 10 * time.Second
	retryEvery            = 250 * time.Millisecond
	hangUps               = 3 * time.Second  // of a broker that ends connections, before that is how it is
	tellAfter             = 10 * time.Second // of waiting for Kafka, and again each time
	topicAppears          = 2 * time.Second  // how long a topic that somebody else may just have created may be unknown to a broker
	createdAppears        = 30 * time.Second // the same of one that was created here: it is known to exist
	inFlightBytes         = 64 << 20         // of records that were given to Send and are not acknowledged
	recordOverhead        = 1 << 10          // what a record counts beside its value, so that small ones are bounded too
	batchOverhead         = 64 << 10         // room for key and headers beside a value of MaxMessage
)

// KafkaOptions says how to reach Kafka. Brokers is required.
type KafkaOptions struct {
	Brokers        []string // host:port
	ClientID       string   // default "trickle"
	Logger         *slog.Logger
	MaxMessage     int           // bytes of the largest record's value; what is larger travels in parts; default 900 KiB
	ConnectTimeout time.Duration // of NewKafka; default 10 s
	Security       Security
	Hooks          []kgo.Hook // metrics; attached to every client
}

// Kafka carries records through a Kafka cluster: one client produces, each reader has a client of its own.
type Kafka struct {
	options  KafkaOptions
	client   *kgo.Client
	admin    *kadm.Client
	inFlight *semaphore.Weighted
	producer string // names this bus in the headers of parts
	dialer   *dialer

	mu        sync.Mutex
	messages  uint64 // messages that were divided so far; the lock also keeps their parts together
	closed    bool
	readers   map[io.Closer]struct{} // and owners
	compacted map[string]struct{}    // topics that Ensure was told are
	told      map[TopicFault]struct{}
}

// NewKafka connects; it fails with one line when no broker answers in time, when both ends do not agree on TLS, or when the login is refused.
func NewKafka(ctx context.Context, o KafkaOptions) (*Kafka, error) {
	o.ClientID = cmp.Or(o.ClientID, "trickle")
	o.MaxMessage = cmp.Or(o.MaxMessage, defaultMaxMessage)
	o.ConnectTimeout = cmp.Or(o.ConnectTimeout, defaultConnectTimeout)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if len(o.Brokers) == 0 {
		return nil, errors.New("no Kafka broker is named; set --brokers host:port")
	}
	if err := o.Security.Check(); err != nil {
		return nil, err
	}
	id := make([]byte, 16)
	rand.Read(id)
	k := &Kafka{
		options:   o,
		inFlight:  semaphore.NewWeighted(inFlightBytes),
		producer:  hex.EncodeToString(id),
		readers:   map[io.Closer]struct{}{},
		compacted: map[string]struct{}{},
		told:      map[TopicFault]struct{}{},
		dialer:    &dialer{tls: o.Security.TLS, log: o.Logger},
	}
	var err error
	if k.client, err = k.newClient(
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.WithCompressor(newCompressor()),
		kgo.ProducerBatchMaxBytes(int32(max(1_000_012, o.MaxMessage+batchOverhead))),
		kgo.RecordPartitioner(kgo.BasicConsistentPartitioner(partitioner)),
		kgo.MaxBufferedRecords(math.MaxInt32), // inFlight bounds them, by bytes and with the caller's context
		kgo.ProducerLinger(0),
	); err != nil {
		return nil, fmt.Errorf("Kafka at %s: %w; check --brokers", strings.Join(o.Brokers, ","), err)
	}
	k.admin = kadm.NewClient(k.client)
	if err := k.probe(ctx); err != nil {
		k.client.Close()
		return nil, err
	}
	return k, nil
}

// Send appends the records and waits until every in-sync replica has them. When the context ends first, the records may still arrive.
// On a compacted topic a value above MaxMessage is refused, since compaction would keep the last of its parts only.
func (k *Kafka) Send(ctx context.Context, records ...Record) error {
	return k.send(ctx, byKey, records)
}

// SendTo is Send to one partition.
func (k *Kafka) SendTo(ctx context.Context, partition int32, records ...Record) error {
	return k.send(ctx, partition, records)
}

// byKey stands for the partition that a record's key leads to.
const byKey int32 = -1

// partitioner sends a record to the partition that it names, else where Kafka's own producers would by its key.
func partitioner(topic string) func(*kgo.Record, int) int {
	keyed := kgo.StickyKeyPartitioner(nil).ForTopic(topic)
	return func(r *kgo.Record, n int) int {
		if r.Partition != byKey {
			return int(r.Partition)
		}
		return keyed.Partition(r, n)
	}
}

func (k *Kafka) send(ctx context.Context, to int32, records []Record) error {
	defer pulse.Away(ctx)()
	results := make(chan error, len(records))
	for i, r := range records {
		r.Partition = to
		if err := k.produce(ctx, r, results); err != nil {
			for range i { // nothing is left behind that the caller does not know of
				_ = await(ctx, results)
			}
			return err
		}
	}
	var first error
	for range records {
		first = cmp.Or(first, await(ctx, results))
	}
	return first
}

func await(ctx context.Context, results <-chan error) error {
	select {
	case err := <-results:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// produce hands one record to the client; its outcome goes to results.
func (k *Kafka) produce(ctx context.Context, r Record, results chan<- error) error {
	if len(r.Value) > maxWhole {
		return fmt.Errorf("%w for topic %s: %d bytes, at most %d travel", ErrTooLarge, r.Topic, len(r.Value), maxWhole)
	}
	weight := int64(min(len(r.Key)+len(r.Value)+recordOverhead, inFlightBytes))
	if err := k.inFlight.Acquire(ctx, weight); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		k.inFlight.Release(weight)
		return ErrClosed
	}
	pieces := []Record{r}
	if len(r.Value) > k.options.MaxMessage {
		if _, compacted := k.compacted[r.Topic]; compacted {
			k.inFlight.Release(weight)
			return fmt.Errorf("%w for the compacted topic %s: %d bytes, at most %d", ErrTooLarge, r.Topic, len(r.Value), k.options.MaxMessage)
		}
		k.messages++
		pieces = cut(r, k.options.MaxMessage, k.producer, k.messages)
	}
	o := &outcome{left: len(pieces), done: func(err error) {
		k.inFlight.Release(weight)
		results <- k.explain(err, r.Topic, Write)
	}}
	for _, piece := range pieces {
		// The client's own limits take the caller's context for that of every record in the batch; Send waits with it instead.
		k.client.Produce(context.WithoutCancel(ctx), toKafka(piece), func(_ *kgo.Record, err error) { o.add(err) })
	}
	return nil
}

// outcome is the first error of several records, told when all of them are through.
type outcome struct {
	mu   sync.Mutex
	left int
	err  error
	done func(error)
}

func (o *outcome) add(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.err = cmp.Or(o.err, err)
	if o.left--; o.left == 0 {
		o.done(o.err)
	}
}

// Close ends all readers and the producer. Records that nobody waits for any more may be lost.
func (k *Kafka) Close() error {
	k.mu.Lock()
	k.closed = true
	readers := make([]io.Closer, 0, len(k.readers))
	for r := range k.readers {
		readers = append(readers, r)
	}
	k.mu.Unlock()
	for _, r := range readers {
		_ = r.Close() // never fails
	}
	k.client.Close()
	return nil
}

func toKafka(r Record) *kgo.Record {
	out := &kgo.Record{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value}
	if out.Key == nil {
		out.Key = []byte{} // records without a key stay in order too
	}
	for name, value := range r.Headers {
		out.Headers = append(out.Headers, kgo.RecordHeader{Key: name, Value: []byte(value)})
	}
	slices.SortFunc(out.Headers, func(a, b kgo.RecordHeader) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

func fromKafka(r *kgo.Record) Record {
	out := Record{Topic: r.Topic, Value: r.Value, Partition: r.Partition, Offset: r.Offset, At: r.Timestamp}
	if len(r.Key) > 0 {
		out.Key = r.Key
	}
	if len(r.Headers) > 0 {
		out.Headers = make(map[string]string, len(r.Headers))
		for _, h := range r.Headers {
			out.Headers[h.Key] = string(h.Value)
		}
	}
	return out
}
