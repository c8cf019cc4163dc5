package e2e

import (
	"cmp"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/internal/testbed/workload"
)

// restored is what trickle-consumer restore says in the end.
type restored struct {
	Loaded, Resumed bool
	Reason          string
	Set             *struct{ Set string }
	Played          *struct{ Applied, Duplicates, Incomplete int }
	Failed          []any
	Proof           *struct {
		Proven         bool
		Why            string
		Tables, Ranges int
		RangesAgreed   int `json:"ranges_agreed"`
		Rows           int
		Corrected      int `json:"rows_corrected"`
		Remaining      int `json:"rows_remaining"`
	}
}

// A lost replica is brought back from a set of the base-line view, on real Kafka and Debezium, while the source is being written: by trickle's own applier, by Debezium's
// sink, from a log that has lost its beginning, and through kills. What can't be restored from is found before anything is written. Each chapter has a replica of its own.
func TestRealRestore(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	s.build(t)
	s.publish()
	for _, chapter := range []struct {
		name string
		tell func(*shelf, *testing.T)
	}{
		{"a replica that is dropped", (*shelf).dropped},
		{"killed while it builds and while it restores", (*shelf).killed},
		{"Debezium's sink plays forward", (*shelf).sunk},
		{"rows that are there", (*shelf).occupied},
		{"what is damaged", (*shelf).damaged},
		{"the publisher keeps the view", (*shelf).kept},
		{"a log without its beginning", (*shelf).expired}, // last: it takes the beginning away
	} {
		if !t.Run(chapter.name, func(t *testing.T) { chapter.tell(s, t) }) {
			s.rest()
		}
	}
	if code := s.publisher.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("the publisher ends with %d", code)
	}
}

// revive restores and wants a proof.
func (s *shelf) revive(t *testing.T, replica database, args ...string) restored {
	t.Helper()
	code, stdout, stderr := s.run(t, s.restoring(s.policy, replica, args...))
	if code != 0 {
		t.Fatalf("restore ends with %d: %s%s", code, stdout, stderr)
	}
	var r restored
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		t.Fatalf("%v: %s", err, stdout)
	}
	if p := r.Proof; p == nil || !p.Proven || p.Tables != len(shelfTables()) || p.Rows < shelfRows/2 || p.Remaining > 0 || len(r.Failed) > 0 {
		t.Errorf("it proves %+v: %s", p, stdout)
	}
	t.Logf("loaded %t (%s), played %+v, proof %+v", r.Loaded, r.Reason, r.Played, r.Proof)
	return r
}

// refuse restores in vain, and wants the reasons named and nothing written.
func (s *shelf) refuse(t *testing.T, policy string, replica database, args []string, words ...string) {
	t.Helper()
	before := everything(t, replica)
	code, stdout, stderr := s.run(t, s.restoring(policy, replica, args...))
	if code != 2 || strings.Contains(stdout, `"proven": true`) {
		t.Errorf("restore ends with %d: %s%s", code, stdout, stderr)
	}
	for _, word := range words {
		if !strings.Contains(stderr, word) {
			t.Errorf("it does not say %q: %s", word, stderr)
		}
	}
	if after := everything(t, replica); before != after {
		t.Errorf("before it was refused the replica had\n%s\nnow it has\n%s", before, after)
	}
}

// everything is a database's tables, outside the ledger, with their rows' versions and sums.
func everything(t *testing.T, d database) string {
	t.Helper()
	var all []string
	for _, table := range values[string](t, d, `SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema', 'trickle') ORDER BY 1`) {
		all = append(all, table+" "+value[string](t, d, fmt.Sprintf(`SELECT count(*) || ' ' || coalesce(sum(hashtextextended(t::text || t.xmin || t.ctid, 0)), 0) FROM %s t`, table)))
	}
	return strings.Join(all, "\n")
}

