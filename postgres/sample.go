package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/trickle-verify/trickle/message"
)

// Sample is how a table lies on disk, seen in blocks that are evenly spaced over it. Unlike the planner's statistics it is never stale, and it knows keys of
// several columns.
type Sample struct {
	// Rows is an estimate of the rows that meet the policy's condition.
	Rows int64
	// Blocks is the length of the longest heap, of the table or of one of its partitions.
	Blocks int64
	// Keys are in key order, at most one from a block.
	Keys []message.Key
	// Order is 1 where the heap's order is the key's, forwards or backwards, and about 0 where they have nothing to do with each other.
	Order float64
}

// placesTried is how many places of a block are looked at for a row: the powers of two. Any of them may be dead or have moved; where every row was
// updated in place, only the second half of the places holds rows, and a power of two is always in it. A block has at most 291.
const placesTried = 9

// Sample reads about one row in every rows of the table's, at most most.
func (l *Layout) Sample(ctx context.Context, c *pgconn.PgConn, rows, most int) (Sample, error) {
	var s Sample
	size, err := l.size(ctx, c)
	if err != nil {
		return s, fmt.Errorf("measuring %s: %w", l.Name, err)
	}
	s.Rows = size.rows
	total, longest, err := l.blocks(ctx, c)
	if err != nil {
		return s, fmt.Errorf("measuring %s: %w", l.Name, err)
	}
	s.Blocks = longest
	wanted := min(s.Rows/int64(rows), int64(most), total)
	if wanted < 2 {
		s.Order = 1
		return s, nil
	}
	key := make([]string, len(l.Key))
	for i := range key {
		key[i] = "k" + strconv.Itoa(i)
	}
	list := strings.Join(key, ", ")
	sql := "WITH found(" + list + ", heap, place) AS (SELECT DISTINCT ON (t.tableoid, (t.ctid::text::point)[0]) " + l.keySQL() +
		", t.tableoid, t.ctid FROM " + l.rows() + " t WHERE t.ctid = ANY (ARRAY(SELECT pg_catalog.format('(%s,%s)', (2 * i + 1) * $1::bigint / (2 * $2::bigint), 1 << n)::tid" +
		" FROM pg_catalog.generate_series(0, $3::bigint) i, pg_catalog.generate_series(0, $4::int - 1) n)))" +
		" SELECT row_number() OVER (ORDER BY heap, place), " + list + " FROM found ORDER BY " + list
	var places []int
	err = each(ctx, c, sql, []Arg{number(total), number(wanted), number(longest * wanted / total), number(placesTried)}, func(raw [][]byte) error {
		place, err := strconv.Atoi(string(raw[0]))
		places = append(places, place)
		s.Keys = append(s.Keys, keyOf(raw[1:]))
		return err
	})
	s.Order = orderOf(places)
	if err != nil {
		return s, fmt.Errorf("sampling %s: %w", l.Name, err)
	}
	return s, nil
}

// orderOf compares the mean distance on disk of two keys that follow each other with what it is by chance, a third of the whole.
func orderOf(places []int) float64 {
	n := float64(len(places))
	if n < 8 {
		return 1 // too few to tell, and to matter
	}
	sum := 0.0
	for i := 1; i < len(places); i++ {
		sum += math.Abs(float64(places[i] - places[i-1]))
	}
	return max(0, 1-(sum/(n-1)-1)/(n/3-1))
}

// planned is what is expected of a table: its rows, and the bytes of one's compared columns, at least as many as are stored.
type planned struct {
	rows  int64
	width int // at least 1
}

// size asks the planner for the rows that it expects, and how wide they are.
func (l *Layout) size(ctx context.Context, c *pgconn.PgConn) (size planned, err error) {
	sql := "EXPLAIN (FORMAT JSON) SELECT t." + strings.Join(l.quotedColumns(), ", t.") + " FROM " + l.rows() + " t" + l.where(&params{}, message.Range{})
	err = each(ctx, c, sql, nil, func(raw [][]byte) error {
		var plans []struct {
			Plan struct {
				Rows  float64 `json:"Plan Rows"`
				Width int     `json:"Plan Width"`
			}
		}
		if err := json.Unmarshal(raw[0], &plans); err != nil || len(plans) == 0 {
			return fmt.Errorf("reading the planner's estimate: %w", err)
		}
		size = planned{rows: int64(plans[0].Plan.Rows), width: max(1, plans[0].Plan.Width)}
		return nil
	})
	if err != nil {
		return size, err
	}
	// Of a value that is stored out of line the planner knows the pointer's width.
	apart, err := l.apart(ctx, c)
	size.width += int(apart.bytes / max(1, apart.rows, size.rows))
	return size, err
}

