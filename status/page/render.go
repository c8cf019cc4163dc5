package page

import (
	"bytes"
	"cmp"
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/policy"
)

// section is a part of the page that changes as a whole.
type section struct {
	ID   string
	HTML template.HTML
	Old  bool // what was known last; nothing newer is
}

// model is what the templates see.
type model struct {
	State
	Shown   []Notice
	Strips  []strip
	Chart   chart
	Levels  []level
	Figures []figure
}

// parsed reads the templates. They are embedded, so it can't fail once it has succeeded.
func parsed() (*template.Template, error) {
	return template.New("page.html").Funcs(template.FuncMap{
		"rows": rows, "count": count, "number": number, "stamp": stamp, "utc": utc, "seconds": seconds, "percent": percent, "width": width, "short": short,
		"number64": func(n int) string { return number(int64(n)) },
		"count64":  func(n int, one, many string) string { return count(int64(n), one, many) },
		"windowOf": func(s float64) string { return duration(time.Duration(s * float64(time.Second))) },
	}).ParseFS(assets, "assets/page.html")
}

func modelOf(s State) model {
	m := model{State: s, Shown: s.Notices()}
	m.Strips = strips(s)
	if s.Replica != nil {
		m.Chart = chartOf(s.Replica.Timeline)
		m.Levels = levels(s)
	}
	m.Figures = figures(m)
	return m
}

// sections makes all of a state.
func sections(s State) ([]section, error) {
	t, err := parsed()
	if err != nil {
		return nil, fmt.Errorf("the page's templates: %w", err)
	}
	m := modelOf(s)
	var out []section
	for _, name := range []string{"head", "notices", "tables", "chart", "levels", "gate", "resyncs", "corrections", "scan"} {
		var b bytes.Buffer
		if err := t.ExecuteTemplate(&b, name, m); err != nil {
			return nil, fmt.Errorf("making the part %q of the page: %w", name, err)
		}
		out = append(out, section{ID: name, HTML: template.HTML(b.String())}) //nolint:gosec // html/template has just made it
	}
	return out, nil
}

// render makes the whole page.
func (h *Hub) render(w io.Writer, l look) error {
	t, err := parsed()
	if err != nil {
		return err
	}
	trouble := ""
	if l.err != nil {
		trouble = l.err.Error()
	}
	return t.ExecuteTemplate(w, "page", struct {
		Version  string
		Now      time.Time
		Trouble  string
		Sections []section
	}{h.version, l.at, trouble, l.sections})
}

func number(n int64) string { return strings.ReplaceAll(humanize.Comma(n), ",", "\u202f") }

func count(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return number(n) + " " + many
}

func rows(n int64) string { return count(n, "row", "rows") }

func utc(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// stamp is a time that the browser counts from, where it runs scripts.
func stamp(t any) template.HTML {
	var at time.Time
	switch t := t.(type) {
	case time.Time:
		at = t
	case *time.Time:
		if t != nil {
			at = *t
		}
	}
	if at.IsZero() {
		return "never"
	}
	return template.HTML(`<time datetime="` + at.UTC().Format(time.RFC3339Nano) + `" title="` + utc(at) + `">` + at.UTC().Format("02 Jan 15:04:05") + ` UTC</time>`) //nolint:gosec // times only
}

func seconds(s *float64) string {
	if s == nil {
		return "unknown"
	}
	if *s < 100 {
		return strconv.FormatFloat(*s, 'f', 1, 64) + " s"
	}
	return duration(time.Duration(*s * float64(time.Second)))
}

// duration is for people: the two greatest units.
func duration(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		h, m := int(d.Hours()), int(d.Minutes())%60
		if m == 0 {
			return fmt.Sprintf("%d h", h)
		}
		return fmt.Sprintf("%d h %d min", h, m)
	default:
		return fmt.Sprintf("%d d", int(d.Hours()/24))
	}
}

// percent never says that everything is done while something is not.
func percent(f float64) string {
	p := math.Floor(100 * f)
	if f >= 1 {
		p = 100
	}
	return fmt.Sprintf("%.0f\u202f%%", p)
}

// width is a share of a whole as SVG has it.
func width(part, whole any) string {
	return strconv.FormatFloat(100*share(float(part), float(whole)), 'f', 1, 64) + "%"
}

func share(part, whole float64) float64 {
	if whole <= 0 {
		return 0
	}
	return min(1, max(0, part/whole))
}

func float(v any) float64 {
	switch v := v.(type) {
	case int:
		return float64(v)
	case int64:
		return float64(v)
	case float64:
		return v
	default:
		return 0
	}
}

func short(id string) string { return id[:min(len(id), 8)] }

// Key is a row's key as privacy lets it be shown.
func (m model) Key(k message.Key) string { return m.privacy().Key(k.String()) }

// Bound is one end of a range, likewise.
func (m model) Bound(k message.Key) string {
	if k == nil {
		return "∞"
	}
	return m.Key(k)
}

// Value is a column's value, likewise.
func (m model) Value(v string) string {
	if v == "" {
		return "absent"
	}
	return m.privacy().Value(v)
}

// ShowValues tells whether there is anything to see of them.
func (m model) ShowValues() bool {
	return m.Policy != nil && m.Policy.Privacy.Values != "" && m.Policy.Privacy.Values != "omit"
}

