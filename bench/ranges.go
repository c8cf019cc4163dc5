package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/replica"
)

// The floors of the readings in ranges: the first two of them.
const (
	rangesCount = "ranges, floor: count(*)"
	rangesScan  = "ranges, floor: one scan that sums digests"
)

// subject is the table that publisher and replica read in ranges, both on the source's server, through one session each.
type subject struct {
	source, replica *pgxpool.Pool
	sum             *digest.Thumbprint // what every reading must come to; nil before the first
}

// readRanges measures what publisher and replica do in a cycle.
func readRanges(ctx context.Context, p *pair, o options, out io.Writer) error {
	s := &subject{}
	names := o.pick(s.readings(publisher{}, nil, nil))
	if len(names) == 0 {
		return nil
	}
	began := time.Now()
	if err := load(ctx, p.source, rangesData, o.rangeTable); err != nil {
		return err
	}
	progress("%d rows loaded, for the readings in ranges, in %s", o.rangeTable, time.Since(began).Round(time.Second))
	readings, err := s.prepare(ctx, p.source.DSN(rangesData), o)
	defer s.close()
	if err != nil {
		return err
	}
	measured, err := p.measureWarm(ctx, readings, o.rounds)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\n## One table read in ranges of %d: %d rows of 8 columns\n\n", o.ranges, o.rangeTable)
	reportRanges(out, readings, measured, o.rangeTable)
	return nil
}

// prepare finds the ranges and reads them once, as a first cycle does.
func (s *subject) prepare(ctx context.Context, dsn string, o options) ([]reading, error) {
	var err error
	if s.source, err = postgres.Open(ctx, dsn, postgres.Options{Role: "source", MaxConns: 1}); err != nil {
		return nil, err
	}
	if s.replica, err = postgres.Open(ctx, dsn, postgres.Options{Role: "replica", MaxConns: 1}); err != nil {
		return nil, err
	}
	src, name := postgres.NewSource(s.source), postgres.ParseName(ordered)
	layout, err := src.Describe(ctx, name, postgres.Rules{})
	if err != nil {
		return nil, err
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
		return nil, err
	}
	at, err := src.Sample(ctx) // every row was loaded before it, so all are quiet
	if err != nil {
		return nil, err
	}
	rep := replica.New(s.replica, nil, replica.Options{Map: func(string) (replica.Mapping, bool) { return replica.Mapping{Name: name}, true }})
	if _, err := rep.Fit(ctx, ordered, layout.Schema); err != nil {
		return nil, err
	}
	p := publisher{src, layout, ranges, postgres.Settled{Xmin: at.Xmin}}
	known, err := p.knowns(ctx)
	if err != nil {
		return nil, err
	}
	return o.pick(s.readings(p, known, rep)), nil
}

func (s *subject) readings(p publisher, known []*postgres.Known, rep *replica.Replica) []reading {
	query := func(sql string) func(context.Context) (*os.ProcessState, error) {
		return func(ctx context.Context) (*os.ProcessState, error) {
			_, err := s.source.Exec(ctx, sql)
			return nil, err
		}
	}
	scan := func(kind digest.Kind, known []*postgres.Known) func(context.Context) (*os.ProcessState, error) {
		return func(ctx context.Context) (*os.ProcessState, error) {
			sum, err := p.scan(ctx, kind, known)
			if err == nil && kind == digest.Record { // another digest comes to another sum
				err = s.agree(sum)
			}
			return nil, err
		}
	}
	return []reading{
		{rangesCount, query("SELECT count(*) FROM " + ordered)},
		{rangesScan, query(sumOf(ordered))},
		{"publisher: ranges, digest record", scan(digest.Record, nil)},
		{"publisher: ranges, nothing changed", scan(digest.Record, known)},
		{"publisher: ranges, digest portable", scan(digest.Portable, nil)},
		{"replica: thumbprints of ranges", func(ctx context.Context) (*os.ProcessState, error) {
			var sum digest.Thumbprint
			for _, r := range p.ranges {
				print, err := rep.Thumbprint(ctx, ordered, r, nil, digest.Record)
				if err != nil {
					return nil, err
				}
				sum = sum.Add(print)
			}
			return nil, s.agree(&sum)
		}},
	}
}

// agree fails where two readings of the same rows come to different sums.
func (s *subject) agree(sum *digest.Thumbprint) error {
	if s.sum == nil {
		s.sum = sum
	}
	if *sum != *s.sum {
		return fmt.Errorf("it came to %v, another reading to %v: they do not read the same rows", *sum, *s.sum)
	}
	return nil
}

func (s *subject) close() {
	for _, pool := range []*pgxpool.Pool{s.source, s.replica} {
		if pool != nil {
			pool.Close()
		}
	}
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
