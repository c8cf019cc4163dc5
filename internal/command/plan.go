package command

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/scheduler"
)

// planOptions is what policy plan is asked for.
type planOptions struct {
	file, size, cycle, mode string
	rows                    int64
	rate                    int
	cost                    float64
}

// plan is `policy plan`.
func planCommand(f *Flags) *cobra.Command {
	var o planOptions
	c := &cobra.Command{
		Use: "plan --rows N [--row-bytes B] [--policy FILE]", Short: "Work out the pace, the load and how soon drift is found, for so many rows", Args: cobra.NoArgs,
		Long: "plan is the arithmetic by which the publisher paces itself: the slowest of the cycle, the ceilings under rate, and the source. It opens nothing. Without --policy the\n" +
			"policy's defaults stand; --cycle and --rows-per-second try other values. backoff, which slows a scan down while the source is busy, is not foreseen, and tables that rest\n" +
			"(nothing changed in a range since its last reading) cost the source a third of what is told here.\n\n" +
			"Exit status: 0, 1 where a pass takes longer than schedule.cycle, 2 on an error.",
		Example: "  trickle policy plan --rows 40000000 --row-bytes 300B\n" +
			"  trickle policy plan --rows 40000000 --cycle 12h --rows-per-second 500\n" +
			"  trickle policy plan --rows 40000000 --row-bytes 300B --policy policy.yaml --format json",
		RunE: func(c *cobra.Command, _ []string) error {
			p, err := o.policy()
			if err != nil {
				return err
			}
			size, err := o.measure(p)
			if err != nil {
				return err
			}
			plan, err := scheduler.Foresee(p, size, time.Now())
			if err != nil {
				return err
			}
			if f.JSON() {
				err = PrintJSON(c.OutOrStdout(), planReport(p, size, plan))
			} else {
				err = printPlan(c.OutOrStdout(), planOf{cmp.Or(o.file, "the defaults, as none is given"), p, size, plan})
			}
			if err == nil && plan.Late {
				err = ErrFound
			}
			return err
		},
	}
	fl := c.Flags()
	f.Policy(c)
	fl.Int64Var(&o.rows, "rows", 0, "how many rows all tables have")
	fl.StringVar(&o.size, "row-bytes", "200B", "how large a row is on average, as a `SIZE`")
	fl.StringVar(&o.mode, "mode", "", "thumbprints or rows; default: rows if all tables of the policy have it")
	fl.StringVar(&o.cycle, "cycle", "", "a `TIME` in place of the policy's schedule.cycle")
	fl.IntVar(&o.rate, "rows-per-second", 0, "in place of the policy's rate.rows_per_second")
	fl.Float64Var(&o.cost, "seconds-per-million", scheduler.SourceSecondsPerMillion, "what a million rows cost the source, in seconds: make bench measures yours")
	Complete(c, "mode", Words(policy.ModeThumbprints, policy.ModeRows))
	c.PreRun = func(*cobra.Command, []string) { o.file = f.settings.PolicyFile }
	return c
}

// policy is the file's, or one of defaults, with what the flags say instead.
func (o planOptions) policy() (*policy.Policy, error) {
	var p *policy.Policy
	var err error
	if o.file == "" {
		p, _, err = policy.Parse("defaults", []byte("pipeline: plan\ntables: [{table: public.t}]\n"))
	} else {
		p, _, err = policy.Load(o.file)
	}
	if err != nil {
		return nil, err
	}
	if o.cycle != "" {
		if err := p.Schedule.Cycle.UnmarshalText([]byte(o.cycle)); err != nil {
			return nil, fmt.Errorf("--cycle %w", err)
		}
		if p.Schedule.Cycle <= 0 {
			return nil, fmt.Errorf("--cycle %s: give the time one pass over everything may take", o.cycle)
		}
	}
	if o.rate < 0 {
		return nil, fmt.Errorf("--rows-per-second %d: give a number above 0, or leave it out", o.rate)
	}
	if o.rate > 0 {
		p.Rate.RowsPerSecond = o.rate
	}
	return p, nil
}

// measure is what there is to verify.
func (o planOptions) measure(p *policy.Policy) (scheduler.Size, error) {
	s := scheduler.Size{Rows: o.rows, Mode: o.mode, Cost: o.cost}
	if o.rows < 1 {
		return s, fmt.Errorf("--rows %d: give how many rows there are to verify", o.rows)
	}
	if o.cost <= 0 || math.IsInf(o.cost, 0) || math.IsNaN(o.cost) {
		return s, fmt.Errorf("--seconds-per-million %v: give what a million rows cost, such as %v", o.cost, scheduler.SourceSecondsPerMillion)
	}
	var size policy.Size
	if err := size.UnmarshalText([]byte(o.size)); err != nil {
		return s, fmt.Errorf("--row-bytes %w", err)
	}
	s.RowBytes = int64(size)
	switch s.Mode {
	case policy.ModeThumbprints, policy.ModeRows:
	case "":
		s.Mode = policy.ModeRows
		for _, t := range p.Tables {
			if t.Mode != policy.ModeRows {
				s.Mode = policy.ModeThumbprints
			}
		}
	default:
		return s, fmt.Errorf("--mode %q: use %s or %s", s.Mode, policy.ModeThumbprints, policy.ModeRows)
	}
	return s, nil
}

type planOf struct {
	file   string
	policy *policy.Policy
	size   scheduler.Size
	plan   scheduler.Forecast
}