// Link is where a correction's trace is looked at; empty: nowhere.
func (m model) Link(id string) string {
	if m.Policy == nil {
		return ""
	}
	return m.Policy.Tracing.LinkTo(id)
}

// MaxLag is how far the replica may be behind; empty: not known.
func (m model) MaxLag() string {
	if m.Policy == nil {
		return ""
	}
	return duration(time.Duration(m.Policy.Gate.MaxLag))
}

// LagWidth is the share of it that the lag takes.
func (m model) LagWidth() string {
	if m.Policy == nil || m.Replica == nil || m.Replica.Gate.LagSeconds == nil {
		return "0%"
	}
	return width(*m.Replica.Gate.LagSeconds, time.Duration(m.Policy.Gate.MaxLag).Seconds())
}

// Outcome is what became of a correction, or of all that a resync wrote.
func (m model) Outcome(c ledger.Correction) string {
	b := c.Batch
	switch {
	case b == nil && c.Undone != nil, b != nil && b.Undone > 0 && b.Undone == b.All():
		return "undone"
	case b == nil:
		return cmp.Or(c.Outcome, "to be confirmed")
	case b.Open > 0:
		return number(int64(b.Open)) + " to be confirmed"
	case b.Undone > 0:
		return "confirmed, " + number(int64(b.Undone)) + " undone"
	default:
		return "confirmed"
	}
}

// Paused tells whether any table is not scanned.
func (m model) Paused() bool {
	return m.Scan != nil && slices.ContainsFunc(m.Scan.Tables, func(t ScanTable) bool { return t.Paused != "" })
}

// privacy shows nothing while no policy is known.
func (m model) privacy() policy.Privacy {
	if m.Policy == nil {
		return policy.Privacy{Keys: "omit", Values: "omit"}
	}
	return m.Policy.Privacy
}

// figure is one of the numbers at the top.
type figure struct{ Name, Value, Unit, Detail, Level string }

func figures(m model) (out []figure) {
	if r := m.Replica; r != nil {
		var looked, all, atMost float64
		known := len(r.Tables) > 0
		var corrected, suspects int
		for _, t := range r.Tables {
			corrected += t.Corrected.Missing + t.Corrected.Mismatched + t.Corrected.Extra
			suspects += t.Suspects
			if t.Estimate == nil {
				known = false
				continue
			}
			looked, all, atMost = looked+float64(t.Estimate.Looked), all+float64(t.Estimate.Rows), atMost+float64(t.Estimate.AtMost)
		}
		covered := figure{Name: "verified", Value: percent(coverage(r.Tables)), Detail: fmt.Sprintf("of about %s, within this cycle or the last", rows(int64(all)))}
		if all == 0 {
			covered.Detail = "nothing has been verified yet"
		}
		bound := figure{Name: "drifted now", Value: "unknown", Detail: "not every table has been looked at yet"}
		if known {
			bound = figure{Name: "drifted now", Value: "≤ " + number(int64(atMost)), Unit: unit(int64(atMost), "row", "rows"), Detail: "the sum of the tables’ bounds, 95\u00a0% confidence for each"}
		}
		found := figure{Name: "corrected", Value: number(int64(corrected)), Unit: unit(int64(corrected), "row", "rows"), Detail: suspected(suspects)}
		if r.Unconfirmed > 0 {
			found.Detail = number(int64(r.Unconfirmed)) + " not confirmed yet, " + found.Detail
		}
		if n := m.alone(); n > 0 {
			bound.Level, bound.Detail = "wait", number(int64(n))+" of them known and left alone; "+bound.Detail
		}
		gate := figure{Name: "gate", Value: "open", Level: "good", Detail: "lag " + seconds(r.Gate.LagSeconds)}
		if !r.Gate.Open {
			gate.Value, gate.Level = "closed", "wait"
		}
		out = append(out, covered, bound, found, gate)
	}
	if c := m.Scan; c != nil {
		pace := figure{Name: "scan", Value: number(int64(math.Round(c.RowsPerSecond))), Unit: "rows/s", Detail: "at full pace"}
		if c.Speed < 1 {
			pace.Detail = "slowed to " + percent(c.Speed) + ": the source is busy"
		}
		if c.Waiting != "" {
			pace.Detail = c.Waiting
		}
		out = append(out, pace)
		if m.Replica == nil {
			done, ranges := 0, 0
			for _, t := range c.Tables {
				done, ranges = done+t.Done, ranges+t.Ranges
			}
			out = append(out, figure{Name: "this cycle", Value: percent(share(float64(done), float64(ranges))), Detail: fmt.Sprintf("%s of %s", number(int64(done)), count(int64(ranges), "range", "ranges"))})
		}
	}
	return out
}

func suspected(n int) string {
	if n == 0 {
		return "no suspects"
	}
	return count(int64(n), "suspect is", "suspects are") + " being looked into"
}

func unit(n int64, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// coverage is of all tables together, each weighed with its rows.
func coverage(tables []ledger.TableReport) float64 {
	var done, all float64
	for _, t := range tables {
		weight := 1.0
		if t.Estimate != nil {
			weight = max(1, float64(t.Estimate.Rows))
		}
		done, all = done+weight*t.Coverage, all+weight
	}
	return share(done, all)
}
