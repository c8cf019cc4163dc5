package ledger_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/policy"
)

// lines are a journal's, in short.
func lines(list []ledger.Recorded) string {
	ids := make([]string, len(list))
	for i, c := range list {
		ids[i] = c.ID.String()
	}
	return strings.Join(ids, " ")
}

func TestCorrectionsAreFound(t *testing.T) {
	t.Parallel()
	l, pool := fresh(t)
	row := func(id int, v string) *string {
		s := fmt.Sprintf(`{"id": %d, "v": %q, "w": null}`, id, v)
		return &s
	}
	key := func(id int) string { return fmt.Sprintf(`{"id": %d}`, id) }
	journal(t, pool, l,
		ledger.Entry{Key: message.Key{"1"}, KeyJSON: key(1), Kind: drift.Missing, After: row(1, "a"), TraceID: "00ff", Version: 7},
		ledger.Entry{Key: message.Key{"2"}, KeyJSON: key(2), Kind: drift.Mismatched, Before: row(2, "x"), After: row(2, "b"), ResyncID: "r1"},
		ledger.Entry{Key: message.Key{"3"}, KeyJSON: key(3), Kind: drift.Extra, Before: row(3, "c")},
		ledger.Entry{Key: message.Key{"1", "b"}, KeyJSON: `{"id": 1, "k": "b"}`, Kind: drift.Extra, Before: row(1, "c")})
	must(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		_, err := l.Copied(t.Context(), tx, "public.u", ledger.Copied{Copy: drift.Copy{Range: rng("", "9"), Print: digest.Thumbprint{Rows: 5}, ResyncID: "r1"}, Version: 8, Undo: "DELETE"})
		return err
	}))
	closeAll(t, l, entry.Confirmed, 1)
	closeAll(t, l, entry.Superseded, 2)
	must(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		return l.Undone(t.Context(), tx, ledger.CorrectionID{N: 3}, 99)
	}))
	exec(t, pool, `UPDATE trickle.corrections SET at = '2026-01-01'::timestamptz + id * interval '1 hour'; UPDATE trickle.copies SET at = '2026-01-01 03:00Z'`)
	exec(t, pool, `INSERT INTO trickle.corrections (pipeline, table_name, key, kind, key_text, version) VALUES ('other', 'public.t', '{"id": 1}', 'extra', '{1}', 1)`)
	at := func(hour int) time.Time { return time.Date(2026, 1, 1, hour, 0, 0, 0, time.UTC) }
	for _, c := range []struct {
		name string
		f    ledger.Filter
		want string
	}{
		{"all, newest first, and of the same time copies first", ledger.Filter{}, "4 copy-1 3 2 1"},
		{"a table", ledger.Filter{Tables: []string{"public.u", "public.v"}}, "copy-1"},
		{"kinds", ledger.Filter{Kinds: []string{"missing", ledger.KindCopied}}, "copy-1 1"},
		{"a time", ledger.Filter{Since: at(2), Until: at(4)}, "copy-1 3 2"},
		{"a resync", ledger.Filter{Resync: "r1"}, "copy-1 2"},
		{"a trace", ledger.Filter{Trace: "00ff"}, "1"},
		{"open ones", ledger.Filter{Outcomes: []string{ledger.OutcomeOpen}}, "4 copy-1"},
		{"closed ones", ledger.Filter{Outcomes: []string{entry.Confirmed, entry.Superseded}}, "2 1"},
		{"undone ones", ledger.Filter{Outcomes: []string{ledger.OutcomeUndone}}, "3"},
		{"the others", ledger.Filter{NotUndone: true}, "4 copy-1 2 1"},
		{"a key", ledger.Filter{Key: message.Key{"1"}}, "1"},
		{"a key of two columns", ledger.Filter{Key: message.Key{"1", "b"}}, "4"},
		{"a part of a key", ledger.Filter{KeyJSON: `{"id": 1}`}, "4 1"},
		{"a key's hash", ledger.Filter{KeyHash: policy.Privacy{}.Key("2")}, "2"},
		{"a hash of two columns", ledger.Filter{KeyHash: policy.Privacy{}.Key(message.Key{"1", "b"}.String())}, "4"},
		{"ids", ledger.Filter{IDs: []ledger.CorrectionID{{N: 1}, {N: 9}, {Copy: true, N: 1}}}, "copy-1 1"},
		{"a copy alone", ledger.Filter{IDs: []ledger.CorrectionID{{Copy: true, N: 1}}}, "copy-1"},
		{"nothing", ledger.Filter{Tables: []string{"public.t"}, Kinds: []string{ledger.KindCopied}}, ""},
	} {
		list, err := l.Corrections(t.Context(), c.f)
		must(t, err)
		if got := lines(list); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		for limit := range 3 { // the same in pages, though each begins anew from what a person was told
			var pages []ledger.Recorded
			for f := c.f; limit > 0; {
				f.Limit = limit
				page, err := l.Corrections(t.Context(), f)
				must(t, err)
				if pages = append(pages, page...); len(page) < limit {
					break
				}
				f.After, err = ledger.ParseCursor(page[len(page)-1].Cursor().String())
				must(t, err)
			}
			if got := lines(pages); limit > 0 && got != c.want {
				t.Errorf("%s, %d at a time: %s, want %s", c.name, limit, got, c.want)
			}
		}
	}
	list, err := l.Corrections(t.Context(), ledger.Filter{IDs: []ledger.CorrectionID{{N: 2}, {N: 3}, {Copy: true, N: 1}}})
	must(t, err)
	changed, err := list[2].Changed()
	if err != nil || !slices.Equal(changed, []string{"v"}) || !strings.Contains(*list[2].Before, `"v": "x"`) || list[2].ResyncID != "r1" || list[2].Outcome != entry.Superseded {
		t.Errorf("%+v, changed %v, %v", list[2], changed, err)
	}
	if c := list[1]; c.UndoneAt == nil || c.ClosedAt == nil || c.After != nil {
		t.Errorf("%+v", c)
	}
	if c := list[0]; c.Rows != 5 || c.Range.String() != "(-inf, 9]" || c.Undo != "DELETE" || c.Version != 8 {
		t.Errorf("%+v", c)
	}
}

