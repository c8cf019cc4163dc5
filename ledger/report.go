package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/policy"
)

// Report is how a replica's verification stands, as `trickle-consumer status --format json` prints it.
type Report struct {
	Pipeline string     `json:"pipeline"`
	Source   string     `json:"source"` // the pinned source, empty before the first message
	Gate     GateReport `json:"gate"`
	// Policy is the one that the detector works by; null: none has told yet.
	Policy  *policy.State  `json:"policy"`
	Tables  []TableReport  `json:"tables"`
	Window  WindowReport   `json:"window"`
	Brake   BrakeReport    `json:"brake"`
	Resyncs []ResyncReport `json:"resyncs"`
	// Restore is the newest restore from the base-line view; null: there never was one.
	Restore *RestoreReport `json:"restore"`
	// Baselines are the sets of the base-line view that were heard of, newest first.
	Baselines []BaselineReport `json:"baselines"`
	// Unconfirmed counts corrections, and rows copied in bulk, that were written and not confirmed yet.
	Unconfirmed int           `json:"unconfirmed"`
	Journal     JournalReport `json:"journal"`
	// Refused counts messages that could not be read or believed.
	Refused       int    `json:"refused"`
	RefusedReason string `json:"refused_reason"`

	batches map[string]*batch // what resyncs wrote, by their ids
}

// GateReport is the gate as the detector last saw it.
type GateReport struct {
	Open       bool      `json:"open"`
	LagSeconds *float64  `json:"lag_seconds"` // null: unknown
	Reason     string    `json:"reason"`
	At         time.Time `json:"at"`
	// Sources are the ways by which the policy has the lag known, each with its own.
	Sources []GateSource `json:"sources"`
}

// GateSource is one of them.
type GateSource struct {
	Source     string   `json:"source"`      // heartbeat, slot, group or assumed
	LagSeconds *float64 `json:"lag_seconds"` // null: unknown
	Reason     string   `json:"reason"`      // why it closes the gate, empty where it does not
}

// Kinds counts by kind of drift.
type Kinds struct {
	Missing    int `json:"missing"`
	Mismatched int `json:"mismatched"`
	Extra      int `json:"extra"`
}

// All is their sum.
func (k Kinds) All() int { return k.Missing + k.Mismatched + k.Extra }

// TableReport is one table.
type TableReport struct {
	Table              string     `json:"table"`
	Replica            string     `json:"replica"`
	Digest             string     `json:"digest"`
	RowsVerified       int64      `json:"rows_verified"`
	RangesVerified     int64      `json:"ranges_verified"`
	Coverage           float64    `json:"coverage"`            // of the publisher's ranges, verified in this cycle or the last
	OldestVerification *time.Time `json:"oldest_verification"` // null: never verified
	Suspects           int        `json:"suspects"`
	Resolved           int64      `json:"resolved"`
	Corrected          Kinds      `json:"corrected"`
	// Reported are the rows that are proven to differ and are left as they are, since the policy only wants reports.
	Reported      Kinds  `json:"reported"`
	Failed        int64  `json:"failed"`
	LastFailure   string `json:"last_failure"`
	Discrepancies int    `json:"discrepancies"` // within the window
	Paused        string `json:"paused"`
	// Unscanned is why the publisher does not scan it, as it says; null: it says nothing of the kind.
	Unscanned *UnscannedReport `json:"unscanned"`
	// Estimate is how many rows may be drifted; null before the first verification.
	Estimate *EstimateReport `json:"estimate"`

	reported int // rows that were reported and are not being looked at again
}

// WindowReport is the sliding window over all tables.
type WindowReport struct {
	Seconds       float64 `json:"seconds"`
	Discrepancies int     `json:"discrepancies"`
	RowsVerified  int64   `json:"rows_verified"`
	Ratio         float64 `json:"ratio"` // discrepancies over rows verified, 0 where none was
}

// BrakeReport is the brake.
type BrakeReport struct {
	On     bool   `json:"on"`
	Reason string `json:"reason"`
}

// ResyncReport is one resync.
type ResyncReport struct {
	ID         string     `json:"id"`
	Scope      string     `json:"scope"`
	Table      string     `json:"table"`
	State      string     `json:"state"`
	Rows       int64      `json:"rows"` // looked at
	Corrected  int64      `json:"corrected"`
	Ranges     int        `json:"ranges"`
	RangesDone int        `json:"ranges_done"`
	Why        string     `json:"why"`
	Failure    string     `json:"failure"`
	Requested  time.Time  `json:"requested_at"`
	Ended      *time.Time `json:"ended_at"`
	// Snapshot is how far Debezium is, where the resync goes through it.
	Snapshot *SnapshotReport `json:"snapshot,omitempty"`
}

