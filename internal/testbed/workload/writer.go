package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	tick    = 20 * time.Millisecond
	longest = 30 * time.Second // transaction
)

// Writer writes to the source at a rate: updates of every kind, inserts, deletes and changes of keys, some in one transaction.
type Writer struct {
	dsn    string
	rate   atomic.Int64
	writes atomic.Int64
	random *rand.Rand
	orders int64 // highest order id in use
	people int64 // highest customer number in use
}

// NewWriter returns a writer of about that many statements a second; one seed makes one sequence of statements.
func NewWriter(dsn string, perSecond int, seed uint64) *Writer {
	w := &Writer{dsn: dsn, random: rand.New(rand.NewPCG(seed, seed))}
	w.SetRate(perSecond)
	return w
}

// SetRate changes the rate, also while the writer runs; 0 pauses it.
func (w *Writer) SetRate(perSecond int) { w.rate.Store(int64(perSecond)) }

// Writes is the number of rows written so far.
func (w *Writer) Writes() int64 { return w.writes.Load() }

// Run writes until the context ends, then returns nil. The transaction under way is finished first, so that after Run nothing is committed
// any more.
func (w *Writer) Run(ctx context.Context) error {
	err := with(ctx, w.dsn, func(conn *pgx.Conn) error {
		if err := w.begin(ctx, conn); err != nil {
			return err
		}
		beat := time.NewTicker(tick)
		defer beat.Stop()
		var owed float64
		for last := time.Now(); ; {
			select {
			case <-ctx.Done():
				return nil
			case <-beat.C:
			}
			rate := float64(w.rate.Load())
			owed = min(owed+rate*time.Since(last).Seconds(), rate/2) // a slow server is not made up for without end
			last = time.Now()
			n := int(owed)
			owed -= float64(n)
			if err := w.write(ctx, conn, n); err != nil {
				return err
			}
		}
	})
	if ctx.Err() == nil {
		return err
	}
	return nil
}

// begin finds where new keys start.
func (w *Writer) begin(ctx context.Context, conn *pgx.Conn) error {
	return conn.QueryRow(ctx, `SELECT (SELECT coalesce(max(id), 0) FROM orders),
		(SELECT coalesce(max(substr(name, 10)::bigint), 0) FROM customers WHERE name LIKE 'Customer %')`).Scan(&w.orders, &w.people)
}

// write sends n statements in transactions of up to 100.
func (w *Writer) write(ctx context.Context, conn *pgx.Conn, n int) error {
	for n > 0 && ctx.Err() == nil {
		batch := &pgx.Batch{}
		for range min(n, 1+w.random.IntN(100)) {
			w.queue(batch)
		}
		n -= batch.Len()
		var written int64
		err := whole(ctx, func(ctx context.Context) error {
			return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) (err error) {
				written, err = send(ctx, tx, batch)
				return err
			})
		})
		if err != nil {
			return fmt.Errorf("workload: %w", err)
		}
		w.writes.Add(written)
	}
	return nil
}

// send returns the number of rows that the statements changed.
func send(ctx context.Context, tx pgx.Tx, batch *pgx.Batch) (rows int64, err error) {
	results := tx.SendBatch(ctx, batch)
	defer func() { err = errors.Join(err, results.Close()) }()
	for range batch.Len() {
		tag, err := results.Exec()
		if err != nil {
			return 0, err
		}
		rows += tag.RowsAffected()
	}
	return rows, nil
}

// whole lets do finish when the context ends, within reason: a connection cut off in its commit leaves open whether it took place, and when.
func whole(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), longest)
	defer cancel()
	return do(ctx)
}

// Statements that only the writer uses. Customers are numbered; a number whose id is reserved is passed over in SQL.
const (
	free = ` AND right(id::text, 1) <> '7'`
	// Too long and too random to be compressed, so it's kept out of line: updates that leave it alone replicate without it.
	bigNote = `(SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 120))`
)

// queue adds one to four statements: one thing that happens in a shop.
func (w *Writer) queue(b *pgx.Batch) {
	id := w.order()
	switch dice := w.random.IntN(100); {
	case dice < 40:
		b.Queue(`UPDATE orders SET status = (enum_range(NULL::order_status))[1 + $2::int % 4], amount = $2::int / 100.0, updated_at = now() WHERE id = $1`, id, w.random.IntN(1e6))
	case dice < 50:
		b.Queue(`UPDATE orders SET details = details || jsonb_build_object('seen', $2::int), updated_at = now() WHERE id = $1`, id, w.random.IntN(1e6))
	case dice < 55:
		b.Queue(`UPDATE orders SET note = `+bigNote+`, updated_at = now() WHERE id = $1`, id)
	case dice < 57:
		b.Queue(`UPDATE orders SET note = NULL WHERE id = $1`, id)
	case dice < 67:
		b.Queue(`UPDATE order_items SET quantity = $2::int WHERE order_id = $1 AND line_no <= 2`, id, w.random.IntN(100))
	case dice < 75:
		b.Queue(`UPDATE customers SET email = $2::text, tags = tags[1:3] || $2::text, updated_at = now() WHERE id = md5('customer-' || $1::bigint)::uuid`+free,
			1+w.random.Int64N(w.people+1), fmt.Sprintf("m%d@example.org", w.random.IntN(1e6)))
	case dice < 88:
		w.queueNewOrder(b)
	case dice < 90:
		w.people++
		b.Queue(`INSERT INTO customers (id, name, country) SELECT id, 'Customer ' || $1::bigint, 'DE' FROM (SELECT md5('customer-' || $1::bigint)::uuid AS id) new
			WHERE true`+free+` ON CONFLICT DO NOTHING`, w.people)
	case dice < 91:
		b.Queue(`DELETE FROM customers WHERE id = md5('customer-' || $1::bigint)::uuid`+free, 1+w.random.Int64N(w.people+1))
	case dice < 95:
		b.Queue(`DELETE FROM order_items WHERE order_id = $1`, id)
		b.Queue(`DELETE FROM orders WHERE id = $1`, id)
	case dice < 98:
		next := w.newOrder()
		b.Queue(`UPDATE orders SET id = $2::bigint WHERE id = $1`, id, next)
		b.Queue(`UPDATE order_items SET order_id = $2::bigint WHERE order_id = $1`, id, next)
	default:
		b.Queue(`UPDATE order_items SET line_no = line_no + 100 WHERE order_id = $1 AND line_no < 100`, id)
	}
}

func (w *Writer) queueNewOrder(b *pgx.Batch) {
	id := w.newOrder()
	b.Queue(`INSERT INTO orders (id, customer_id, status, amount, details) VALUES ($1, md5('customer-' || $2::bigint)::uuid, 'new', $3::int / 100.0, '{"channel": "app"}')`,
		id, 1+w.random.Int64N(w.people+1), w.random.IntN(1e6))
	for line := range 1 + w.random.IntN(3) {
		b.Queue(`INSERT INTO order_items VALUES ($1, $2, 'sku-' || $2::int, 1, 9.99)`, id, line+1)
	}
}

// order picks an order that is not reserved; it may have been deleted.
func (w *Writer) order() int64 {
	for {
		if id := 1 + w.random.Int64N(w.orders+1); id%10 != 7 {
			return id
		}
	}
}

// newOrder never returns an id twice, nor a reserved one.
func (w *Writer) newOrder() int64 {
	w.orders++
	if w.orders%10 == 7 {
		w.orders++
	}
	return w.orders
}
