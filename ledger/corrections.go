package ledger

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

// KindCopied is the kind of ranges that were copied whole, among corrections.
const KindCopied = "copied"

// Outcomes by which the journal is searched, besides those of closed corrections.
const (
	OutcomeOpen   = "open"   // written and not confirmed yet
	OutcomeUndone = "undone" // a person took it back
)

// CorrectionID names a line of the journal: a correction, or a range that was copied whole.
type CorrectionID struct {
	Copy bool
	N    int64
}

const copyPrefix = "copy-"

func (id CorrectionID) String() string {
	n := strconv.FormatInt(id.N, 10)
	if id.Copy {
		return copyPrefix + n
	}
	return n
}

// ParseCorrectionID reads String's form.
func ParseCorrectionID(s string) (CorrectionID, error) {
	number, isCopy := strings.CutPrefix(s, copyPrefix)
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 1 {
		return CorrectionID{}, fmt.Errorf("%q is no correction: give a number, or copy- and a number, as trickle-consumer corrections lists them", s)
	}
	return CorrectionID{Copy: isCopy, N: n}, nil
}

// MarshalText is String.
func (id CorrectionID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// Recorded is a line of the journal.
type Recorded struct {
	ID       CorrectionID
	At       time.Time
	Table    string // as the source calls it
	Kind     string // missing, mismatched, extra, or KindCopied
	Key      message.Key
	KeyJSON  string  // the key's columns, by the replica's names
	Before   *string // JSON objects of whole rows; nil: there was none
	After    *string
	TraceID  string
	ResyncID string
	ClosedAt *time.Time // nil: not confirmed yet
	Outcome  string     // empty while it is not
	UndoneAt *time.Time
	Version  uint64 // xmin of what was written
	Found    uint64 // xmin of the row before; 0: there was none, or it is not known

	// Of a copy.
	Range message.Range
	Rows  int64
	Undo  string // the statement that takes back its rows
}

// Filter picks lines of the journal; what is zero picks all.
type Filter struct {
	IDs      []CorrectionID
	Tables   []string // as the source calls them
	Kinds    []string
	Key      message.Key
	KeyJSON  string // an object of columns
	KeyHash  string // as privacy shows keys: # and twelve hexadecimal digits
	Since    time.Time
	Until    time.Time
	Outcomes []string // confirmed, superseded, OutcomeOpen, OutcomeUndone
	Resync   string
	Trace    string
	// NotUndone leaves out what was taken back.
	NotUndone bool
	// After goes on behind a line that was listed before.
	After Cursor
	Limit int // at most that many; 0: all
}

// Cursor is where a list stopped.
type Cursor struct {
	At time.Time
	ID CorrectionID
}

// Cursor is where a list that ended with it goes on.
func (c Recorded) Cursor() Cursor { return Cursor{At: c.At, ID: c.ID} }

// String is for a person to hand back; empty for the beginning.
func (c Cursor) String() string {
	if c.At.IsZero() {
		return ""
	}
	return strconv.FormatInt(c.At.UnixMicro(), 36) + "." + c.ID.String()
}

// ParseCursor reads String's form.
func ParseCursor(s string) (Cursor, error) {
	if s == "" {
		return Cursor{}, nil
	}
	at, id, ok := strings.Cut(s, ".")
	micros, err := strconv.ParseInt(at, 36, 64)
	if !ok || err != nil {
		return Cursor{}, fmt.Errorf("%q is no cursor: give one that an earlier list ended with", s)
	}
	c := Cursor{At: time.UnixMicro(micros).UTC()}
	if c.ID, err = ParseCorrectionID(id); err != nil {
		return Cursor{}, fmt.Errorf("%q is no cursor: give one that an earlier list ended with", s)
	}
	return c, nil
}

// ErrOutdated is returned where the ledger was made by an older version, which did not note what is asked for.
var ErrOutdated = errors.New("the ledger in this database is of an older version: start this version's trickle-consumer run once, which adds what is missing")

// outdated turns the absence of our tables and columns into what to do.
func outdated(err error) error {
	if postgres.State(err) == "42703" {
		return ErrOutdated
	}
	return missing(err)
}

// conditions is the filter over the columns that both journals have; $1 is the pipeline.
type conditions struct {
	args  []any
	terms []string
}

func (w *conditions) add(term string, args ...any) {
	for _, a := range args {
		w.args = append(w.args, a)
		term = strings.Replace(term, "?", "$"+strconv.Itoa(len(w.args)), 1)
	}
	w.terms = append(w.terms, term)
}

func (w *conditions) String() string { return strings.Join(w.terms, " AND ") }

// shared are the conditions that corrections and copies have in common.
func (f Filter) shared(w *conditions, what int) {
	if len(f.Tables) > 0 {
		w.add("c.table_name = ANY(?)", f.Tables)
	}
	if len(f.Kinds) > 0 {
		w.add("c.kind = ANY(?)", f.Kinds)
	}
	if !f.Since.IsZero() {
		w.add("c.at >= ?", f.Since)
	}
	if !f.Until.IsZero() {
		w.add("c.at < ?", f.Until)
	}
	if f.Resync != "" {
		w.add("c.resync_id = ?", f.Resync)
	}
	if f.Trace != "" {
		w.add("c.trace_id = ?", f.Trace)
	}
	if len(f.Outcomes) > 0 {
		w.add("CASE WHEN c.undone_at IS NOT NULL THEN 'undone' WHEN c.closed_at IS NULL THEN 'open' ELSE c.outcome END = ANY(?)", f.Outcomes)
	}
	if f.NotUndone {
		w.add("c.undone_at IS NULL")
	}
	if len(f.IDs) > 0 {
		ids := []int64{}
		for _, id := range f.IDs {
			if id.Copy == (what == copies) {
				ids = append(ids, id.N)
			}
		}
		w.add("c.id = ANY(?)", ids)
	}
	if !f.After.At.IsZero() {
		from := corrections
		if f.After.ID.Copy {
			from = copies
		}
		w.add("c.at <= ?", f.After.At) // which an index can be gone along by
		w.add("(c.at, "+strconv.Itoa(what)+", c.id) < (?::timestamptz, ?::integer, ?::bigint)", f.After.At, from, f.After.ID.N)
	}
}

// keyed are those that only a correction can meet.
func (f Filter) keyed(w *conditions) {
	if f.Key != nil {
		w.add("c.key_text = ?::text[]", array(f.Key))
	}
	if f.KeyJSON != "" {
		w.add("c.key @> ?::jsonb", f.KeyJSON)
	}
	if f.KeyHash != "" {
		w.add(`'#' || left(encode(sha256(convert_to(CASE cardinality(c.key_text) WHEN 1 THEN c.key_text[1] ELSE '(' || array_to_string(c.key_text, ',') || ')' END, 'UTF8')), 'hex'), 12) = ?`, f.KeyHash)
	}
}

const (
	corrections = 0
	copies      = 1
)

// Corrections lists the journal, newest first. The order is that of the times at which lines were written, and does not change.
func (l *Ledger) Corrections(ctx context.Context, f Filter) ([]Recorded, error) {
	w := &conditions{args: []any{l.pipeline}, terms: []string{"c.pipeline = $1"}}
	f.shared(w, corrections)
	f.keyed(w)
	limit := ""
	if f.Limit > 0 {
		limit = " LIMIT " + strconv.Itoa(f.Limit)
	}
	sql := `(SELECT ` + strconv.Itoa(corrections) + ` AS what, c.id, c.at, c.table_name, c.kind, c.key_text, c.key::text, c.before::text, c.after::text, coalesce(c.trace_id, ''), coalesce(c.resync_id, ''),
			c.closed_at, coalesce(c.outcome, ''), c.undone_at, c.version, NULL::text[], NULL::text[], 1::bigint, '', coalesce(c.found, 0)
		FROM trickle.corrections c WHERE ` + w.String() + ` ORDER BY c.at DESC, c.id DESC` + limit + `)`
	if f.Key == nil && f.KeyJSON == "" && f.KeyHash == "" {
		w.terms = []string{"c.pipeline = $1"}
		f.shared(w, copies)
		sql += ` UNION ALL (SELECT ` + strconv.Itoa(copies) + `, c.id, c.at, c.table_name, c.kind, NULL, '', NULL, NULL, '', c.resync_id, c.closed_at, c.outcome, c.undone_at, c.version, c.lo, c.hi, c.rows, c.undo, 0
			FROM (SELECT c.*, '` + KindCopied + `' AS kind, NULL::text AS trace_id, CASE WHEN c.closed_at IS NULL THEN '' ELSE 'confirmed' END AS outcome FROM trickle.copies c) c
			WHERE ` + w.String() + ` ORDER BY c.at DESC, c.id DESC` + limit + `)`
	}
	rows, err := l.pool.Query(ctx, `SELECT * FROM (`+sql+`) AS q ORDER BY 3 DESC, 1 DESC, 2 DESC`+limit, w.args...)
	if err != nil {
		return nil, fmt.Errorf("reading the journal: %w", outdated(err))
	}
	list, err := pgx.CollectRows(rows, scanCorrection)
	if err != nil {
		return nil, fmt.Errorf("reading the journal: %w", outdated(err))
	}
	return list, nil
}

func scanCorrection(row pgx.CollectableRow) (c Recorded, err error) {
	var what int
	var version, found int64
	var key, lo, hi []string
	err = row.Scan(&what, &c.ID.N, &c.At, &c.Table, &c.Kind, &key, &c.KeyJSON, &c.Before, &c.After, &c.TraceID, &c.ResyncID, &c.ClosedAt, &c.Outcome, &c.UndoneAt, &version, &lo, &hi, &c.Rows, &c.Undo, &found)
	c.ID.Copy, c.Version, c.Found, c.Key, c.Range = what == copies, uint64(version), uint64(found), key, message.Range{Lo: lo, Hi: hi}
	c.At = c.At.UTC()
	for _, t := range []*time.Time{c.ClosedAt, c.UndoneAt} {
		if t != nil {
			*t = t.UTC()
		}
	}
	return c, err
}

// Changed names the columns that a correction changed, of one that found a row on both sides.
func (c Recorded) Changed() ([]string, error) {
	if c.Before == nil || c.After == nil {
		return nil, nil
	}
	before, err := ImageOf(*c.Before)
	if err != nil {
		return nil, err
	}
	after, err := ImageOf(*c.After)
	if err != nil {
		return nil, err
	}
	return before.Differing(after), nil
}
