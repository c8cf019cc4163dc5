package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/replica"
)

// reading is one way to read the whole table.
type reading struct {
	name string
	// read returns the sum that it came to, nil where it makes none.
	read func(context.Context) (*digest.Thumbprint, error)
}

// subject is the table, read through one session for each side, so that a session's CPU time is that of the reading.
type subject struct {
	source, replica *pgxpool.Pool
	sessions        []int // process ids of the two
	readings        []reading
}

const (
	table   = "public.verified"
	columns = "id, account, name, amount, note, created_at, updated_at, attributes"
)

// create and fill make rows of eight columns of the kinds that tables are made of, some of them NULL, in the order of the key.
const create = `CREATE TABLE ` + table + ` (id bigint PRIMARY KEY, account bigint NOT NULL, name text NOT NULL, amount numeric(12,2) NOT NULL, note text,
		created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL, attributes jsonb NOT NULL)`

const fill = `INSERT INTO ` + table + ` SELECT n, n * 7919 % 100003, 'customer ' || md5(n::text), (n * 37 % 1000000) / 100.0, CASE WHEN n % 5 > 0 THEN repeat('note ' || n % 97 || ' ', 1 + (n % 4)::int) END,
		timestamptz '2020-01-01' + n * interval '13 seconds', timestamptz '2024-01-01' + n * interval '7 seconds',
		jsonb_build_object('tags', jsonb_build_array('t' || n % 11, 't' || n % 13), 'score', n % 1000, 'city', 'city ' || n % 499)
		FROM generate_series(1, $1::bigint) AS n`

func prepare(ctx context.Context, dsn string, o options) (*subject, error) {
	s, err := &subject{}, error(nil)
	if s.source, err = postgres.Open(ctx, dsn, postgres.Options{Role: "source", MaxConns: 1}); err != nil {
		return nil, err
	}
	if s.replica, err = postgres.Open(ctx, dsn, postgres.Options{Role: "replica", MaxConns: 1}); err != nil {
		return nil, err
	}
	loader, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	defer func() { _ = loader.Close(ctx) }()
	_, err1 := loader.Exec(ctx, create)
	_, err2 := loader.Exec(ctx, fill, o.rows)
	_, err3 := loader.Exec(ctx, "VACUUM (ANALYZE) "+table)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, fmt.Errorf("loading the table: %w", err)
	}
	for _, pool := range []*pgxpool.Pool{s.source, s.replica} {
		var pid int
		if err := pool.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&pid); err != nil {
			return nil, err
		}
		s.sessions = append(s.sessions, pid)
	}
	if err := s.arrange(ctx, o); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// arrange makes the readings: the two floors first.
func (s *subject) arrange(ctx context.Context, o options) error {
	src, name := postgres.NewSource(s.source), postgres.ParseName(table)
	layout, err := src.Describe(ctx, name, postgres.Rules{})
	if err != nil {
		return err
	}
	var ranges []message.Range
	err = src.Read(ctx, layout, func(c *pgconn.PgConn, _ postgres.At) error {
		lo := message.Key(nil)
		keys, err := layout.Boundaries(ctx, c, message.Range{}, o.ranges)
		for _, hi := range append(keys, nil) {
			ranges = append(ranges, message.Range{Lo: lo, Hi: hi})
			lo = hi
		}
		return err
	})
	if err != nil {
		return err
	}
	_, xmin, err := src.Sample(ctx) // every row was loaded before it, so all are quiet
	if err != nil {
		return err
	}
	rep := replica.New(s.replica, nil, replica.Options{Map: func(string) (replica.Mapping, bool) { return replica.Mapping{Name: name}, true }})
	if _, err := rep.Fit(ctx, table, layout.Schema); err != nil {
		return err
	}
	p := publisher{src, layout, ranges, postgres.Settled{Xmin: xmin}}
	known, err := p.knowns(ctx)
	if err != nil {
		return err
	}
	s.readings = []reading{
		{"floor: count(*)", s.count},
		{"floor: one scan that sums digests", s.sum},
		{"publisher: ranges, digest record", func(ctx context.Context) (*digest.Thumbprint, error) { return p.scan(ctx, digest.Record, nil) }},
		{"publisher: ranges, nothing changed", func(ctx context.Context) (*digest.Thumbprint, error) { return p.scan(ctx, digest.Record, known) }},
		{"publisher: ranges, digest portable", func(ctx context.Context) (*digest.Thumbprint, error) {
			_, err := p.scan(ctx, digest.Portable, nil) // another digest, so another sum
			return nil, err
		}},
		{"replica: thumbprints of ranges", func(ctx context.Context) (*digest.Thumbprint, error) {
			var sum digest.Thumbprint
			for _, r := range ranges {
				print, err := rep.Thumbprint(ctx, table, r, nil, digest.Record)
				if err != nil {
					return nil, err
				}
				sum = sum.Add(print)
			}
			return &sum, nil
		}},
	}
	return nil
}

