package ledger

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/entry"
)

// Unscanned notes what the publisher says of a table: why it does not scan it or, without a reason, that it does. Messages may come late and again, so what is older
// than what was said last, or than the newest reading that was compared, changes nothing.
func (l *Ledger) Unscanned(ctx context.Context, u entry.Unscanned) error {
	_, err := l.pool.Exec(ctx, `INSERT INTO trickle.unscanned AS u (pipeline, table_name, replica_name, reason, since, told)
		SELECT $1, $2, $3, $4, $5, $5 WHERE $4 = '' OR NOT EXISTS (SELECT FROM trickle.tables WHERE pipeline = $1 AND table_name = $2 AND read_at > $5)
		ON CONFLICT (pipeline, table_name) DO UPDATE SET replica_name = excluded.replica_name, reason = excluded.reason, told = excluded.told, heard_at = excluded.heard_at,
			since = CASE WHEN u.reason = '' THEN excluded.since ELSE u.since END WHERE u.told <= excluded.told`,
		l.pipeline, u.Table, u.Replica, l.plain(u.Reason), u.At)
	if err != nil {
		return fmt.Errorf("recording that the publisher does not scan %s: %w", u.Table, err)
	}
	return nil
}

// UnscannedReport is what the publisher says of a table that it does not scan.
type UnscannedReport struct {
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`    // the source's clock
	Heard  time.Time `json:"heard_at"` // when it was told last, by the replica's clock
}

// reportUnscanned adds it to the tables of the report, and tables that were never compared to the report.
func (l *Ledger) reportUnscanned(ctx context.Context, tx pgx.Tx, r *Report) error {
	rows, err := tx.Query(ctx, `SELECT table_name, replica_name, reason, since, heard_at FROM trickle.unscanned WHERE pipeline = $1 AND reason <> ''`, l.pipeline)
	if err != nil {
		return err
	}
	byName := r.byName()
	var added []TableReport
	var name, replica string
	var u UnscannedReport
	_, err = pgx.ForEachRow(rows, []any{&name, &replica, &u.Reason, &u.Since, &u.Heard}, func() error {
		one := u
		one.Since, one.Heard = one.Since.UTC(), one.Heard.UTC()
		if t := byName[name]; t != nil {
			t.Unscanned = &one
		} else {
			added = append(added, TableReport{Table: name, Replica: replica, Unscanned: &one})
		}
		return nil
	})
	r.Tables = append(r.Tables, added...)
	slices.SortStableFunc(r.Tables, func(a, b TableReport) int { return strings.Compare(a.Table, b.Table) })
	return err
}
