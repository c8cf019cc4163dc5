package diff

import (
	"context"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/postgres"
)

const (
	// pageEntries is how many rows of a list travel from its reader to the merge at once.
	pageEntries = 500
	// candidates is how many differences are handed on at once.
	candidates = 500
)

// list reads a part of both sides row by row, merges the two, and hands on the keys that differ.
func (c *comparison) list(ctx context.Context, part postgres.Part) error {
	// Always the source's connection first: two merges that held one each would wait for ever.
	return c.sides[0].do(ctx, func(source *pgconn.PgConn) error {
		return c.sides[1].do(ctx, func(replica *pgconn.PgConn) error {
			g, ctx := errgroup.WithContext(ctx)
			ends := [2]*stream{newStream(), newStream()}
			for i, conn := range []*pgconn.PgConn{source, replica} {
				s, end := c.sides[i], ends[i]
				g.Go(func() error {
					return s.on(end.fill(func(pages chan<- []postgres.Entry) error { return c.send(ctx, reading{s, conn, part}, pages) }))
				})
			}
			g.Go(func() error { return c.merge(ctx, ends[0], ends[1]) })
			return g.Wait()
		})
	})
}

type reading struct {
	side *side
	conn *pgconn.PgConn
	part postgres.Part
}

// send sends a side's list page by page.
func (c *comparison) send(ctx context.Context, r reading, pages chan<- []postgres.Entry) error {
	var page []postgres.Entry
	flush := func() error {
		select {
		case pages <- page:
			page = make([]postgres.Entry, 0, pageEntries)
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	err := r.side.layout.List(ctx, r.conn, r.part, c.kind, func(e postgres.Entry) error {
		if page = append(page, e); len(page) < pageEntries {
			return nil
		}
		return flush()
	})
	if err != nil {
		return err
	}
	return flush()
}

// stream is a list that is read one entry after the other.
type stream struct {
	pages chan []postgres.Entry
	page  []postgres.Entry
}

func newStream() *stream { return &stream{pages: make(chan []postgres.Entry, 4)} }

// fill has the list read. Only a list that was read to its end gets one: behind one that broke off, all that the other side has would look as if this
// side lacked it.
func (s *stream) fill(read func(chan<- []postgres.Entry) error) error {
	err := read(s.pages)
	if err == nil {
		close(s.pages)
	}
	return err
}

// peek returns the next entry, nil behind the last. Where the reader failed, the context ends.
func (s *stream) peek(ctx context.Context) (*postgres.Entry, error) {
	for len(s.page) == 0 {
		var ok bool
		select {
		case s.page, ok = <-s.pages:
			if !ok {
				return nil, nil
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return &s.page[0], nil
}

// take appends the entries of one hash to what it is given: nearly always one, but hashes may collide.
func (s *stream) take(ctx context.Context, hash uint64, group []postgres.Entry) ([]postgres.Entry, error) {
	for {
		e, err := s.peek(ctx)
		if err != nil || e == nil || e.Hash != hash {
			return group, err
		}
		group = append(group, *e)
		s.page = s.page[1:]
	}
}

// merge walks both lists, which are in the order of the hash as a signed number.
func (c *comparison) merge(ctx context.Context, source, replica *stream) error {
	var found []Wrong
	var mine, theirs []postgres.Entry
	for {
		a, err := source.peek(ctx)
		if err != nil {
			return err
		}
		b, err := replica.peek(ctx)
		if err != nil {
			return err
		}
		if a == nil && b == nil {
			return c.differing(ctx, found)
		}
		hash := uint64(0)
		if b == nil || a != nil && int64(a.Hash) <= int64(b.Hash) {
			hash = a.Hash
		} else {
			hash = b.Hash
		}
		if mine, err = source.take(ctx, hash, mine[:0]); err != nil {
			return err
		}
		if theirs, err = replica.take(ctx, hash, theirs[:0]); err != nil {
			return err
		}
		found = compare(found, mine, theirs)
		if len(found) >= candidates {
			if err := c.differing(ctx, found); err != nil {
				return err
			}
			found = nil
		}
	}
}

// compare appends what differs among the entries of one hash.
func compare(found []Wrong, source, replica []postgres.Entry) []Wrong {
	if len(source) == 1 && len(replica) == 1 {
		if source[0].Digest != replica[0].Digest {
			found = append(found, Wrong{source[0].Key, drift.Mismatched})
		}
		return found
	}
	if len(replica) == 0 {
		for _, e := range source {
			found = append(found, Wrong{e.Key, drift.Missing})
		}
		return found
	}
	left := make(map[string][]postgres.Entry, len(replica)) // lists: no row stands for another, whatever their keys look like
	for _, e := range replica {
		left[e.Key.ID()] = append(left[e.Key.ID()], e)
	}
	for _, e := range source {
		others := left[e.Key.ID()]
		if len(others) == 0 {
			found = append(found, Wrong{e.Key, drift.Missing})
			continue
		}
		left[e.Key.ID()] = others[1:]
		if others[0].Digest != e.Digest {
			found = append(found, Wrong{e.Key, drift.Mismatched})
		}
	}
	for _, e := range replica {
		if others := left[e.Key.ID()]; len(others) > 0 {
			left[e.Key.ID()] = others[1:]
			found = append(found, Wrong{e.Key, drift.Extra})
		}
	}
	return found
}
