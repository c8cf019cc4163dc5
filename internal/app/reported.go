package app

import (
	"context"
	"time"
)

// ReportedRow is a row that differs and was left as it is, as the policy lets it be shown.
type ReportedRow struct {
	Table     string    `json:"table"` // as the source calls it
	Kind      string    `json:"kind"`
	Key       string    `json:"key"`
	FirstSeen time.Time `json:"first_seen"`
	SeenAt    time.Time `json:"seen_at"` // when it was last proven
}

// Reported lists the rows that are known to differ and were left as they are, since the policy only wants reports: of one table where one is named, and at most limit where that
// is over 0.
func (o *Office) Reported(ctx context.Context, table string, limit int) ([]ReportedRow, error) {
	list, err := o.Ledger.Reported(ctx, table, limit)
	if err != nil {
		return nil, err
	}
	out := make([]ReportedRow, len(list))
	for i, r := range list {
		out[i] = ReportedRow{Table: r.Table, Kind: string(r.Kind), Key: o.policy.Privacy.Key(r.Key.String()), FirstSeen: r.FirstSeen, SeenAt: r.SeenAt}
	}
	return out, nil
}
