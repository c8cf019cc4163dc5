package app

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Where the log ends within a transaction, what does not hold there is made once the rest has come: in the same run, or in the one after it was stopped while it proved the replica.
func TestTheLogEndsWithinATransaction(t *testing.T) {
	t.Parallel()
	for _, stopped := range []bool{false, true} {
		t.Run(fmt.Sprintf("stopped %t", stopped), func(t *testing.T) {
			t.Parallel()
			r := newRestoreRig(t)
			r.publish()
			r.build()
			r.exec(r.src, `UPDATE t SET v = '' WHERE id = 1`)
			r.exec(r.src, `UPDATE t SET v = 'value 1' WHERE id = 2`)
			r.exec(r.src, `UPDATE t SET v = 'value 2' WHERE id = 1`)
			half := func(id int, v string) {
				r.emit("t", "u", "null", fmt.Sprintf(`{"id":%d,"v":%q}`, id, v), fmt.Sprintf(`{"id":%d}`, id))
			}
			half(2, "value 1")
			var rest sync.Once
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			report, err := Restore(ctx, r.settings, RestoreOptions{PlayForward: true, Jobs: 1, Progress: func(p RestoreProgress) {
				switch {
				case p.Phase == PhaseFinish && !stopped:
					rest.Do(func() { half(1, "value 2") })
				case p.Phase == PhaseProve && stopped:
					cancel()
				}
			}})
			if stopped {
				if got := r.value(r.dst, `SELECT state FROM trickle.restores`); err == nil || got != "proving" {
					t.Fatalf("it is %s: %v", got, err)
				}
				half(1, "value 2")
				report, err = r.restore(RestoreOptions{PlayForward: true, Jobs: 1})
			}
			if err != nil {
				t.Fatal(err)
			}
			r.identical()
			if !report.Sound() || !slices.ContainsFunc(report.Made, func(what string) bool { return strings.Contains(what, "t_v_key") }) {
				t.Errorf("made %v, failed %v, proof %+v", report.Made, report.Failed, report.Proof)
			}
		})
	}
}

// The heartbeat comes by the log like any row, so its table is there before a sink begins.
func TestASinkFindsTheHeartbeatsTable(t *testing.T) {
	t.Parallel()
	r := newRestoreRig(t)
	r.policy(strings.Replace(restorePolicy, "assume_lag: 100ms", "heartbeat: true, slot: none, group: sink", 1))
	r.build()
	r.change(1, "since")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := Restore(ctx, r.settings, RestoreOptions{ResetGroup: "sink", Jobs: 1, Progress: func(p RestoreProgress) {
		if p.Phase == PhasePlay {
			cancel() // now it waits for the sink
		}
	}})
	if err == nil || r.value(r.dst, `SELECT to_regclass('trickle.heartbeat')`) == "" {
		t.Errorf("there is no heartbeat: %v", err)
	}
}
