package ledger_test

import (
	"errors"
	"testing"

	"github.com/trickle-verify/trickle/ledger"
)

// A journal of any size comes line by line, in the order of a list, whole, and while it grows.
func TestEachLineOfTheJournal(t *testing.T) {
	t.Parallel()
	l, pool := fresh(t)
	exec(t, pool, `INSERT INTO trickle.corrections (pipeline, table_name, key, kind, before, key_text, version, at)
		SELECT 'p', 'public.t', jsonb_build_object('id', i), 'extra', jsonb_build_object('id', i, 'v', repeat('x', CASE WHEN i % 50 = 0 THEN 300000 ELSE 10 END)), ARRAY[i::text], 1, timestamptz '2026-01-01' + i / 7 * interval '1 s'
		FROM generate_series(1, 1500) i;
		INSERT INTO trickle.copies (pipeline, table_name, rows, version, undo, resync_id, piece, at) SELECT 'p', 'public.t', 1, 1, '', 'r', i, timestamptz '2026-01-01' + i * interval '10 s' FROM generate_series(1, 20) i`)
	want, err := l.Corrections(t.Context(), ledger.Filter{})
	must(t, err)
	for _, limit := range []int{0, 1, 100, 101, 1519, 1520, 2000} {
		var got []ledger.Recorded
		must(t, l.Each(t.Context(), ledger.Filter{Limit: limit}, func(c ledger.Recorded) error {
			if got = append(got, c); len(got)%500 == 1 {
				exec(t, pool, `INSERT INTO trickle.corrections (pipeline, table_name, key, kind, key_text, version) VALUES ('p', 'public.t', '{}', 'extra', '{}', 1)`) // newer than all
			}
			return nil
		}))
		n := len(want)
		if limit > 0 {
			n = min(n, limit)
		}
		if len(got) != n || lines(got) != lines(want[:n]) {
			t.Errorf("a limit of %d: %d lines, want %d", limit, len(got), n)
		}
		exec(t, pool, `DELETE FROM trickle.corrections WHERE at > now() - interval '1 hour'`)
	}
	enough := errors.New("enough")
	if err := l.Each(t.Context(), ledger.Filter{}, func(ledger.Recorded) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("stopped: %v", err)
	}
}