func printPlan(out io.Writer, o planOf) error {
	f, p := o.plan, o.policy
	var b strings.Builder
	line := func(what, format string, args ...any) {
		fmt.Fprintf(&b, "%-13s"+format+"\n", append([]any{what}, args...)...)
	}
	line("policy", "%s", o.file)
	line("to verify", "%s of %s, in %s of up to %s rows, as %s", plural(o.size.Rows, "row"), humanize.IBytes(uint64(o.size.RowBytes)), plural(f.Ranges, "range"), humanize.Comma(int64(p.RangeRows)), o.size.Mode)
	while := ""
	if f.Open < 1 {
		while = fmt.Sprintf(", while a window is open, which is %s %% of the time", few(100*f.Open))
	}
	line("pace", "a range every %s%s; set by %s", span(f.Interval), while, f.Reason)
	line("rows", "%s a second, %s a second read", few(f.RowsPerSecond), bytesOf(f.ReadBytesPerSecond))
	line("messages", "%s a second, %s a second sent", few(f.MessagesPerSecond), bytesOf(f.SentBytesPerSecond))
	line("source", "a query runs %s %% of the time, at %v s for a million rows", few(100*f.SourceShare), o.size.Cost)
	line("one pass", "%s", span(f.Pass))
	if f.Late {
		line("", "LATE: longer than schedule.cycle %s; raise what sets the pace, widen the windows, or give the cycle more time", p.Schedule.Cycle)
	}
	line("drift", "is found after %s on average, %s at worst", span(f.Expected), span(f.Worst))
	line("", "in a row written just before: %s, %s (it has to be quiet for %s)", span(f.ExpectedFresh), span(f.WorstFresh), p.Quiet)
	line("", "in a row that is never quiet: %s at worst (max_staleness %s)", span(f.Hot), p.MaxStaleness)
	line("thresholds", "%s rows are verified within detect.window %s", few(f.WindowRows), p.Detect.Window)
	line("", "a partial resync is asked for %s, a full one %s", passed(f.PartialAt, "the rows in a neighbourhood"), passed(f.FullAt, "all rows"))
	_, err := io.WriteString(out, b.String())
	return err
}

// passed tells which share of rows passes a threshold.
func passed(at float64, where string) string {
	if at > 1 {
		return "never (too few rows are verified within the window)"
	}
	return fmt.Sprintf("where %s %% of %s differ", few(100*at), where)
}

// few is a number with three digits that count.
func few(v float64) string {
	if v >= 1000 {
		return humanize.Comma(int64(math.Round(v)))
	}
	if v > 0 && v < 0.001 {
		return "less than 0.001"
	}
	return fmt.Sprintf("%.3g", v)
}

func bytesOf(v float64) string {
	if v > 0 && v < 1 {
		return "less than 1 B"
	}
	return humanize.IBytes(uint64(math.Round(v)))
}

// span is a time in two units at most.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d >= 2*day:
		d = d.Round(time.Hour)
		text := fmt.Sprintf("%dd", d/day)
		if h := d % day / time.Hour; h > 0 {
			text += fmt.Sprintf("%dh", h)
		}
		return text
	case d >= time.Hour:
		d = d.Round(time.Minute)
		text := fmt.Sprintf("%dh", d/time.Hour)
		if m := d % time.Hour / time.Minute; m > 0 {
			text += fmt.Sprintf("%dm", m)
		}
		return text
	case d >= time.Minute:
		d = d.Round(time.Second)
		text := fmt.Sprintf("%dm", d/time.Minute)
		if s := d % time.Minute / time.Second; s > 0 {
			text += fmt.Sprintf("%ds", s)
		}
		return text
	case d >= time.Second:
		return few(d.Seconds()) + "s"
	default:
		return few(float64(d)/float64(time.Millisecond)) + "ms"
	}
}

// planReport is the same as numbers.
func planReport(p *policy.Policy, s scheduler.Size, f scheduler.Forecast) any {
	at := func(share float64) *float64 {
		if share > 1 {
			return nil
		}
		return &share
	}
	return struct {
		Rows          int64    `json:"rows"`
		RowBytes      int64    `json:"row_bytes"`
		Mode          string   `json:"mode"`
		Ranges        int64    `json:"ranges"`
		Interval      float64  `json:"interval_seconds"`
		Reason        string   `json:"paced_by"`
		Open          float64  `json:"open_share"`
		RowsRate      float64  `json:"rows_per_second"`
		ReadRate      float64  `json:"read_bytes_per_second"`
		MessageRate   float64  `json:"messages_per_second"`
		SentRate      float64  `json:"sent_bytes_per_second"`
		SourceShare   float64  `json:"source_share"`
		Cycle         float64  `json:"cycle_seconds"`
		Pass          float64  `json:"pass_seconds"`
		Late          bool     `json:"late"`
		Expected      float64  `json:"detection_seconds"`
		Worst         float64  `json:"worst_detection_seconds"`
		ExpectedFresh float64  `json:"fresh_detection_seconds"`
		WorstFresh    float64  `json:"worst_fresh_detection_seconds"`
		Hot           float64  `json:"worst_hot_detection_seconds"`
		Window        float64  `json:"window_seconds"`
		WindowRows    float64  `json:"window_rows"`
		PartialAt     *float64 `json:"partial_resync_at_share"` // null: never
		FullAt        *float64 `json:"full_resync_at_share"`
	}{
		s.Rows, s.RowBytes, s.Mode, f.Ranges, f.Interval.Seconds(), f.Reason, f.Open, f.RowsPerSecond, f.ReadBytesPerSecond, f.MessagesPerSecond, f.SentBytesPerSecond, f.SourceShare, f.Cycle.Seconds(), f.Pass.Seconds(), f.Late,
		f.Expected.Seconds(), f.Worst.Seconds(), f.ExpectedFresh.Seconds(), f.WorstFresh.Seconds(), f.Hot.Seconds(), time.Duration(p.Detect.Window).Seconds(), f.WindowRows, at(f.PartialAt), at(f.FullAt),
	}
}
