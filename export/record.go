package export

import (
	"context"
	"fmt"
	"time"

	"github.com/trickle-verify/trickle/baseline"
)

// put is an object on its way to the store.
type put struct {
	table   *table
	attempt int
	place   int
	object  baseline.Object
	packed  baseline.Packed
}

// store stores objects until there are no more.
func (b *build) store(ctx context.Context, puts <-chan put) error {
	for {
		select {
		case p, more := <-puts:
			if !more {
				return nil
			}
			if err := b.Store.Put(ctx, p.object.Name, p.packed); err != nil {
				return fmt.Errorf("table %s: %w", p.table.Name, err)
			}
			b.add(p)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// add names an object that is stored, unless its table has been begun anew.
func (b *build) add(p put) {
	b.tell(func(progress *Progress) {
		progress.Bytes += p.object.Bytes
		if p.table.attempt != p.attempt {
			return
		}
		p.table.done[p.place], b.changed = p.object, true
		progress.New++
		progress.Rows += p.object.Rows
	})
}

// name names an earlier set's object again.
func (b *build) name(t *table, o baseline.Object) {
	place := t.places
	t.places++
	b.tell(func(p *Progress) {
		t.done[place], b.changed = o, true
		p.Reused++
		p.Rows += o.Rows
	})
}

// often is how often the reader's progress is looked at.
const often = 200 * time.Millisecond

// record stores checkpoints until everything is stored, so that a build that is killed loses little. They take a small part of the time.
func (b *build) record(ctx context.Context, done <-chan struct{}) error {
	tick := time.NewTicker(min(often, b.Checkpoint))
	defer tick.Stop()
	last, took := time.Now(), time.Duration(0)
	for {
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		const share = 20
		b.mu.Lock()
		changed := b.changed
		b.mu.Unlock()
		since := time.Since(last)
		if !(changed && since >= max(b.Checkpoint, share*took)) && since < alive {
			continue
		}
		var err error
		if took, err = b.checkpoint(ctx); err != nil && ctx.Err() == nil {
			b.Log.Warn("how far the set has come is not recorded, and is tried again", "set", b.set.Set, "err", err)
		}
		last = time.Now()
	}
}

// checkpoint records what there is.
func (b *build) checkpoint(ctx context.Context) (took time.Duration, err error) {
	b.mu.Lock()
	b.gather()
	b.changed = false
	now := *b.set
	now.Tables = append([]baseline.Table(nil), b.set.Tables...)
	now.Positions = append([]baseline.Point(nil), b.set.Positions...)
	b.mu.Unlock()
	began := time.Now()
	if err = b.Store.Checkpoint(ctx, &now); err != nil {
		b.mu.Lock()
		b.changed = true
		b.mu.Unlock()
	}
	return time.Since(began), err
}
