package resync

import (
	"context"
	"fmt"
	"time"

	"github.com/trickle-verify/trickle/detector"
	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/message"
)

// walk makes one piece of a resync what the source has, part by part.
type walk struct {
	*Runner
	resync entry.Resync
	table  detector.Table
	// piece has the copies that are confirmed once all of it was walked.
	piece entry.Piece
	// whole: large parts that the replica has nothing of are streamed; until the replica refuses one.
	whole bool
	// most bounds the rows of the next stream, where the last one was cut by its bytes; 0: the publisher's own limit does.
	most int
	rows int // looked at
}

// run goes through the piece. What it finds empty it copies, and what is not, also because it was copied and something has changed since, it looks at key
// by key: every part of the piece is read at the source once after the last copy into it was written.
func (w *walk) run(ctx context.Context) error {
	rng := w.piece.Range
	for {
		rest, err := w.copy(ctx, rng)
		if err != nil || rest == nil {
			return err
		}
		if !rest.Lo.Equal(rng.Lo) {
			rng = *rest
			continue
		}
		if rest, err = w.look(ctx, rng, w.correct); err != nil || rest == nil {
			return err
		}
		rng = *rest
	}
}

// looked does something about keys that differ.
type looked func(ctx context.Context, sightings []drift.Sighting) error

// look compares the beginning of a range key by key and returns what is left of it, nil when nothing is.
func (w *walk) look(ctx context.Context, rng message.Range, then looked) (*message.Range, error) {
	page, err := w.Source.Look(ctx, w.table, rng)
	if err != nil {
		return nil, err
	}
	w.rows += page.Rows
	w.piece.Differing += len(page.Sightings)
	if err := then(ctx, page.Sightings); err != nil || !page.More {
		return nil, err
	}
	return &message.Range{Lo: page.Covered.Hi, Hi: rng.Hi}, nil
}

// lookThrough does so with all of a range.
func (w *walk) lookThrough(ctx context.Context, rng message.Range, then looked) (err error) {
	for rest := &rng; rest != nil && err == nil; {
		rest, err = w.look(ctx, *rest, then)
	}
	return err
}

// copy takes the beginning of a range whole where the replica has no row in the range. It returns what is left of it: nil when nothing is, all of it
// when the replica has rows there.
func (w *walk) copy(ctx context.Context, rng message.Range) (*message.Range, error) {
	q := detector.Question{Range: rng, Limit: copyRows, Through: w.Gate.Check(ctx).Through}
	// Observe before asking: that the range is empty now is what the copies are guarded by.
	own, _, err := w.Replica.Range(ctx, w.table.Name, rng, 1, w.table.Kind)
	if err != nil || len(own) > 0 {
		return &rng, err
	}
	if w.whole {
		columns, binary, err := w.Copier.Streamable(w.table.Name)
		if err != nil {
			return nil, err
		}
		q.Stream = &detector.Streaming{Columns: columns, Binary: binary, Limit: w.most}
	}
	list, err := w.Source.Copy(ctx, w.table, q)
	if err != nil {
		return nil, err
	}
	if list.Stream != nil {
		taken, err := w.stream(ctx, list)
		if err != nil {
			return nil, err
		}
		if !taken {
			w.whole = false
			return w.copy(ctx, rng) // whether it still is empty is to be seen
		}
	}
	sightings := make([]drift.Sighting, len(list.Keys))
	for i, k := range list.Keys {
		sightings[i] = drift.Sighting{Through: q.Through, Replica: drift.Observed{Key: k}, Source: list.Rows[k.ID()]}
	}
	w.rows += len(sightings)
	w.piece.Differing += len(sightings)
	if err := w.apply(ctx, sightings); err != nil || !list.More {
		return nil, err
	}
	return &message.Range{Lo: list.Covered.Hi, Hi: rng.Hi}, nil
}

