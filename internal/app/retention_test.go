package app

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/internal/testbed/output"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/policy"
)

type trims func(keep time.Duration) (int, error)

func (f trims) Trim(_ context.Context, keep time.Duration) (int, error) { return f(keep) }

// Where more is left it goes on after a second, never at once, and by the policy of that moment.
func TestTrimmer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		keep  policy.Retention
		n     int
		err   error
		asked bool
		next  time.Duration
	}{
		{"more is left", policy.Retention(48 * time.Hour), ledger.TrimMost, nil, true, time.Second},
		{"the rest", policy.Retention(48 * time.Hour), 3, nil, true, time.Minute},
		{"nothing", policy.Retention(48 * time.Hour), 0, nil, true, time.Minute},
		{"it fails", policy.Retention(48 * time.Hour), 0, errors.New("away"), true, time.Minute},
		{"for ever", policy.Forever, ledger.TrimMost, nil, false, time.Minute},
	} {
		var out output.Buffer
		asked := false
		w := trimmer{
			policy: func() *policy.Policy { return &policy.Policy{Detect: policy.Detect{Journal: c.keep}} },
			log:    slog.New(slog.NewTextHandler(&out, nil)),
			ledger: trims(func(keep time.Duration) (int, error) {
				asked = keep == time.Duration(c.keep)
				return c.n, c.err
			}),
		}
		if next := w.runOnce(t.Context()); next != c.next || asked != c.asked || strings.Contains(out.String(), "away") != (c.err != nil) {
			t.Errorf("%s: again in %s, asked %t, log %s", c.name, next, asked, out.String())
		}
	}
}
