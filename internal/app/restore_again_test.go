package app

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/transport"
)

// What a resync has looked at before the replica became what it is proves nothing of it.
func TestRestoreIsNotProvenByWhatWasSeenBefore(t *testing.T) {
	t.Parallel()
	r := newRestoreRig(t)
	r.publish()
	r.build()
	r.exec(r.dst, `CREATE TABLE t (id bigint PRIMARY KEY, v text)`)
	book := ledger.New(r.dst, "shop")
	if err := book.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := func(id string, waiting bool) {
		t.Helper()
		made, err := book.Request(t.Context(), entry.Wish{ID: id, Scope: entry.Full, Table: "public.t", Waiting: waiting})
		if err == nil && !waiting {
			if err = book.Plan(t.Context(), id, []message.Range{{}}); err == nil {
				err = book.Finish(t.Context(), id, entry.Piece{}, 1000)
			}
		}
		if err != nil || !made {
			t.Fatal(made, err)
		}
	}
	r.exec(r.src, `UPDATE t SET v = 'unheard of' WHERE id = 9`)
	for _, id := range []string{"running", "later", "waiting"} {
		before(id, id == "waiting")
		report, err := r.restore(RestoreOptions{PlayForward: true, Jobs: 1})
		if err != nil {
			t.Fatal(err)
		}
		r.identical()
		if report.Loaded != (id == "running") || !report.Sound() || report.Proof.Rows < 1000 || report.Proof.Corrected != 1 {
			t.Errorf("%s: %+v\n%+v", id, report, report.Proof)
		}
		if got := r.value(r.dst, `SELECT state FROM trickle.resyncs WHERE id = '`+id+`'`); got != "done" {
			t.Errorf("%s is %s", id, got)
		}
		r.exec(r.dst, `UPDATE t SET v = 'drifted' WHERE id = 11`)
	}
}

// A sink that is to bring what came since begins where the rows of the replica are, wherever its group has got: the database may have been put back from a backup.
func TestRestoreGivesTheSinkTheReadPoint(t *testing.T) {
	t.Parallel()
	r := newRestoreRig(t)
	r.build()
	r.change(5, "changed")
	if _, err := r.restore(RestoreOptions{PlayForward: true, NoProof: true, Jobs: 1}); err != nil {
		t.Fatal(err)
	}
	r.change(6, "after the backup")
	r.change(7, "after the backup, too")
	if err := r.kafka.CommitFor(t.Context(), "sink", transport.Position{{Topic: cdcTopic, Offsets: []int64{3}}}); err != nil {
		t.Fatal(err)
	}
	report, err := r.restore(RestoreOptions{Jobs: 1})
	if notes := strings.Join(report.Notes, " "); err != nil || report.Loaded || !strings.Contains(notes, "--reset-group GROUP") || strings.Contains(notes, "only has to be started") {
		t.Errorf("%+v, %v", report, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	report, err = Restore(ctx, r.settings, RestoreOptions{ResetGroup: "sink", NoProof: true, Jobs: 1, Progress: func(p RestoreProgress) {
		if p.Phase == PhasePlay && p.Left == 2 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) || report.Loaded || !strings.Contains(strings.Join(report.Notes, " "), "the replica's read point") {
		t.Errorf("%+v, %v", report, err)
	}
	if at, err := r.kafka.Committed(t.Context(), "sink", []string{cdcTopic}); err != nil || at[0].Offsets[0] != 1 {
		t.Errorf("the group is at %v, %v", at, err)
	}
}

// Nobody plays forward beside the sink that the gate goes by: each would put back what the other has written.
func TestRestoreIsNotBesideTheSink(t *testing.T) {
	t.Parallel()
	r := newRestoreRig(t)
	r.policy(strings.Replace(restorePolicy, "gate: {assume_lag: 100ms}", "gate: {slot: none, group: sink}", 1))
	r.build()
	cl, err := kgo.NewClient(kgo.SeedBrokers(r.cluster.ListenAddrs()...), kgo.ConsumerGroup("sink"), kgo.ConsumeTopics(cdcTopic), kgo.ClientID("the-sink"))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for joined := false; !joined; {
		members, err := r.kafka.Members(t.Context(), "sink")
		if err != nil {
			t.Fatal(err)
		}
		joined = len(members) > 0
	}
	o := RestoreOptions{PlayForward: true, NoProof: true, Jobs: 1}
	r.refused(o, "sink has members", "the-sink at")
	r.untouched()
	cl.Close()
	if _, err := r.restore(o); err != nil {
		t.Fatal(err)
	}
	r.identical()
}

// What could not be made is told of by whoever brings the restore to its end, though an earlier run has tried it.
func TestRestoreRemembersWhatItCouldNotMake(t *testing.T) {
	t.Parallel()
	r := newRestoreRig(t)
	r.build()
	r.emit("t", "u", "null", `{"id":5,"v":"value 6"}`, `{"id":5}`) // as another row has it
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var watch sync.WaitGroup
	watch.Go(func() {
		defer cancel()
		for state := ""; state != "proving" && ctx.Err() == nil; {
			_ = r.dst.QueryRow(ctx, `SELECT state FROM trickle.restores`).Scan(&state)
		}
	})
	_, err := Restore(ctx, r.settings, RestoreOptions{PlayForward: true, Jobs: 1}) // no publisher answers
	watch.Wait()
	if err == nil {
		t.Fatal("it was not interrupted")
	}
	// Where the set has gone since, nobody can try it again.
	if err := os.RemoveAll(strings.TrimPrefix(r.store, "file://")); err != nil {
		t.Fatal(err)
	}
	o := RestoreOptions{PlayForward: true, NoProof: true, Jobs: 1}
	report, err := r.restore(o)
	if err != nil || report.Sound() || len(report.Failed) != 1 || report.Failed[0].Name != "t_v_key" || !strings.Contains(report.Failed[0].SQL, "t_v_key") || report.Failed[0].Error == "" {
		t.Errorf("%+v, %v", report, err)
	}
}

// What fails names a range as privacy has its keys shown: in the error, and in what the replica remembers of it.
func TestRestoreShowsKeysAsPrivacyHasThem(t *testing.T) {
	t.Parallel()
	r := newRestoreRig(t)
	first := r.build().Tables[0].Objects[0]
	file := filepath.Join(strings.TrimPrefix(r.store, "file://"), "shop", filepath.FromSlash(first.Name))
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 4
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	shown := first.Range.Shown(policy.Privacy{}.Key)
	r.refused(RestoreOptions{PlayForward: true, Jobs: 1}, first.Name, shown)
	if got := r.value(r.dst, `SELECT failure FROM trickle.restores`); !strings.Contains(shown, "#") || !strings.Contains(got, shown) || strings.Contains(got, first.Range.String()) {
		t.Errorf("the replica remembers %s", got)
	}
}
