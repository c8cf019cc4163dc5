package app

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

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
	// refused is why the policy's file is not valid; then the policy is what can be relied upon of it.
	refused error
	pool    *pgxpool.Pool
	st      stack
}

// OpenOffice connects to the replica. Close it after use.
func OpenOffice(ctx context.Context, s Settings) (*Office, error) {
	p, refused, err := s.lookingPolicy()
	if err != nil {
		return nil, err
	}
	o := &Office{policy: p, refused: refused}
	pool, _, err := s.openReplica(ctx, &o.st)
	if err != nil {
		o.st.close()
		return nil, err
	}
	o.pool, o.Ledger = pool, ledger.New(pool, p.Pipeline)
	return o, nil
}

// Close disconnects.
func (o *Office) Close() { o.st.close() }

// ReplicaView looks at a replica's ledger as often as it is asked to. It is for one caller at a time.
type ReplicaView struct {
	settings Settings
	office   *Office
}

// WatchReplica reads the settings, and connects to nothing yet. Close it after use.
func WatchReplica(s Settings) (*ReplicaView, error) {
	if _, _, err := s.lookingPolicy(); err != nil {
		return nil, err
	}
	s.Log = slog.New(slog.DiscardHandler) // told once
	_, err := postgres.ParseDSN(s.ReplicaDSN, replicaOptions())
	return &ReplicaView{settings: s}, err
}

// Close disconnects.
func (v *ReplicaView) Close() {
	if v.office != nil {
		v.office.Close()
		v.office = nil
	}
}

// Read takes a look. After an error the next one connects anew.
func (v *ReplicaView) Read(ctx context.Context) (r ledger.Report, err error) {
	if v.office == nil {
		if v.office, err = OpenOffice(ctx, v.settings); err != nil {
			return r, err
		}
	}
	if r, err = v.office.Ledger.Report(ctx); err != nil {
		v.Close()
	}
	return r, err
}

// Resync asks for a resync of a table, or of the keys of a range "A..B", and returns its id.
func (o *Office) Resync(ctx context.Context, table, rng string) (string, error) {
	if o.refused != nil {
		return "", o.refused
	}
	n := postgres.ParseName(table)
	m, ok := o.policy.For(n.Schema, n.Table)
	if !ok {
		return "", fmt.Errorf("--table %s is in no entry of the policy; name it as the source calls it", table)
	}
	var there bool
	name := postgres.Name{Schema: m.Replica.Schema, Table: m.Replica.Name}
	if err := o.pool.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, name.SQL()).Scan(&there); err != nil {
		return "", fmt.Errorf("looking for %s in the replica: %w", name, err)
	}
	if !there {
		return "", fmt.Errorf("--table %s: the replica has no table %s; see trickle-consumer status for the names, and quote a name in mixed case: 'public.\"Orders\"'", table, name)
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
		if err := postgres.CheckBounds(ctx, o.pool, name, w.Range); err != nil {
			return "", fmt.Errorf("--range %q: %w", rng, err)
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
