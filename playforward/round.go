package playforward

import (
	"context"
	"fmt"

	"github.com/trickle-verify/trickle/debezium"
	"github.com/trickle-verify/trickle/transport"
)

// lane is one partition.
type lane struct {
	at   transport.Partition
	read int64   // the offset behind what was read
	held []event // what was read and not applied, in order
	mark mark    // behind what was read

	known  bool // it was saved
	stored int64
	saved  mark

	end  int64 // of the round
	done bool  // nothing more comes before it
}

// event is a change on its way.
type event struct {
	debezium.Change

	lane   *lane
	offset int64
	rank   debezium.Place // where it is merged: its own place, or where its partition had got
	mark   mark           // of its partition once it is applied
	table  *target
}

// next is the first offset that is not applied.
func (l *lane) next() int64 {
	if len(l.held) > 0 {
		return l.held[0].offset
	}
	return l.read
}

// Round applies what the logs hold now, and tells whether the read point moved.
func (a *Applier) Round(ctx context.Context, log Log) (moved bool, err error) {
	ends, err := log.Ends(ctx)
	if err != nil {
		return false, err
	}
	for _, t := range ends {
		if id, ok := a.topics[t.Topic]; !ok || id == "" {
			a.topics[t.Topic] = t.ID
		}
		for n, end := range t.Offsets {
			l := a.lane(transport.Partition{Topic: t.Topic, ID: int32(n)})
			l.end, l.done = end, l.read >= end
			moved = moved || l.read < end
		}
	}
	if err := a.shape(ctx); err != nil {
		return false, err
	}
	b := newBatch()
	for {
		l, err := a.least(ctx, log)
		if err != nil {
			return false, err
		}
		if l != nil {
			e := l.held[0]
			l.held[0] = event{} // for the garbage collector
			l.held = l.held[1:]
			b.events = append(b.events, e)
			b.bytes += e.After.Size() + e.Before.Size()
			if len(b.events) < a.reach*a.options.Batch && b.bytes < a.reach*manyBytes {
				continue
			}
		}
		b.cut = l != nil
		switch became, err := a.apply(ctx, b); {
		case err != nil:
			return false, err
		case became == waiting:
			return false, nil
		case became == whole && l == nil:
			return moved, nil
		}
		b = newBatch()
	}
}

// least is the partition whose next event comes first, nil where there is none.
func (a *Applier) least(ctx context.Context, log Log) (*lane, error) {
	var first *lane
	for _, l := range a.order {
		for len(l.held) == 0 && !l.done {
			if err := a.read(ctx, log, l); err != nil {
				return nil, err
			}
		}
		if len(l.held) > 0 && (first == nil || l.held[0].rank.Compare(first.held[0].rank) < 0) {
			first = l
		}
	}
	return first, nil
}

// read takes one record of a partition.
func (a *Applier) read(ctx context.Context, log Log, l *lane) error {
	r, ok, err := log.Next(ctx, l.at, l.end)
	if err != nil {
		return err
	}
	if !ok {
		l.read, l.done = l.end, true
		return nil
	}
	l.read = r.Offset + 1
	change, ok, err := a.decoder.Decode(r)
	if err != nil {
		l.read = r.Offset // it is not passed over
		return fmt.Errorf("%s, offset %d: %w", l.at, r.Offset, err)
	}
	if !ok {
		return nil
	}
	e := event{Change: change, lane: l, offset: r.Offset, rank: l.mark.at, mark: l.mark}
	switch {
	case change.Snapshot(): // what it is, not when: it is taken as it comes, behind what it has seen
		if change.At.Compare(e.rank) > 0 {
			e.rank = change.At
		}
	case change.At == debezium.Place{}:
	case !l.mark.after(change.At, change.Time):
		a.done.Duplicates++
		return nil
	default:
		e.rank, e.mark = change.At, l.mark.with(change.At, change.Time)
	}
	if e.table, err = a.target(ctx, change.Table); err != nil {
		return err
	}
	l.mark = e.mark
	if e.table == nil {
		a.done.Outside++
		return nil
	}
	l.held = append(l.held, e)
	return nil
}

// behind counts records that the round has yet to apply.
func (a *Applier) behind() (n int64) {
	for _, l := range a.order {
		n += max(l.end-l.next(), 0)
	}
	return n
}
