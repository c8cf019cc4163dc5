package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/replica"
	"github.com/trickle-verify/trickle/scanner"
)

// What of the journal is held at once, since it is decided for all of it what can be undone, newest first, before anything is.
const (
	mostUndone      = 50_000    // lines
	mostUndoneBytes = 256 << 20 // of their rows
)

// held are the lines of a plan.
type held struct {
	list  []ledger.Recorded
	bytes int
}

// take adds a line, if it still fits.
func (h *held) take(c ledger.Recorded) error {
	if h.bytes += c.Size(); len(h.list) == mostUndone || h.bytes > mostUndoneBytes {
		return fmt.Errorf("these are more than %d corrections, or than %d MiB of their rows, which is what one undo takes: take the newest first, with a later --since, or a part with --table or --kind", mostUndone, mostUndoneBytes>>20)
	}
	h.list = append(h.list, c)
	return nil
}

// UndoLine is a line of the journal that is to be undone, and what comes of it.
type UndoLine struct {
	ID     string    `json:"id"`
	At     time.Time `json:"at"`
	Table  string    `json:"table"`
	Kind   string    `json:"kind"`
	Key    string    `json:"key,omitempty"`
	Range  string    `json:"range,omitempty"`
	Action string    `json:"action"` // what undoing it does
	Undone bool      `json:"undone"`
	Reason string    `json:"reason,omitempty"` // why it can't be undone
	Note   string    `json:"note,omitempty"`

	correction ledger.Recorded
}

// Undoing is what is to be undone, newest first, and what came of it.
type Undoing struct {
	Corrections []*UndoLine `json:"corrections"`
	Warnings    []string    `json:"warnings"`
	DryRun      bool        `json:"dry_run"`
	Undone      int         `json:"undone"`
	Refused     int         `json:"refused"` // those with a reason

	office *Office
	undoer *replica.Undoer
}

// PlanUndo finds what a person wants undone, and why some of it can't be. Nothing is written.
func (o *Office) PlanUndo(ctx context.Context, q JournalQuery) (*Undoing, error) {
	if o.refused != nil {
		return nil, o.refused
	}
	q.notUndone, q.Limit = len(q.IDs) == 0, 0
	f, err := q.filter(time.Now())
	if err != nil {
		return nil, err
	}
	var h held
	if err := o.Ledger.Each(ctx, f, h.take); err != nil {
		return nil, err
	}
	list := h.list
	u := &Undoing{Corrections: []*UndoLine{}, Warnings: []string{}, office: o}
	u.undoer = replica.NewUndoer(o.pool, o.Ledger, replica.Options{Map: o.mapping, Write: func() replica.Writing { return writing(o.policy) }})
	reasons, err := u.undoer.Check(ctx, list)
	if err != nil {
		return nil, err
	}
	for i, c := range list {
		line, err := o.line(c)
		if err != nil {
			return nil, err
		}
		l := &UndoLine{ID: line.ID, At: c.At, Table: c.Table, Kind: c.Kind, Key: line.Key, Range: line.Range, Action: undoes(c), correction: c}
		if reasons[i] != nil {
			l.Reason = reasons[i].Error()
		}
		u.Corrections = append(u.Corrections, l)
	}
	kept, err := o.Ledger.Kept(ctx)
	if err != nil {
		return nil, err
	}
	left := gone(kept, o.policy.Detect.Journal)
	if left != "" && len(f.IDs) == 0 && beyond(kept, f) {
		u.Warnings = append(u.Warnings, left)
	}
	for _, id := range f.IDs {
		if !slices.ContainsFunc(list, func(c ledger.Recorded) bool { return c.ID == id }) {
			l := &UndoLine{ID: id.String(), Reason: "pipeline " + o.policy.Pipeline + " has no such correction: see trickle-consumer corrections"}
			if left != "" {
				l.Note = "it may have been there: " + left
			}
			u.Corrections = append(u.Corrections, l)
		}
	}
	if err := u.explain(ctx); err != nil {
		return nil, err
	}
	return u, o.warn(ctx, u)
}

