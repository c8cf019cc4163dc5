package scanner

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/trickle-verify/trickle/postgres"
)

// A failover is told once, and cancelled reads once a minute with their number.
func TestNotice(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var n notice
		for i, step := range []struct {
			seen postgres.Seen
			wait time.Duration
			want string
		}{
			{seen: postgres.Seen{Standby: true, Timeline: 1}},
			{seen: postgres.Seen{Standby: true, Timeline: 1, Cancelled: 1}, want: "reads=1"},
			{seen: postgres.Seen{Standby: true, Cancelled: 3}, wait: time.Second},
			{seen: postgres.Seen{Standby: true, Timeline: 1, Cancelled: 4}, wait: time.Minute, want: "reads=3"},
			{seen: postgres.Seen{Standby: true, Timeline: 1, Cancelled: 4}, wait: time.Hour},
			{seen: postgres.Seen{Timeline: 2, Cancelled: 4}, want: "standby=false timeline=2 was_standby=true was_timeline=1"},
			{seen: postgres.Seen{Timeline: 2, Cancelled: 4}},
		} {
			var out bytes.Buffer
			time.Sleep(step.wait)
			n.look(step.seen, slog.New(slog.NewTextHandler(&out, nil)))
			if got := out.String(); strings.Count(got, "\n") > 1 || (got != "") != (step.want != "") || !strings.Contains(got, step.want) {
				t.Errorf("step %d: %q, want %q", i, got, step.want)
			}
		}
	})
}
