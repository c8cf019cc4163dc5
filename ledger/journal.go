package ledger

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/message"
)

// Entry is a correction about to be committed.
type Entry struct {
	Key      message.Key
	KeyJSON  string
	Kind     drift.Kind
	Before   *string // JSON objects; nil: no row
	After    *string
	ResyncID string
	TraceID  string
	Trace    string // kept until it is closed; empty: nothing is
	Found    uint64 // xmin of the row before; 0: there was none
	Version  uint64
	Rewrites int64 // the entry it supersedes; 0: none
}

// Journal writes entries in the transaction of the writes that they describe, closes those they rewrite, and returns their ids
// in order.
func (l *Ledger) Journal(ctx context.Context, tx pgx.Tx, table string, entries []Entry) ([]int64, error) {
	n := len(entries)
	if n == 0 {
		return nil, nil
	}
	keys, kinds := make([]string, n), make([]string, n)
	keyTexts := make([]string, n)
	before, after := make([]*string, n), make([]*string, n)
	resyncs, traces, kept := make([]string, n), make([]string, n), make([]string, n)
	versions, found := make([]int64, n), make([]int64, n)
	var rewritten []int64
	for i, e := range entries {
		keys[i], kinds[i], before[i], after[i], resyncs[i], traces[i], versions[i] = e.KeyJSON, string(e.Kind), e.Before, e.After, e.ResyncID, e.TraceID, int64(e.Version)
		keyTexts[i], kept[i], found[i] = arrayLiteral(e.Key), e.Trace, int64(e.Found)
		if e.Rewrites != 0 {
			rewritten = append(rewritten, e.Rewrites)
		}
	}
	rows, err := tx.Query(ctx, `WITH corrected AS (DELETE FROM trickle.reported WHERE pipeline = $1 AND table_name = $2 AND key IN (SELECT kt::text[] FROM unnest($9::text[]) kt))
		INSERT INTO trickle.corrections (pipeline, table_name, key, kind, before, after, resync_id, trace_id, key_text, version, trace, found)
		SELECT $1, $2, k::jsonb, kind, b::jsonb, a::jsonb, nullif(r, ''), nullif(t, ''), kt::text[], ver, nullif(kept, ''), nullif(found, 0)
		FROM unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::bigint[], $11::text[], $12::bigint[]) WITH ORDINALITY AS e(k, kind, b, a, r, t, kt, ver, kept, found, n)
		ORDER BY n RETURNING id`, l.pipeline, table, keys, kinds, before, after, resyncs, traces, keyTexts, versions, kept, found)
	if err != nil {
		return nil, fmt.Errorf("journalling corrections of %s: %w", table, err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, fmt.Errorf("journalling corrections of %s: %w", table, err)
	}
	if len(rewritten) > 0 {
		if _, err := tx.Exec(ctx, `UPDATE trickle.corrections SET closed_at = clock_timestamp(), outcome = 'superseded', trace = NULL WHERE id = ANY($1)`, rewritten); err != nil {
			return nil, fmt.Errorf("closing rewritten corrections of %s: %w", table, err)
		}
	}
	return ids, nil
}

// Close ends corrections, and returns those that it was who ended them: somebody else may have confirmed them meanwhile.
func (l *Ledger) Close(ctx context.Context, outcome string, ids []int64) ([]int64, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	rows, err := l.pool.Query(ctx, `UPDATE trickle.corrections SET closed_at = clock_timestamp(), outcome = $2, trace = NULL WHERE id = ANY($1) AND closed_at IS NULL RETURNING id`, ids, outcome)
	if err != nil {
		return nil, fmt.Errorf("closing corrections: %w", err)
	}
	closed, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, fmt.Errorf("closing corrections: %w", err)
	}
	return closed, nil
}

// Open takes up to limit corrections of one table that were written and never closed, and that nobody set out to confirm for age: whoever wrote them
// died in between. Taking them counts as setting out, so that one table's do not keep another's waiting.
func (l *Ledger) Open(ctx context.Context, age time.Duration, limit int) (table string, open []entry.OpenCorrection, err error) {
	rows, err := l.pool.Query(ctx, `WITH old AS (
			SELECT id, table_name, checked_at FROM trickle.corrections WHERE closed_at IS NULL AND pipeline = $1 AND checked_at < clock_timestamp() - $2::interval
			FOR UPDATE SKIP LOCKED),
		taken AS (SELECT id FROM old WHERE table_name = (SELECT table_name FROM old ORDER BY checked_at, id LIMIT 1) ORDER BY checked_at, id LIMIT $3)
		UPDATE trickle.corrections c SET checked_at = clock_timestamp() FROM taken WHERE c.id = taken.id
		RETURNING c.table_name, c.id, c.key_text, c.kind, c.version, coalesce(c.resync_id, ''), c.at, coalesce(c.trace_id, ''), coalesce(c.trace, '')`, l.pipeline, age, limit)
	if err != nil {
		return "", nil, fmt.Errorf("looking for unconfirmed corrections: %w", err)
	}
	var id, version int64
	var key []string
	var kind, resyncID, traceID, trace string
	var at time.Time
	_, err = pgx.ForEachRow(rows, []any{&table, &id, &key, &kind, &version, &resyncID, &at, &traceID, &trace}, func() error {
		open = append(open, entry.OpenCorrection{Entry: id, Key: key, Kind: drift.Kind(kind), Version: uint64(version), ResyncID: resyncID, At: at, TraceID: traceID, Trace: trace})
		key = nil
		return nil
	})
	if err != nil {
		return "", nil, fmt.Errorf("looking for unconfirmed corrections: %w", err)
	}
	return table, open, nil
}