// stream writes a part as it was streamed, and confirms it: where the source, asked after the write, does not have what it had, the part is looked at key by
// key. It reports false where the replica would not take it as a whole: then nothing was written.
func (w *walk) stream(ctx context.Context, list detector.Listing) (bool, error) {
	s := list.Stream
	w.most = 0
	if list.More {
		w.most = 2 * int(s.Whole.Rows)
	}
	if s.Copy.Print.Rows == 0 {
		return true, nil
	}
	// Once more: by now the gate has heard the answer, and knows whether it comes from a server that the source failed over to in between.
	if !w.Gate.Check(ctx).Open {
		return false, errHeld
	}
	s.Copy.ResyncID, s.Copy.Piece = w.resync.ID, w.piece.N
	out, err := w.Copier.Copy(ctx, w.table.Name, s.Copy, w.table.Kind)
	if err != nil {
		return false, err
	}
	switch out.Result {
	case drift.Held:
		return false, errHeld
	case drift.Written:
	default:
		w.Log.Info("the replica takes no whole copy of a range; its rows go one by one", "table", w.table.Name, "resync", w.resync.ID, "err", out.Err)
		return false, nil
	}
	w.piece.Copies = append(w.piece.Copies, out.Entry)
	w.rows += int(s.Copy.Print.Rows)
	w.piece.Differing += int(s.Copy.Print.Rows)
	agrees, err := w.Source.Agrees(ctx, w.table, s)
	if err != nil {
		return false, fmt.Errorf("confirming a copy of %d rows: %w", s.Copy.Print.Rows, err)
	}
	if agrees {
		return true, nil
	}
	return true, w.lookThrough(ctx, s.Copy.Range, w.correct)
}

// confirm looks at a copy that was never confirmed, and whose resync has ended.
func (r *Runner) confirm(ctx context.Context, c entry.OpenCopy) error {
	t, err := r.Source.Table(ctx, c.Table, 0)
	if err != nil {
		return err
	}
	w := walk{Runner: r, resync: entry.Resync{ID: c.ResyncID, Table: c.Table, Range: c.Range}, table: t}
	if err := w.lookThrough(ctx, c.Range, w.correct); err != nil {
		return err
	}
	return r.Ledger.CloseCopies(ctx, []int64{c.ID})
}

// correct refetches the keys of a first look that are proven and corrects them; the others become suspects.
func (w *walk) correct(ctx context.Context, sightings []drift.Sighting) error {
	const batch = 1000
	for start := 0; start < len(sightings); start += batch {
		var keys []message.Key
		var looks []drift.Sighting
		var wait []drift.Suspect
		for _, look := range sightings[start:min(start+batch, len(sightings))] {
			if drift.Judge(nil, look) == drift.Proven {
				keys, looks = append(keys, look.Replica.Key), append(looks, look)
			} else {
				wait = append(wait, w.suspect(look))
			}
		}
		if err := w.wait(ctx, wait); err != nil {
			return err
		}
		if len(keys) == 0 {
			continue
		}
		fetched, err := w.Source.Refetch(ctx, w.table, keys, detector.Refetching{Through: looks[0].Through})
		if err != nil {
			return err
		}
		for i := range looks {
			looks[i].Source = fetched[i]
		}
		if err := w.apply(ctx, looks); err != nil {
			return err
		}
	}
	return nil
}

// apply corrects what the sightings, whose source rows are whole, prove; the rest become suspects.
func (w *walk) apply(ctx context.Context, sightings []drift.Sighting) error {
	var changes []drift.Change
	var of []drift.Sighting
	var wait []drift.Suspect
	for _, look := range sightings {
		switch drift.Judge(nil, look) {
		case drift.Equal:
		case drift.InFlight:
			wait = append(wait, w.suspect(look))
		case drift.Proven:
			changes = append(changes, drift.Change{Replica: look.Replica, Source: look.Source, ResyncID: w.resync.ID})
			of = append(of, look)
		}
	}
	if len(changes) > 0 {
		outcomes, err := w.Corrector.Correct(ctx, w.table, changes)
		for i, o := range outcomes {
			if o.Result != drift.Written {
				wait = append(wait, w.suspect(of[i]))
			}
		}
		if err != nil {
			return err
		}
	}
	return w.wait(ctx, wait)
}

func (w *walk) suspect(look drift.Sighting) drift.Suspect {
	return drift.Suspect{Key: look.Replica.Key, Range: w.resync.Range, ResyncID: w.resync.ID, Last: &look}
}

// wait has suspects looked at again.
func (w *walk) wait(ctx context.Context, suspects []drift.Suspect) error {
	if len(suspects) == 0 {
		return nil
	}
	return w.Ledger.Suspect(ctx, w.table.Name, suspects, time.Duration(w.Policy().Detect.Confirm.Delay))
}
