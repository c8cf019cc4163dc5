package restore_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/gate"
	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/restore"
)

// done counts the ranges that are marked, and rows are those of a table.
func done(t testing.TB, w *world) string {
	t.Helper()
	return one(t, w.replica, "SELECT count(*) FILTER (WHERE done) || ' of ' || count(*) FROM trickle.restore_ranges g JOIN trickle.restores r ON r.id = g.restore_id AND r.state <> 'abandoned'")
}

// What is wrong with an object is found before any row of it is kept; it is named, the restore fails and can be taken up again, and all else stands.
func TestObjectsThatAreNotWhatTheyShouldBe(t *testing.T) {
	t.Parallel()
	source := fresh(t, orders, rows(100))
	for name, c := range map[string]struct {
		spoil func(t *testing.T, w *world, o *baseline.Object)
		want  []string
	}{
		"a flipped bit": {func(t *testing.T, w *world, o *baseline.Object) {
			key := pipeline + "/" + o.Name
			b, err := w.bucket.ReadAll(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}
			b[len(b)/2] ^= 4
			if err := w.bucket.WriteAll(t.Context(), key, b, nil); err != nil {
				t.Fatal(err)
			}
		}, []string{"SHA-256"}},
		"rows with another sum": {func(_ *testing.T, w *world, o *baseline.Object) { o.Sum++; w.header(o) }, []string{"another sum"}},
		"fewer rows":            {func(_ *testing.T, w *world, o *baseline.Object) { o.Rows++; w.header(o) }, []string{"took 20 rows", "not 21"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, source, fresh(t), export{tables: []string{"public.orders"}, rows: 20})
			w.options.Jobs = 1
			right := w.set.Tables[0].Objects[2]
			b, err := w.bucket.ReadAll(t.Context(), pipeline+"/"+right.Name)
			if err != nil {
				t.Fatal(err)
			}
			c.spoil(t, w, &w.set.Tables[0].Objects[2])
			_, err = w.restorer().Load(t.Context(), w.set)
			holds(t, err, append(c.want, right.Name, "public.orders", right.Range.Shown(w.options.Key))...)
			if got := one(t, w.replica, "SELECT count(*) || ' ' || max(id) FROM public.orders"); got != "40 40" {
				t.Error(got)
			}
			if got := done(t, w); got != "2 of 6" {
				t.Error(got)
			}
			if got := state(t, w); got != "failed loading" {
				t.Error(got)
			}
			if got := one(t, w.replica, "SELECT failure FROM trickle.restores"); !strings.Contains(got, right.Name) {
				t.Error(got)
			}
			if err := w.bucket.WriteAll(t.Context(), pipeline+"/"+right.Name, b, nil); err != nil {
				t.Fatal(err)
			}
			w.set.Tables[0].Objects[2] = right
			if out := w.load(t); !out.Resumed {
				t.Error("begun anew")
			}
		})
	}
}

// header writes an object again with a header that says what its manifest does.
func (w *world) header(o *baseline.Object) {
	ctx := context.Background()
	b, err := w.bucket.ReadAll(ctx, pipeline+"/"+o.Name)
	if err != nil {
		panic(err)
	}
	packed, err := reheaded(b, w, o)
	if err != nil {
		panic(err)
	}
	o.SHA256, o.Bytes, o.Raw = packed.SHA256, int64(len(packed.Bytes)), packed.Raw
	if err := w.store.Put(ctx, o.Name, packed); err != nil {
		panic(err)
	}
}

