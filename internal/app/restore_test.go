package app

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/transport"
)

// A lost replica is loaded, brought up to date and proven.
func TestRestoreAndPlayForward(t *testing.T) {
	t.Parallel()
	r := newRestoreRig(t)
	r.publish()
	set := r.build()
	r.change(5, "changed")
	r.change(6, "")
	r.change(2000, "new")
	r.exec(r.src, `UPDATE t SET v = 'unheard of' WHERE id = 9`) // so there is something to prove
	report, err := r.restore(RestoreOptions{PlayForward: true, Jobs: 2})
	if err != nil {
		t.Fatal(err)
	}
	r.identical()
	if !report.Loaded || report.Set.Set != set.Set || report.Set.Rows != 1000 || report.Set.Ranges < 3 || report.Played.Applied != 3 || !report.Sound() {
		t.Errorf("%+v\n%+v\n%+v", report, report.Set, report.Played)
	}
	if p := report.Proof; p == nil || !p.Proven || p.Corrected != 1 || p.Remaining != 0 || p.Agreed != p.Ranges-1 || p.Done != p.Ranges || p.Rows < 1000 {
		t.Errorf("%+v", p)
	}
	if len(report.Made) != 1 || !strings.Contains(report.Made[0], "t_v_key") {
		t.Errorf("made: %v", report.Made)
	}
	if got := r.value(r.dst, `SELECT state FROM trickle.restores`); got != "done" {
		t.Errorf("the restore is %s", got)
	}
	// Once more there is nothing to load, even though the store has gone.
	r.change(7, "later")
	report, err = r.restore(RestoreOptions{PlayForward: true, Jobs: 2})
	if err != nil {
		t.Fatal(err)
	}
	r.identical()
	if report.Loaded || report.Played.Applied != 1 || !strings.Contains(report.Reason, "nothing was loaded") || !report.Proof.Proven {
		t.Errorf("%+v", report)
	}
	// A table that was lost beside the read point is no replica.
	r.exec(r.dst, `TRUNCATE t`)
	if report, err = r.restore(RestoreOptions{PlayForward: true, Jobs: 2}); err != nil {
		t.Fatal(err)
	}
	r.identical()
	if !report.Loaded || !strings.Contains(report.Reason, "is empty in the replica") {
		t.Errorf("%+v", report)
	}
}

