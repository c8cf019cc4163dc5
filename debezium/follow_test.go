package debezium_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/trickle-verify/trickle/debezium"
	"github.com/trickle-verify/trickle/entry"
)

const (
	own   = "trickle-r-1"
	other = "somebody else's"
)

func note(id, typ, collections string) debezium.Notification {
	return debezium.Notification{ID: id, Type: typ, Connector: "cdc", Collections: collections}
}

func scanned(id, table, status string) debezium.Notification {
	return debezium.Notification{ID: id, Type: debezium.TableScanCompleted, Connector: "cdc", Collections: "public.t", Scanned: table, Status: status, Rows: 7}
}

func follow(s entry.Snapshot, notes ...debezium.Notification) entry.Snapshot {
	for _, n := range notes {
		s = debezium.Follow(s, "public.t", n)
	}
	return s
}

func signalled() entry.Snapshot {
	return entry.Snapshot{ResyncID: "r", State: entry.SnapshotSignalled, Signal: own, Attempts: 1}
}

// Sequences as a real connector tells them.
func TestFollow(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		notes []debezium.Notification
		state string
		why   string // part of the failure
	}{
		{"by itself", []debezium.Notification{note(own, debezium.Started, "public.t"), note(own, debezium.InProgress, "public.t"), scanned(own, "public.t", "SUCCEEDED"), note(own, debezium.Completed, "")}, entry.SnapshotApplying, ""},
		{"no row in the range", []debezium.Notification{note(own, debezium.Started, "public.t"), scanned(own, "public.t", "EMPTY"), note(own, debezium.Completed, "")}, entry.SnapshotApplying, ""},
		{"not yet", []debezium.Notification{note(own, debezium.Started, "public.t"), scanned(own, "public.t", "SUCCEEDED")}, entry.SnapshotStarted, ""},
		{"another's", []debezium.Notification{note(other, debezium.Started, "public.t"), scanned(other, "public.t", "SUCCEEDED"), note(other, debezium.Completed, "")}, entry.SnapshotSignalled, ""},
		// A signal that meets a running snapshot gets no STARTED; and the running one goes on under its id.
		{"queued behind another's", []debezium.Notification{note(other, debezium.Started, "public.x"), note(own, debezium.InProgress, "public.x,public.t"), scanned(own, "public.x", "SUCCEEDED"),
			note(own, debezium.InProgress, "public.t"), scanned(own, "public.t", "SUCCEEDED"), note(own, debezium.Completed, "")}, entry.SnapshotApplying, ""},
		// One of the same table, with another filter, that ends under its id is not its own end.
		{"queued behind another's of the table", []debezium.Notification{scanned(own, "public.t", "SUCCEEDED"), scanned(own, "public.t", "SQL_EXCEPTION"), note(own, debezium.Completed, "")}, entry.SnapshotDue, "log has the reason"},
		{"overtaken by a newer signal", []debezium.Notification{note(own, debezium.Started, "public.t"), note(other, debezium.InProgress, "public.t,public.x"), scanned(other, "public.t", "SUCCEEDED"),
			scanned(other, "public.x", "SUCCEEDED"), note(other, debezium.Completed, "")}, entry.SnapshotApplying, ""},
		{"the end of what was before", []debezium.Notification{note(own, debezium.Completed, "")}, entry.SnapshotStarted, ""},
		{"a filter that is no SQL", []debezium.Notification{note(own, debezium.Started, "public.t"), scanned(own, "public.t", "SQL_EXCEPTION"), note(own, debezium.Completed, "")}, entry.SnapshotDue, "log has the reason"},
		{"a table that is not captured", []debezium.Notification{note(own, debezium.Started, `public\.t`), scanned(own, `public\.t`, "UNKNOWN_SCHEMA"), note(own, debezium.Completed, "")}, entry.SnapshotRefused, "table.include.list"},
		{"no key", []debezium.Notification{note(own, debezium.Started, "public.t"), scanned(own, "public.t", "NO_PRIMARY_KEY"), note(own, debezium.Completed, "")}, entry.SnapshotRefused, "primary key"},
		{"a name it can't read", []debezium.Notification{note(own, debezium.Started, "")}, entry.SnapshotRefused, "name"},
		{"an end that is new", []debezium.Notification{note(own, debezium.Started, "public.t"), scanned(own, "public.t", "MELTED"), note(own, debezium.Completed, "")}, entry.SnapshotDue, "MELTED"},
		{"stopped", []debezium.Notification{note(own, debezium.Started, "public.t"), note(own, debezium.Aborted, "public.t")}, entry.SnapshotDue, "stopped"},
		{"all stopped", []debezium.Notification{note(own, debezium.Started, "public.t"), note(own, debezium.Aborted, "")}, entry.SnapshotDue, "stopped"},
		{"another table stopped", []debezium.Notification{note(own, debezium.Started, "public.t"), note(own, debezium.Aborted, "public.tt")}, entry.SnapshotStarted, ""},
		{"paused", []debezium.Notification{note(own, debezium.Started, "public.t"), note(own, debezium.Paused, "public.t")}, entry.SnapshotPaused, ""},
		{"resumed", []debezium.Notification{note(own, debezium.Started, "public.t"), note(own, debezium.Paused, "public.t"), note(own, debezium.Resumed, "public.t")}, entry.SnapshotStarted, ""},
		{"resumed, and not told", []debezium.Notification{note(own, debezium.Started, "public.t"), note(own, debezium.Paused, "public.t"), note(own, debezium.InProgress, "public.t")}, entry.SnapshotStarted, ""},
		{"a kind of notification that is new", []debezium.Notification{note(own, debezium.Started, "public.t"), note(own, "TABLE_CHUNK_COMPLETED", "public.t")}, entry.SnapshotStarted, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := follow(signalled(), c.notes...)
			if got.State != c.state || !strings.Contains(got.Failure, c.why) || (c.why == "") != (got.Failure == "") {
				t.Errorf("%+v, want %s with %q", got, c.state, c.why)
			}
		})
	}
}

