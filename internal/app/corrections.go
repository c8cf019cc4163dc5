package app

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
)

// CorrectionLine is a line of the journal as the policy lets it be shown.
type CorrectionLine struct {
	ID    string    `json:"id"` // a number; copy- and a number for a range that was copied whole
	At    time.Time `json:"at"`
	Table string    `json:"table"` // as the source calls it
	Kind  string    `json:"kind"`  // missing, mismatched, extra or copied
	Key   string    `json:"key,omitempty"`
	// Range and Rows are those of a copy.
	Range string `json:"range,omitempty"`
	Rows  int64  `json:"rows,omitempty"`
	// Columns are those that it changed, of a mismatched row.
	Columns []string       `json:"columns,omitempty"`
	Before  map[string]any `json:"before,omitempty"` // left out where values are not to be shown, or there was no row
	After   map[string]any `json:"after,omitempty"`
	Outcome string         `json:"outcome"` // open, confirmed, superseded or undone
	Closed  *time.Time     `json:"closed_at"`
	Undone  *time.Time     `json:"undone_at"`
	Resync  string         `json:"resync_id,omitempty"`
	Trace   string         `json:"trace_id,omitempty"`
	// TraceLink is where its trace is looked at, by the policy's tracing.link.
	TraceLink string `json:"trace_link,omitempty"`
}

// JournalQuery is what of the journal is asked for, as people write it.
type JournalQuery struct {
	Tables, Kinds, Outcomes []string
	Key, Since, Until       string
	Resync, Trace, After    string
	Limit                   int
	IDs                     []string

	notUndone bool
}

// Searches tells whether it leaves anything out.
func (q JournalQuery) Searches() bool {
	return len(q.Tables)+len(q.Kinds)+len(q.Outcomes)+len(q.IDs) > 0 || q.Key+q.Since+q.Until+q.Resync+q.Trace+q.After != ""
}

var (
	journalKinds    = []string{"missing", "mismatched", "extra", ledger.KindCopied}                 //nolint:gochecknoglobals // a constant that Go has no syntax for
	journalOutcomes = []string{ledger.OutcomeOpen, "confirmed", "superseded", ledger.OutcomeUndone} //nolint:gochecknoglobals // a constant that Go has no syntax for
)

// JournalKinds are the kinds of lines there are.
func JournalKinds() []string { return slices.Clone(journalKinds) }

// JournalOutcomes are the ways in which they stand.
func JournalOutcomes() []string { return slices.Clone(journalOutcomes) }

// filter reads it.
func (q JournalQuery) filter(now time.Time) (f ledger.Filter, err error) {
	f = ledger.Filter{Resync: q.Resync, Trace: strings.ToLower(q.Trace), Limit: q.Limit, NotUndone: q.notUndone}
	for _, t := range q.Tables {
		f.Tables = append(f.Tables, postgres.ParseName(t).String())
	}
	if f.Kinds, err = among("--kind", q.Kinds, journalKinds); err != nil {
		return f, err
	}
	if f.Outcomes, err = among("--outcome", q.Outcomes, journalOutcomes); err != nil {
		return f, err
	}
	if f.Since, err = Moment("--since", q.Since, now); err != nil {
		return f, err
	}
	if f.Until, err = Moment("--until", q.Until, now); err != nil {
		return f, err
	}
	if !f.Until.IsZero() && !f.Since.Before(f.Until) {
		return f, fmt.Errorf("--since %s is not before --until %s: nothing lies between them", q.Since, q.Until)
	}
	switch {
	case strings.HasPrefix(q.Key, "{"):
		var object map[string]any
		if err := json.Unmarshal([]byte(q.Key), &object); err != nil {
			return f, fmt.Errorf("--key %s: %w; give an object such as {\"id\": 42}", q.Key, err)
		}
		f.KeyJSON = q.Key
	case strings.HasPrefix(q.Key, "#"):
		f.KeyHash = strings.ToLower(q.Key)
	case q.Key != "":
		f.Key = bound(q.Key)
	}
	if f.After, err = ledger.ParseCursor(q.After); err != nil {
		return f, fmt.Errorf("--after: %w", err)
	}
	if f.Limit < 0 {
		return f, fmt.Errorf("--limit %d: give how many lines to print at most, or 0 for all", f.Limit)
	}
	for _, text := range q.IDs {
		id, err := ledger.ParseCorrectionID(text)
		if err != nil {
			return f, err
		}
		f.IDs = append(f.IDs, id)
	}
	return f, nil
}

