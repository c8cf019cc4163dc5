package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/debezium"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/transport"
)

// touched are the keys of a table that CDC's topics hold a change of.
type touched struct {
	all  bool // it was truncated
	keys []message.Key
	ids  map[string]bool // once they are spelt as Postgres does
}

// has tells whether a key is among them.
func (t *touched) has(k message.Key) bool { return t != nil && (t.all || t.ids[k.ID()]) }

// touchedSince reads CDC's topics from a set's position to their end, and gathers what was changed, by table. It keeps every key that was.
func touchedSince(ctx context.Context, bus *transport.Kafka, m *baseline.Manifest) (map[string]*touched, error) {
	start, err := m.Start()
	if err != nil {
		return nil, err
	}
	player, err := bus.Play(ctx, start.Position)
	if err != nil {
		return nil, fmt.Errorf("reading what CDC has delivered since set %s: %w", m.Set, err)
	}
	defer func() { _ = player.Close() }()
	ends, err := player.Ends(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading what CDC has delivered since set %s: %w", m.Set, err)
	}
	out := make(map[string]*touched)
	decoder := debezium.NewDecoder(debezium.Options{})
	for _, topic := range ends {
		for n, end := range topic.Offsets {
			at := transport.Partition{Topic: topic.Topic, ID: int32(n)}
			for {
				r, more, err := player.Next(ctx, at, end)
				if err != nil {
					return nil, fmt.Errorf("reading %s: %w", at, err)
				}
				if !more {
					break
				}
				if err := note(out, m, decoder, r); err != nil {
					return nil, fmt.Errorf("%s, offset %d: %w", at, r.Offset, err)
				}
			}
		}
	}
	return out, nil
}

// note notes one event's key.
func note(out map[string]*touched, m *baseline.Manifest, d *debezium.Decoder, r transport.Record) error {
	change, ok, err := d.Decode(r)
	if err != nil || !ok {
		return err
	}
	t, ok := m.Table(change.Table.String())
	if !ok {
		return nil
	}
	of := out[t.Table]
	if of == nil {
		of = &touched{ids: make(map[string]bool)}
		out[t.Table] = of
	}
	if change.Op == debezium.Truncate {
		of.all = true
		return nil
	}
	key := make(message.Key, 0, len(t.Schema.Key))
	for _, name := range t.Schema.Key {
		text, err := valueOf(change, name, declaredAs(t, name))
		if err != nil {
			return err
		}
		key = append(key, text)
	}
	of.keys = append(of.keys, key)
	return nil
}

var errNoKey = errors.New("the event has no key: REPLICA IDENTITY, or message.key.columns, leaves it out")

// valueOf is a key column of an event, wherever it stands.
func valueOf(c debezium.Change, column string, t debezium.Type) (string, error) {
	for _, row := range []debezium.Row{c.Key, c.After, c.Before} {
		if !row.Has(column) {
			continue
		}
		v, _, err := row.Value(column, t)
		if err != nil {
			return "", err
		}
		if v.Text != nil && !v.Unavailable {
			return string(v.Text), nil
		}
	}
	return "", errNoKey
}

func declaredAs(t *baseline.Table, column string) debezium.Type {
	i := slices.IndexFunc(t.Schema.Columns, func(c baseline.Column) bool { return c.Name == column })
	name := t.Schema.Columns[i].Declared
	return debezium.Type{Name: name, Modifier: -1, Enum: !strings.HasPrefix(name, "pg_catalog.")}
}

// spell has a database spell keys as it spells those of its rows, so that they can be compared.
func (t *touched) spell(ctx context.Context, pool *pgxpool.Pool, l *postgres.Layout) error {
	if len(t.keys) == 0 {
		return nil
	}
	columns := make([][]string, len(l.Key))
	for i := range columns {
		values := make([]string, len(t.keys))
		for n, k := range t.keys {
			values[n] = k[i]
		}
		rows, err := pool.Query(ctx, "SELECT (v::"+l.KeyType(i)+")::text FROM pg_catalog.unnest($1::text[]) WITH ORDINALITY AS u(v, n) ORDER BY n", values)
		if err != nil {
			return fmt.Errorf("spelling keys of %s: %w", l.Name, err)
		}
		for rows.Next() {
			var text string
			if err := rows.Scan(&text); err != nil {
				rows.Close()
				return fmt.Errorf("spelling keys of %s: %w", l.Name, err)
			}
			columns[i] = append(columns[i], text)
		}
		if err := rows.Err(); err != nil {
			return fmt.Errorf("spelling keys of %s: %w", l.Name, err)
		}
	}
	for n := range t.keys {
		key := make(message.Key, len(columns))
		for i := range columns {
			key[i] = columns[i][n]
		}
		t.ids[key.ID()] = true
	}
	t.keys = nil
	return nil
}

// listen reads CDC's topics where brokers are given: they know what was changed since.
func (v *verifying) listen(ctx context.Context, st *stack, s Settings, p *policy.Policy) error {
	if v.pool == nil || len(s.Brokers) == 0 {
		return nil
	}
	bus, err := s.openBus(ctx, st)
	if err != nil {
		return err
	}
	if v.since, err = touchedSince(ctx, bus, v.set); err != nil {
		return err
	}
	v.heard = true
	v.out.Checked = append(v.out.Checked, "changes in CDC's topics of pipeline "+p.Pipeline)
	return nil
}
