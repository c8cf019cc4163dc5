// Package workload is a small shop: its tables, its rows, its writes, and drift in its replica.
//
// It decides which rows may be written by whom. What always holds: the writer never touches a reserved row (an order or order item whose
// order id ends in 7, a customer whose id ends in the hex digit 7) and never makes one, and drift is injected into reserved rows only. So no
// replicated change ever covers up injected drift, and every injected row stays wrong until somebody corrects it. Compare is independent
// of the project's own digests. A failing database ends the call with its error; nothing is tried again.
package workload

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"
)

// Tables lists the schema's tables, parents first.
func Tables() []string { return []string{"public.customers", "public.orders", "public.order_items"} }

// No foreign keys: a replica seldom has them, and injected drift would break them.
const schema = `
CREATE TYPE order_status AS ENUM ('new', 'paid', 'shipped', 'cancelled');
CREATE TABLE customers (
	id uuid PRIMARY KEY,
	name text NOT NULL,
	email text,
	country char(2) NOT NULL,
	tags text[] NOT NULL DEFAULT '{}',
	updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE orders (
	id bigint PRIMARY KEY,
	customer_id uuid NOT NULL,
	status order_status NOT NULL,
	amount numeric(12,2) NOT NULL,
	details jsonb NOT NULL,
	note text,
	updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE order_items (
	order_id bigint NOT NULL,
	line_no int NOT NULL,
	sku text NOT NULL,
	quantity int NOT NULL,
	price numeric(12,2) NOT NULL,
	PRIMARY KEY (order_id, line_no)
);`

// Schema creates the tables in an empty database.
func Schema(ctx context.Context, dsn string) error {
	return with(ctx, dsn, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, schema)
		return err
	})
}

// Fill adds about that many rows in all, a tenth of them customers, four tenths orders, the rest order items, to empty tables.
func Fill(ctx context.Context, dsn string, rows int) error {
	customers, orders := max(rows/10, 1), max(rows*4/10, 1)
	items := max(rows-customers-orders, 1)
	statements := []struct {
		sql  string
		args []any
	}{
		{`INSERT INTO customers SELECT md5('customer-' || n)::uuid, 'Customer ' || n, nullif('c' || n || '@example.org', 'c7@example.org'),
			(ARRAY['DE','FR','IT','US'])[1 + n % 4], ARRAY['t' || n % 3, 'a,"b"'], now() - n * interval '1 minute' FROM generate_series(1, $1::int) n`, []any{customers}},
		{`INSERT INTO orders SELECT n, md5('customer-' || 1 + n % $2::int)::uuid, (enum_range(NULL::order_status))[1 + n % 4], n % 100000 / 100.0,
			jsonb_build_object('channel', 'web', 'n', n, 'gift', n % 5 = 0), CASE n % 3 WHEN 0 THEN NULL ELSE 'note ' || md5(n::text) END,
			now() - n % 10000 * interval '1 minute' FROM generate_series(1, $1::int) n`, []any{orders, customers}},
		{`INSERT INTO order_items SELECT 1 + n % $2::int, 1 + n / $2::int, 'sku-' || n % 997, 1 + n % 9, n % 5000 / 100.0
			FROM generate_series(0, $1::int - 1) n`, []any{items, orders}},
		{`ANALYZE`, nil},
	}
	return with(ctx, dsn, func(conn *pgx.Conn) error {
		for _, s := range statements {
			if _, err := conn.Exec(ctx, s.sql, s.args...); err != nil {
				return fmt.Errorf("fill: %w", err)
			}
		}
		return nil
	})
}

// Replicate creates the schema in the replica and copies all rows in one snapshot. Replication must keep changes from before it on.
func Replicate(ctx context.Context, source, replica string) error {
	if err := Schema(ctx, replica); err != nil {
		return err
	}
	return with(ctx, source, func(from *pgx.Conn) error {
		return with(ctx, replica, func(to *pgx.Conn) error {
			return pgx.BeginTxFunc(ctx, from, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
				for _, table := range Tables() {
					if err := copyTable(ctx, tx.Conn(), to, table); err != nil {
						return fmt.Errorf("copy %s: %w", table, err)
					}
				}
				_, err := to.Exec(ctx, "ANALYZE")
				return err
			})
		})
	})
}

func copyTable(ctx context.Context, from, to *pgx.Conn, table string) error {
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := from.PgConn().CopyTo(ctx, w, "COPY "+table+" TO STDOUT")
		w.CloseWithError(err)
		done <- err
	}()
	_, err := to.PgConn().CopyFrom(ctx, r, "COPY "+table+" FROM STDIN")
	r.CloseWithError(errors.Join(err, io.ErrClosedPipe)) // lets the other side end when this one failed
	return errors.Join(err, <-done)
}

// with runs do over a connection of its own.
func with(ctx context.Context, dsn string, do func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	return errors.Join(do(conn), conn.Close(context.WithoutCancel(ctx)))
}
