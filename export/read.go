package export

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

// readTable reads one table: what is unchanged is named again, and what is not is read; small ranges that follow each other are made one, and large ones several.
func (b *build) readTable(ctx context.Context, t *table, puts chan<- put) error {
	b.tell(func(p *Progress) { p.Table = t.Name.String() })
	plan, err := b.plan(ctx, t)
	if err != nil {
		return err
	}
	var changed []stretch // that follow each other
	flush := func() error {
		s := joined(changed)
		changed = nil
		return b.readStretch(ctx, t, s, puts)
	}
	for _, s := range plan {
		unchanged := false
		var o baseline.Object
		if s.known != nil {
			if o, unchanged, err = b.look(ctx, t, &s); err != nil {
				return err
			}
		}
		if len(changed) > 0 && (unchanged || s.known == nil || changed[0].known == nil || joined(changed).raw+s.raw > int64(b.Object)) {
			if err := flush(); err != nil {
				return err
			}
		}
		if unchanged {
			b.name(t, o)
			continue
		}
		changed = append(changed, s)
	}
	if len(changed) == 0 {
		return nil
	}
	return flush()
}

func joined(of []stretch) (out stretch) {
	for i, s := range of {
		if i == 0 {
			out = s
			continue
		}
		out.Hi = s.Hi
		out.rows, out.raw = out.rows+s.rows, out.raw+s.raw
	}
	return out
}

// within runs fn in a snapshot that shows all that the logs hold before the newest position, once the pace allows it.
func (b *build) within(ctx context.Context, t *table, fn func(c *pgconn.PgConn, at postgres.At, spent *Cost) error) error {
	if b.Pace != nil {
		if err := b.Pace.Wait(ctx); err != nil {
			return err
		}
	}
	if err := b.position(ctx); err != nil {
		return err
	}
	spent := Cost{Start: time.Now()}
	err := b.Parts.Source.Refetch(ctx, t.layout, postgres.Fenced{Horizon: b.fence, Bound: b.Bound}, func(c *pgconn.PgConn, at postgres.At) error {
		if !at.SameParts(t.read) {
			return fmt.Errorf("it got other partitions: %w", postgres.ErrChanged)
		}
		began := time.Now()
		defer func() { spent.Source += time.Since(began) }()
		return fn(c, at, &spent)
	})
	if spent.End = time.Now(); b.Pace != nil {
		b.Pace.Spent(spent)
	}
	return err
}

// at notes in an object when and where it was read; the newest position is its.
func (b *build) at(o *baseline.Object, at postgres.At) {
	b.mu.Lock()
	defer b.mu.Unlock()
	o.Snapshot, o.Xmin, o.LSN, o.Timeline, o.ReadAt, o.Point = at.Snapshot, at.Xmin, at.LSN, at.Timeline, at.Time.UTC(), len(b.set.Positions)-1
}

// look finds out whether a range is what an earlier set has of it: as many rows, none of them written since, on the same timeline. Where it is not, it notes how much
// there is by now.
func (b *build) look(ctx context.Context, t *table, s *stretch) (o baseline.Object, unchanged bool, err error) {
	o = *s.known
	err = b.within(ctx, t, func(c *pgconn.PgConn, at postgres.At, spent *Cost) error {
		// One that has gone back on its timeline is a copy of the disk that was put in its place: what it has written since looks old.
		if at.Timeline == 0 || at.Timeline != o.Timeline || at.Xmin < o.Xmin || at.LSN < o.LSN {
			return nil
		}
		rows, same, err := t.layout.Untouched(ctx, c, s.Range, postgres.Known{Print: summed(s.known), Xmin: s.known.Xmin})
		if err != nil {
			return err
		}
		spent.Rows = int(rows)
		if unchanged = same; same {
			b.at(&o, at)
		} else if s.known.Rows > 0 {
			s.rows, s.raw = rows, int64(float64(s.known.Raw)*float64(rows)/float64(s.known.Rows))
		}
		return nil
	})
	return o, unchanged, err
}

// readStretch reads a range, in pieces where it has become large.
func (b *build) readStretch(ctx context.Context, t *table, s stretch, puts chan<- put) error {
	parts := []stretch{s}
	if s.raw > 2*int64(b.Object) {
		var err error
		if parts, err = b.cut(ctx, t, nil, s); err != nil {
			return err
		}
	}
	for _, part := range parts {
		if err := b.readRange(ctx, t, part.Range, puts); err != nil {
			return err
		}
	}
	return nil
}

// readRange reads a range into an object, and hands it on to be stored.
func (b *build) readRange(ctx context.Context, t *table, r message.Range, puts chan<- put) error {
	packer, err := baseline.NewPacker()
	if err != nil {
		return err
	}
	p := put{table: t, attempt: t.attempt, place: t.places, object: baseline.Object{Name: baseline.ObjectName(t.Name.String(), b.set.Set, t.places), Range: r}}
	t.places++
	err = b.within(ctx, t, func(c *pgconn.PgConn, at postgres.At, spent *Cost) error {
		packer.Reset() // it may be called again
		got, err := t.export.Export(ctx, c, r, packer)
		if errors.Is(err, postgres.ErrDigestThere) {
			packer.Reset()
			got, err = t.export.Export(ctx, c, r, packer)
		}
		if err != nil {
			return err
		}
		p.object.Rows, p.object.Sum = got.Print.Rows, got.Print.Sum
		spent.Rows, spent.Bytes = int(got.Print.Rows), got.Bytes
		b.at(&p.object, at)
		return nil
	})
	if err != nil {
		return err
	}
	if p.packed, err = packer.Finish(b.header(t, &p.object)); err != nil {
		return err
	}
	p.object.SHA256, p.object.Bytes, p.object.Raw = p.packed.SHA256, int64(len(p.packed.Bytes)), p.packed.Raw
	select {
	case puts <- p:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (b *build) header(t *table, o *baseline.Object) baseline.Header {
	b.mu.Lock()
	defer b.mu.Unlock()
	of := &b.set.Tables[t.index]
	return baseline.Header{
		Pipeline: b.set.Pipeline, Source: b.set.Source, Table: of.Table, Columns: t.columns, Binary: of.Binary, Fingerprint: of.Schema.Fingerprint, Digest: of.Digest,
		Range: o.Range, Rows: o.Rows, Sum: o.Sum, Snapshot: o.Snapshot, LSN: o.LSN, Timeline: o.Timeline, ReadAt: o.ReadAt, Position: b.set.Positions[o.Point].Position,
	}
}
