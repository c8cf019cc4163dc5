package kafka_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"github.com/trickle-verify/trickle/internal/testbed/child"
	"github.com/trickle-verify/trickle/internal/testbed/kafka"
)

const patience = 2 * time.Minute

func start(t *testing.T, opts kafka.Options) *kafka.Broker {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	b, err := kafka.Start(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := b.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return b
}

func client(t *testing.T, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func fetch(t *testing.T, addr, topic string) *kgo.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c := client(t, kgo.SeedBrokers(addr), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	for {
		fetches := c.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			t.Fatalf("nothing came: %v: %v", err, fetches.Err())
		}
		if records := fetches.Records(); len(records) > 0 {
			return records[0]
		}
	}
}

// What was acknowledged is there after a kill -9, on the same port; after Stop nothing is left.
func TestKilledBrokerComesBackWithItsData(t *testing.T) {
	t.Parallel()
	b := start(t, kafka.Options{})
	addr := b.Addr()
	c := client(t, kgo.SeedBrokers(addr), kgo.DefaultProduceTopic("letters"))
	if _, err := kadm.NewClient(c).CreateTopic(t.Context(), 1, 1, nil, "letters"); err != nil {
		t.Fatal(err)
	}
	if err := c.ProduceSync(t.Context(), kgo.StringRecord("before")).FirstErr(); err != nil {
		t.Fatal(err)
	}
	pid := b.PID()
	if err := b.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d after a kill: %v", pid, err)
	}
	if err := b.Kill(); !errors.Is(err, child.ErrNotRunning) {
		t.Errorf("a second kill: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := b.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if b.Addr() != addr {
		t.Errorf("it moved from %s to %s", addr, b.Addr())
	}
	if r := fetch(t, addr, "letters"); !bytes.Equal(r.Value, []byte("before")) {
		t.Errorf("read %q", r.Value)
	}
	if err := c.ProduceSync(ctx, kgo.StringRecord("after")).FirstErr(); err != nil {
		t.Errorf("an old client: %v", err)
	}
	if err := b.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Dir(b.LogFile())); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder after Stop: %v", err)
	}
}

func TestFurtherListener(t *testing.T) {
	t.Parallel()
	b := start(t, kafka.Options{
		Listeners: map[string]string{"LOGIN": "SASL_PLAINTEXT"},
		Properties: map[string]string{
			"listener.name.login.sasl.enabled.mechanisms":        "SCRAM-SHA-256",
			"listener.name.login.scram-sha-256.sasl.jaas.config": "org.apache.kafka.common.security.scram.ScramLoginModule required;",
		},
		Users: []string{"SCRAM-SHA-256=[name=alice,password=secret]"},
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for password, welcome := range map[string]bool{"secret": true, "guess": false} {
		auth := scram.Auth{User: "alice", Pass: password}
		err := client(t, kgo.SeedBrokers(b.Listener("LOGIN")), kgo.SASL(auth.AsSha256Mechanism()), kgo.RequestRetries(0)).Ping(ctx)
		if (err == nil) != welcome {
			t.Errorf("with password %q: %v", password, err)
		}
	}
}

// Settings that Kafka refuses are reported with its own words.
func TestBrokerThatDoesNotStart(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := kafka.Start(ctx, kafka.Options{Properties: map[string]string{"num.io.threads": "none"}})
	if err == nil || !bytes.Contains([]byte(err.Error()), []byte("num.io.threads")) {
		t.Errorf("got %v", err)
	}
}
