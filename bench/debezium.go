package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"

	"github.com/trickle-verify/trickle/deploy/compose"
	"github.com/trickle-verify/trickle/internal/testbed/connect"
	"github.com/trickle-verify/trickle/transport"
)

// debeziumSettings are laid on top of deploy/compose's.
type debeziumSettings struct{ source, sink map[string]string }

// settingsOf are a reading's.
func settingsOf(reading string) debeziumSettings {
	if reading != resyncTuned {
		return debeziumSettings{}
	}
	return debeziumSettings{
		source: map[string]string{"incremental.snapshot.chunk.size": "20000", "max.batch.size": "20000", "max.queue.size": "80000", "producer.override.linger.ms": "10",
			"producer.override.batch.size": "524288", "producer.override.compression.type": "lz4"},
		sink: map[string]string{"batch.size": "5000", "consumer.override.max.poll.records": "5000", "consumer.override.fetch.min.bytes": "1048576", "consumer.override.fetch.max.wait.ms": "100"},
	}
}

const (
	signals  = "shop-signals"
	snapshot = `{"id":"%d","type":"execute-snapshot","data":{"type":"INCREMENTAL","data-collections":["public\\.verified"]}}`
)

// debezium starts the source's and the sink's connector, with nothing to be copied yet.
func (f *filler) debezium(ctx context.Context, s debeziumSettings) error {
	var err error
	if f.worker == nil {
		if f.worker, err = connect.Start(ctx, connect.Options{Brokers: f.broker.Addr()}); err != nil {
			return err
		}
		bus, err := f.bus(ctx)
		if err != nil {
			return err
		}
		if err := errors.Join(bus.Ensure(ctx, transport.TopicSpec{Name: signals, Partitions: 1}), bus.Close()); err != nil {
			return err
		}
	}
	from, to, err := f.addresses()
	if err != nil {
		return err
	}
	source := map[string]string{
		"database.hostname": from.Hostname(), "database.port": from.Port(), "database.user": from.User.Username(), "database.password": "unused", "database.dbname": resyncData,
		"table.include.list": `public\.verified`, "snapshot.mode": "no_data", "signal.kafka.bootstrap.servers": f.broker.Addr(),
	}
	sink := map[string]string{
		"connection.url":      fmt.Sprintf("jdbc:postgresql://%s/%s?stringtype=unspecified&reWriteBatchedInserts=true", to.Host, resyncData),
		"connection.username": to.User.Username(), "connection.password": "unused", "topics.regex": `shop\.public\..*`,
	}
	maps.Copy(source, s.source)
	maps.Copy(sink, s.sink)
	if err := f.connector(ctx, "source", compose.Source, source); err != nil {
		return err
	}
	return f.connector(ctx, "sink", compose.Sink, sink)
}

func (f *filler) addresses() (from, to *url.URL, err error) {
	if from, err = url.Parse(f.source.DSN(resyncData)); err != nil {
		return nil, nil, err
	}
	to, err = url.Parse(f.replica.DSN(resyncData))
	return from, to, err
}

func (f *filler) bus(ctx context.Context) (*transport.Kafka, error) {
	return transport.NewKafka(ctx, transport.KafkaOptions{Brokers: []string{f.broker.Addr()}})
}

func (f *filler) connector(ctx context.Context, name string, settings []byte, over map[string]string) error {
	var all map[string]string
	if err := json.Unmarshal(settings, &all); err != nil {
		return err
	}
	maps.Copy(all, over)
	return f.worker.Connector(name).Put(ctx, all)
}

func (f *filler) endDebezium(ctx context.Context) error {
	for _, name := range []string{"source", "sink"} {
		if err := f.worker.Connector(name).Delete(ctx); err != nil {
			return err
		}
	}
	return nil
}

// snapshot asks Debezium for an incremental snapshot of the table, through Kafka, and waits until the sink has written the last row. Both go in the key's order.
func (f *filler) snapshot(ctx context.Context) (err error) {
	bus, err := f.bus(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bus.Close()) }()
	var last int64
	if err := f.from.QueryRow(ctx, "SELECT max(id) FROM "+ordered).Scan(&last); err != nil {
		return err
	}
	f.asked++
	signal := transport.Record{Topic: signals, Key: []byte("shop"), Value: fmt.Appendf(nil, snapshot, f.asked)}
	if err := bus.Send(ctx, signal); err != nil {
		return err
	}
	return f.await(ctx, "SELECT EXISTS (SELECT FROM "+ordered+" WHERE id = $1)", last)
}
