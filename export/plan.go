package export

import (
	"context"
	"slices"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

// stretch is a range to be read, or to be found unchanged.
type stretch struct {
	message.Range
	rows  uint64           // that it is expected to have
	raw   int64            // what these are expected to come to, uncompressed; 0: not known
	known *baseline.Object // what an earlier set has of it; nil: nothing
}

// plan cuts a table: as the earlier sets did where these fit, and else anew.
func (b *build) plan(ctx context.Context, t *table) ([]stretch, error) {
	known, err := b.known(ctx, t)
	if err != nil {
		return nil, err
	}
	var plan []stretch
	var lo message.Key
	for i := range known {
		o := &known[i]
		if !same(o.Range.Lo, lo) || i == 0 && o.Range.Lo != nil {
			if plan, err = b.cut(ctx, t, plan, stretch{Range: message.Range{Lo: lo, Hi: o.Range.Lo}}); err != nil {
				return nil, err
			}
		}
		plan = append(plan, stretch{Range: o.Range, rows: o.Rows, raw: o.Raw, known: o})
		lo = o.Range.Hi
	}
	if len(known) == 0 || lo != nil {
		plan, err = b.cut(ctx, t, plan, stretch{Range: message.Range{Lo: lo}})
	}
	return plan, err
}

// same bounds; nil is infinite.
func same(a, b message.Key) bool { return (a == nil) == (b == nil) && a.Equal(b) }

// cut appends a range in pieces: the whole table by a sample, and a part of it by its rows.
func (b *build) cut(ctx context.Context, t *table, plan []stretch, s stretch) ([]stretch, error) {
	var keys []message.Key
	err := b.Parts.Source.Read(ctx, t.layout, func(c *pgconn.PgConn, _ postgres.At) (err error) {
		if s.Lo == nil && s.Hi == nil && s.raw == 0 {
			keys, err = t.layout.Cuts(ctx, c, b.Object)
			return err
		}
		rows, _, err := t.layout.RowsIn(ctx, c, b.Object)
		if s.raw > 0 && s.rows > 0 {
			rows = max(1, int(float64(b.Object)/float64(s.raw)*float64(s.rows)))
		}
		if err == nil {
			keys, err = t.layout.Boundaries(ctx, c, s.Range, rows)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return append(plan, pieces(s.Range, keys)...), nil
}

// pieces are a range's between keys in it. A key that is no UTF-8 can't be written down in a manifest, and nothing depends on where it is cut.
func pieces(r message.Range, keys []message.Key) (out []stretch) {
	lo := r.Lo
	for _, k := range keys {
		if same(k, r.Hi) || slices.ContainsFunc(k, func(v string) bool { return !utf8.ValidString(v) }) {
			continue
		}
		out = append(out, stretch{Range: message.Range{Lo: lo, Hi: k}})
		lo = k
	}
	return append(out, stretch{Range: message.Range{Lo: lo, Hi: r.Hi}})
}

// known are the objects that earlier sets have of a table, in key order, perhaps with gaps: of the newest, and in its gaps of the one before.
func (b *build) known(ctx context.Context, t *table) ([]baseline.Object, error) {
	var sizes map[string]int64
	var known []baseline.Object
	if b.Afresh {
		return nil, nil
	}
	for _, m := range b.earlier {
		of, ok := m.Table(t.Name.String())
		if !ok || !b.fits(t, of) {
			continue
		}
		if sizes == nil {
			var err error
			if sizes, err = b.Store.Sizes(ctx, of.Table); err != nil {
				return nil, err
			}
		}
		// One that is missing, or was cut off, must not be named again.
		there := slices.DeleteFunc(slices.Clone(of.Objects), func(o baseline.Object) bool { return sizes[o.Name] != o.Bytes })
		known = fill(known, there)
	}
	return known, nil
}

// fits tells whether objects of a table would be written today as they were then.
func (b *build) fits(t *table, of *baseline.Table) bool {
	b.mu.Lock()
	now := &b.set.Tables[t.index]
	b.mu.Unlock()
	return of.Schema.Fingerprint == now.Schema.Fingerprint && of.Schema.Probe == now.Schema.Probe && slices.Equal(of.Schema.Columns, now.Schema.Columns) &&
		slices.Equal(of.Schema.Key, now.Schema.Key) && of.Schema.Where == now.Schema.Where && of.Digest == now.Digest && of.Binary == now.Binary
}

// fill puts objects into the gaps between others, where some that follow each other fit one from end to end.
func fill(known, more []baseline.Object) []baseline.Object {
	if len(known) == 0 {
		return more
	}
	var out []baseline.Object
	var lo message.Key
	for i, o := range known {
		if !same(lo, o.Range.Lo) || i == 0 && o.Range.Lo != nil {
			out = append(out, between(more, message.Range{Lo: lo, Hi: o.Range.Lo})...)
		}
		out = append(out, o)
		lo = o.Range.Hi
	}
	if lo != nil {
		out = append(out, between(more, message.Range{Lo: lo})...)
	}
	return out
}

// between are the objects that cover a range from its one end to its other, none where there are no such.
func between(objects []baseline.Object, r message.Range) []baseline.Object {
	from := slices.IndexFunc(objects, func(o baseline.Object) bool { return same(o.Range.Lo, r.Lo) })
	if from < 0 {
		return nil
	}
	for i := from; i < len(objects); i++ {
		if i > from && !same(objects[i].Range.Lo, objects[i-1].Range.Hi) {
			return nil
		}
		if same(objects[i].Range.Hi, r.Hi) {
			return objects[from : i+1]
		}
	}
	return nil
}

// summed is the thumbprint of an object's rows.
func summed(o *baseline.Object) digest.Thumbprint { return digest.Thumbprint{Rows: o.Rows, Sum: o.Sum} }
