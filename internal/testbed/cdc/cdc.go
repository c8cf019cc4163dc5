// Package cdc is a small change data capture: one logical replication slot, one Kafka topic, upserts in a replica.
//
// It is what the demo and the tests verify against, with the faults real pipelines have at hand: a sink can be stopped, paused, delayed,
// or made to lose events. It decides how a change travels and how it is applied. What always holds: without such a fault every committed
// change reaches the replica at least once and in commit order across all tables (the topic has one partition), and applying a change
// again changes nothing in the end. When a broker or a database goes away, source and sink try again until their context ends.
package cdc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	retryDelay      = 100 * time.Millisecond
	letGo           = 30 * time.Second // for a server to see that who read a slot has gone
	maxMessageBytes = 16 << 20
)

// Config says what is carried from where to where.
type Config struct {
	Source      string    // DSN
	Replica     string    // DSN
	Kafka       []kgo.Opt // at least kgo.SeedBrokers
	Topic       string
	Group       string   // the sink's consumer group
	Slot        string   // also the publication's name
	Tables      []string // schema.name; none means every table, those to come included
	Rename      func(table string) string
	Log         *slog.Logger
	ApplyAtOnce int // events in one transaction of the sink, at most; default 500
}

func (c Config) withDefaults() Config {
	if c.Rename == nil {
		c.Rename = func(table string) string { return table }
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.ApplyAtOnce == 0 {
		c.ApplyAtOnce = 500
	}
	return c
}

// Prepare creates the topic, the publication and the slot, those that do not exist yet. Changes are kept for the sink from here on, so a
// copy of the tables taken after it and everything since then make the replica equal.
func Prepare(ctx context.Context, cfg Config) error {
	if err := createTopic(ctx, cfg); err != nil {
		return fmt.Errorf("cdc topic %s: %w", cfg.Topic, err)
	}
	conn, err := pgx.Connect(ctx, cfg.Source)
	if err != nil {
		return fmt.Errorf("cdc source: %w", err)
	}
	_, err = conn.Exec(ctx, publication(cfg))
	if err == nil {
		_, err = conn.Exec(ctx, `SELECT pg_create_logical_replication_slot($1, 'pgoutput')
			WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1)`, cfg.Slot)
	}
	if err = errors.Join(err, conn.Close(ctx)); err != nil {
		return fmt.Errorf("cdc slot %s: %w", cfg.Slot, err)
	}
	return nil
}

func createTopic(ctx context.Context, cfg Config) error {
	client, err := kgo.NewClient(cfg.Kafka...)
	if err != nil {
		return err
	}
	defer client.Close()
	limit := fmt.Sprint(maxMessageBytes)
	_, err = kadm.NewClient(client).CreateTopic(ctx, 1, -1, map[string]*string{"max.message.bytes": &limit}, cfg.Topic)
	if errors.Is(err, kerr.TopicAlreadyExists) {
		return nil
	}
	return err
}

// publication is a statement that creates it unless it exists.
func publication(cfg Config) string {
	scope := "FOR ALL TABLES"
	if len(cfg.Tables) > 0 {
		names := make([]string, len(cfg.Tables))
		for i, table := range cfg.Tables {
			names[i] = quoteTable(table)
		}
		scope = "FOR TABLE " + strings.Join(names, ", ")
	}
	create := "CREATE PUBLICATION " + pgx.Identifier{cfg.Slot}.Sanitize() + " " + scope
	return "DO $cdc$ BEGIN " + create + "; EXCEPTION WHEN duplicate_object THEN NULL; END $cdc$"
}

// Drop removes the slot and the publication. The source must have ended; that the server sees that a moment later is waited for.
func Drop(ctx context.Context, cfg Config) error {
	conn, err := pgx.Connect(ctx, cfg.Source)
	if err != nil {
		return fmt.Errorf("cdc source: %w", err)
	}
	slotErr := dropSlot(ctx, conn, cfg.Slot)
	_, pubErr := conn.Exec(ctx, "DROP PUBLICATION IF EXISTS "+pgx.Identifier{cfg.Slot}.Sanitize())
	return errors.Join(slotErr, pubErr, conn.Close(ctx))
}

func dropSlot(ctx context.Context, conn *pgx.Conn, slot string) error {
	for deadline := time.Now().Add(letGo); ; {
		_, err := conn.Exec(ctx, `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1`, slot)
		var server *pgconn.PgError
		if !errors.As(err, &server) || server.Code != "55006" || time.Now().After(deadline) { // object_in_use
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(retryDelay):
		}
	}
}

// quoteTable quotes schema.name for SQL.
func quoteTable(table string) string {
	schema, name, ok := strings.Cut(table, ".")
	if !ok {
		return pgx.Identifier{table}.Sanitize()
	}
	return pgx.Identifier{schema, name}.Sanitize()
}

// retry calls once until the context ends; once is expected to work until something fails.
func retry(ctx context.Context, failed func(error), once func(context.Context) error) {
	for ctx.Err() == nil {
		if err := once(ctx); err != nil && ctx.Err() == nil {
			failed(err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryDelay):
		}
	}
}
