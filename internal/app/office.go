package app

import (
	"context"
	"fmt"
	"strings"

	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
)

// Office is what an operator's commands work on: the replica's ledger.
type Office struct {
	Ledger *ledger.Ledger
	policy *policy.Policy
	st     stack
}

// OpenOffice connects to the replica. Close it after use.
func OpenOffice(ctx context.Context, s Settings) (*Office, error) {
	p, err := s.LoadPolicy()
	if err != nil {
		return nil, err
	}
	o := &Office{policy: p}
	pool, _, err := s.openReplica(ctx, &o.st)
	if err != nil {
		o.st.close()
		return nil, err
	}
	o.Ledger = ledger.New(pool, p.Pipeline)
	return o, nil
}

// Close disconnects.
func (o *Office) Close() { o.st.close() }

// Resync asks for a resync of a table, or of the keys of a range "A..B", and returns its id.
func (o *Office) Resync(ctx context.Context, table, rng string) (string, error) {
	n := postgres.ParseName(table)
	if _, ok := o.policy.For(n.Schema, n.Table); !ok {
		return "", fmt.Errorf("--table %s is in no entry of the policy; name it as the source calls it", table)
	}
	w := entry.Wish{ID: newID(), Scope: entry.Full, Table: n.String(), Reason: "asked for by hand"}
	if rng != "" {
		lo, hi, ok := strings.Cut(rng, "..")
		if !ok || lo == "" && hi == "" {
			return "", fmt.Errorf("--range %q: write A..B, A.. or ..B", rng)
		}
		w.Scope, w.Range = entry.Partial, message.Range{Lo: bound(lo), Hi: bound(hi)}
		if w.Range.Lo != nil && w.Range.Hi != nil && len(w.Range.Lo) != len(w.Range.Hi) {
			return "", fmt.Errorf("--range %q: both ends need the same number of key columns", rng)
		}
	}
	made, err := o.Ledger.Request(ctx, w)
	if err != nil {
		return "", err
	}
	if !made {
		return "", fmt.Errorf("a resync of %s is under way already; see trickle-consumer status", table)
	}
	return w.ID, nil
}

func bound(s string) message.Key {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}
