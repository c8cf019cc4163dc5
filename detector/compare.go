package detector

import (
	"context"
	"errors"
	"time"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
)

// pageRows bounds how many rows of a range are listed at a time.
const pageRows = 20_000

// compare checks a range and records what it found.
func (d *Detector) compare(ctx context.Context, t Table, env *tricklepb.Envelope, r *receipt) error {
	print := thumbprint(env)
	rng := message.RangeOf(print.GetRange())
	leftOut := message.KeysOf(print.GetLeftOut())
	v := entry.Verified{
		Table: t.Name, Range: rng, RangeID: print.GetRangeId(), Cycle: print.GetCycle(), Ranges: print.GetRanges(), Rows: print.GetRows(), Digest: t.Kind, ReadAt: env.GetReadAt().AsTime(),
	}
	alike := computable(t, print)
	if alike {
		own, err := d.Replica.Thumbprint(ctx, t.Name, rng, leftOut, digest.Kind(print.GetDigest()))
		if err != nil {
			return err
		}
		if own == (digest.Thumbprint{Rows: print.GetRows(), Sum: print.GetSum()}) {
			v.Equal = true
			return d.record(ctx, v, nil, r)
		}
	}
	// A resync that walks the whole table finds the keys by itself; and where too many suspects wait that nothing can be proven about, the range is only
	// noted as not equal.
	covered, err := d.Ledger.Covers(ctx, t.Name)
	if err != nil {
		return err
	}
	pending, err := d.Ledger.Suspects(ctx, "")
	if err != nil {
		return err
	}
	if covered || pending >= d.Pending {
		return d.record(ctx, v, nil, r)
	}
	r.looked.Begin = time.Now()
	asked := d.Spans.Mismatching(ctx, r.picked)
	var suspects []drift.Suspect
	if rows := env.GetRows(); rows != nil && alike {
		suspects, err = d.narrowByRows(asked, t, env, rows)
	} else {
		suspects, err = d.narrow(asked, t, rng, leftOut)
	}
	if err != nil && !alike {
		return errors.Join(err, d.source.WantPortable(ctx, t.Name)) // so that at least the next cycle brings them
	}
	if err != nil {
		return err
	}
	r.looked.End = time.Now()
	v.Equal = !alike && len(suspects) == 0
	way := d.way(r, len(suspects))
	for i := range suspects {
		suspects[i].RangeID, suspects[i].Range, suspects[i].Trace = v.RangeID, rng, way
	}
	d.Log.Debug("range differs", "table", t.Name, "range", d.rules().Privacy.Key(rng.String()), "suspects", len(suspects))
	return d.record(ctx, v, suspects, r)
}

// record makes what was found durable.
func (d *Detector) record(ctx context.Context, v entry.Verified, suspects []drift.Suspect, r *receipt) error {
	var due time.Duration
	if len(suspects) > 0 {
		due = time.Duration(d.rules().Detect.Confirm.Delay)
	}
	if err := d.Ledger.Record(ctx, v, suspects, due); err != nil {
		return err
	}
	d.traced(ctx, v, len(suspects), r)
	return nil
}

// computable tells whether the replica can compute the digests of a message. Where it can't, the publisher that sent it has forgotten that, over a restart, or
// is one of several and has not been asked yet; then the range is compared by asking, with digests that both sides have.
func computable(t Table, print *tricklepb.Thumbprint) bool {
	return digest.Kind(print.GetDigest()) != digest.Record || print.GetProbe() == t.Probe
}

// narrow asks for a range's keys and digests and returns those that differ from the replica's.
func (d *Detector) narrow(ctx context.Context, t Table, rng message.Range, leftOut []message.Key) ([]drift.Suspect, error) {
	skip := make(map[string]bool, len(leftOut))
	for _, k := range leftOut {
		skip[k.ID()] = true
	}
	var suspects []drift.Suspect
	for {
		page, err := d.source.Look(ctx, t, rng)
		if err != nil {
			return nil, err
		}
		for _, s := range page.Sightings {
			// A row that was left out as not quiet and still is in flight will be looked at once it is quiet.
			if skip[s.Replica.Key.ID()] && drift.Judge(nil, s) == drift.InFlight {
				continue
			}
			suspects = append(suspects, drift.Suspect{Key: s.Replica.Key, Last: &s})
		}
		// Enough to pass any threshold. The range is not equal, and what is left of it is found in the next cycle or by the resync.
		if !page.More || len(suspects) >= pageRows {
			return suspects, nil
		}
		rng.Lo = page.Covered.Hi
	}
}

