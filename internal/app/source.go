package app

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/heartbeat"
	"github.com/trickle-verify/trickle/keeper"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/scheduler"
)

// openPrimary connects to the server that the source is a standby of; nil where none is named.
func (s Settings) openPrimary(ctx context.Context, st *stack, source postgres.Identity) (*pgxpool.Pool, error) {
	if s.PrimaryDSN == "" {
		if source.Standby {
			s.Log.Warn("the source is a standby and no primary is named (--primary or TRICKLE_PRIMARY_DSN): drift is reported, and nothing can be corrected")
		}
		return nil, nil
	}
	const setting = "--primary or TRICKLE_PRIMARY_DSN"
	pool, id, err := open(ctx, st, s.PrimaryDSN, postgres.Options{Role: "primary", Setting: setting, MaxConns: 4, Failover: true})
	switch {
	case err != nil:
		return nil, err
	case id.String() != source.String():
		return nil, fmt.Errorf("the primary is %s and the source %s, so the source is no standby of it: check %s, its database too", id, source, setting)
	case id.Standby:
		return nil, fmt.Errorf("the server that is to be the primary is a standby itself: point %s at the one that takes writes", setting)
	}
	return pool, nil
}

// heart makes the heartbeat's table where it is written: on the primary.
func (s Settings) heart(ctx context.Context, p *policy.Policy, w sourceWiring) (*heartbeat.Table, error) {
	pool := w.pool
	switch {
	case w.primary != nil:
		pool = w.primary
	case w.identity.Standby:
		return nil, errors.New("the heartbeat can't be written on a standby: name its primary (--primary or TRICKLE_PRIMARY_DSN), point --source at it, or set gate.assume_lag")
	}
	beat := heartbeat.New(pool, p.Gate.Heartbeat.Table, p.Pipeline)
	if err := beat.Create(ctx); err != nil || !p.Gate.OnOrder() {
		return beat, err
	}
	there, err := beat.BesideDebezium(ctx)
	if there {
		s.Log.Warn("Debezium reads the source and gate.heartbeat stands alone: with a topic for each table it overtakes rows, and changes in flight are taken for drift; name gate.slot and gate.group too")
	}
	return beat, err
}

// publisherStatus is what the publisher serves.
type publisherStatus struct {
	scheduler.Status
	Source sourceStatus `json:"source"`
	Policy policy.State `json:"policy"`
	// Baseline is how the base-line view stands; null where the policy has none, or another publisher keeps it.
	Baseline *keeper.Report `json:"baseline"`
}

// sourceStatus is which server was read last.
type sourceStatus struct {
	Standby        bool   `json:"standby"`
	Timeline       uint32 `json:"timeline"`        // 0: nothing was read yet, or it is a standby that does not show it
	CancelledReads uint64 `json:"cancelled_reads"` // that were in the way of a standby's replay, and were tried again
}

func (p *publisher) status() publisherStatus {
	seen := p.source.Seen()
	out := publisherStatus{Status: p.scheduler.Status(), Source: sourceStatus{seen.Standby, seen.Timeline, seen.Cancelled}, Policy: p.reload.State()}
	if p.keeper != nil {
		out.Baseline = p.keeper.Status()
	}
	return out
}