func (s *subject) close() {
	s.source.Close()
	s.replica.Close()
}

func (s *subject) count(ctx context.Context) (*digest.Thumbprint, error) {
	var n int64
	return nil, s.source.QueryRow(ctx, "SELECT count(*) FROM "+table).Scan(&n)
}

// sum is written out here, so that what trickle adds to a digest shows against it. It has a seed of its own, so its sum is compared with no other.
func (s *subject) sum(ctx context.Context) (*digest.Thumbprint, error) {
	var sum string
	return nil, s.source.QueryRow(ctx, "SELECT sum(hash_record_extended(ROW("+columns+"), 0))::text FROM "+table).Scan(&sum)
}

// publisher reads as the scanner does: range after range, each in a transaction of its own.
type publisher struct {
	source  *postgres.Source
	layout  *postgres.Layout
	ranges  []message.Range
	settled postgres.Settled
}

func (p publisher) scan(ctx context.Context, kind digest.Kind, known []*postgres.Known) (*digest.Thumbprint, error) {
	var sum digest.Thumbprint
	for i, r := range p.ranges {
		o := postgres.ScanOptions{Digest: kind, Settled: p.settled}
		if known != nil {
			o.Known = known[i]
		}
		err := p.source.Read(ctx, p.layout, func(c *pgconn.PgConn, _ postgres.At) error {
			scan, err := p.layout.Scan(ctx, c, r, o)
			if err == nil && scan.Unchanged != (known != nil) {
				err = fmt.Errorf("range %s: unchanged is %t", r, scan.Unchanged)
			}
			sum = sum.Add(scan.Print)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return &sum, nil
}

// knowns reads every range once, as a first cycle does.
func (p publisher) knowns(ctx context.Context) ([]*postgres.Known, error) {
	out := make([]*postgres.Known, len(p.ranges))
	for i, r := range p.ranges {
		err := p.source.Read(ctx, p.layout, func(c *pgconn.PgConn, at postgres.At) error {
			scan, err := p.layout.Scan(ctx, c, r, postgres.ScanOptions{Digest: digest.Record, Settled: p.settled})
			out[i] = &postgres.Known{Print: scan.Print, Xmin: at.Xmin}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// facts is what a result needs beside the numbers.
type facts struct{ server, table string }

func (s *subject) about(ctx context.Context) (facts, error) {
	var version, size string
	var rows int64
	err := s.source.QueryRow(ctx, "SELECT current_setting('server_version'), pg_size_pretty(pg_table_size($1)), (SELECT count(*) FROM "+table+")", table).Scan(&version, &size, &rows)
	return facts{"Postgres " + version, fmt.Sprintf("%d rows of 8 columns (%s)", rows, size)}, err
}

// sample is what one reading took.
type sample struct {
	wall           time.Duration
	server, client time.Duration // CPU; 0 where the system does not tell
}
