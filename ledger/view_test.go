package ledger_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/message"
)

func TestViewShowsWhatAndWhere(t *testing.T) {
	t.Parallel()
	l, pool := fresh(t)
	must(t, l.SaveCycle(t.Context(), 2*hour))
	v, err := l.View(t.Context())
	must(t, err)
	if len(v.Strips) != 1 || len(v.Strips[0].Cells) != 1 || v.Strips[0].Cells[0].Verified != 0 || v.Tables[0].Estimate != nil || v.Cycle != 2*hour {
		t.Errorf("before anything was verified: %+v", v)
	}

	must(t, l.Record(t.Context(), verified(1, rng("", "10"), 100), nil, 0))
	must(t, l.Record(t.Context(), verified(2, rng("10", "20"), 100), []drift.Suspect{{Key: message.Key{"12"}, RangeID: 2, Range: rng("10", "20"), Last: &drift.Sighting{}}}, hour))
	differs := verified(3, rng("20", "30"), 200)
	differs.Equal = false
	must(t, l.Record(t.Context(), differs, nil, 0))
	exec(t, pool, `UPDATE trickle.ranges SET verified_at = clock_timestamp() - interval '1 hour' WHERE range_id = 1`)
	must(t, l.Count(t.Context(), table, []entry.Discrepancy{
		{Key: message.Key{"21"}, Kind: drift.Extra, Range: rng("20", "30"), RangeID: 3},
		{Key: message.Key{"1"}, Kind: drift.Missing, Range: rng("", "10"), RangeID: 77}, // its range has another number by now
	}))
	before, after := `{"id": 21, "a": 1, "b": null, "c": "same"}`, `{"id": 21, "a": 2, "b": "x", "c": "same"}`
	journal(t, pool, l, ledger.Entry{Key: message.Key{"1"}, KeyJSON: `{"id": 1}`, Kind: drift.Missing, After: &after, ResyncID: "r"},
		ledger.Entry{Key: message.Key{"21"}, KeyJSON: `{"id": 21}`, Kind: drift.Mismatched, Before: &before, After: &after, TraceID: "t"})
	exec(t, pool, `UPDATE trickle.corrections SET at = at - interval '3 minutes' WHERE kind = 'missing'`)
	v, err = l.View(t.Context())
	must(t, err)
	cells := v.Strips[0].Cells
	if len(cells) != 4 || cells[3].Verified != 0 || !slices.Equal(cells[3].Range.Lo, message.Key{"30"}) || cells[3].Range.Hi != nil {
		t.Fatalf("cells %+v", cells)
	}
	if cells[0].Drift != (ledger.Kinds{Missing: 1}) || cells[1].Suspects != 1 || cells[2].Drift != (ledger.Kinds{Extra: 1}) || cells[2].Differed != 1 || cells[1].Differed != 0 {
		t.Errorf("drift is marked elsewhere: %+v", cells)
	}
	if age := v.At.Sub(cells[0].Oldest); age < hour || age > hour+time.Minute {
		t.Errorf("the first range was verified %s ago", age)
	}
	if len(v.Recent) != 2 || fmt.Sprintf("%v %v %v %v %v", v.Recent[0].Columns, v.Recent[0].Before, v.Recent[0].After, v.Recent[0].Key, v.Recent[0].TraceID) != `[a b] [1 null] [2 "x"] 21 t` || v.Recent[0].Batch != nil {
		t.Errorf("recent %+v", v.Recent)
	}
	if b := v.Recent[1]; b.ResyncID != "r" || b.Batch == nil || *b.Batch != (ledger.Batch{Kinds: ledger.Kinds{Missing: 1}, Open: 1}) || b.Table != table {
		t.Errorf("what a resync wrote: %+v", b)
	}
	steps := v.Timeline.Steps
	if v.Timeline.Step != 10*time.Second || steps[len(steps)-1].Mismatched+steps[len(steps)-2].Mismatched != 1 || steps[len(steps)-19].Missing+steps[len(steps)-20].Missing != 1 {
		t.Errorf("timeline %+v", v.Timeline)
	}
	if v.Tallies[table].Discrepancies != 2 || v.Braking.Corrections != 1 || v.Braking.Deletes != 0 {
		t.Errorf("window %+v, brake %+v", v.Tallies, v.Braking)
	}
	// 400 rows were looked at, 3 drifted ones found; a half of 100 and the whole of as many as a range holds are unseen.
	e := v.Tables[0].Estimate
	if e == nil || e.Rows != 533 || e.Looked != 400 || e.Found != 3 || e.Known != 1 || e.Unseen < 183 || e.Unseen > 185 || e.AtMost <= e.Known || e.AtMost > 20 {
		t.Errorf("estimate %+v", e)
	}
	exec(t, pool, `INSERT INTO trickle.reported (pipeline, table_name, key, kind, range_id, cycle) VALUES ('p', 'public.t', '{14}', 'extra', 2, 1)`)
	v, err = l.View(t.Context())
	must(t, err)
	if cells := v.Strips[0].Cells; cells[1].Reported != (ledger.Kinds{Extra: 1}) || cells[0].Reported.All()+cells[2].Reported.All() != 0 || v.Tables[0].Reported.Extra != 1 {
		t.Errorf("what was left alone is elsewhere: %+v", cells)
	}
	exec(t, pool, `DELETE FROM trickle.reported`)
	// A full resync looks at all of them, and what came before it is mended.
	exec(t, pool, `INSERT INTO trickle.resyncs (id, pipeline, scope, table_name, state, reason, started_at) VALUES ('r', 'p', 'full', 'public.t', 'done', '', clock_timestamp());
		UPDATE trickle.corrections SET at = clock_timestamp() WHERE resync_id = 'r'`)
	r, err := l.Report(t.Context())
	must(t, err)
	if again := r.Tables[0].Estimate; again == nil || again.Rows != 533 || again.Found != 1 || again.Unseen < 133 || again.Unseen > 134 || again.AtMost >= e.AtMost {
		t.Errorf("after a full resync: estimate %+v, before it %+v", again, e)
	}
}

