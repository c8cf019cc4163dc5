package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/trickle-verify/trickle/internal/app"
	"github.com/trickle-verify/trickle/internal/command"
)

// lister writes lines of the journal as they are read.
type lister interface {
	line(c app.CorrectionLine) error
	end(next, gone string) error
}

// textLister writes a table.
type textLister struct {
	out     io.Writer
	table   *command.Table
	listed  int
	nothing string // what is said where there is no line
}

func newTextLister(out io.Writer, nothing string) *textLister {
	return &textLister{out: out, nothing: nothing, table: command.NewTable(out, "id", "at (UTC)", "table", "kind", "key", "changed", "outcome", "resync", "trace")}
}

func (l *textLister) line(c app.CorrectionLine) error {
	l.listed++
	key, changed := c.Key, strings.Join(c.Columns, ", ")
	if c.Range != "" {
		key, changed = c.Range, humanize.Comma(c.Rows)+" rows"
	}
	if err := l.table.Row(c.ID, c.At.Format(timeShown), c.Table, c.Kind, command.Visible(key), command.Visible(changed), c.Outcome, c.Resync, cmp.Or(c.TraceLink, c.Trace)); err != nil {
		return err
	}
	if c.Before == nil {
		return nil
	}
	for _, column := range c.Columns {
		if err := l.table.Row("", "", "", "", "", command.Visible(fmt.Sprintf("%s: %s → %s", column, shown(c.Before[column]), shown(c.After[column]))), "", "", ""); err != nil {
			return err
		}
	}
	return nil
}

func (l *textLister) end(next, gone string) error {
	if l.listed == 0 {
		if _, err := fmt.Fprintln(l.out, l.nothing); err != nil {
			return err
		}
	} else if err := l.table.Close(); err != nil {
		return err
	}
	var err error
	switch {
	case next != "":
		_, err = fmt.Fprintln(l.out, "more: --after "+next)
	case gone != "":
		_, err = fmt.Fprintln(l.out, gone)
	}
	return err
}

// jsonLister writes one object, which is whole only once all was read.
type jsonLister struct {
	out    io.Writer
	listed int
}

const jsonIndent = "    "

func (l *jsonLister) line(c app.CorrectionLine) error {
	lead := ",\n"
	if l.listed == 0 {
		lead = "{\n  \"corrections\": [\n"
	}
	l.listed++
	text, err := json.MarshalIndent(c, jsonIndent, "  ")
	if err != nil {
		return err
	}
	_, err = io.WriteString(l.out, lead+jsonIndent+string(text))
	return err
}

func (l *jsonLister) end(next, gone string) error {
	if l.listed == 0 {
		return command.PrintJSON(l.out, map[string]any{"corrections": []any{}, "next": next, "gone": gone})
	}
	text, err := json.Marshal(next)
	if err != nil {
		return err
	}
	left, err := json.Marshal(gone)
	if err != nil {
		return err
	}
	_, err = io.WriteString(l.out, "\n  ],\n  \"next\": "+string(text)+",\n  \"gone\": "+string(left)+"\n}\n")
	return err
}
