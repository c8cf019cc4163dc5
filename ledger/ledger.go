// Package ledger is what a replica remembers about its own verification: the schema "trickle" in the replica database.
//
// It decides nothing about drift; it keeps what others decided where a crash, a restart or a second instance finds it: suspects, the
// journal of corrections and copies, the sliding window, resyncs with their cursors and snapshots, the pinned source, the gate as last seen and the brake. What always
// holds: a journal entry is written in the transaction of the write it describes; a discrepancy is counted once however often and by
// however many detectors it is found; a suspect or range that was taken and not finished is taken again after its lease; what leaves it for its age is nothing that is
// unconfirmed or of a resync under way, and totals go on without it. When the database can't be reached, calls fail and nothing is half-recorded.
package ledger

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/policy"
)

//go:embed schema.sql
var schema string

var made = regexp.MustCompile(`(?m)^CREATE TABLE IF NOT EXISTS trickle\.(\w+)`)

// Tables are those of the schema trickle in which ledgers are kept.
func Tables() []string {
	var names []string
	for _, m := range made.FindAllStringSubmatch(schema, -1) {
		names = append(names, m[1])
	}
	return names
}

// Ledger is one pipeline's part of the schema. It is safe for concurrent use.
type Ledger struct {
	pool     *pgxpool.Pool
	pipeline string
	narrow   atomic.Bool // Migrate has found a database whose encoding is not UTF-8
}

// New keeps a pipeline's ledger through the pool, which stays the caller's.
func New(pool *pgxpool.Pool, pipeline string) *Ledger {
	return &Ledger{pool: pool, pipeline: pipeline}
}

// Pipeline is the name it was made for.
func (l *Ledger) Pipeline() string { return l.pipeline }

// Migrate creates what is missing of the schema. Instances that start together wait for each other.
func (l *Ledger) Migrate(ctx context.Context) error {
	err := pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
		l.narrow.Store(tx.Conn().PgConn().ParameterStatus("server_encoding") != "UTF8")
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock(hashtextextended('trickle.migrate', 0))`); err != nil {
			return err
		}
		if _, err := tx.Conn().PgConn().Exec(ctx, schema).ReadAll(); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO trickle.pipelines (pipeline) VALUES ($1) ON CONFLICT DO NOTHING`, l.pipeline)
		return err
	})
	var server *pgconn.PgError
	if errors.As(err, &server) && server.Code == "42501" {
		return fmt.Errorf("creating the schema trickle in the replica: %s; run there: GRANT CREATE ON DATABASE … TO the detector's role (or CREATE SCHEMA trickle AUTHORIZATION it)", server.Message)
	}
	if err != nil {
		return fmt.Errorf("creating the schema trickle in the replica: %w", err)
	}
	return nil
}

// ErrNotMigrated is returned by readers of a database where no detector has run yet.
var ErrNotMigrated = errors.New("this database has no schema trickle: no detector has run here yet; start one with trickle-consumer run")

// missing turns the absence of our tables into ErrNotMigrated.
func missing(err error) error {
	var server *pgconn.PgError
	if errors.As(err, &server) && (server.Code == "42P01" || server.Code == "3F000") {
		return ErrNotMigrated
	}
	return err
}

// Pin remembers the first source a pipeline was fed from and returns the one it is pinned to.
func (l *Ledger) Pin(ctx context.Context, source string) (string, error) {
	var pinned *string
	err := l.pool.QueryRow(ctx, `SELECT source FROM trickle.pipelines WHERE pipeline = $1`, l.pipeline).Scan(&pinned)
	if err == nil && pinned == nil {
		err = l.pool.QueryRow(ctx, `UPDATE trickle.pipelines SET source = coalesce(source, $2) WHERE pipeline = $1 RETURNING source`, l.pipeline, source).Scan(&pinned)
	}
	if err != nil {
		return "", fmt.Errorf("pinning the source: %w", err)
	}
	return *pinned, nil
}

// Pinned is the pinned source, empty where there is none yet.
func (l *Ledger) Pinned(ctx context.Context) (string, error) {
	var pinned *string
	err := l.pool.QueryRow(ctx, `SELECT max(source) FROM trickle.pipelines WHERE pipeline = $1`, l.pipeline).Scan(&pinned)
	if err != nil {
		return "", fmt.Errorf("looking for the pinned source: %w", missing(err))
	}
	if pinned == nil {
		return "", nil
	}
	return *pinned, nil
}

// TableNames are the tables that the ledger knows, as the source calls them.
func (l *Ledger) TableNames(ctx context.Context) ([]string, error) {
	rows, err := l.pool.Query(ctx, `SELECT table_name FROM trickle.tables WHERE pipeline = $1 ORDER BY table_name`, l.pipeline)
	if err != nil {
		return nil, fmt.Errorf("listing tables: %w", missing(err))
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("listing tables: %w", missing(err))
	}
	return names, nil
}