// However often it is interrupted, by whom and when, the restore goes on, and what comes of it is the set.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	source := fresh(t, orders, rows(3000), "CREATE TABLE public.a (id int PRIMARY KEY, v text); INSERT INTO public.a SELECT i, repeat('x', i % 50) FROM generate_series(1, 1000) i; CREATE INDEX ON public.a (v)")
	w := newWorld(t, source, fresh(t), export{tables: []string{"public.orders", "public.a"}, rows: 50})
	w.load(t) // so that it is known how many steps there are, and in another database again
	steps := len(w.set.Tables[0].Objects) + len(w.set.Tables[1].Objects) + 6
	w.replica = fresh(t)
	interrupted, resumed := 0, 0
	for round := range 40 {
		ctx, cancel := context.WithCancel(t.Context())
		at, kill := rand.IntN(steps/3), round%2 == 0
		n := 0
		w.options.Progress = func(restore.Progress) {
			if n++; n != at+1 {
				return
			}
			if kill {
				// As where the server ends, or the process is killed: no goodbye.
				_, _ = source.Exec(context.WithoutCancel(ctx), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", w.replica.Config().ConnConfig.Database)
			} else {
				cancel()
			}
		}
		out, err := w.restorer().Load(ctx, w.set)
		cancel()
		if out.Resumed {
			resumed++
		}
		if err == nil {
			break
		}
		interrupted++
		w.replica.Reset()
		var refused *restore.RefusedError
		if errors.As(err, &refused) {
			t.Fatal(err)
		}
		if got := one(t, w.replica, "SELECT to_regclass('trickle.restores') IS NOT NULL"); got == "true" && one(t, w.replica, "SELECT count(*) FROM trickle.restores") != "0" {
			// What is marked is there, and nothing else is.
			marked := one(t, w.replica, "SELECT coalesce(sum(rows), 0) FROM trickle.restore_ranges WHERE done")
			if there := one(t, w.replica, "SELECT (SELECT count(*) FROM public.orders) + (SELECT count(*) FROM public.a)"); there != marked {
				t.Fatalf("%s rows are there and %s are claimed", there, marked)
			}
		}
	}
	w.options.Progress = nil
	out := w.load(t)
	if interrupted < 3 || resumed == 0 || !out.Resumed {
		t.Errorf("interrupted %d times, resumed %d times", interrupted, resumed)
	}
	if got := one(t, w.replica, "SELECT count(*) FROM pg_indexes WHERE schemaname = 'public'"); got != "4" {
		t.Errorf("%s indexes", got)
	}
}