// Page is a first look at a range, or at the beginning of it.
type Page struct {
	Sightings []drift.Sighting // of the keys that differ, without values
	Rows      int              // looked at, on the side that has more
	Covered   message.Range
	More      bool // Covered is only the beginning of the range
}

// Look observes a range of the replica, then lists the source's, and returns the keys that differ. The order matters: see package drift.
func (s *Source) Look(ctx context.Context, t Table, rng message.Range) (Page, error) {
	through := s.parts.Gate.Check(ctx).Through
	own, covered, err := s.parts.Replica.Range(ctx, t.Name, rng, pageRows, t.Kind)
	if err != nil {
		return Page{}, err
	}
	var print digest.Thumbprint
	for _, o := range own {
		print = print.Row(o.Digest)
	}
	list, err := s.KeyDigests(ctx, t, Question{Range: covered, Limit: pageRows, Through: through, Expected: &print})
	if err != nil {
		return Page{}, err
	}
	p := Page{Rows: max(len(own), len(list.Keys)), Covered: covered, More: !covered.Hi.Equal(rng.Hi)}
	if list.Equal {
		return p, nil
	}
	if list.More {
		// The source has more rows there than fit: what the replica has beyond them is looked at with the next page.
		p.Covered, p.More = list.Covered, true
		if own, _, err = s.parts.Replica.Range(ctx, t.Name, list.Covered, 0, t.Kind); err != nil {
			return Page{}, err
		}
		// These rows are observed after the source was read, which proves nothing: the sightings only name suspects.
		through, list.readAt = time.Time{}, distantFuture
		for id, f := range list.Rows {
			f.ReadAt = distantFuture
			list.Rows[id] = f
		}
	}
	seen := make(map[string]bool, len(own))
	for _, o := range own {
		id := o.Key.ID()
		seen[id] = true
		look := drift.Sighting{Through: through, Replica: o, Source: list.Rows[id]}
		if !look.Source.Present {
			look.Source.ReadAt = list.readAt
		}
		if !look.Equal() {
			p.Sightings = append(p.Sightings, look)
		}
	}
	for _, k := range list.Keys {
		if !seen[k.ID()] {
			p.Sightings = append(p.Sightings, drift.Sighting{Through: through, Replica: drift.Observed{Key: k}, Source: list.Rows[k.ID()]})
		}
	}
	return p, nil
}

// narrowByRows finds the suspects of a range whose rows came with the message. The rows were read before the replica's are observed, so they prove
// nothing: they only name suspects, which are then refetched.
func (d *Detector) narrowByRows(ctx context.Context, t Table, env *tricklepb.Envelope, rows *tricklepb.Rows) ([]drift.Suspect, error) {
	rng := message.RangeOf(rows.GetThumbprint().GetRange())
	own, covered, err := d.Replica.Range(ctx, t.Name, rng, pageRows, digest.Kind(rows.GetThumbprint().GetDigest()))
	if err != nil {
		return nil, err
	}
	list := listing(env, rows.GetRows())
	left := make(map[string]bool)
	for _, k := range message.KeysOf(rows.GetThumbprint().GetLeftOut()) {
		left[k.ID()] = true
	}
	var suspects []drift.Suspect
	add := func(s drift.Sighting) {
		// The row was read before the replica was: with this read time no later look takes the pair for a proof.
		s.Source.ReadAt, s.Source.Settled = distantFuture, false
		suspects = append(suspects, drift.Suspect{Key: s.Replica.Key, Last: &s})
	}
	seen := make(map[string]bool, len(own))
	for _, o := range own {
		id := o.Key.ID()
		seen[id] = true
		if s := (drift.Sighting{Replica: o, Source: list.Rows[id]}); !left[id] && !s.Equal() {
			add(s)
		}
	}
	for _, k := range list.Keys {
		// Where the replica has more rows than were read, a row that was not seen may be among the rest.
		if !seen[k.ID()] && covered.Hi.Equal(rng.Hi) {
			add(drift.Sighting{Replica: drift.Observed{Key: k}, Source: list.Rows[k.ID()]})
		}
	}
	return suspects, nil
}

// distantFuture is a read time that no heartbeat passes.
var distantFuture = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC) //nolint:gochecknoglobals // a constant that Go has no syntax for
