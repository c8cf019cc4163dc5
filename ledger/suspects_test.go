package ledger_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/message"
)

func TestMigrateTogether(t *testing.T) {
	t.Parallel()
	pool := open(t, pgtest.Database(t))
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			if err := ledger.New(pool, fmt.Sprint("p", i%3)).Migrate(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := one[int](t, pool, `SELECT count(*)::int FROM trickle.pipelines`); n != 3 {
		t.Errorf("%d pipelines", n)
	}
}

// An ordinary role needs no right on the database where an administrator made the schema for it.
func TestMigrateIntoASchemaMadeForIt(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t)
	admin := open(t, dsn)
	role := "detector_" + one[string](t, admin, `SELECT current_database()::text`)
	exec(t, admin, `CREATE ROLE `+role+` LOGIN`)
	as := open(t, strings.Replace(dsn, "postgres://postgres@", "postgres://"+role+"@", 1))
	if err := ledger.New(as, "p").Migrate(t.Context()); err == nil || !strings.Contains(err.Error(), "CREATE SCHEMA trickle AUTHORIZATION") {
		t.Errorf("without any right: %v, want what to do", err)
	}
	exec(t, admin, `CREATE SCHEMA trickle AUTHORIZATION `+role)
	for range 2 {
		must(t, ledger.New(as, "p").Migrate(t.Context()))
	}
	as.Close()
	exec(t, admin, `DROP OWNED BY `+role+` CASCADE; DROP ROLE `+role)
}

func suspect(id string, last drift.Sighting) drift.Suspect {
	last.Replica.Key = message.Key{id}
	return drift.Suspect{Key: message.Key{id}, Range: rng("", "100"), RangeID: 1 << 63, Last: &last}
}

func TestASuspectIsTakenByOne(t *testing.T) {
	t.Parallel()
	l, pool := fresh(t)
	var suspects []drift.Suspect
	for i := range 60 {
		suspects = append(suspects, suspect(fmt.Sprint(i), drift.Sighting{Replica: drift.Observed{Present: true, Version: 7, Digest: 1<<63 + 5}}))
	}
	must(t, l.Suspect(t.Context(), table, suspects, 0))
	var mu sync.Mutex
	var taken []string
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for {
				name, got, err := l.Due(t.Context(), 7, hour)
				if err != nil {
					t.Error(err)
				}
				if len(got) == 0 {
					return
				}
				mu.Lock()
				for _, s := range got {
					if s.Last.Replica.Digest != 1<<63+5 || s.RangeID != 1<<63 || s.Range.String() != "(-inf, 100]" || name != table {
						t.Errorf("%s: %+v came back as another", name, s)
					}
					taken = append(taken, s.Key.String())
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	slices.Sort(taken)
	if n := len(slices.Compact(slices.Clone(taken))); len(taken) < n || n < 50 {
		t.Errorf("%d takings of %d suspects", len(taken), n)
	}
	if len(taken) != len(slices.Compact(slices.Clone(taken))) {
		t.Error("two takers had one suspect")
	}
	exec(t, pool, `UPDATE trickle.suspects SET due = clock_timestamp() - interval '1 second' WHERE key = '{5}'`) // its lease is over
	_, again, err := l.Due(t.Context(), 7, hour)
	if err != nil || len(again) != 1 || again[0].Key.String() != "5" {
		t.Errorf("after the lease: %v, %v", again, err)
	}
	must(t, l.Settle(t.Context(), table, entry.Settled{Done: []message.Key{{"5"}}, Resolved: 1}))
	if n, err := l.Suspects(t.Context(), ""); n != 59 || err != nil {
		t.Errorf("%d suspects left, %v", n, err)
	}
}

// The sighting that is kept is the one that CDC passes first: an untouched row's older one, but never one whose read time says nothing.
func TestWhichSightingIsKept(t *testing.T) {
	t.Parallel()
	l, _ := fresh(t)
	at := func(s int) time.Time { return time.Date(2026, 1, 1, 0, 0, s, 0, time.UTC) }
	never := time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)
	extra := func(version uint64, readAt time.Time) drift.Sighting {
		return drift.Sighting{Replica: drift.Observed{Present: true, Version: version}, Source: drift.Fetched{ReadAt: readAt}}
	}
	for name, c := range map[string]struct {
		first, then drift.Sighting
		want        time.Time
	}{
		"untouched: the older one":              {extra(1, at(1)), extra(1, at(2)), at(1)},
		"written in between: the newer one":     {extra(1, at(1)), extra(2, at(2)), at(2)},
		"named only, then seen: the one seen":   {extra(1, never), extra(1, at(2)), at(2)},
		"seen, then named again: the one seen":  {extra(1, at(1)), extra(1, never), at(1)},
		"no read time, then seen: the one seen": {extra(1, time.Time{}), extra(1, at(2)), at(2)},
	} {
		key := message.Key{name}
		add := func(s drift.Sighting) drift.Suspect { return drift.Suspect{Key: key, Last: &s} }
		must(t, l.Suspect(t.Context(), table, []drift.Suspect{add(c.first)}, 0))
		must(t, l.Settle(t.Context(), table, entry.Settled{Again: []drift.Suspect{add(c.then)}}))
		_, got, err := l.Due(t.Context(), 10, hour)
		if err != nil || len(got) != 1 || !got[0].Last.Source.ReadAt.Equal(c.want) {
			t.Errorf("%s: kept %+v, %v, want the one of %s", name, got, err, c.want)
		}
		must(t, l.Settle(t.Context(), table, entry.Settled{Done: []message.Key{key}}))
	}
}

// A suspect that a resync finds once more is the resync's from then on, with the sighting that it had.
func TestAResyncTakesASuspectOver(t *testing.T) {
	t.Parallel()
	l, pool := fresh(t)
	look := drift.Sighting{Replica: drift.Observed{Present: true, Version: 7, Digest: 5}, Source: drift.Fetched{ReadAt: time.Unix(1000, 0)}}
	must(t, l.Suspect(t.Context(), table, []drift.Suspect{suspect("1", look)}, 0))
	look.Source.ReadAt = time.Unix(2000, 0)
	again := suspect("1", look)
	again.ResyncID = "r"
	must(t, l.Suspect(t.Context(), table, []drift.Suspect{again}, 0))
	if n, err := l.Suspects(t.Context(), "r"); n != 1 || err != nil {
		t.Errorf("%d suspects of the resync: %v", n, err)
	}
	if at := one[time.Time](t, pool, `SELECT source_read_at FROM trickle.suspects`); !at.Equal(time.Unix(1000, 0)) {
		t.Errorf("the sighting is of %s now", at)
	}
}