// apart measures what a table or its partitions store out of line, and counts the rows that this belongs to, as the planner has it: 0 where it does not know.
func (l *Layout) apart(ctx context.Context, c *pgconn.PgConn) (of struct{ bytes, rows int64 }, err error) {
	err = each(ctx, c, `SELECT coalesce(sum(pg_catalog.pg_relation_size(c.reltoastrelid)), 0)::bigint, coalesce(sum(greatest(c.reltuples, 0::float4)), 0)::bigint
		FROM pg_class c WHERE c.oid = to_regclass($1) OR c.oid IN (SELECT relid FROM pg_partition_tree(to_regclass($1)) WHERE isleaf)`, []Arg{text(l.Name.SQL())}, func(row [][]byte) error {
		of.bytes, _ = strconv.ParseInt(string(row[0]), 10, 64)
		of.rows, _ = strconv.ParseInt(string(row[1]), 10, 64)
		return nil
	})
	return of, err
}

// quotedColumns are the compared columns' names in SQL.
func (l *Layout) quotedColumns() []string {
	names := l.ColumnNames()
	for i, name := range names {
		names[i] = Quote(name)
	}
	return names
}

// oversampled is how many keys are sampled for each piece: keys that are drawn from the heap at random cut pieces whose sizes differ less, the more of them
// there are in each.
const oversampled = 16

// Pieces cuts the whole table into pieces of about so many bytes by a sample: no row is read that is not in it. It returns no keys where the table is not
// at least a few pieces large.
func (l *Layout) Pieces(ctx context.Context, c *pgconn.PgConn, bytes int) ([]message.Key, error) {
	size, err := l.size(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("measuring %s: %w", l.Name, err)
	}
	const fewest = 8
	rows := max(oversampled, bytes/size.width)
	if size.rows < int64(fewest*rows) {
		return nil, nil
	}
	return l.cut(ctx, c, rows, size.rows)
}

// Cuts cuts the whole table into pieces of about so many bytes as COPY sends them, by a sample, and returns no keys where that is one.
func (l *Layout) Cuts(ctx context.Context, c *pgconn.PgConn, bytes int) ([]message.Key, error) {
	rows, total, err := l.RowsIn(ctx, c, bytes)
	if err != nil || total < 2*int64(rows) {
		return nil, err
	}
	return l.cut(ctx, c, rows, total)
}

// cut cuts a table of about so many rows into pieces of some.
func (l *Layout) cut(ctx context.Context, c *pgconn.PgConn, rows int, total int64) ([]message.Key, error) {
	sample, err := l.Sample(ctx, c, max(1, rows/oversampled), mostBoundaries)
	if err != nil {
		return nil, err
	}
	// Fewer than were wanted where the table has fewer blocks.
	each := max(1, int(int64(len(sample.Keys))*int64(rows)/total))
	var keys []message.Key
	for i := each - 1; i < len(sample.Keys)-1; i += each {
		keys = append(keys, sample.Keys[i])
	}
	return keys, nil
}

// RowsIn is about how many rows so many bytes hold as COPY sends them, and how many the table has.
func (l *Layout) RowsIn(ctx context.Context, c *pgconn.PgConn, bytes int) (rows int, total int64, err error) {
	size, err := l.size(ctx, c)
	if err != nil {
		return 0, 0, fmt.Errorf("measuring %s: %w", l.Name, err)
	}
	framed := size.width + 2 + 4*len(l.compared)
	return max(1, bytes/framed), size.rows, nil
}

// blocks sums up the heaps of a table or its partitions, and finds the longest.
func (l *Layout) blocks(ctx context.Context, c *pgconn.PgConn) (total, longest int64, err error) {
	err = each(ctx, c, `WITH RECURSIVE tree AS (SELECT to_regclass($1)::oid AS oid UNION
			SELECT i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.oid JOIN pg_class c ON c.oid = tree.oid AND c.relkind = 'p')
		SELECT coalesce(sum(n), 0)::bigint, coalesce(max(n), 0)::bigint FROM (
			SELECT pg_catalog.pg_relation_size(oid) / pg_catalog.current_setting('block_size')::int AS n FROM tree) AS s`, []Arg{text(l.Name.SQL())}, func(row [][]byte) error {
		total, _ = strconv.ParseInt(string(row[0]), 10, 64)
		longest, _ = strconv.ParseInt(string(row[1]), 10, 64)
		return nil
	})
	return total, longest, err
}