// dropped builds, writes on, loses a replica and restores it under load; once more there is nothing to load.
func (s *shelf) dropped(t *testing.T) {
	s.load(t)
	s.build(t)
	before := s.writer.Writes()
	await(t, patience, "writes since the set", func() bool { return s.writer.Writes() > before+200 })
	for range 2 { // the first time there is nothing to drop
		s.lose(t, "dropped").exec(t, `CREATE TABLE orders (id int)`)
	}
	replica := s.lose(t, "dropped")
	if r := s.revive(t, replica, "--play-forward"); !r.Loaded || r.Set == nil || r.Set.Set != s.newest(t) || r.Played == nil || r.Played.Applied < 200 {
		t.Errorf("it did %+v", r)
	}
	if s.writer.Writes() < before+300 {
		t.Error("hardly anything was written meanwhile")
	}
	s.identical(t, replica)
}

// killed kills a build, and restores at ten moments spread over what they do.
func (s *shelf) killed(t *testing.T) {
	s.load(t)
	before := s.sets(t)
	builder := start(t, s.building(s.policy))
	objects := func() int {
		files, err := filepath.Glob(filepath.Join(s.store, "shelf", "objects", "*", "*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(files)
	}
	had := objects()
	await(t, patience, "the build has stored something", func() bool { return objects() > had || !builder.running() })
	builder.kill()
	if now := s.sets(t); !slices.Equal(before, now) {
		t.Errorf("of a killed build there is %v, before there was %v", now, before)
	}
	s.build(t)

	replica := s.lose(t, "killed")
	met, order := map[string]int{}, []string{"", "loading", "loaded", "playing", "finishing", "proving"}
	for _, phase := range []string{"loading", "loading", "loading", "playing", "playing", "playing", "finishing", "proving", "proving", "proving"} {
		p := start(t, s.restoring(s.policy, replica, "--play-forward"))
		await(t, patience, "the restore is "+phase, func() bool { // or behind that already
			return !p.running() || slices.Index(order, s.state(t, replica)) >= slices.Index(order, phase)
		})
		within := map[string]time.Duration{"playing": 100 * time.Millisecond, "finishing": 50 * time.Millisecond}
		time.Sleep(time.Duration(s.random.Int64N(int64(cmp.Or(within[phase], 400*time.Millisecond)))))
		at := s.state(t, replica)
		p.kill()
		met[at]++
		if code := p.cmd.ProcessState.ExitCode(); code >= 0 {
			t.Fatalf("it ended by itself with %d, %s: %s", code, at, tail(p.stderr.String()))
		}
	}
	t.Logf("kills by state: %v", met)
	if met["loading"] == 0 || met["playing"]+met["finishing"] == 0 || met["proving"] == 0 {
		t.Error("the kills met too little: the test shows nothing")
	}
	s.revive(t, replica, "--play-forward")
	s.identical(t, replica)
}

// sunk restores for Debezium's own sink, which is started once its group is where it has to be.
func (s *shelf) sunk(t *testing.T) {
	s.load(t)
	replica := s.lose(t, "sunk")
	policy := s.policyWith(s.store, "1h", ", group: "+shelfGroup, "")
	restore := start(t, s.restoring(policy, replica, "--reset-group", shelfGroup))
	await(t, patience, "the group is set back", func() bool {
		if !restore.running() {
			t.Fatalf("restore ended with %d: %s", restore.cmd.ProcessState.ExitCode(), tail(restore.stderr.String()))
		}
		return s.state(t, replica) == "playing"
	})
	// The sink writes topic by topic, so it goes past foreign keys as replicas do.
	sink := s.source.Sink(strings.TrimPrefix(shelfGroup, "connect-"), replica.dsn, map[string]string{"connection.url": s.jdbc(replica)})
	if code := restore.wait(t, patience); code != 0 || !strings.Contains(restore.stdout.String(), `"proven": true`) {
		t.Fatalf("restore ends with %d: %s%s", code, restore.stdout.String(), tail(restore.stderr.String()))
	}
	set := []string{"--set", s.newest(t), "--replace", "--reset-group", shelfGroup}
	s.refuse(t, policy, s.lose(t, "member"), set, shelfGroup, "member")
	s.rest()
	await(t, patience, "the sink has written what was left", func() bool {
		all, err := workload.Compare(t.Context(), s.src.dsn, replica.dsn, shelfTables())
		return err == nil && workload.Identical(all)
	})
	s.same(t, replica)
	if err := sink.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// occupied has rows in the way, and tables that are none of the pipeline's.
func (s *shelf) occupied(t *testing.T) {
	replica := s.lose(t, "occupied")
	replica.exec(t, `CREATE SCHEMA own`, `CREATE TABLE own.notes (id int PRIMARY KEY, v text)`, `INSERT INTO own.notes SELECT i, 'note ' || i FROM generate_series(1, 100) i`,
		`CREATE TABLE public.labels (code text PRIMARY KEY, n int NOT NULL, big text)`, `INSERT INTO labels VALUES ('mine', 1, 'mine')`)
	s.refuse(t, s.policy, replica, []string{"--play-forward"}, "public.labels", "--replace")
	notes := func() string {
		return value[string](t, replica, `SELECT md5(string_agg(n::text || n.xmin || n.ctid, ',' ORDER BY id)) FROM own.notes n`)
	}
	before := notes()
	s.load(t)
	s.revive(t, replica, "--play-forward", "--replace")
	if after := notes(); before != after {
		t.Error("a table that is none of the pipeline's was touched")
	}
	s.identical(t, replica)
}

// newest is the newest complete set.
func (s *shelf) newest(t *testing.T) string {
	t.Helper()
	all := s.sets(t)
	if len(all) == 0 {
		t.Fatal("there is no set")
	}
	return all[len(all)-1]
}

// state is a restore's, as the replica's ledger has it.
func (s *shelf) state(t *testing.T, replica database) string {
	t.Helper()
	if !value[bool](t, replica, `SELECT to_regclass('trickle.restores') IS NOT NULL`) {
		return ""
	}
	return strings.Join(values[string](t, replica, `SELECT state FROM trickle.restores ORDER BY id`), " ")
}

// kept has the publisher refresh the view. It is alone then: one of a pipeline's builds.
func (s *shelf) kept(t *testing.T) {
	if code := s.publisher.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("the publisher ends with %d", code)
	}
	s.load(t)
	store := filepath.Join(t.TempDir(), "store")
	policy := s.policyOf(store, "3s")
	s.publisher = start(s.t, trickle("run", "--policy", policy, "--source", s.src.dsn, "--brokers", s.brokers(), "--listen", ""))
	var first string
	await(t, patience, "there is a set", func() bool {
		all := complete(t, store)
		if len(all) > 0 {
			first = all[0]
		}
		return len(all) > 0
	})
	await(t, patience, "old sets are gone", func() bool { return !slices.Contains(complete(t, store), first) })
	if n := len(complete(t, store)); n < 1 || n > 3 {
		t.Errorf("%d sets are kept", n)
	}
	replica := s.lose(t, "kept")
	code, stdout, stderr := s.run(t, s.restoring(policy, replica, "--play-forward"))
	var r restored
	if err := json.Unmarshal([]byte(stdout), &r); code != 0 || err != nil || !r.Loaded || r.Set == nil || r.Proof == nil || !r.Proof.Proven {
		t.Fatalf("restore ends with %d: %s%s", code, stdout, stderr)
	}
	s.identical(t, replica)
}

// expired takes away the log that a replica needs, which a fresh view makes up for; and then what that needs.
func (s *shelf) expired(t *testing.T) {
	s.load(t)
	late := s.lose(t, "late")
	s.revive(t, late, "--play-forward")
	before := s.writer.Writes()
	await(t, patience, "writes that it lacks", func() bool { return s.writer.Writes() > before+100 })
	s.cut(t)
	s.build(t)
	s.refuse(t, s.policy, late, []string{"--play-forward"}, "--replace", "public.orders")
	s.refuse(t, s.policy, late, []string{"--play-forward", "--replace"}, "visits_seat_fkey", "session_replication_role") // the table stands, with its foreign key
	usual := s.policy
	s.policy = s.policyWith(s.store, "1h", "", ", session_replication_role: replica")
	if r := s.revive(t, late, "--play-forward", "--replace"); !r.Loaded {
		t.Errorf("it was not loaded: %s", r.Reason)
	}
	s.policy = usual
	s.identical(t, late)
	lost := s.lose(t, "lost")
	s.load(t)
	before = s.writer.Writes()
	await(t, patience, "writes since the set", func() bool { return s.writer.Writes() > before+100 })
	s.rest()
	s.cut(t)
	s.refuse(t, s.policy, lost, []string{"--play-forward"}, "resync")
}