// What people hand back is read as it was given out, and nothing else is.
func TestNamesOfCorrections(t *testing.T) {
	t.Parallel()
	for text, ok := range map[string]bool{"1": true, "copy-12": true, "": false, "0": false, "-1": false, "copy-": false, "copy-x": false, "1;": false} {
		id, err := ledger.ParseCorrectionID(text)
		if (err == nil) != ok || ok && id.String() != text {
			t.Errorf("%q: %v, %v", text, id, err)
		}
	}
	c := ledger.Cursor{At: time.Date(2026, 2, 3, 4, 5, 6, 789000, time.UTC), ID: ledger.CorrectionID{Copy: true, N: 5}}
	if got, err := ledger.ParseCursor(c.String()); err != nil || got != c {
		t.Errorf("%s became %+v, %v", c, got, err)
	}
	for _, text := range []string{"x", "abc.", ".1", "!.1"} {
		if _, err := ledger.ParseCursor(text); err == nil || !strings.Contains(err.Error(), "no cursor") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// A ledger of an older version is no place to undo in, and says what makes it one. Migrating it does.
func TestALedgerFromBeforeCorrectionsCouldBeUndone(t *testing.T) {
	t.Parallel()
	l, pool := fresh(t)
	exec(t, pool, `ALTER TABLE trickle.corrections DROP COLUMN undone_version`)
	if _, err := l.Later(t.Context(), []int64{1}); err != nil {
		t.Error(err)
	}
	undone := func() error {
		return pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error { return l.Undone(t.Context(), tx, ledger.CorrectionID{N: 1}, 1) })
	}
	if err := undone(); !errors.Is(err, ledger.ErrOutdated) {
		t.Errorf("got %v", err)
	}
	must(t, l.Migrate(t.Context()))
	if err := undone(); err == nil || errors.Is(err, ledger.ErrOutdated) {
		t.Errorf("got %v", err)
	}
	if _, err := ledger.New(open(t, pgtest.Database(t)), "p").Corrections(t.Context(), ledger.Filter{}); !errors.Is(err, ledger.ErrNotMigrated) {
		t.Errorf("no schema: %v", err)
	}
}