// among takes values that have to be some of these.
func among(flag string, values, allowed []string) ([]string, error) {
	for _, v := range values {
		if !slices.Contains(allowed, v) {
			return nil, fmt.Errorf("%s %q: use %s", flag, v, strings.Join(allowed, ", "))
		}
	}
	return values, nil
}

// Moment reads a time: so long ago ("10m", "2d"), a date, or a date with a time of day, in UTC where it names no zone. Empty is the zero time.
func Moment(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	var ago policy.Duration
	if err := ago.UnmarshalText([]byte(text)); err == nil {
		return now.Add(-time.Duration(ago)), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05", "2006-01-02T15:04:05", "2006-01-02 15:04", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%s %q is no time: give how long ago (10m, 2h, 7d), a date (2026-11-26), or a time (2026-11-26 08:30 or 2026-11-26T08:30:00Z, in UTC unless it says otherwise)", flag, text)
}

// Check refuses a query that can't be meant, before anything is opened.
func (q JournalQuery) Check() error {
	_, err := q.filter(time.Now())
	return err
}

// Corrections lists the journal, newest first, line by line, and returns the cursor behind what was listed: empty at the end.
func (o *Office) Corrections(ctx context.Context, q JournalQuery, show func(CorrectionLine) error) (next string, err error) {
	f, err := q.filter(time.Now())
	if err != nil {
		return "", err
	}
	if f.Limit > 0 {
		f.Limit++ // tells whether there are more
	}
	listed, last := 0, ledger.Cursor{}
	err = o.Ledger.Each(ctx, f, func(c ledger.Recorded) error {
		if listed == q.Limit && q.Limit > 0 {
			next = last.String()
			return nil
		}
		listed, last = listed+1, c.Cursor()
		line, err := o.line(c)
		if err != nil {
			return err
		}
		return show(line)
	})
	return next, err
}

// Gone says that lines which have left the journal could have been among those asked for, and how far back it goes; empty where none could.
func (o *Office) Gone(ctx context.Context, q JournalQuery) (string, error) {
	f, err := q.filter(time.Now())
	if err != nil {
		return "", err
	}
	kept, err := o.Ledger.Kept(ctx)
	if err != nil || !beyond(kept, f) {
		return "", err
	}
	return gone(kept, o.policy.Detect.Journal), nil
}

// beyond reports that lines which have left the journal could be among those that a filter picks.
func beyond(kept ledger.JournalReport, f ledger.Filter) bool {
	return kept.From != nil && !f.Since.After(*kept.From)
}

// line is a correction as it may be shown.
func (o *Office) line(c ledger.Recorded) (CorrectionLine, error) {
	out := CorrectionLine{ID: c.ID.String(), At: c.At, Table: c.Table, Kind: c.Kind, Outcome: c.Outcome, Closed: c.ClosedAt, Undone: c.UndoneAt, Resync: c.ResyncID, Trace: c.TraceID}
	switch {
	case c.UndoneAt != nil:
		out.Outcome = ledger.OutcomeUndone
	case c.ClosedAt == nil:
		out.Outcome = ledger.OutcomeOpen
	}
	out.TraceLink = o.policy.Tracing.LinkTo(c.TraceID)
	p := o.policy.Privacy
	if c.ID.Copy {
		out.Range, out.Rows = c.Range.Shown(p.Key), c.Rows
		return out, nil
	}
	out.Key = p.Key(c.Key.String())
	var err error
	if out.Columns, err = c.Changed(); err != nil {
		return out, err
	}
	key, err := ledger.ImageOf(c.KeyJSON)
	if err != nil {
		return out, err
	}
	if out.Before, err = veiledRow(p, c.Before, key); err != nil {
		return out, err
	}
	out.After, err = veiledRow(p, c.After, key)
	return out, err
}

// veiledRow is a row's image as the policy lets it be shown, nil where it may not be.
func veiledRow(p policy.Privacy, text *string, key ledger.Image) (map[string]any, error) {
	if text == nil || p.Values == "omit" {
		return nil, nil
	}
	image, err := ledger.ImageOf(*text)
	if err != nil {
		return nil, err
	}
	out := make(map[string]any, len(image))
	for column, raw := range image {
		show, how := p.Value, p.Values
		if _, isKey := key[column]; isKey {
			show, how = p.Key, p.Keys
		}
		value, there := image.Text(column)
		switch {
		case !there:
			out[column] = nil
		case how == "show":
			out[column] = raw
		default:
			out[column] = show(value)
		}
	}
	return out, nil
}