// While a restore is under way, or has stopped half-way, nothing is corrected; while it is proven it is.
func TestNothingIsCorrectedMeanwhile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fresh(t, orders, rows(100)), fresh(t), export{tables: []string{"public.orders"}, rows: 20})
	l := ledger.New(w.replica, pipeline)
	if err := l.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	g := gate.New(policy.Gate{AssumeLag: 1, MaxLag: 1000}, gate.Parts{Restoring: l})
	held := func(want bool) {
		t.Helper()
		allowed := 0
		err := pgx.BeginFunc(t.Context(), w.replica, func(tx pgx.Tx) error {
			a, err := l.Allow(t.Context(), tx, ledger.Limits{Deletes: 5, Corrections: 7, Window: 1e9})
			allowed = a.Corrections
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		why, err := l.Braked(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s := g.Check(t.Context())
		var copied int64
		tx, err := w.replica.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if copied, err = l.Copied(t.Context(), tx, "public.orders", ledger.Copied{Copy: drift.Copy{ResyncID: "r"}}); err != nil {
			t.Fatal(err)
		}
		if err := tx.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		if want != (copied == 0) {
			t.Errorf("held %t: a copy was written: %d", want, copied)
		}
		if want != (allowed == 0) || want != strings.Contains(why, "a restore of set "+w.set.Set) || want != (s.By == gate.ByRestore) || want != s.Behind() {
			t.Errorf("held %t: %d allowed, braked: %q, gate: %+v", want, allowed, why, s)
		}
		if err := l.Brake(t.Context(), "too many"); err != nil {
			t.Fatal(err)
		}
		if want && one(t, w.replica, "SELECT brake_reason FROM trickle.pipelines") != "NULL" {
			t.Error("the brake is on")
		}
		if _, err := l.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	held(false)
	ctx, cancel := context.WithCancel(t.Context())
	w.options.Progress = func(p restore.Progress) {
		if p.RangesDone == 2 {
			cancel()
		}
	}
	if _, err := w.restorer().Load(ctx, w.set); err == nil {
		t.Fatal("it was not interrupted")
	}
	held(true)
	w.options.Progress = nil
	out := w.load(t)
	held(true)
	for _, state := range []string{"playing", "finishing", "proving", "done"} {
		if err := l.AdvanceRestore(t.Context(), out.Restore.ID, state); err != nil {
			t.Fatal(err)
		}
		held(state == "playing" || state == "finishing")
		if state != "done" {
			if err := l.FailRestore(t.Context(), out.Restore.ID, "no luck"); err != nil {
				t.Fatal(err)
			}
			held(state != "proving")
			r, err := l.Report(t.Context())
			if err != nil || r.Restore == nil || r.Restore.State != "failed" || r.Restore.Stopped != state || r.Restore.Failure != "no luck" || r.Restore.RangesDone != r.Restore.Ranges || r.Restore.Rows != 100 {
				t.Errorf("%+v %v", r.Restore, err)
			}
		}
	}
}

// One that stopped is gone on with, or given up for another by --replace, which removes what it had made.
func TestAnotherSetAfterOneThatStopped(t *testing.T) {
	t.Parallel()
	source := fresh(t, orders, rows(100))
	w := newWorld(t, source, fresh(t), export{tables: []string{"public.orders"}, rows: 20})
	w.set.Tables[0].Objects[3].Sum++
	w.header(&w.set.Tables[0].Objects[3])
	if _, err := w.restorer().Load(t.Context(), w.set); err == nil {
		t.Fatal("no error")
	}
	first := w.set.Set
	exec(t, source, "INSERT INTO public.orders VALUES (1000)")
	w.set, w.store, w.bucket = set(t, source, export{tables: []string{"public.orders"}, rows: 20})
	_, err := w.restorer().Load(t.Context(), w.set)
	holds(t, err, "public.orders", first, "--replace")
	w.options.Replace = true
	w.load(t)
	if got := one(t, w.replica, "SELECT string_agg(state, ' ' ORDER BY started_at) FROM trickle.restores"); got != "abandoned loaded" {
		t.Error(got)
	}
}

// Rows that somebody else has brought meanwhile are found by the key at the latest, and go.
func TestSomebodyElseWrites(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fresh(t, orders, rows(100)), fresh(t), export{tables: []string{"public.orders"}, rows: 20})
	w.options.Progress = func(p restore.Progress) {
		if p.RangesDone == 2 && one(t, w.replica, "SELECT count(*) FROM public.orders WHERE name = 'intruder'") == "0" {
			exec(t, w.replica, "INSERT INTO public.orders VALUES (90, 'intruder')")
		}
	}
	_, err := w.restorer().Load(t.Context(), w.set)
	holds(t, err, "public.orders", "orders_pkey", "somebody else", "again")
	if got := done(t, w); got != "0 of 6" {
		t.Error(got)
	}
	w.options.Progress = nil
	w.load(t)
}

// Of two at the same time one is told.
func TestOneAtATime(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fresh(t, orders, rows(100)), fresh(t), export{tables: []string{"public.orders"}, rows: 20})
	var second error
	w.options.Progress = func(p restore.Progress) {
		if p.RangesDone == 3 && second == nil {
			o := w.options
			o.Progress = nil
			_, second = restore.New(restore.Parts{Pool: w.replica, Ledger: ledger.New(w.replica, pipeline), Store: w.store}, o).Load(context.WithoutCancel(t.Context()), w.set)
		}
	}
	w.load(t)
	if !errors.Is(second, ledger.ErrRestoring) {
		t.Error(second)
	}
}

// Rows that the heap's free space takes, far from its end, are found as well.
func TestRowsThatGoIntoFreeSpace(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fresh(t, orders, rows(2000)), fresh(t, orders, rows(20000), "DELETE FROM public.orders WHERE id < 19900", "VACUUM public.orders", "DELETE FROM public.orders", "ANALYZE public.orders"),
		export{tables: []string{"public.orders"}, rows: 500})
	if size, _ := strconv.Atoi(one(t, w.replica, "SELECT pg_relation_size('public.orders')")); size < 1<<19 {
		t.Fatalf("there is no free space: %d", size)
	}
	w.load(t)
}