// RestoreReport is a restore from the base-line view.
type RestoreReport struct {
	ID         string     `json:"id"`
	Set        string     `json:"set"`
	State      string     `json:"state"`
	Stopped    string     `json:"stopped"` // of a failed one: the state in which it failed
	Failure    string     `json:"failure"`
	Ranges     int        `json:"ranges"`
	RangesDone int        `json:"ranges_done"`
	Rows       int64      `json:"rows"` // of the ranges that are done
	Started    time.Time  `json:"started_at"`
	Ended      *time.Time `json:"ended_at"`
}

// SnapshotReport is a snapshot that Debezium makes for a resync.
type SnapshotReport struct {
	State     string `json:"state"`
	Signal    string `json:"signal"`   // id of the newest signal
	Attempts  int    `json:"attempts"` // signals sent
	Rows      int64  `json:"rows"`     // as Debezium says, once it has read the table
	Remaining int64  `json:"remaining"`
	Failure   string `json:"failure"` // why the last attempt came to nothing
}

// staleGate is how old the recorded gate may be before it says nothing any more.
const staleGate = time.Minute

// Report reads how things stand. It fails with ErrNotMigrated where no detector ever ran, and names the pipelines there are when this one is unknown.
func (l *Ledger) Report(ctx context.Context) (Report, error) {
	return l.read(ctx, l.reportPipeline, l.reportKept, l.reportTables, l.reportUnscanned, l.reportReported, l.reportEstimates, l.reportResyncs, l.reportRestore, l.reportBaselines, l.reportJournal)
}

// Standing is a Report without what was corrected, so that it costs as much however long the journal has grown.
func (l *Ledger) Standing(ctx context.Context) (Report, error) {
	return l.read(ctx, l.reportPipeline, l.reportKept, l.reportTables, l.reportUnscanned, l.reportReported, l.reportResyncs)
}

