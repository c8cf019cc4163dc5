package workload

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Comparison is the difference between two tables.
type Comparison struct {
	Table       string
	SourceRows  int64
	ReplicaRows int64
	Missing     int64
	Mismatched  int64
	Extra       int64
	Examples    []string // up to ten, as "kind key"
}

// Identical tells whether nothing differs.
func Identical(all []Comparison) bool {
	return !slices.ContainsFunc(all, func(c Comparison) bool { return c.Missing+c.Mismatched+c.Extra > 0 })
}

// Compare reads tables of the same names on both sides as a whole, each in one snapshot of its database, and compares every column's text.
// Writes and replication should have come to rest.
func Compare(ctx context.Context, source, replica string, tables []string) ([]Comparison, error) {
	var all []Comparison
	err := with(ctx, source, func(s *pgx.Conn) error {
		return with(ctx, replica, func(r *pgx.Conn) error {
			for _, conn := range []*pgx.Conn{s, r} {
				if _, err := conn.Exec(ctx, sameText); err != nil {
					return err
				}
			}
			for _, table := range tables {
				c, err := compareTable(ctx, s, r, table)
				if err != nil {
					return fmt.Errorf("compare %s: %w", table, err)
				}
				all = append(all, c)
			}
			return nil
		})
	})
	return all, err
}

// sameText makes both sides write values the same way.
const sameText = `SET timezone = 'UTC'; SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET extra_float_digits = 3; SET bytea_output = 'hex';
	BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY`

func compareTable(ctx context.Context, source, replica *pgx.Conn, table string) (c Comparison, err error) {
	c.Table = table
	query, err := digestQuery(ctx, source, table)
	if err != nil {
		return c, err
	}
	s, err := open(ctx, source, query)
	if err != nil {
		return c, err
	}
	defer s.rows.Close()
	r, err := open(ctx, replica, query)
	if err != nil {
		return c, err
	}
	defer r.rows.Close()
	for s.live || r.live {
		switch {
		case !r.live || s.live && s.key < r.key:
			c.note(&c.Missing, Missing, s.key)
			s.next()
		case !s.live || r.key < s.key:
			c.note(&c.Extra, Extra, r.key)
			r.next()
		default:
			if s.digest != r.digest {
				c.note(&c.Mismatched, Mismatched, s.key)
			}
			s.next()
			r.next()
		}
	}
	c.SourceRows, c.ReplicaRows = s.count, r.count
	return c, errors.Join(s.rows.Err(), r.rows.Err(), s.err, r.err)
}

func (c *Comparison) note(count *int64, kind, key string) {
	*count++
	if len(c.Examples) < 10 {
		c.Examples = append(c.Examples, kind+" "+key)
	}
}

// digestQuery yields every row's key and digest in the order of the key's bytes. It names the source's columns, so that their order in the
// replica is of no matter.
func digestQuery(ctx context.Context, conn *pgx.Conn, table string) (string, error) {
	var columns, key []string
	err := conn.QueryRow(ctx, `SELECT array_agg(quote_ident(attname) ORDER BY attname),
			array_agg(quote_ident(attname) ORDER BY attname) FILTER (WHERE attnum = ANY (SELECT unnest(conkey) FROM pg_constraint WHERE conrelid = attrelid AND contype = 'p'))
		FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped`, table).Scan(&columns, &key)
	if err != nil {
		return "", err
	}
	if len(key) == 0 {
		return "", fmt.Errorf("the table has no primary key")
	}
	return fmt.Sprintf(`SELECT jsonb_build_array(%s)::text COLLATE "C" AS k, md5(ROW(%s)::text) FROM %s ORDER BY k`,
		strings.Join(key, ", "), strings.Join(columns, ", "), table), nil
}

// stream is one side's rows, of which the first is current.
type stream struct {
	rows        pgx.Rows
	live        bool
	key, digest string
	count       int64
	err         error
}

func open(ctx context.Context, conn *pgx.Conn, query string) (*stream, error) {
	rows, err := conn.Query(ctx, query)
	if err != nil {
		return nil, err
	}
	s := &stream{rows: rows}
	s.next()
	return s, nil
}

func (s *stream) next() {
	if s.live = s.rows.Next(); s.live {
		s.count++
		s.err = errors.Join(s.err, s.rows.Scan(&s.key, &s.digest))
	}
}
