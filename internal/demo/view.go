package demo

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dustin/go-humanize"

	"github.com/trickle-verify/trickle/ledger"
)

// mostEvents is how many are shown, the newest ones.
const mostEvents = 12

// size of a terminal, in characters.
type size struct{ width, height int }

// style is how a piece of text is set off; with color off all are alike.
type style string

const (
	plain style = ""
	dim   style = "2"
	bold  style = "1"
	good  style = "32"
	warn  style = "33"
	bad   style = "31"
	info  style = "36"
)

// palette says whether styles show.
type palette int

const (
	monochrome palette = iota
	colored
)

// row is one line of the view: pieces of text, each in its style.
type row []piece

type piece struct {
	style style
	text  string
}

func (r row) add(s style, format string, args ...any) row {
	return append(r, piece{s, fmt.Sprintf(format, args...)})
}

// render cuts the row to the width.
func (r row) render(width int, p palette) string {
	var b strings.Builder
	for _, piece := range r {
		text := piece.text
		if n := utf8.RuneCountInString(text); n > width {
			text = string([]rune(text)[:max(0, width-1)]) + "…"
			if width <= 0 {
				break
			}
			width = 0
		} else {
			width -= n
		}
		if p == colored && piece.style != plain {
			fmt.Fprintf(&b, "\x1b[%sm%s\x1b[0m", piece.style, text)
		} else {
			b.WriteString(text)
		}
	}
	return strings.TrimRight(b.String(), " ")
}

// render draws the whole view: a pure function of what is known, the terminal's size and whether it has colors. No line is wider and there are no
// more of them than fit.
func render(s State, sz size, p palette) []string {
	bars := min(max(sz.width-76, 8), 36)
	var rows []row
	rows = append(rows, head(s), address(s), load(s), nil)
	rows = append(rows, cycles(s.Tables, bars)...)
	rows = append(rows, nil)
	rows = append(rows, drift(s.Drift)...)
	rows = append(rows, nil, level("window  partial", s.Partial, bars), level("        full   ", s.Full, bars), nil)
	rows = append(rows, resync(s, bars)...)
	rows = append(rows, nil)
	rows = append(rows, events(s.Events, sz.height-len(rows)-1)...)
	if len(rows) > sz.height {
		rows = rows[:max(0, sz.height)]
	}
	lines := make([]string, len(rows))
	for i, r := range rows {
		lines[i] = r.render(sz.width, p)
	}
	return lines
}

func head(s State) row {
	return row{}.add(bold, "trickle demo").add(plain, "  %s  ", clock(s.Elapsed)).add(info, "%d/%d %s", s.Step, s.Steps, s.Phase)
}

// address is where the same can be watched in a browser.
func address(s State) row {
	if s.Page == "" {
		return nil
	}
	return row{}.add(dim, "watch it in a browser: ").add(info, "%s", s.Page)
}

func load(s State) row {
	r := row{}.add(plain, "source  %s writes/s, %s in all", comma(int64(s.WritesPerSecond)), comma(s.Writes))
	if !s.Ready {
		return r
	}
	if s.Gate.LagSeconds != nil {
		r = r.add(plain, "    CDC %.1f s behind", *s.Gate.LagSeconds)
	}
	if s.Gate.Open {
		return r.add(plain, ", ").add(good, "gate open")
	}
	return r.add(plain, ", ").add(warn, "gate closed: %s", s.Gate.Reason)
}

func cycles(tables []Table, bars int) []row {
	if len(tables) == 0 {
		return []row{row{}.add(dim, "cycle   not begun")}
	}
	longest := 0
	for _, t := range tables {
		longest = max(longest, len(t.Name))
	}
	rows := make([]row, len(tables))
	for i, t := range tables {
		title := "cycle "
		if i > 0 {
			title = "      "
		}
		rows[i] = row{}.add(plain, "%s  %-*s  #%-3d ", title, longest, t.Name, t.Cycle).add(info, "%s", bar(t.Done, t.Ranges, bars)).
			add(plain, " %3d of %d ranges, %s rows verified", t.Done, t.Ranges, comma(t.Rows))
	}
	return rows
}

func drift(v verdict) []row {
	line := func(title string, s style, k ledger.Kinds) row {
		return row{}.add(plain, "%-18s", title).add(s, "%9d  %10d  %7d  %7d", k.Missing, k.Mismatched, k.Extra, sum(k))
	}
	healed := plain
	if v.Corrected == v.Injected && sum(v.Injected) > 0 {
		healed = good
	}
	wrong := good
	if len(v.False) > 0 {
		wrong = bad
	}
	return []row{
		row{}.add(dim, "%-18s%9s  %10s  %7s  %7s", "drift", "missing", "mismatched", "extra", "all"),
		line("        injected", warn, v.Injected),
		line("        found", info, v.Found),
		line("        corrected", healed, v.Corrected),
		row{}.add(plain, "        corrections of rows that nobody made wrong: ").add(wrong, "%d", len(v.False)),
	}
}

func level(title string, l Level, bars int) row {
	s := info
	if l.Limit > 0 && l.Count >= l.Limit {
		s = bad
	}
	r := row{}.add(plain, "%s  ", title).add(s, "%s", bar(l.Count, l.Limit, bars)).add(plain, " %3d of %d", l.Count, l.Limit)
	if l.Where == "" {
		return r
	}
	return r.add(dim, "  %s", l.Where)
}

func resync(s State, bars int) []row {
	title := row{}.add(plain, "resync  ")
	done := row{}.add(plain, "        done so far: %d partial, %d full", s.Resyncs.Partial, s.Resyncs.Full)
	if s.Resync == nil {
		return []row{title.add(dim, "none yet"), done}
	}
	look := good
	if s.resyncing() {
		look = warn
	}
	return []row{
		title.add(plain, "%-7s  ", s.Resync.Scope).add(look, "%s", bar(s.Resync.RangesDone, s.Resync.Ranges, bars)).
			add(plain, " %3d of %d ranges of %s, %s", s.Resync.RangesDone, s.Resync.Ranges, s.Resync.Table, s.Resync.State),
		row{}.add(plain, "        %s rows looked at, %s corrected", comma(s.Resync.Rows), comma(s.Resync.Corrected)),
		done,
	}
}

// events shows the last ones that fit.
func events(all []Event, room int) []row {
	if room < 1 {
		return nil
	}
	rows := []row{row{}.add(dim, "events")}
	for _, e := range all[max(0, len(all)-min(room-1, mostEvents)):] {
		rows = append(rows, row{}.add(dim, "  %s  ", clock(e.At)).add(plain, "%s", e.Text))
	}
	return rows
}

// bar is full when done reaches of.
func bar(done, of, width int) string {
	full := 0
	if of > 0 {
		full = min(width, done*width/of)
	}
	return strings.Repeat("█", full) + strings.Repeat("░", width-full)
}

func clock(d time.Duration) string {
	return fmt.Sprintf("%02d:%02d", int(d.Minutes()), int(d.Seconds())%60)
}

func comma(n int64) string { return humanize.Comma(n) }
