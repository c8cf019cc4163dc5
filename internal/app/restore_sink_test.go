package app

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/transport"
)

// What expires before the sink has read it ends the restore, and says what to do: before the group's offsets are set, and while the sink is waited for, in that run and the next.
func TestRestoreForASinkThatComesTooLate(t *testing.T) {
	t.Parallel()
	r := newRestoreRig(t)
	r.change(1, "one")
	r.build()
	r.change(2, "two")
	r.change(3, "three")
	expire := func(before int64) {
		t.Helper()
		if err := r.cluster.DeleteRecords(cdcTopic, 0, before); err != nil {
			t.Fatal(err)
		}
	}
	ways := []string{cdcTopic + "[0]", "offset 1", "has expired", "the oldest that is left is 2", "--set, with --replace", "trickle-consumer resync"}
	o := RestoreOptions{ResetGroup: "sink", NoProof: true, Jobs: 1, Progress: func(p RestoreProgress) {
		if p.Phase == PhasePlay {
			expire(2)
		}
	}}
	r.refused(o, append(ways, "consumer group sink", "before the sink has read it")...)
	o.Progress = nil
	r.refused(o, append(ways, "consumer group sink")...)

	r.build()
	r.change(4, "four")
	o.Replace, o.Set = true, r.build().Set
	r.change(5, "five")
	o.Progress = func(p RestoreProgress) {
		if p.Phase == PhaseLoad && p.Load.Ranges == p.Load.RangesDone {
			expire(5)
		}
	}
	r.refused(o, "offset 4", "has expired", "--set, with --replace", "trickle-consumer resync")
}

// Only what a sink has yet to read counts as lost.
func TestWhatASinkHasMissed(t *testing.T) {
	t.Parallel()
	at := func(start, committed, done, end int64) transport.PartitionProgress {
		return transport.PartitionProgress{Topic: "shop.public.t", Start: start, Committed: committed, Done: done, End: end}
	}
	of := func(topic string, p transport.PartitionProgress) transport.PartitionProgress {
		p.Topic = topic
		return p
	}
	for _, c := range []struct {
		name  string
		looks []transport.PartitionProgress
		lost  int64 // from where on; -1: nothing
		noted bool
	}{
		{"read in time", []transport.PartitionProgress{at(0, 5, 5, 9), at(5, 9, 9, 9)}, -1, false},
		{"expired while it was stopped", []transport.PartitionProgress{at(0, 5, 5, 9), at(6, 5, 6, 9)}, 5, false},
		{"expired before the first look", []transport.PartitionProgress{at(6, 5, 6, 9)}, 5, false},
		{"nothing but a mark expired", []transport.PartitionProgress{at(0, 5, 6, 9), at(6, 5, 6, 9)}, -1, false},
		{"a record behind the mark, too", []transport.PartitionProgress{at(0, 5, 6, 9), at(7, 5, 7, 9)}, 6, false},
		{"it may have read it in between", []transport.PartitionProgress{at(0, 5, 5, 9), at(6, 7, 7, 9)}, -1, true},
		{"it reads another partition", []transport.PartitionProgress{at(6, -1, 6, 9)}, -1, false},
		{"another topic", []transport.PartitionProgress{of("others", at(6, 5, 6, 9))}, -1, false},
		{"a heartbeat", []transport.PartitionProgress{of("__debezium-heartbeat.shop", at(6, 5, 6, 9))}, -1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := sinkWatch{
				restoration: &restoration{Settings: Settings{Log: slog.New(slog.DiscardHandler)}, policy: &policy.Policy{}}, topics: []string{"shop.public.t", "__debezium-heartbeat.shop"},
				read: map[transport.Partition]int64{},
			}
			var err error
			for _, look := range c.looks {
				if err != nil {
					t.Fatal(err)
				}
				err = w.look(transport.Progress{Partitions: []transport.PartitionProgress{look}})
			}
			var lost *transport.LostError
			if errors.As(err, &lost) != (c.lost >= 0) || lost != nil && lost.Offset != c.lost {
				t.Errorf("got %v", err)
			}
			if noted := strings.Contains(strings.Join(w.report.Notes, ""), "may have missed"); noted != c.noted {
				t.Errorf("it notes %q", w.report.Notes)
			}
		})
	}
}
