package demo

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/internal/testbed/workload"
)

// masses of drift that workload's scattered injection does not make: many rows near each other. Rows are taken only where the load leaves
// them alone (see package workload), and none twice: $1 holds the keys that were wrong before.
type mass struct {
	table string
	// delete, change and add each return the keys they made wrong, as jsonb; $2 says how many.
	remove, change, add string
}

// neighbourhood is drift in order items whose orders are next to each other.
func neighbourhood() mass {
	const key = `jsonb_build_object('order_id', t.order_id, 'line_no', t.line_no)`
	const pick = ` FROM (SELECT order_id, line_no FROM order_items t WHERE order_id % 10 = 7 AND order_id > (SELECT count(*) / 2 FROM orders)
		AND ` + key + `::text <> ALL ($1::text[]) ORDER BY order_id, line_no LIMIT $2) p`
	const match = ` t.order_id = p.order_id AND t.line_no = p.line_no`
	return mass{
		table:  "public.order_items",
		remove: `DELETE FROM order_items t USING` + pick[len(" FROM"):] + ` WHERE` + match + ` RETURNING ` + key + `::text`,
		change: `UPDATE order_items t SET quantity = t.quantity + 1` + pick + ` WHERE` + match + ` RETURNING ` + key + `::text`,
		add: `INSERT INTO order_items AS t SELECT order_id, 2000000 + line_no, 'extra', 1, 1` + pick +
			` RETURNING ` + key + `::text`,
	}
}

// wholeTable is drift all over the orders.
func wholeTable() mass {
	const key = `jsonb_build_object('id', t.id)`
	const pick = ` FROM (SELECT id FROM orders t WHERE id % 10 = 7 AND ` + key + `::text <> ALL ($1::text[]) ORDER BY hashint8(id), id LIMIT $2) p`
	return mass{
		table:  "public.orders",
		remove: `DELETE FROM orders t USING` + pick[len(" FROM"):] + ` WHERE t.id = p.id RETURNING ` + key + `::text`,
		change: `UPDATE orders t SET amount = t.amount + 1` + pick + ` WHERE t.id = p.id RETURNING ` + key + `::text`,
		// No order has such ids: half of these rows are before the first one, half behind the last.
		add: `INSERT INTO orders AS t (id, customer_id, status, amount, details) SELECT (CASE n % 2 WHEN 0 THEN 1 ELSE -1 END) * (10000000000 + 10 * n + 7),
			md5(n::text)::uuid, 'paid', 1, '{}' FROM generate_series(1, $2::int) n WHERE $1::text[] IS NOT NULL RETURNING ` + key + `::text`,
	}
}

// inject makes so many rows wrong, in one transaction.
func (m mass) inject(ctx context.Context, dsn string, d workload.Drift, used []string) (all []workload.Injected, err error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	used = append([]string{}, used...) // never nil, which would be NULL
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		for _, step := range []struct {
			kind, sql string
			n         int
		}{{workload.Missing, m.remove, d.Missing}, {workload.Mismatched, m.change, d.Mismatched}, {workload.Extra, m.add, d.Extra}} {
			rows, err := tx.Query(ctx, step.sql, used, step.n)
			if err != nil {
				return err
			}
			keys, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil {
				return err
			}
			if len(keys) != step.n {
				return fmt.Errorf("%d rows wanted and %d found", step.n, len(keys))
			}
			for _, key := range keys {
				all = append(all, workload.Injected{Table: m.table, Key: key, Kind: step.kind})
			}
			used = append(used, keys...)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("injecting drift into %s: %w", m.table, err)
	}
	return all, nil
}
