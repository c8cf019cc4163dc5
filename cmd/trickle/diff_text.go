package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/dustin/go-humanize"

	"github.com/trickle-verify/trickle/diff"
	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/internal/app"
)

// textPrinter is for people.
type textPrinter struct {
	out    io.Writer
	listed int64 // differences of the table that is being compared
}

func (p *textPrinter) Found(t diff.Table, d diff.Difference) error {
	p.listed++
	key := make([]string, len(d.Key))
	for i, k := range d.Key {
		key[i] = quoted(k.Name) + "=" + quoted(k.Value)
	}
	columns := make([]string, len(d.Columns))
	for i, c := range d.Columns {
		columns[i] = fmt.Sprintf("%s: %s in the source, %s in the replica", quoted(c.Name), valueOf(c.Source), valueOf(c.Replica))
	}
	_, err := fmt.Fprintln(p.out, strings.TrimRight(fmt.Sprintf("%-10s  %s  %s  %s", d.Kind, visible(t.Source.String()), strings.Join(key, ", "), strings.Join(columns, "; ")), " "))
	return err
}

// quoted makes a value one that can't be mistaken for what stands around it.
func quoted(s string) string {
	special := func(r rune) bool {
		return strings.ContainsRune(" ,;:=\"'", r) || !unicode.IsPrint(r) || r == utf8.RuneError
	}
	if s == "" || strings.ContainsFunc(s, special) {
		return fmt.Sprintf("%q", s)
	}
	return s
}

// visible spells out what a terminal would obey.
func visible(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }) {
		return s
	}
	return fmt.Sprintf("%q", s)
}

func valueOf(v []byte) string {
	if v == nil {
		return "NULL"
	}
	if s := string(v); strings.EqualFold(s, "null") {
		return fmt.Sprintf("%q", s)
	}
	return quoted(string(v))
}

func (p *textPrinter) Compared(r diff.Result, failed error) error {
	var b strings.Builder
	b.WriteString(visible(r.Table.Source.String()))
	if r.Table.Replica != r.Table.Source {
		fmt.Fprintf(&b, " (in the replica %s)", visible(r.Table.Replica.String()))
	}
	b.WriteString(": ")
	counts := fmt.Sprintf("%s missing, %s mismatched, %s extra", humanize.Comma(r.Missing), humanize.Comma(r.Mismatched), humanize.Comma(r.Extra))
	switch {
	case failed != nil && r.Rows == 0:
		fmt.Fprintf(&b, "not compared: %v", failed)
	case failed != nil:
		fmt.Fprintf(&b, "not compared to its end (so far %s, %s): %v", rows(r.Rows), counts, failed)
	case r.Differences() == 0 && r.Unsettled == 0:
		fmt.Fprintf(&b, "identical, %s", rows(r.Rows))
	case r.Differences() == 0:
		fmt.Fprintf(&b, "no difference, %s", rows(r.Rows))
	default:
		fmt.Fprintf(&b, "%s of %s", counts, rows(r.Rows))
	}
	if failed == nil {
		fmt.Fprintf(&b, ", %.1f s", r.Took.Seconds())
		if r.Digest == digest.Portable {
			b.WriteString(", portable digests (the servers hash these types differently)")
		}
	}
	if p.listed > 0 && p.listed < r.Differences() {
		fmt.Fprintf(&b, "\n  %s listed, as --limit says", rows(p.listed))
	}
	p.listed = 0
	if r.Fixed > 0 {
		fmt.Fprintf(&b, "\n  %s fixed: see trickle.corrections in the replica", rows(r.Fixed))
	}
	for _, reason := range slices.Sorted(maps.Keys(r.Unfixed)) {
		fmt.Fprintf(&b, "\n  %s not fixed: %s", rows(r.Unfixed[reason]), reason)
	}
	if r.Unsettled > 0 {
		fmt.Fprintf(&b, "\n  %s kept changing and not judged: try a longer --settle", rows(r.Unsettled))
	}
	for _, note := range r.Notes {
		b.WriteString("\n  " + note)
	}
	_, err := fmt.Fprintln(p.out, b.String())
	return err
}

func (p *textPrinter) Missed(asked string, failed error) error {
	_, err := fmt.Fprintf(p.out, "%s: not compared: %v\n", asked, failed)
	return err
}

func rows(n int64) string {
	if n == 1 {
		return "1 row"
	}
	return humanize.Comma(n) + " rows"
}

func (p *textPrinter) end(o app.Outcome) error {
	for _, side := range []struct {
		name   string
		tables []string
	}{{"source", o.OnlySource}, {"replica", o.OnlyReplica}} {
		if len(side.tables) > 0 {
			if _, err := fmt.Fprintf(p.out, "only in the %s: %s\n", side.name, strings.Join(side.tables, ", ")); err != nil {
				return err
			}
		}
	}
	verdict := "identical"
	switch {
	case o.Different > 0 && o.Different == o.Tables:
		verdict = "all differ"
	case o.Different > 0:
		verdict = fmt.Sprintf("%d differ", o.Different)
	case o.Failed > 0:
		verdict = "no difference in what was compared"
	case o.Unsettled > 0:
		verdict = "no difference"
	}
	if o.Unsettled > 0 {
		verdict += ", " + rows(o.Unsettled) + " not judged"
	}
	if o.Failed > 0 {
		verdict += fmt.Sprintf(", %d not compared", o.Failed)
	}
	if o.Tables == 1 {
		return nil // its own line said it all
	}
	_, err := fmt.Fprintf(p.out, "%d tables, %s: %s\n", o.Tables, rows(o.Rows), verdict)
	return err
}
