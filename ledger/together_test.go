package ledger_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/message"
)

// Instances that find, settle and count the same keys in any order never wait for each other in a circle.
func TestWritersDoNotDeadlock(t *testing.T) {
	t.Parallel()
	l, _ := fresh(t)
	must(t, l.Table(t.Context(), table, table))
	var g errgroup.Group
	for worker := range 6 {
		g.Go(func() error {
			r := rand.New(rand.NewPCG(1, uint64(worker))) // repeatable on purpose
			for range 15 {
				var keys []message.Key
				var ids []string
				var suspects []drift.Suspect
				for _, i := range r.Perm(40) {
					id := fmt.Sprint(i)
					ids, keys = append(ids, id), append(keys, message.Key{id})
					suspects = append(suspects, suspect(id, drift.Sighting{Replica: drift.Observed{Present: true, Version: r.Uint64N(100)}}))
				}
				if err := l.Record(t.Context(), verified(r.Uint64N(5), rng("", ""), 10), suspects, 0); err != nil {
					return err
				}
				if err := l.Count(t.Context(), table, found(rng("", ""), ids...)); err != nil {
					return err
				}
				if _, _, err := l.Due(t.Context(), 20, time.Millisecond); err != nil {
					return err
				}
				if err := l.Settle(t.Context(), table, entry.Settled{Done: keys[:20], Resolved: 20, Again: suspects[20:]}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	must(t, g.Wait())
}