func (l *Ledger) read(ctx context.Context, parts ...func(context.Context, pgx.Tx, *Report) error) (Report, error) {
	r := Report{Pipeline: l.pipeline, Tables: []TableReport{}, Resyncs: []ResyncReport{}, Baselines: []BaselineReport{}}
	err := pgx.BeginTxFunc(ctx, l.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		for _, part := range parts {
			if err := part(ctx, tx, &r); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return r, fmt.Errorf("reading the ledger: %w", missing(err))
	}
	return r, nil
}

func (l *Ledger) reportPipeline(ctx context.Context, tx pgx.Tx, r *Report) error {
	var window, age time.Duration
	var lag *time.Duration
	var at *time.Time
	err := tx.QueryRow(ctx, `SELECT coalesce(source, ''), gate_open, gate_reason, gate_sources, policy, gate_lag, gate_at, coalesce(clock_timestamp() - gate_at, '0'), window_length,
			brake_reason IS NOT NULL, coalesce(brake_reason, ''), refused, coalesce(refused_reason, ''),
			(SELECT count(*) FROM trickle.corrections c WHERE c.pipeline = p.pipeline AND c.closed_at IS NULL)
				+ (SELECT coalesce(sum(c.rows), 0)::bigint FROM trickle.copies c WHERE c.pipeline = p.pipeline AND c.closed_at IS NULL),
			(SELECT count(*) FROM trickle.discrepancies d WHERE d.pipeline = p.pipeline AND d.at > clock_timestamp() - p.window_length),
			(SELECT coalesce(sum(rows), 0)::bigint FROM trickle.ranges g WHERE g.pipeline = p.pipeline AND g.verified_at > clock_timestamp() - p.window_length)
		FROM trickle.pipelines p WHERE pipeline = $1`, l.pipeline).Scan(&r.Source, &r.Gate.Open, &r.Gate.Reason, &r.Gate.Sources, &r.Policy, &lag, &at, &age, &window,
		&r.Brake.On, &r.Brake.Reason, &r.Refused, &r.RefusedReason, &r.Unconfirmed, &r.Window.Discrepancies, &r.Window.RowsVerified)
	if errors.Is(err, pgx.ErrNoRows) {
		var known []string
		if err := tx.QueryRow(ctx, `SELECT array_agg(pipeline ORDER BY pipeline) FROM trickle.pipelines`).Scan(&known); err != nil {
			return err
		}
		return fmt.Errorf("no detector of pipeline %q has run here; there are: %v", l.pipeline, known)
	}
	if err != nil {
		return err
	}
	if lag != nil {
		s := lag.Round(time.Millisecond).Seconds()
		r.Gate.LagSeconds = &s
	}
	if at != nil {
		r.Gate.At = at.UTC()
	}
	if age > staleGate {
		r.Gate = GateReport{At: r.Gate.At, Sources: []GateSource{}, Reason: fmt.Sprintf("no detector has run for %s", age.Round(time.Second))}
	}
	r.Window.Seconds = window.Seconds()
	if r.Window.RowsVerified > 0 {
		r.Window.Ratio = float64(r.Window.Discrepancies) / float64(r.Window.RowsVerified)
	}
	return nil
}

func (l *Ledger) reportTables(ctx context.Context, tx pgx.Tx, r *Report) error {
	rows, err := tx.Query(ctx, `SELECT t.table_name, t.replica_name, t.digest, t.rows_verified, t.ranges_verified, t.resolved, t.failed, coalesce(t.last_failure, ''), t.paused,
			CASE WHEN t.ranges = 0 THEN 0 ELSE least(1, g.n::float8 / t.ranges) END, g.oldest,
			(SELECT count(*) FROM trickle.suspects s WHERE s.pipeline = t.pipeline AND s.table_name = t.table_name),
			(SELECT count(*) FROM trickle.discrepancies d JOIN trickle.pipelines p USING (pipeline)
				WHERE d.pipeline = t.pipeline AND d.table_name = t.table_name AND d.at > clock_timestamp() - p.window_length)
		FROM trickle.tables t
		CROSS JOIN LATERAL (SELECT count(*) AS n, min(verified_at) AS oldest FROM trickle.ranges g
			WHERE g.pipeline = t.pipeline AND g.table_name = t.table_name AND g.cycle + 1 >= t.cycle) g
		WHERE t.pipeline = $1 ORDER BY 1`, l.pipeline)
	if err != nil {
		return err
	}
	r.Tables, err = pgx.AppendRows(r.Tables, rows, func(row pgx.CollectableRow) (TableReport, error) {
		var t TableReport
		err := row.Scan(&t.Table, &t.Replica, &t.Digest, &t.RowsVerified, &t.RangesVerified, &t.Resolved, &t.Failed, &t.LastFailure, &t.Paused,
			&t.Coverage, &t.OldestVerification, &t.Suspects, &t.Discrepancies)
		return t, err
	})
	return err
}

func (l *Ledger) reportResyncs(ctx context.Context, tx pgx.Tx, r *Report) error {
	rows, err := tx.Query(ctx, `SELECT s.id, s.scope, s.table_name, s.state, s.rows, s.reason, coalesce(s.failure, ''), s.requested_at, s.ended_at, s.corrected, g.n, g.done,
			d.state, coalesce(d.signal, ''), coalesce(d.attempts, 0), coalesce(d.rows, 0),
			coalesce(d.remaining, 0), coalesce(d.failure, '')
		FROM trickle.resyncs s
		LEFT JOIN trickle.snapshots d ON d.resync_id = s.id
		CROSS JOIN LATERAL (SELECT count(*) AS n, count(*) FILTER (WHERE done) AS done FROM trickle.resync_ranges g WHERE g.resync_id = s.id) g
		WHERE s.pipeline = $1 ORDER BY s.requested_at DESC LIMIT 50`, l.pipeline)
	if err != nil {
		return err
	}
	r.Resyncs, err = pgx.AppendRows(r.Resyncs, rows, func(row pgx.CollectableRow) (ResyncReport, error) {
		var s ResyncReport
		var snapshot SnapshotReport
		var state *string
		err := row.Scan(&s.ID, &s.Scope, &s.Table, &s.State, &s.Rows, &s.Why, &s.Failure, &s.Requested, &s.Ended, &s.Corrected, &s.Ranges, &s.RangesDone,
			&state, &snapshot.Signal, &snapshot.Attempts, &snapshot.Rows, &snapshot.Remaining, &snapshot.Failure)
		if state != nil {
			snapshot.State, s.Snapshot = *state, &snapshot
		}
		return s, err
	})
	return err
}

// ResyncCount is how many resyncs of a scope are, or ended, in a state.
type ResyncCount struct {
	Scope, State string
	N            int64
}

// ResyncCounts counts all resyncs that there ever were.
func (l *Ledger) ResyncCounts(ctx context.Context) ([]ResyncCount, error) {
	rows, err := l.pool.Query(ctx, `SELECT scope, state, sum(n)::bigint FROM (SELECT scope, state, count(*) AS n FROM trickle.resyncs WHERE pipeline = $1 GROUP BY 1, 2
		UNION ALL SELECT split_part(what, ' ', 1), split_part(what, ' ', 2), n FROM trickle.removed WHERE pipeline = $1 AND table_name = '') s GROUP BY 1, 2`, l.pipeline)
	if err != nil {
		return nil, fmt.Errorf("counting resyncs: %w", missing(err))
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByPos[ResyncCount])
	if err != nil {
		return nil, fmt.Errorf("counting resyncs: %w", missing(err))
	}
	return out, nil
}
