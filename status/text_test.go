package status_test

import (
	"strings"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/status"
)

// Whoever reads the replica's status sees what the publisher does not scan, beside what the detector itself has against a table.
func TestTextTellsWhatIsNotScanned(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	told := &ledger.UnscannedReport{Reason: "it has no key", Since: now.Add(-3 * time.Minute)}
	text := status.Text(ledger.Report{Tables: []ledger.TableReport{
		{Table: "public.fine", Replica: "public.fine", Coverage: 1}, {Table: "public.nokey", Replica: "cache.nokey", Paused: "the schema differs", Unscanned: told},
	}}, status.Look{Now: now})
	for _, want := range []string{"unscanned public.nokey: the publisher has not scanned it for 3m: it has no key\n", "paused    public.nokey: the schema differs\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("nothing says %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "public.fine: ") {
		t.Errorf("something is told of the other table:\n%s", text)
	}
}