// Where the gate goes by the heartbeat, it comes through whoever plays forward, and does so while the replica proves itself.
func TestRestoreProvesItselfByTheHeartbeat(t *testing.T) {
	t.Parallel()
	r := newRestoreRig(t)
	r.policy(strings.Replace(restorePolicy, "gate: {assume_lag: 100ms}", "gate: {heartbeat: {in_commit_order: true}}", 1))
	r.publish()
	r.beats()
	r.build()
	r.change(5, "changed")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	late := false
	report, err := Restore(ctx, r.settings, RestoreOptions{PlayForward: true, Follow: true, Jobs: 2, Progress: func(p RestoreProgress) {
		switch {
		case p.Phase == PhaseProve && !late:
			late = true
			r.change(6, "while it is being proven")
		case p.Phase == PhaseFollow:
			cancel() // as an interrupt ends it
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	r.identical()
	if !report.Sound() || !report.Proof.Proven || report.Played.Applied < 3 || !late {
		t.Errorf("%+v\n%+v", report, report.Proof)
	}
}

// Whatever is in the way is named, with what to do, and nothing is written.
func TestRestoreRefuses(t *testing.T) {
	t.Parallel()
	r := newRestoreRig(t)
	play := RestoreOptions{PlayForward: true, Jobs: 1}
	r.refused(RestoreOptions{PlayForward: true, ResetGroup: "sink"}, "give one of them")
	r.refused(RestoreOptions{ResetGroup: "sink", Follow: true}, "--play-forward too")
	r.refused(play, "is not there", "trickle baseline build")
	brokers := r.settings.Brokers
	r.settings.Brokers = nil
	r.refused(play, "no Kafka given", "--brokers")
	r.settings.Brokers = brokers
	set := r.build()
	r.refused(RestoreOptions{Jobs: 1}, "has to be loaded", "--play-forward", "--reset-group")
	r.refused(RestoreOptions{PlayForward: true, Set: "20260101T000000Z-00000000"}, "no such set")
	r.change(1, "one")
	if err := r.cluster.DeleteRecords(cdcTopic, 0, 1); err != nil {
		t.Fatal(err)
	}
	r.refused(play, set.Set, "the log has expired", "trickle-consumer resync")
	r.untouched()

	newer := r.build()
	r.exec(r.dst, `CREATE TABLE t (id bigint PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'mine')`)
	r.refused(play, newer.Set, "public.t", "--replace")
	if got := r.value(r.dst, `SELECT v FROM t`); got != "mine" {
		t.Errorf("the replica has %q", got)
	}
	r.exec(r.dst, `DROP TABLE t`)
	objects, err := filepath.Glob(filepath.Join(strings.TrimPrefix(r.store, "file://"), "shop", "objects", "*", "*.zst"))
	if err != nil || len(objects) == 0 {
		t.Fatal(objects, err)
	}
	for _, o := range objects {
		if err := os.Remove(o); err != nil {
			t.Fatal(err)
		}
	}
	r.refused(play, "missing")
	r.untouched()
}

// A replica that is pinned to another source takes no set of this one.
func TestRestoreRefusesAnotherSource(t *testing.T) {
	t.Parallel()
	r := newRestoreRig(t)
	r.build()
	book := ledger.New(r.dst, "shop")
	if err := book.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := book.Pin(t.Context(), "7/other"); err != nil {
		t.Fatal(err)
	}
	r.refused(RestoreOptions{PlayForward: true, Jobs: 1}, "7/other", "trickle-consumer pin")
	if got := r.value(r.dst, `SELECT to_regclass('public.t')`); got != "" {
		t.Errorf("%s was made", got)
	}
}

// A run that was interrupted goes on, under the same arguments only.
func TestRestoreGoesOn(t *testing.T) {
	t.Parallel()
	for _, phase := range []string{PhaseLoad, PhasePlay, PhaseFinish} {
		t.Run(phase, func(t *testing.T) {
			t.Parallel()
			r := newRestoreRig(t)
			r.build()
			r.change(5, "changed")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			_, err := Restore(ctx, r.settings, RestoreOptions{PlayForward: true, NoProof: true, Jobs: 1, Progress: func(p RestoreProgress) {
				if p.Phase == phase && (phase != PhaseLoad || p.Load.RangesDone == 1) {
					cancel()
				}
			}})
			if err == nil {
				t.Fatal("it was not interrupted")
			}
			r.refused(RestoreOptions{ResetGroup: "sink", Jobs: 1}, "--play-forward", "is under way", "--replace --set")
			r.refused(RestoreOptions{PlayForward: true, Set: "20260101T000000Z-00000000", Jobs: 1}, "is under way")
			r.change(6, "changed too")
			report, err := r.restore(RestoreOptions{PlayForward: true, NoProof: true, Jobs: 1})
			if err != nil {
				t.Fatal(err)
			}
			r.identical()
			if !report.Resumed || report.Proof != nil {
				t.Errorf("%+v", report)
			}
			if got := r.value(r.dst, `SELECT string_agg(state, ' ') FROM trickle.restores`); got != "done" {
				t.Errorf("restores are %s", got)
			}
		})
	}
}

// The user's own sink is given the set's position, is waited for, and has no members before.
func TestRestoreForASink(t *testing.T) {
	t.Parallel()
	r := newRestoreRig(t)
	r.change(1, "one")
	r.build()
	r.change(2, "two")
	sink := func() *kgo.Client {
		cl, err := kgo.NewClient(kgo.SeedBrokers(r.cluster.ListenAddrs()...), kgo.ConsumerGroup("sink"), kgo.ConsumeTopics(cdcTopic), kgo.ClientID("the-sink"), kgo.DisableAutoCommit())
		if err != nil {
			t.Fatal(err)
		}
		return cl
	}
	first := sink()
	for joined := false; !joined; {
		members, err := r.kafka.Members(t.Context(), "sink")
		if err != nil {
			t.Fatal(err)
		}
		joined = len(members) > 0
	}
	o := RestoreOptions{ResetGroup: "sink", NoProof: true, Jobs: 1}
	r.refused(o, "sink has members", "the-sink at")
	r.untouched()
	first.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var second *kgo.Client
	var offset int64 = -1
	o.Progress = func(p RestoreProgress) {
		if p.Phase != PhasePlay || second != nil {
			return
		}
		second = sink()
		for _, record := range second.PollFetches(ctx).Records() {
			if offset < 0 {
				offset = record.Offset
			}
			r.exec(r.dst, `UPDATE t SET v = 'two' WHERE id = 2`)
			if err := second.CommitRecords(ctx, record); err != nil {
				t.Error(err)
			}
		}
	}
	report, err := Restore(ctx, r.settings, o)
	if second != nil {
		second.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	r.identical()
	if report.Group != "sink" || offset != 1 || len(report.Made) != 1 {
		t.Errorf("the sink began at %d: %+v", offset, report)
	}
	// The same again finds that nothing has to be loaded, and leaves the group alone.
	o.Progress = nil
	report, err = r.restore(o)
	if err != nil || report.Loaded || !strings.Contains(strings.Join(report.Notes, " "), "only has to be started") {
		t.Errorf("%+v, %v", report, err)
	}
	// In a database that was dropped and made again the group's offsets say nothing.
	r.exec(r.dst, `DROP TABLE t; DROP SCHEMA trickle CASCADE; CREATE TABLE t (id bigint PRIMARY KEY, v text)`)
	r.settings.Brokers = r.cluster.ListenAddrs()
	bounded, stop := context.WithCancel(t.Context())
	defer stop()
	o.Progress = func(p RestoreProgress) {
		if p.Phase == PhasePlay {
			stop()
		}
	}
	report, err = Restore(bounded, r.settings, o)
	if !errors.Is(err, context.Canceled) || !report.Loaded || !strings.Contains(report.Reason, "no ledger") {
		t.Errorf("%+v, %v", report, err)
	}
	if at, err := r.kafka.Committed(t.Context(), "sink", []string{cdcTopic}); err != nil || at[0].Offsets[0] != 1 {
		t.Errorf("the group is at %v, %v", at, err)
	}
}

// Where nobody answers, or the replica's lag is not known, the replica is restored and not proven.
func TestRestoreThatIsNotProven(t *testing.T) {
	t.Parallel()
	for why, prepare := range map[string]func(r *restoreRig){
		"no publisher of pipeline shop has answered": func(*restoreRig) {},
		"no gate is configured": func(r *restoreRig) {
			r.policy(strings.Replace(restorePolicy, "gate: {assume_lag: 100ms}", "", 1))
			r.publish()
		},
		"the publisher has not answered": func(r *restoreRig) { // about a slot that there is not
			r.policy(strings.Replace(restorePolicy, "gate: {assume_lag: 100ms}", "gate: {slot: none, group: sink}", 1))
			r.publish()
		},
	} {
		t.Run(why, func(t *testing.T) {
			t.Parallel()
			r := newRestoreRig(t)
			prepare(r)
			r.build()
			report, err := r.restore(RestoreOptions{PlayForward: true, Jobs: 1, answers: 5 * time.Second, opens: time.Second})
			if err != nil {
				t.Fatal(err)
			}
			r.identical()
			if report.Sound() || !strings.Contains(report.Proof.Why, "gate is closed") && !strings.Contains(report.Proof.Why, why) || !strings.Contains(strings.Join(report.Notes, " "), "trickle-consumer resync") {
				t.Errorf("%+v\n%+v", report, report.Proof)
			}
		})
	}
}

// A set that was changed in the store since replicas were told of it is refused before a row is written.
func TestRestoreComparesWithWhatTravelled(t *testing.T) {
	t.Parallel()
	r := newRestoreRig(t)
	set := r.build()
	id := set.Source
	if err := r.kafka.Ensure(t.Context(), verifyTopic(message.Topics{Pipeline: "shop"})); err != nil {
		t.Fatal(err)
	}
	tell := func(m *baseline.Manifest, amiss uint64) {
		t.Helper()
		env, err := announcement("shop", m, baseline.Codec{})
		if err != nil {
			t.Fatal(err)
		}
		env.GetBaseline().GetTables()[0].Rows += amiss
		value, err := message.Codec{}.Encode("shop.verify", env)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.kafka.SendTo(t.Context(), 3, transport.Record{Topic: "shop.verify", Value: value}); err != nil {
			t.Fatal(err)
		}
	}
	tell(set, 1)
	r.refused(RestoreOptions{PlayForward: true, Jobs: 1}, set.Set, "table public.t had 1001 rows and has 1000", "nothing was restored")
	r.untouched()
	r.build()
	newest := r.build()
	if newest.Source != id {
		t.Fatal(newest.Source)
	}
	tell(newest, 0)
	report, err := r.restore(RestoreOptions{PlayForward: true, NoProof: true, Jobs: 1})
	if err != nil || report.Set.Set != newest.Set || report.Set.Travelled != "agrees with what travelled in the data" {
		t.Errorf("%+v, %v", report.Set, err)
	}
	report, err = r.restore(RestoreOptions{PlayForward: true, NoProof: true, Jobs: 1, Set: set.Set, Replace: true})
	if err == nil {
		t.Errorf("%+v", report.Set)
	}
}
