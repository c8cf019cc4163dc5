package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// acting is a foreign key of another table that writes that table when rows of this one are deleted.
type acting struct {
	name, table         string
	child, owner, equal []string // columns, and the operators between owner and child
}

// Cascades names a foreign key that would delete or change rows of another table if these targets were deleted, "" where there is none: such
// rows would be lost without a trace in the journal.
func (l *Layout) Cascades(ctx context.Context, c *pgconn.PgConn, targets []Target) (string, error) {
	keys, err := l.acting(ctx, c)
	if err != nil {
		return "", err
	}
	for _, k := range keys {
		p := &params{}
		from, on := l.unnest(p, keysOf(targets))
		found := false
		err := each(ctx, c, "SELECT EXISTS (SELECT FROM "+from+" JOIN "+l.rows()+" t ON "+on+" JOIN "+k.table+" f ON "+k.pairs()+")", p.args, func(row [][]byte) error {
			found = isTrue(row[0])
			return nil
		})
		if err != nil {
			return "", fmt.Errorf("looking for rows of %s that refer to %s: %w", k.table, l.Name, err)
		}
		if found {
			return k.name + " of " + k.table, nil
		}
	}
	return "", nil
}

// pairs is true where a row f refers to t.
func (a acting) pairs() string {
	pairs := make([]string, len(a.child))
	for i := range a.child {
		pairs[i] = "t." + a.owner[i] + " " + a.equal[i] + " f." + a.child[i]
	}
	return strings.Join(pairs, " AND ")
}

// acting lists the foreign keys to this table that act on other rows when its own are deleted.
func (l *Layout) acting(ctx context.Context, c *pgconn.PgConn) (keys []acting, err error) {
	err = each(ctx, c, `SELECT k.conname, (SELECT pg_catalog.string_agg('OPERATOR(' || pg_catalog.quote_ident(n.nspname) || '.' || o.oprname::text || ')', ',' ORDER BY x.pos)
				FROM pg_catalog.unnest(k.conpfeqop) WITH ORDINALITY AS x(num, pos) JOIN pg_operator o ON o.oid = x.num JOIN pg_namespace n ON n.oid = o.oprnamespace),
			pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(r.relname),
			(SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ',' ORDER BY x.pos) FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY AS x(num, pos)
				JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = x.num),
			(SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ',' ORDER BY x.pos) FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY AS x(num, pos)
				JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = x.num)
		FROM pg_constraint k JOIN pg_class r ON r.oid = k.conrelid JOIN pg_namespace n ON n.oid = r.relnamespace
		WHERE k.contype = 'f' AND k.confrelid = pg_catalog.to_regclass($1) AND k.confdeltype IN ('c', 'n', 'd') AND k.conparentid = 0`,
		[]Arg{text(l.Name.SQL())}, func(row [][]byte) error {
			keys = append(keys, acting{
				name: string(row[0]), equal: strings.Split(string(row[1]), ","), table: string(row[2]),
				child: strings.Split(string(row[3]), ","), owner: strings.Split(string(row[4]), ","),
			})
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("looking for foreign keys to %s: %w", l.Name, err)
	}
	return keys, nil
}
