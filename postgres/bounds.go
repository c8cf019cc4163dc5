package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/message"
)

// CheckBounds tells a person what is wrong with a range of a table's key: the number of columns, a value that its type can't read, or ends
// that are the wrong way round.
func CheckBounds(ctx context.Context, pool *pgxpool.Pool, name Name, r message.Range) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("connecting to the replica: %w", err)
	}
	defer conn.Release()
	c := conn.Conn().PgConn()
	t, err := Describe(ctx, c, name)
	if err != nil {
		return err
	}
	p := &params{}
	var sides []string
	for _, k := range []message.Key{r.Lo, r.Hi} {
		if k == nil {
			continue
		}
		if len(k) != len(t.Key) {
			return fmt.Errorf("the key of %s has %d columns, %s has %d values: separate them by commas", name, len(t.Key), k, len(k))
		}
		vals := make([]string, len(k))
		for i, v := range k {
			vals[i] = p.add(text(v)) + "::" + t.typeOf(t.Columns[t.Key[i]])
		}
		sides = append(sides, "("+strings.Join(vals, ", ")+")")
	}
	sql := "SELECT true"
	switch len(sides) {
	case 1:
		sql = "SELECT " + sides[0] + " = " + sides[0]
	case 2:
		sql = "SELECT " + sides[0] + " < " + sides[1]
	}
	return each(ctx, c, sql, p.args, func(row [][]byte) error {
		if !isTrue(row[0]) {
			return fmt.Errorf("%s does not come before %s in the key of %s", r.Lo, r.Hi, name)
		}
		return nil
	})
}
