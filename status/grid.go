package status

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// Look is what a text is made for.
type Look struct {
	Width  int // columns of the terminal; 0: as many as it takes
	Colour bool
	Now    time.Time // for ages
}

// Colours of what somebody should look at, from not at all to at once.
const (
	Good    = "32"
	Mind    = "33"
	Bad     = "31"
	Subdued = "2"
)

// Paint colours a text, where the look has colours.
func (l Look) Paint(colour, s string) string {
	if !l.Colour || s == "" {
		return s
	}
	return "\x1b[" + colour + "m" + s + "\x1b[0m"
}

// Ago is an age for people, "never" for no time.
func (l Look) Ago(t *time.Time) string {
	if t == nil || t.IsZero() {
		return "never"
	}
	return Span(max(0, l.Now.Sub(*t))) + " ago"
}

// Span is a length of time in two units at most.
func Span(d time.Duration) string {
	two := func(of, then time.Duration, names string) string {
		d = d.Round(then)
		s := fmt.Sprintf("%d%c", d/of, names[0])
		if rest := d % of / then; rest > 0 {
			s += fmt.Sprintf("%d%c", rest, names[1])
		}
		return s
	}
	const day = 24 * time.Hour
	switch {
	case d >= 2*day:
		return two(day, time.Hour, "dh")
	case d >= time.Hour:
		return two(time.Hour, time.Minute, "hm")
	case d >= time.Minute:
		return two(time.Minute, time.Second, "ms")
	default:
		return fmt.Sprintf("%ds", d.Round(time.Second)/time.Second)
	}
}

// Count is a number for people.
func Count[N int | int64 | uint64](n N) string { return humanize.Comma(int64(n)) }

// Grid is a table of text. Where it is too wide, it does without columns.
type Grid struct {
	Head []string
	Rows [][]string
	// Right are columns of numbers, Spare those that it does without, the first of them first.
	Right, Spare []string
}

// Text draws it.
func (g Grid) Text(l Look) string {
	for n := 0; ; n++ {
		out := g.without(g.Spare[:n])
		first, _, _ := strings.Cut(out, "\n")
		if l.Width == 0 || n == len(g.Spare) || text.StringWidthWithoutEscSequences(first) <= l.Width {
			return out + "\n"
		}
	}
}

func (g Grid) without(spare []string) string {
	w := table.NewWriter()
	w.SetStyle(table.StyleLight)
	row := func(cells []string) table.Row {
		var r table.Row
		for i, c := range cells {
			if !slices.Contains(spare, g.Head[i]) {
				r = append(r, c)
			}
		}
		return r
	}
	var configs []table.ColumnConfig
	for _, name := range g.Right {
		configs = append(configs, table.ColumnConfig{Name: name, Align: text.AlignRight, AlignHeader: text.AlignRight})
	}
	w.SetColumnConfigs(configs)
	w.AppendHeader(row(g.Head))
	for _, cells := range g.Rows {
		w.AppendRow(row(cells))
	}
	return w.Render()
}
