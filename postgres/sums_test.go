package postgres_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"pgregory.net/rapid"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

// Ranges, buckets and parts of the heap are three ways to cut one table: every row is in exactly one piece of each, and lists have what sums count.
func TestEveryRowIsInOnePiece(t *testing.T) {
	t.Parallel()
	pool := fresh(t, `CREATE TABLE t (a int, id bigint, v text, PRIMARY KEY (a, id)) PARTITION BY HASH (id);
		CREATE TABLE t0 PARTITION OF t FOR VALUES WITH (MODULUS 3, REMAINDER 0); CREATE TABLE t1 PARTITION OF t FOR VALUES WITH (MODULUS 3, REMAINDER 1); CREATE TABLE t2 PARTITION OF t FOR VALUES WITH (MODULUS 3, REMAINDER 2);
		INSERT INTO t SELECT i % 5 - 2, i - 1000, repeat('x', i % 100) FROM generate_series(1, 5000) AS i; DELETE FROM t WHERE id BETWEEN 0 AND 900; UPDATE t SET v = 'moved' WHERE id % 7 = 0`)
	l := describe(t, pool, "public.t", postgres.Rules{Where: "v <> 'xx'"})
	rapid.Check(t, func(t *rapid.T) {
		kind := rapid.SampledFrom([]digest.Kind{digest.Record, digest.Portable}).Draw(t, "kind")
		var keys []message.Key // bounds, in key order, of rows that are there and that are not
		for _, n := range slices.Sorted(slices.Values(rapid.SliceOfNDistinct(rapid.IntRange(0, 40_000), 0, 12, rapid.ID[int]).Draw(t, "bounds"))) {
			keys = append(keys, message.Key{fmt.Sprint(n/8000 - 2), fmt.Sprint(n%8000 - 2000)})
		}
		ranges := []message.Range{{}}
		for _, k := range keys {
			ranges[len(ranges)-1].Hi = k
			ranges = append(ranges, message.Range{Lo: k})
		}
		mask := int64(1)<<rapid.IntRange(0, 8).Draw(t, "bits") - 1
		cut := rapid.Int64Range(1, 12).Draw(t, "block")
		conn, err := pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Release()
		c := conn.Conn().PgConn()
		whole, err := l.Thumbprint(t.Context(), c, message.Range{}, nil, kind)
		if err != nil || whole.Rows < 4000 {
			t.Fatal(whole, err)
		}
		sum := func(prints []digest.Thumbprint) (s digest.Thumbprint) {
			for _, p := range prints {
				s = s.Add(p)
			}
			return s
		}
		byRange, err := l.Sums(t.Context(), c, ranges, kind)
		if err != nil || sum(byRange) != whole {
			t.Errorf("ranges: %v of %v, %v", sum(byRange), whole, err)
		}
		buckets, err := l.SumBuckets(t.Context(), c, postgres.Buckets{Mask: mask}, kind)
		if err != nil || sum(buckets) != whole {
			t.Errorf("buckets: %v of %v, %v", sum(buckets), whole, err)
		}
		front, err1 := l.SumBuckets(t.Context(), c, postgres.Buckets{Mask: mask, To: cut}, kind)
		back, err2 := l.SumBuckets(t.Context(), c, postgres.Buckets{Mask: mask, From: cut, To: 1<<32 - 1}, kind)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		for i := range buckets {
			if front[i].Add(back[i]) != buckets[i] {
				t.Errorf("bucket %d: %v and %v are not %v", i, front[i], back[i], buckets[i])
			}
		}
		// The same rows listed.
		list := func(p postgres.Part) (s digest.Thumbprint) {
			last := int64(-1 << 63)
			err := l.List(t.Context(), c, p, kind, func(e postgres.Entry) error {
				if int64(e.Hash) < last {
					return fmt.Errorf("%x comes behind %x", e.Hash, last)
				}
				last = int64(e.Hash)
				s = s.Add(digest.Thumbprint{Rows: 1, Sum: e.Digest})
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			return s
		}
		i := rapid.IntRange(0, len(ranges)-1).Draw(t, "range")
		if got := list(postgres.Part{Ranges: ranges[i : i+1]}); got != byRange[i] {
			t.Errorf("range %v: %v listed of %v", ranges[i], got, byRange[i])
		}
		if n := len(ranges); n > 2 {
			if got := list(postgres.Part{Ranges: ranges[1 : n-1]}); got != sum(byRange[1:n-1]) {
				t.Errorf("inner ranges: %v listed of %v", got, sum(byRange[1:n-1]))
			}
			if err := l.List(t.Context(), c, postgres.Part{Ranges: ranges}, kind, func(postgres.Entry) error { return nil }); err == nil {
				t.Error("ranges without an end are listed with others")
			}
		}
		b := rapid.Int64Range(0, mask).Draw(t, "bucket")
		if got := list(postgres.Part{Mask: mask, Buckets: []int64{b}}); got != buckets[b] {
			t.Errorf("bucket %d: %v listed of %v", b, got, buckets[b])
		}
	})
}

// What the reader of a list says ends the list, and the connection is fit for use afterwards.
func TestListEndsWithItsReader(t *testing.T) {
	t.Parallel()
	pool := fresh(t, "CREATE TABLE t (id bigint PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 10000)")
	l := describe(t, pool, "public.t", postgres.Rules{})
	enough := errors.New("enough")
	on(t, pool, func(c *pgconn.PgConn) {
		n := 0
		err := l.List(t.Context(), c, postgres.Part{Ranges: []message.Range{{}}}, digest.Record, func(postgres.Entry) error {
			if n++; n == 3 {
				return enough
			}
			return nil
		})
		if !errors.Is(err, enough) || n != 3 {
			t.Errorf("after %d entries: %v", n, err)
		}
		if print, err := l.Thumbprint(t.Context(), c, message.Range{}, nil, digest.Record); err != nil || print.Rows != 10000 {
			t.Errorf("afterwards: %v, %v", print, err)
		}
	})
}

// A sum leaves NULL out. A row without a digest, of a column that holds what it says it can't, must not pass for one that agrees.
func TestNoRowWithoutADigest(t *testing.T) {
	t.Parallel()
	pool := fresh(t, `CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'a'), (2, NULL), (3, 'c');
		UPDATE pg_attribute SET attnotnull = true WHERE attrelid = 't'::regclass AND attname = 'v'`)
	l := describe(t, pool, "public.t", postgres.Rules{})
	one := message.Range{Lo: message.Key{"1"}, Hi: message.Key{"3"}}
	for name, read := range map[string]func(c *pgconn.PgConn) error{
		"thumbprint": func(c *pgconn.PgConn) error {
			_, err := l.Thumbprint(t.Context(), c, message.Range{}, nil, digest.Record)
			return err
		},
		"ranges": func(c *pgconn.PgConn) error {
			_, err := l.Sums(t.Context(), c, []message.Range{one}, digest.Record)
			return err
		},
		"buckets": func(c *pgconn.PgConn) error {
			_, err := l.SumBuckets(t.Context(), c, postgres.Buckets{Mask: 7}, digest.Record)
			return err
		},
		"scan": func(c *pgconn.PgConn) error {
			_, err := l.Scan(t.Context(), c, one, postgres.ScanOptions{Digest: digest.Record, Everything: true})
			return err
		},
		"list": func(c *pgconn.PgConn) error {
			return l.List(t.Context(), c, postgres.Part{Ranges: []message.Range{one}}, digest.Record, func(postgres.Entry) error { return nil })
		},
	} {
		on(t, pool, func(c *pgconn.PgConn) {
			if err := read(c); err == nil || !strings.Contains(err.Error(), "has no digest") {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
}