// Repin replaces the pinned source, because a person says that it was replaced on purpose.
func (l *Ledger) Repin(ctx context.Context, source string) error {
	_, err := l.pool.Exec(ctx, `UPDATE trickle.pipelines SET source = $2 WHERE pipeline = $1`, l.pipeline, source)
	if err != nil {
		return fmt.Errorf("pinning the source: %w", missing(err))
	}
	return nil
}

// SaveGate records the gate as the detector saw it, for status.
func (l *Ledger) SaveGate(ctx context.Context, g entry.Gate, window time.Duration, readAt time.Time) error {
	var lag *time.Duration
	if g.Lag >= 0 {
		lag = &g.Lag
	}
	var at *time.Time
	if !readAt.IsZero() {
		at = &readAt
	}
	sources := make([]GateSource, len(g.Sources))
	for i, s := range g.Sources {
		sources[i] = GateSource{Source: s.Name, Reason: l.plain(s.Reason)}
		if seconds := s.Lag.Round(time.Millisecond).Seconds(); s.Lag >= 0 {
			sources[i].LagSeconds = &seconds
		}
	}
	_, err := l.pool.Exec(ctx, `UPDATE trickle.pipelines SET gate_open = $2, gate_reason = $3, gate_lag = $4, gate_at = clock_timestamp(), window_length = $5,
		source_read_at = coalesce($6, source_read_at), gate_sources = $7 WHERE pipeline = $1`, l.pipeline, g.Open, l.plain(g.Reason), lag, window, at, sources)
	if err != nil {
		return fmt.Errorf("recording the gate: %w", err)
	}
	return nil
}

// SavePolicy records which policy the detector works by, for status.
func (l *Ledger) SavePolicy(ctx context.Context, s policy.State) error {
	s.Refused = l.plain(s.Refused)
	if _, err := l.pool.Exec(ctx, `UPDATE trickle.pipelines SET policy = $2 WHERE pipeline = $1`, l.pipeline, s); err != nil {
		return fmt.Errorf("recording the policy in force: %w", err)
	}
	return nil
}

// SourceReadAt is the newest read time of a message that any instance saw, zero where there was none.
func (l *Ledger) SourceReadAt(ctx context.Context) (time.Time, error) {
	var at *time.Time
	if err := l.pool.QueryRow(ctx, `SELECT source_read_at FROM trickle.pipelines WHERE pipeline = $1`, l.pipeline).Scan(&at); err != nil {
		return time.Time{}, fmt.Errorf("reading the newest message's time: %w", err)
	}
	if at == nil {
		return time.Time{}, nil
	}
	return at.UTC(), nil
}

// Refused counts a message that could not be read or was forged.
func (l *Ledger) Refused(ctx context.Context, reason string) error {
	_, err := l.pool.Exec(ctx, `UPDATE trickle.pipelines SET refused = refused + 1, refused_reason = $2 WHERE pipeline = $1`, l.pipeline, l.plain(reason))
	if err != nil {
		return fmt.Errorf("counting a refused message: %w", err)
	}
	return nil
}

// Table makes a table known, so that status shows it before it was ever verified.
func (l *Ledger) Table(ctx context.Context, table, replica string) error {
	_, err := l.pool.Exec(ctx, `INSERT INTO trickle.tables (pipeline, table_name, replica_name) VALUES ($1, $2, $3)
		ON CONFLICT (pipeline, table_name) DO UPDATE SET replica_name = excluded.replica_name WHERE tables.replica_name <> excluded.replica_name`, l.pipeline, table, replica)
	if err != nil {
		return fmt.Errorf("recording table %s: %w", table, err)
	}
	return nil
}

// locked runs fn in a transaction that first locks the table's line. Whoever writes several rows about a table takes that lock first, so that no two
// of them ever wait for each other.
func (l *Ledger) locked(ctx context.Context, table string, fn func(tx pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT FROM trickle.tables WHERE pipeline = $1 AND table_name = $2 FOR NO KEY UPDATE`, l.pipeline, table); err != nil {
			return err
		}
		return fn(tx)
	})
}

// Pause records why nothing is done about a table; an empty reason resumes it.
func (l *Ledger) Pause(ctx context.Context, table, reason string) error {
	_, err := l.pool.Exec(ctx, `UPDATE trickle.tables SET paused = $3 WHERE pipeline = $1 AND table_name = $2 AND paused <> $3`, l.pipeline, table, l.plain(reason))
	if err != nil {
		return fmt.Errorf("recording why %s is paused: %w", table, err)
	}
	return nil
}

// array is a key as pgx writes it: text[], NULL for infinity.
func array(k message.Key) []string { return k }

// arrayLiteral is a key as text that casts to text[].
func arrayLiteral(k message.Key) string {
	var b strings.Builder
	b.WriteByte('{')
	for i, v := range k {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(v) + `"`)
	}
	b.WriteByte('}')
	return b.String()
}