// However much a resync writes, it is one line, and single corrections stay in view.
func TestWhatAResyncWroteIsOneLine(t *testing.T) {
	t.Parallel()
	l, pool := fresh(t)
	exec(t, pool, `INSERT INTO trickle.corrections (at, pipeline, table_name, key, kind, key_text, version, resync_id, trace_id, closed_at, outcome, undone_at)
			SELECT clock_timestamp() - make_interval(secs => 1000 - n), 'p', 'public.t', '{}', CASE WHEN n % 10 = 0 THEN 'extra' WHEN n % 2 = 0 THEN 'mismatched' ELSE 'missing' END, ARRAY[n::text], 1,
				CASE WHEN n BETWEEN 101 AND 900 THEN 'a' WHEN n > 900 AND n <> 950 THEN 'b' END, CASE WHEN n <= 900 THEN 'older' ELSE 'newer' END, CASE WHEN n < 998 THEN now() END, 'confirmed', CASE WHEN n = 902 THEN now() END
			FROM generate_series(1, 1000) n;
		INSERT INTO trickle.copies (at, pipeline, table_name, rows, version, undo, resync_id, piece) VALUES (clock_timestamp() - interval '1 day', 'p', 'public.t', 5000, 1, '', 'b', 0), (clock_timestamp(), 'other', 'public.t', 7, 1, '', 'b', 0)`)
	v, err := l.View(t.Context())
	must(t, err)
	got := ""
	for _, c := range v.Recent {
		if c.Batch != nil {
			got += fmt.Sprint(c.ResyncID, " ", c.TraceID, " ", *c.Batch, ", ")
		} else {
			got += c.Key.String() + ", "
		}
	}
	want := "b newer {{5050 40 9} 5003 1}, 950, a older {{400 320 80} 0 0}, "
	for n := range 17 {
		want += fmt.Sprint(100-n, ", ")
	}
	if got != want {
		t.Errorf("recent: %s\nwant: %s", got, want)
	}
}

// What a page shows does not grow with the table.
func TestViewIsBounded(t *testing.T) {
	t.Parallel()
	l, pool := fresh(t)
	exec(t, pool, `INSERT INTO trickle.ranges (pipeline, table_name, range_id, lo, hi, cycle, rows, equal, verified_at)
			SELECT 'p', 'public.t', 7 * n % 100000, CASE WHEN n > 0 THEN ARRAY[n::text] END, CASE WHEN n < 99999 THEN ARRAY[(n + 1)::text] END, 1, 5000, n <> 50000, clock_timestamp()
			FROM generate_series(0, 99999) n;
		UPDATE trickle.tables SET ranges = 100000;
		INSERT INTO trickle.discrepancies (pipeline, table_name, key, kind, range_id, lo, hi, at)
			SELECT 'p', 'public.t', ARRAY[n::text], 'missing', 7 * n % 100000, ARRAY[n::text], ARRAY[(n + 1)::text], clock_timestamp() FROM generate_series(30000, 39999) n;
		INSERT INTO trickle.corrections (pipeline, table_name, key, kind, key_text, version) SELECT 'p', 'public.t', '{}', 'missing', ARRAY[n::text], 1 FROM generate_series(1, 20000) n`)
	start := time.Now()
	v, err := l.View(t.Context())
	must(t, err)
	t.Logf("a look at 100 000 ranges takes %s", time.Since(start))
	cells := v.Strips[0].Cells
	if len(cells) != 240 || len(v.Recent) != 20 || len(v.Timeline.Steps) != 60 {
		t.Errorf("%d cells, %d corrections, %d steps", len(cells), len(v.Recent), len(v.Timeline.Steps))
	}
	drifted, differed := 0, 0
	for i, c := range cells {
		if c.Verified != c.Ranges || c.Ranges < 416 || c.Ranges > 417 {
			t.Fatalf("cell %d is %+v", i, c)
		}
		drifted, differed = drifted+c.Drift.Missing, differed+c.Differed
		if (c.Drift.Missing > 0) != (i >= 72 && i <= 95) {
			t.Errorf("cell %d has %d missing", i, c.Drift.Missing)
		}
	}
	if drifted != 10_000 || differed != 1 || cells[120].Differed+cells[119].Differed != 1 {
		t.Errorf("%d drifted rows in the strip, %d ranges that differed", drifted, differed)
	}
}
