package laws

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/trickle-verify/trickle/debezium"
	"github.com/trickle-verify/trickle/transport"
)

// What the connector does about a signal.
const (
	serve  = "serve"  // read the table, the sink applies it
	lose   = "lose"   // read the signal and die
	vanish = "vanish" // say that it began, and die
	abort  = "abort"  // somebody stops it
	fail   = "fail"   // its query fails
	unkept = "unkept" // read the table, the sink skips what it should apply
	exotic = "exotic" // it does not know the table
)

// connector plays Debezium and a sink behind it, over an embedded Kafka, and writes what real ones were seen to write.
type connector struct {
	p       *pair
	cluster *kfake.Cluster
	// does tells what to do about the nth signal, from 1.
	does func(n int) string
	// between runs after it said that it began.
	between func()

	mu      sync.Mutex
	signals int
	served  int
}

const prefix = "cdc"

// newBus is an embedded Kafka.
func newBus(t *testing.T) (*kfake.Cluster, *transport.Kafka) {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	bus, err := transport.NewKafka(t.Context(), transport.KafkaOptions{Brokers: cluster.ListenAddrs()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = bus.Close() })
	return cluster, bus
}

// newConnector gives the pair a connector that does not run yet, and a line to it.
func newConnector(t *testing.T, p *pair, does func(n int) string) *connector {
	t.Helper()
	cluster, bus := newBus(t)
	p.connector = &debezium.Line{Bus: bus, Group: "laws.debezium.here", Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	p.wire()
	return &connector{p: p, cluster: cluster, does: does}
}

// counts are the signals that it read and the snapshots that it made.
func (c *connector) counts() (signals, served int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.signals, c.served
}

// start runs the connector from where its group stands, until it is stopped or the test ends.
func (c *connector) start() (stop func()) {
	t := c.p.t
	client, err := kgo.NewClient(kgo.SeedBrokers(c.cluster.ListenAddrs()...), kgo.AllowAutoTopicCreation())
	if err != nil {
		t.Fatal(err)
	}
	admin := kadm.NewClient(client)
	from := map[int32]kgo.Offset{0: kgo.NewOffset().AtStart()}
	committed, err := admin.FetchOffsets(t.Context(), "kafka-signal")
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		t.Fatal(err)
	}
	if at, ok := committed.Lookup(prefix+"-signal", 0); ok && at.At >= 0 {
		from[0] = kgo.NewOffset().At(at.At)
	}
	client.AddConsumePartitions(map[string]map[int32]kgo.Offset{prefix + "-signal": from})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			client.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
				if err := c.handle(ctx, client, r); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
				at := kadm.Offsets{}
				at.AddOffset(r.Topic, r.Partition, r.Offset+1, -1)
				if err := admin.CommitAllOffsets(ctx, "kafka-signal", at); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
			})
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done; client.Close() })
	t.Cleanup(stop)
	return stop
}

type signal struct {
	ID   string
	Data struct {
		Conditions []struct{ Filter string } `json:"additional-conditions"`
	}
}

func (c *connector) handle(ctx context.Context, client *kgo.Client, r *kgo.Record) error {
	var s signal
	if err := json.Unmarshal(r.Value, &s); err != nil || string(r.Key) != prefix {
		return fmt.Errorf("signal %s of %s: %w", r.Value, r.Key, err)
	}
	c.mu.Lock()
	c.signals++
	what := c.does(c.signals)
	c.mu.Unlock()
	said := func(typ string, data map[string]string) error {
		data["connector_name"] = prefix
		value, err := json.Marshal(map[string]any{"schema": map[string]any{"type": "struct"}, "payload": map[string]any{
			"id": s.ID, "type": typ, "aggregate_type": "Incremental Snapshot", "additional_data": data, "timestamp": 1,
		}})
		if err != nil {
			return err
		}
		return client.ProduceSync(ctx, &kgo.Record{Topic: prefix + "-notifications", Key: []byte(s.ID), Value: value}).FirstErr()
	}
	if what == lose {
		return nil
	}
	table := "public.t"
	if what == exotic {
		table = `public\.t`
	}
	if err := said(debezium.Started, map[string]string{"data_collections": table}); err != nil {
		return err
	}
	if c.between != nil {
		c.between()
	}
	rows, status := 0, "SUCCEEDED"
	switch what {
	case vanish:
		return nil
	case abort:
		return said(debezium.Aborted, map[string]string{"data_collections": "public.t"})
	case fail:
		status = "SQL_EXCEPTION"
	case exotic:
		status = "UNKNOWN_SCHEMA"
	default:
		var err error
		if rows, err = c.snapshot(ctx, s, what); err != nil {
			return err
		}
	}
	if err := said(debezium.TableScanCompleted, map[string]string{"scanned_collection": table, "status": status, "total_rows_scanned": fmt.Sprint(rows), "data_collections": table}); err != nil {
		return err
	}
	return said(debezium.Completed, map[string]string{})
}

// snapshot reads the source as the signal says and has the sink apply it.
func (c *connector) snapshot(ctx context.Context, s signal, what string) (int, error) {
	where := "true"
	for _, cond := range s.Data.Conditions {
		where = cond.Filter
	}
	rows, err := c.p.src.Query(ctx, `SELECT id, v FROM t WHERE `+where)
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	n := 0
	for rows.Next() {
		var id int64
		var v *string
		if err := rows.Scan(&id, &v); err != nil {
			return n, err
		}
		n++
		if what == unkept && id%10 == 0 {
			continue
		}
		if _, err := c.p.dst.Exec(ctx, `INSERT INTO t VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET v = excluded.v`, id, v); err != nil {
			return n, err
		}
	}
	c.mu.Lock()
	c.served++
	c.mu.Unlock()
	return n, rows.Err()
}
