package app

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/check"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
)

func TestBrokersThatAreAwayHoldUpNoOtherCheck(t *testing.T) {
	t.Parallel()
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(policy, []byte("pipeline: shop\ntables: [{table: public.*}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := Settings{PolicyFile: policy, SourceDSN: pgtest.Database(t), Brokers: []string{"127.0.0.1:1"}, Log: slog.New(slog.DiscardHandler)}
	r, err := Check(t.Context(), s, CheckOptions{Timeout: 8 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	warned := false
	for _, f := range r.Checks {
		if f.Group == "gate" && f.Verdict == check.Warning {
			warned = true // the policy says of no way to know the lag, and that is the publisher's business too
		}
		if f.Check == "connect" && (f.Verdict == check.OK) != (f.Group == "source") {
			t.Errorf("%+v", f)
		}
	}
	if !warned {
		t.Error("nothing is said about the gate")
	}
}
