package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/internal/command"
	"github.com/trickle-verify/trickle/ledger"
)

// Who asks for what the journal does not keep any more is told so, and how far back it goes; who does not is not.
func TestWhatHasLeftTheJournal(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.decide("detect: {journal: 30d}\n")
	o.exec(`UPDATE trickle.corrections SET closed_at = now(), at = now() - interval '40 days' WHERE id < 3`)
	if n, err := ledger.New(o.pool, "p").Trim(t.Context(), 30*24*time.Hour); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	const told = "the journal keeps 30d (detect.journal): what was written until "
	for _, c := range []struct {
		args string
		told bool
	}{
		{"corrections", true},
		{"corrections --since 35d", false},
		{"corrections --since 60d", true},
		{"corrections --key 1", true},
		{"corrections --since 1h --key 1", false},
		{"corrections --limit 1", false}, // there is more
		{"corrections --since 60d --format json", true},
		{"undo --since 60d --dry-run", true},
		{"undo --since 60d --until 50d --dry-run", true},
		{"undo --since 1h --dry-run", false},
		{"undo 1 --dry-run", true},
		{"undo 3 --dry-run", false},
	} {
		out, err := o.run(strings.Fields(c.args)...)
		if err != nil && !errors.Is(err, command.ErrFound) {
			t.Errorf("%s: %v", c.args, err)
		}
		if strings.Contains(out, told) != c.told || c.told && !strings.Contains(out, "the oldest there is of "+time.Now().UTC().Format("2006-")) {
			t.Errorf("%s says\n%s", c.args, out)
		}
	}
	o.decide("detect: {journal: forever}\n")
	if out, err := o.run("corrections"); err != nil || !strings.Contains(out, "before detect.journal was forever") {
		t.Errorf("%v\n%s", err, out)
	}
}