// A server that crashes has lost the newest ranges, since no commit waited for its disk: each together with its mark.
func TestTheServerCrashes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fresh(t, orders, rows(6000)), nil, export{tables: []string{"public.orders"}, rows: 100})
	server := pgtest.Server(t, testbed.Options{Settings: map[string]string{"wal_writer_delay": "10s", "wal_writer_flush_after": "0"}})
	w.replica = open(t, pgtest.DatabaseOn(t, server))
	lost := false
	for round := range 3 {
		claimed := 0
		w.options.Progress = func(p restore.Progress) {
			if p.RangesDone == 15*(round+1) && claimed == 0 {
				claimed = p.RangesDone
				if err := server.Kill(); err != nil {
					t.Error(err)
				}
			}
		}
		if _, err := w.restorer().Load(t.Context(), w.set); err == nil {
			t.Fatal("it went through")
		}
		if err := server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.replica.Reset()
		marked := one(t, w.replica, "SELECT coalesce(sum(rows), 0) FROM trickle.restore_ranges WHERE done")
		if there := one(t, w.replica, "SELECT count(*) FROM public.orders"); there != marked {
			t.Fatalf("%s rows are there and %s are claimed", there, marked)
		}
		lost = lost || marked != strconv.Itoa(100*claimed)
	}
	if !lost {
		t.Error("nothing was ever lost, so that says nothing")
	}
	w.options.Progress = nil
	w.load(t)
}

// A sum that the build had computed otherwise than servers do doesn't keep a range out whose rows are what was exported; others are kept out all the same.
func TestSumsThatAreComputedOtherwise(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		columns string
		change  string
		refused bool
	}{
		"the sum":                  {"id int PRIMARY KEY, v text", "", false},
		"the rows too":             {"id int PRIMARY KEY, v text", "CREATE FUNCTION other() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.v := 'y'; RETURN NEW; END$$; CREATE TRIGGER other BEFORE INSERT ON t FOR EACH ROW WHEN (NEW.id = 70) EXECUTE FUNCTION other()", true},
		"what only servers digest": {"id int PRIMARY KEY, v text, at timetz", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			source := fresh(t, "CREATE TABLE t ("+c.columns+")", "INSERT INTO t SELECT i, CASE WHEN i = 50 THEN 'odd' ELSE 'v' || i END FROM generate_series(1, 100) AS i")
			replica := fresh(t, "CREATE TABLE t ("+c.columns+")", c.change,
				"ALTER FUNCTION pg_catalog.hashtextextended(text, bigint) RENAME TO hashtextextended_as_it_was",
				`CREATE FUNCTION pg_catalog.hashtextextended(text, bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS
					$$BEGIN RETURN CASE WHEN $1 = 'odd' THEN 7 ELSE pg_catalog.hashtextextended_as_it_was($1 COLLATE "C", $2) END; END$$`)
			w := newWorld(t, source, replica, export{tables: []string{"public.t"}, rows: 1000})
			loaded, err := w.restorer().Load(t.Context(), w.set)
			var differs *restore.DifferenceError
			if c.refused {
				if !errors.As(err, &differs) || one(t, replica, "SELECT count(*) FROM t") != "0" {
					t.Errorf("%+v, %v", loaded, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			const all = "SELECT string_agg(id || v, ',' ORDER BY id) FROM t"
			if got, want := one(t, replica, all), one(t, source, all); got != want {
				t.Errorf("%s and not %s", got, want)
			}
		})
	}
}
