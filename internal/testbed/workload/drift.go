package workload

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"
)

// Kinds of drift.
const (
	Missing    = "missing"
	Mismatched = "mismatched"
	Extra      = "extra"
)

// Drift is how many rows of the replica to make wrong, over all tables: most of them in orders.
type Drift struct{ Missing, Mismatched, Extra int }

// Injected is one row made wrong.
type Injected struct {
	Table string
	Key   string // a JSON object of the key's columns, as Postgres prints jsonb
	Kind  string
}

// Injector makes rows of a replica wrong. It never takes a row twice.
type Injector struct {
	dsn  string
	seed int64

	mu    sync.Mutex
	round int
	used  map[string][]string // keys by table
}

// NewInjector returns an injector; on equal replicas one seed injects the same drift.
func NewInjector(replica string, seed int64) *Injector {
	return &Injector{dsn: replica, seed: seed, used: map[string][]string{}}
}

// target says how rows of one table are taken and made wrong. In its statements $1 holds keys as jsonb.
type target struct {
	table, key string
	reserved   string
	match      string // joins the table, as t, with a key, as k
	changes    []string
	extra      string // inserts the $1-th to $2-th extra row of a seed $3
}

func targets() []target {
	return []target{{
		table: "public.orders", key: `jsonb_build_object('id', t.id)`, reserved: `t.id % 10 = 7`, match: `t.id = (k->>'id')::bigint`,
		changes: []string{
			`amount = t.amount + 0.01`,
			`status = CASE t.status WHEN 'cancelled' THEN 'new'::order_status ELSE 'cancelled' END`,
			`note = CASE WHEN t.note IS NULL THEN '' END`,
			`details = t.details || '{"drift": true}'`,
			`updated_at = t.updated_at - interval '1 microsecond'`,
			`customer_id = md5(t.customer_id::text)::uuid`,
		},
		// Alternately behind every order there is and before the first one.
		extra: `INSERT INTO orders (id, customer_id, status, amount, details)
			SELECT CASE n % 2 WHEN 0 THEN top + 10 * n + 7 ELSE -10 * n - 7 END, md5(n::text)::uuid, 'paid', 1, '{}'
			FROM generate_series($1::bigint, $2::bigint) n, (SELECT coalesce(max(id), 0) / 10 * 10 + $3::bigint % 1000 * 10 AS top FROM orders) o`,
	}, {
		table: "public.order_items", key: `jsonb_build_object('order_id', t.order_id, 'line_no', t.line_no)`, reserved: `t.order_id % 10 = 7`,
		match: `t.order_id = (k->>'order_id')::bigint AND t.line_no = (k->>'line_no')::int`,
		changes: []string{
			`quantity = t.quantity + 1`,
			`price = t.price * 10 + 1`,
			`sku = t.sku || ' '`,
		},
		extra: `INSERT INTO order_items SELECT 10 * n + 7, 1000000 + $3::bigint % 1000, 'extra', 1, 1 FROM generate_series($1::bigint, $2::bigint) n`,
	}, {
		table: "public.customers", key: `jsonb_build_object('id', t.id)`, reserved: `right(t.id::text, 1) = '7'`, match: `t.id = (k->>'id')::uuid`,
		changes: []string{
			`email = CASE WHEN t.email IS NULL THEN 'drift@example.org' END`,
			`country = CASE t.country WHEN 'XX' THEN 'YY' ELSE 'XX' END`,
			`tags = t.tags || ARRAY[NULL::text]`,
		},
		extra: `INSERT INTO customers (id, name, country) SELECT (left(md5('extra-' || $3::bigint || '-' || n), 31) || '7')::uuid, 'Extra', 'XX'
			FROM generate_series($1::bigint, $2::bigint) n`,
	}}
}

// Inject makes rows wrong in one transaction and returns exactly which. It fails, and changes nothing, when there are too few reserved rows.
func (in *Injector) Inject(ctx context.Context, drift Drift) ([]Injected, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.round++
	var all []Injected
	used := map[string][]string{}
	err := with(ctx, in.dsn, func(conn *pgx.Conn) error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			for i, t := range targets() {
				share := Drift{portion(drift.Missing, i), portion(drift.Mismatched, i), portion(drift.Extra, i)}
				done, err := in.injectTable(ctx, tx, t, share)
				if err != nil {
					return fmt.Errorf("inject drift into %s: %w", t.table, err)
				}
				all = append(all, done...)
				for _, d := range done {
					used[t.table] = append(used[t.table], d.Key)
				}
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	for _, table := range slices.Sorted(maps.Keys(used)) {
		in.used[table] = append(in.used[table], used[table]...)
	}
	return all, nil
}

// portion gives a fifth each to the second and the third table, and the rest to the first.
func portion(n, target int) int {
	if target == 0 {
		return n - 2*(n/5)
	}
	return n / 5
}

func (in *Injector) injectTable(ctx context.Context, tx pgx.Tx, t target, d Drift) ([]Injected, error) {
	keys, err := in.pick(ctx, tx, t, d.Missing+d.Mismatched)
	if err != nil {
		return nil, err
	}
	var done []Injected
	add := func(kind string, keys []string) {
		for _, key := range keys {
			done = append(done, Injected{Table: t.table, Key: key, Kind: kind})
		}
	}
	_, err = tx.Exec(ctx, "DELETE FROM "+t.table+" t USING unnest($1::text[]::jsonb[]) k WHERE "+t.match, keys[:d.Missing])
	if err != nil {
		return nil, err
	}
	add(Missing, keys[:d.Missing])
	for i, key := range keys[d.Missing:] {
		change := t.changes[i%len(t.changes)]
		if _, err := tx.Exec(ctx, "UPDATE "+t.table+" t SET "+change+" FROM (SELECT $1::text::jsonb AS k) k WHERE "+t.match, key); err != nil {
			return nil, err
		}
	}
	add(Mismatched, keys[d.Missing:])
	if d.Extra > 0 {
		// Numbers of their own in each round keep the keys apart.
		first := in.round * 1_000_000
		rows, err := tx.Query(ctx, t.extra+" RETURNING (SELECT "+t.key+" FROM (SELECT "+t.table+".*) t)::text", first+1, first+d.Extra, in.seed)
		if err != nil {
			return nil, err
		}
		extra, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return nil, err
		}
		add(Extra, extra)
	}
	return done, nil
}

// pick takes n reserved rows that were not taken before, in an order that only the seed decides.
func (in *Injector) pick(ctx context.Context, tx pgx.Tx, t target, n int) ([]string, error) {
	// A nil slice would be NULL, and nothing differs from that.
	rows, err := tx.Query(ctx, "SELECT "+t.key+"::text AS key FROM "+t.table+" t WHERE "+t.reserved+" AND "+t.key+"::text <> ALL ($1::text[])"+
		" ORDER BY hashtextextended("+t.key+"::text, $2), key LIMIT $3", append([]string{}, in.used[t.table]...), in.seed+int64(in.round), n)
	if err != nil {
		return nil, err
	}
	keys, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	if len(keys) < n {
		return nil, fmt.Errorf("%d rows wanted and only %d left that the writer leaves alone: fill in more", n, len(keys))
	}
	return keys, nil
}