// Limits of the brake, counted within the window.
type Limits struct {
	Deletes     int
	Corrections int // made outside of a resync
	Window      time.Duration
}

// Allowance is how many more writes the brake allows.
type Allowance struct {
	Deletes     int
	Corrections int
}

// Allow counts, in the writing transaction, what the brake still allows. Writers of one pipeline queue up here until they commit, so that
// together they can't exceed it. A brake that is on allows nothing, nor does a restore that is under way.
func (l *Ledger) Allow(ctx context.Context, tx pgx.Tx, lim Limits) (Allowance, error) {
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('trickle.brake.' || $1, 0))`, l.pipeline); err != nil {
		return Allowance{}, fmt.Errorf("asking the brake: %w", err)
	}
	var on bool
	var deletes, corrections int
	err := tx.QueryRow(ctx, `SELECT p.brake_reason IS NOT NULL OR `+restoring+`,
			(SELECT count(*) FROM trickle.corrections c WHERE c.pipeline = $1 AND c.at > greatest(clock_timestamp() - $2::interval, p.brake_released_at) AND c.kind = 'extra'),
			(SELECT count(*) FROM trickle.corrections c WHERE c.pipeline = $1 AND c.at > greatest(clock_timestamp() - $2::interval, p.brake_released_at) AND c.resync_id IS NULL)
		FROM trickle.pipelines p WHERE p.pipeline = $1`, l.pipeline, lim.Window).Scan(&on, &deletes, &corrections)
	if err != nil {
		return Allowance{}, fmt.Errorf("asking the brake: %w", err)
	}
	if on {
		return Allowance{}, nil
	}
	return Allowance{Deletes: max(0, lim.Deletes-deletes), Corrections: max(0, lim.Corrections-corrections)}, nil
}

// BrakeCounts are the deletions and the corrections that count for the brake.
func (l *Ledger) BrakeCounts(ctx context.Context, window time.Duration) (deletes, corrections int, err error) {
	err = l.pool.QueryRow(ctx, `SELECT count(*) FILTER (WHERE c.kind = 'extra'), count(*) FILTER (WHERE c.resync_id IS NULL)
		FROM trickle.pipelines p JOIN trickle.corrections c USING (pipeline)
		WHERE p.pipeline = $1 AND c.at > greatest(clock_timestamp() - $2::interval, p.brake_released_at)`, l.pipeline, window).Scan(&deletes, &corrections)
	if err != nil {
		return 0, 0, fmt.Errorf("counting for the brake: %w", missing(err))
	}
	return deletes, corrections, nil
}

// Brake puts the brake on. While a restore is under way it has nothing to stop, and what was held was held by that.
func (l *Ledger) Brake(ctx context.Context, reason string) error {
	_, err := l.pool.Exec(ctx, `UPDATE trickle.pipelines SET brake_reason = $2, brake_at = clock_timestamp() WHERE pipeline = $1 AND brake_reason IS NULL AND NOT `+restoring, l.pipeline, l.plain(reason))
	if err != nil {
		return fmt.Errorf("putting the brake on: %w", err)
	}
	return nil
}

// Release takes the brake off; what was counted so far counts no more. It reports whether the brake was on.
func (l *Ledger) Release(ctx context.Context) (bool, error) {
	tag, err := l.pool.Exec(ctx, `UPDATE trickle.pipelines SET brake_reason = NULL, brake_at = NULL, brake_released_at = clock_timestamp()
		WHERE pipeline = $1 AND brake_reason IS NOT NULL`, l.pipeline)
	if err != nil {
		return false, fmt.Errorf("releasing the brake: %w", missing(err))
	}
	return tag.RowsAffected() > 0, nil
}

// Braked is why the brake is on, or that a restore is under way; empty where things may be corrected.
func (l *Ledger) Braked(ctx context.Context) (string, error) {
	if why, err := l.Restoring(ctx); why != "" || err != nil {
		return why, err
	}
	var reason *string
	if err := l.pool.QueryRow(ctx, `SELECT brake_reason FROM trickle.pipelines WHERE pipeline = $1`, l.pipeline).Scan(&reason); err != nil {
		return "", fmt.Errorf("asking the brake: %w", err)
	}
	if reason == nil {
		return "", nil
	}
	return *reason, nil
}
