package app

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/trickle-verify/trickle/internal/testbed/kafka"
	"github.com/trickle-verify/trickle/transport"
)

// The view is built by the running publisher, told to the replica, and seen to be lost, and comes back, on a real broker.
func TestARestorePointIsKept(t *testing.T) {
	t.Parallel()
	broker, err := kafka.Start(t.Context(), kafka.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := broker.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	e := newEstate(t, broker, "shop")
	const topic = "cdc.public.t"
	text := "pipeline: shop\nquiet: 1ms\nschedule: {cycle: 1s}\ntables: [{table: public.t}]\ngate: {assume_lag: 1ms}\ndetect: {action: report}\n" +
		"baseline: {url: 'file://" + t.TempDir() + "', topics: ['cdc.*']}\n"
	if err := os.WriteFile(e.policy, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	made, err := e.admin.CreateTopic(t.Context(), 1, 1, nil, topic)
	if err := errors.Join(err, made.Err); err != nil {
		t.Fatal(err)
	}
	producer, err := kgo.NewClient(kgo.SeedBrokers(broker.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	write := func() {
		t.Helper()
		if err := producer.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Value: []byte("{}")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	write()
	s := e.settings("publisher")
	s.Brokers, s.Security = []string{broker.Addr()}, transport.Security{}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ended := make(chan error, 2)
	go func() { ended <- Publisher(ctx, s) }()
	go func() { ended <- Consumer(ctx, s) }()
	until := func(what string, done func() bool) {
		t.Helper()
		for !done() {
			select {
			case err := <-ended:
				t.Fatalf("waiting until %s: a side ended: %v\n%s", what, err, e.log.String())
			case <-ctx.Done():
				t.Fatalf("it never came about that %s\n%s", what, e.log.String())
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	set := ""
	until("there is a restore point", func() bool {
		scan, err := Progress(ctx, s)
		if err != nil || scan.Baseline == nil || !scan.Baseline.Valid {
			return false
		}
		set = scan.Baseline.Set
		return scan.Baseline.Events == 0 && scan.Baseline.Expires != nil && scan.Baseline.RefreshDue != nil
	})
	var stood Standing
	until("the replica is known to have drifted", func() bool {
		stood, err = Heard(ctx, s, "")
		return err == nil && stood.Drifted == 1 && stood.Set == set
	})
	if table := stood.Tables[0]; table.Rows != 100 || table.There != 99 {
		t.Errorf("%+v", table)
	}
	write()
	if stood, err = Heard(ctx, s, set); err != nil || stood.Changed != 1 || *stood.Tables[0].Events != 1 {
		t.Errorf("after an event: %+v, %v", stood, err)
	}
	write()
	ends, err := e.admin.ListEndOffsets(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.admin.DeleteRecords(ctx, ends.Offsets()); err != nil {
		t.Fatal(err)
	}
	scan, err := Progress(ctx, s)
	if err != nil || scan.Baseline.Valid && scan.Baseline.Set == set || !scan.Baseline.Valid && !strings.Contains(scan.Baseline.Reason, "the log has expired") {
		t.Errorf("without the log: %+v, %v", scan.Baseline, err)
	}
	until("there is a restore point again", func() bool {
		scan, err := Progress(ctx, s)
		return err == nil && scan.Baseline.Valid && scan.Baseline.Set != set
	})
	if log := e.log.String(); strings.Count(log, "there is no valid restore point") != 2 || !strings.Contains(log, "the log has expired") { // before the first set, and now
		t.Error(log)
	}
	cancel()
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