// undoes says what undoing a line of the journal does.
func undoes(c ledger.Recorded) string {
	switch {
	case c.ID.Copy:
		return fmt.Sprintf("delete the %d rows that nobody has written since", c.Rows)
	case c.Before == nil:
		return "delete the row"
	case c.After == nil:
		return "insert the row"
	default:
		return "put the values back"
	}
}

// explain names, where a row was corrected again, the correction that has to be undone first.
func (u *Undoing) explain(ctx context.Context) error {
	var ids []int64
	u.Refused = 0
	for _, l := range u.Corrections {
		if l.Reason == "" {
			continue
		}
		u.Refused++
		if c := l.correction; !c.ID.Copy && c.ID.N != 0 && c.UndoneAt == nil {
			ids = append(ids, c.ID.N)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	later, err := u.office.Ledger.Later(ctx, ids)
	if err != nil {
		return err
	}
	for _, l := range u.Corrections {
		if next := later[l.correction.ID.N]; l.Reason != "" && !l.correction.ID.Copy && next != 0 && l.Note == "" {
			l.Note = fmt.Sprintf("correction %d of the same row came after it: undo that first", next)
		}
	}
	return nil
}

// warn says what will become of what is undone.
func (o *Office) warn(ctx context.Context, u *Undoing) error {
	if !slices.ContainsFunc(u.Corrections, func(l *UndoLine) bool { return l.Reason == "" }) {
		return nil
	}
	brake, err := o.Ledger.Braked(ctx)
	switch {
	case err != nil:
		return err
	case brake != "":
		u.Warnings = append(u.Warnings, "the brake is on, so what is undone stays until it is released: "+brake)
	case o.policy.Detect.Action == policy.ActionCorrect:
		u.Warnings = append(u.Warnings, "what is undone differs from the source again, and detect.action is correct: a running detector corrects it again. Set detect.action: report first, or leave the rows out of the policy")
	}
	return nil
}

// Run undoes all that has no reason against it, each line in a transaction of its own, newest first. Its error is one that concerns all that were left then.
func (u *Undoing) Run(ctx context.Context) error {
	crowded := map[string][]*UndoLine{}
	var tables []string
	for _, l := range u.Corrections {
		if l.Reason != "" {
			continue
		}
		rows, err := u.undoer.Undo(ctx, l.correction)
		var not *replica.NotUndoneError
		switch {
		case err == nil:
			u.Undone, l.Undone = u.Undone+1, true
			if left := l.correction.Rows - rows; l.correction.ID.Copy && left > 0 {
				l.Reason = fmt.Sprintf("%d of its %d rows were written again or deleted since, and stay as they are", left, l.correction.Rows)
			}
		case !errors.As(err, &not):
			return fmt.Errorf("undoing correction %s: %w; %d were undone", l.ID, err, u.Undone)
		default:
			l.Reason = err.Error()
			if not.Crowded() {
				if crowded[l.Table] == nil {
					tables = append(tables, l.Table)
				}
				crowded[l.Table] = append(crowded[l.Table], l)
			}
		}
	}
	for _, table := range tables {
		if err := u.together(ctx, crowded[table]); err != nil {
			return err
		}
	}
	return u.explain(ctx)
}

// together tries those again that were in each other's way.
func (u *Undoing) together(ctx context.Context, lines []*UndoLine) error {
	seen := map[string]bool{}
	list := make([]ledger.Recorded, len(lines))
	for i, l := range lines {
		if list[i] = l.correction; seen[l.correction.KeyJSON] {
			return nil // two of one row: one after the other only
		}
		seen[l.correction.KeyJSON] = true
	}
	if len(list) < 2 {
		return nil
	}
	err := u.undoer.Together(ctx, list)
	var not *replica.NotUndoneError
	switch {
	case err == nil:
		for _, l := range lines {
			l.Reason, l.Undone = "", true
			u.Undone++
		}
		return nil
	case errors.As(err, &not):
		return nil // each has its own reason
	default:
		return err
	}
}

// mapping finds a source table in the policy.
func (o *Office) mapping(table string) (replica.Mapping, bool) {
	n := postgres.ParseName(table)
	m, ok := o.policy.For(n.Schema, n.Table)
	return replica.Mapping{Name: postgres.Name{Schema: m.Replica.Schema, Table: m.Replica.Name}, Rules: scanner.Rules(m.Table)}, ok
}