// Of an earlier attempt nothing counts, and once the table was read nothing changes that.
func TestFollowIgnoresWhatIsOver(t *testing.T) {
	t.Parallel()
	second := signalled()
	second.Signal, second.Attempts = "trickle-r-2", 2
	whole := []debezium.Notification{note(own, debezium.Started, "public.t"), scanned(own, "public.t", "SUCCEEDED"), note(own, debezium.Completed, "")}
	if got := follow(second, whole...); got != second {
		t.Errorf("the first attempt's end changed the second: %+v", got)
	}
	// They come again, because they could not be committed, when the second was taken already.
	taken := follow(second, note("trickle-r-2", debezium.Started, "public.t"))
	if got := follow(taken, whole...); got != taken {
		t.Errorf("the first attempt's end, told again, changed the second: %+v", got)
	}
	done := follow(signalled(), whole...)
	if got := follow(done, append(whole, note(own, debezium.Aborted, "public.t"))...); got != done {
		t.Errorf("told again: %+v, want %+v", got, done)
	}
	if done.Rows != 7 {
		t.Errorf("%d rows", done.Rows)
	}
}

// Whatever comes, and however often: read means that the table's own scan succeeded, and then the queue was drained, after the signal was taken.
func TestFollowNeverEndsEarly(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := signalled()
		taken, ok := false, false
		for range rapid.IntRange(0, 20).Draw(t, "notes") {
			n := debezium.Notification{
				ID:          rapid.SampledFrom([]string{own, other, ""}).Draw(t, "id"),
				Type:        rapid.SampledFrom([]string{debezium.Started, debezium.InProgress, debezium.Paused, debezium.Resumed, debezium.Aborted, debezium.TableScanCompleted, debezium.Completed}).Draw(t, "type"),
				Collections: rapid.SampledFrom([]string{"", "public.t", "public.x", "public.x,public.t"}).Draw(t, "collections"),
				Scanned:     rapid.SampledFrom([]string{"public.t", "public.x"}).Draw(t, "scanned"),
				Status:      rapid.SampledFrom([]string{"SUCCEEDED", "EMPTY", "SQL_EXCEPTION", "UNKNOWN_SCHEMA"}).Draw(t, "status"),
			}
			before := s
			s = debezium.Follow(s, "public.t", n)
			if before.State == entry.SnapshotSignalled && n.ID == own {
				taken = true
			}
			if taken && n.Type == debezium.TableScanCompleted && n.Scanned == "public.t" {
				ok = n.Status == "SUCCEEDED" || n.Status == "EMPTY"
			}
			if s.State == entry.SnapshotApplying && before.State != s.State && (!taken || !ok || n.Type != debezium.Completed) {
				t.Fatalf("taken %t, read %t, after %+v", taken, ok, n)
			}
			if before.State == entry.SnapshotApplying && s != before {
				t.Fatalf("it was read, and became %+v after %+v", s, n)
			}
		}
	})
}
