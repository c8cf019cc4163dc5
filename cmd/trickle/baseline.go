package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/export"
	"github.com/trickle-verify/trickle/internal/app"
	"github.com/trickle-verify/trickle/internal/command"
)

func baselineCommand(f *command.Flags) *cobra.Command {
	c := &cobra.Command{
		Use: "baseline", Short: "Build, list and verify sets of the base-line view, from which a lost replica is restored", Args: cobra.NoArgs,
		Long: "The base-line view is a copy of the source's tables outside both databases, at the policy's baseline.url. trickle run keeps it fresh; these commands build a\n" +
			"set at once, list those that there are, and read one again to see whether it is what it was written as. trickle-consumer restore loads one.",
	}
	c.AddCommand(baselineBuild(f), baselineVerify(f), baselineList(f))
	return c
}

func baselineBuild(f *command.Flags) *cobra.Command {
	var o app.BuildOptions
	var kind string
	c := &cobra.Command{
		Use: "build --policy FILE --source DSN --brokers LIST", Short: "Build a set now, at full speed", Args: cobra.NoArgs,
		Example: "  trickle baseline build --policy policy.yaml --source postgres://… --brokers kafka:9092\n" +
			"  trickle baseline build --policy policy.yaml --source postgres://… --brokers kafka:9092 --afresh",
		Long: "build reads the source's tables and writes a set of the base-line view to the policy's baseline.url, without the ceilings that trickle run keeps to. Ranges that have\n" +
			"not changed since the last set are named again and not read. A build that is stopped, or killed, goes on where it was when it is run again. Sets beyond baseline.keep\n" +
			"are removed afterwards.\n\nExit status: 0 the set is complete, 2 it is not, 130 interrupted, 143 terminated.",
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := f.Settings()
			if err != nil {
				return err
			}
			if o.Digest, err = digestOf(kind); err != nil {
				return err
			}
			line := newNotice(c.ErrOrStderr())
			o.Report = func(p export.Progress) {
				line.show(fmt.Sprintf("%s: %d of %d tables, %s of about %s rows, %s written", p.Table, p.Done, p.Tables, humanize.Comma(int64(p.Rows)), humanize.Comma(int64(max(p.Total, p.Rows))), humanize.IBytes(uint64(p.Bytes))))
			}
			built, err := app.BaselineBuild(c.Context(), s, o)
			line.clear()
			if err != nil {
				return err
			}
			if f.JSON() {
				return command.PrintJSON(c.OutOrStdout(), built)
			}
			return printBuilt(c.OutOrStdout(), built)
		},
	}
	f.Policy(c)
	f.Source(c)
	f.Primary(c)
	f.Brokers(c)
	c.Flags().BoolVar(&o.Afresh, "afresh", false, "read everything anew and use no object of an earlier set, for when some are damaged")
	c.Flags().StringVar(&kind, "digest", "", "how rows are digested: `record|portable`; portable is slower, and any server computes it, so that a set can be restored into another major version; "+
		"default: as in the set before, at first record")
	return c
}

func digestOf(kind string) (digest.Kind, error) {
	switch kind {
	case "":
		return 0, nil
	case digest.Record.String():
		return digest.Record, nil
	case digest.Portable.String():
		return digest.Portable, nil
	default:
		return 0, fmt.Errorf("--digest takes record or portable, not %q; see trickle baseline build --help", kind)
	}
}

func printBuilt(out io.Writer, b app.BuiltSet) error {
	w := newTable("table", "rows", "objects", "size")
	for _, t := range b.Tables {
		w.AppendRow(table.Row{t.Table, humanize.Comma(int64(t.Rows)), t.Objects, humanize.IBytes(uint64(t.Bytes))})
	}
	_, err := fmt.Fprintf(out, "%s\nset %s is complete: %s rows, %s, in %s; %d objects written, %d unchanged and named again; %d old sets removed\n", w.Render(), b.Set,
		humanize.Comma(int64(b.Rows)), humanize.IBytes(uint64(b.Bytes)), seconds(b.Seconds), b.Objects.New, b.Objects.Reused, b.Removed.Sets)
	return err
}

func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second)).Round(100 * time.Millisecond)
}

func newTable(header ...any) table.Writer {
	w := table.NewWriter()
	w.SetStyle(table.StyleLight)
	w.AppendHeader(header)
	return w
}

func baselineList(f *command.Flags) *cobra.Command {
	c := &cobra.Command{
		Use: "list --policy FILE", Short: "List the sets that there are", Args: cobra.NoArgs,
		Example: "  trickle baseline list --policy policy.yaml\n  trickle baseline list --policy policy.yaml --brokers kafka:9092 --format json",
		Long: "list shows the sets in the policy's baseline.url, newest first. With --brokers it says of each whether it is still a restore point: whether the CDC's topics hold all that\n" +
			"came after it.\n\nExit status: 0 there is a complete set (with --brokers: one that is a restore point), 1 there is none, 2 on an error.",
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := f.Settings()
			if err != nil {
				return err
			}
			sets, err := app.BaselineList(c.Context(), s)
			if err != nil {
				return err
			}
			if f.JSON() {
				err = command.PrintJSON(c.OutOrStdout(), sets)
			} else {
				err = printSets(c.OutOrStdout(), sets)
			}
			if err != nil {
				return err
			}
			for _, set := range sets {
				if set.State == app.SetComplete && (set.Valid == nil || *set.Valid) {
					return nil
				}
			}
			return command.ErrFound
		},
	}
	f.Policy(c)
	f.Brokers(c)
	return c
}

func printSets(out io.Writer, sets []app.ListedSet) error {
	if len(sets) == 0 {
		_, err := fmt.Fprintln(out, "there is no set yet: build one with trickle baseline build")
		return err
	}
	w := newTable("set", "state", "taken", "tables", "rows", "objects", "size", "restore point")
	for _, set := range sets {
		point := "not looked at (--brokers)"
		switch {
		case set.State != app.SetComplete:
			point = "no"
		case set.Valid != nil && *set.Valid:
			point = fmt.Sprintf("yes, %s events to replay", humanize.Comma(set.Events))
			if !set.Expires.IsZero() {
				point += ", until " + set.Expires.UTC().Format(time.RFC3339)
			}
		case set.Valid != nil:
			point = "no: " + set.Invalid
		}
		state := set.State
		if set.Reason != "" {
			state += ": " + set.Reason
		}
		w.AppendRow(table.Row{set.Set, state, ago(set.Taken), set.Tables, humanize.Comma(int64(set.Rows)), set.Objects, humanize.IBytes(uint64(set.Bytes)), point})
	}
	_, err := fmt.Fprintln(out, w.Render())
	return err
}

func ago(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339) + ", " + humanize.Time(t)
}

func baselineVerify(f *command.Flags) *cobra.Command {
	var o app.VerifyOptions
	c := &cobra.Command{
		Use: "verify --policy FILE", Short: "Read a set again and check that it is what it was written as", Args: cobra.NoArgs,
		Example: "  trickle baseline verify --policy policy.yaml\n  trickle baseline verify --policy policy.yaml --against source --source postgres://… --brokers kafka:9092",
		Long: "verify reads every object of a set and checks its size, SHA-256 and header, that it can be decompressed, and how many rows it holds. Whether the rows have the thumbprints\n" +
			"that the manifest gives them takes a database to digest them: with --against, ranges are compared with those of the source or of the replica; where they differ the\n" +
			"set's rows are loaded into a temporary table there, which is rolled back. At the source, rows that were written since the set are told by their version, and a\n" +
			"deletion leaves no trace; in a replica nothing tells when a row was written. With --brokers CDC's topics are read from the set's position on, and a row that they hold a\n" +
			"change of counts as changed since.\n\n" +
			"Exit status: 0 sound, 1 an object is damaged or rows differ without an excuse, 2 on an error.",
		RunE: func(c *cobra.Command, _ []string) error {
			if o.Limit < 0 {
				return errors.New("--limit takes a number from 0 on; see trickle baseline verify --help")
			}
			s, err := f.Settings()
			if err != nil {
				return err
			}
			line := newNotice(c.ErrOrStderr())
			o.Report = func(p app.VerifyProgress) {
				line.show(fmt.Sprintf("%s: %d of %d objects, %s rows", p.Table, p.Done, p.Objects, humanize.Comma(int64(p.Rows))))
			}
			v, err := app.BaselineVerify(c.Context(), s, o)
			line.clear()
			if err != nil {
				return err
			}
			if f.JSON() {
				err = command.PrintJSON(c.OutOrStdout(), v)
			} else {
				err = printVerified(c.OutOrStdout(), v)
			}
			if err == nil && !v.Sound {
				err = command.ErrFound
			}
			return err
		},
	}
	f.Policy(c)
	f.Source(c)
	f.Replica(c)
	f.Brokers(c)
	fl := c.Flags()
	fl.StringVar(&o.Set, "set", "", "the `SET` to verify; default: the newest complete one")
	fl.StringVar(&o.Against, "against", "", "compare with the rows of the `source|replica` too")
	fl.IntVar(&o.Limit, "limit", 100, "list at most this many rows of each table that differ without an excuse")
	return c
}

func printVerified(out io.Writer, v app.VerifiedSet) error {
	header := []any{"table", "objects", "rows", "size"}
	if v.Against != "" {
		header = append(header, "ranges agree", "differ", "changed since", "gone since", "unexplained", "remark")
	}
	w := newTable(header...)
	var listed strings.Builder
	for _, t := range v.Tables {
		row := table.Row{t.Table, t.Objects, humanize.Comma(int64(t.Rows)), humanize.IBytes(uint64(t.Bytes))}
		if a := t.Against; a != nil {
			remark := a.Refused
			if a.Untold > 0 {
				remark = fmt.Sprintf("which rows of %d ranges differ can't be told: that takes a temporary table, and this server or login allows none", a.Untold)
			}
			row = append(row, a.Agree, a.Differ, a.Since, a.Gone, a.Unproven, remark)
			for _, r := range a.Listed {
				fmt.Fprintf(&listed, "%s %s: %s\n", t.Table, r.Key, r.Kind)
			}
		}
		w.AppendRow(row)
	}
	for _, fault := range v.Faults {
		fmt.Fprintf(&listed, "fault: %s\n", fault)
	}
	_, err := fmt.Fprintf(out, "%s\n%sset %s %s; checked: %s\n", w.Render(), listed.String(), v.Set, verdict(v), strings.Join(v.Checked, ", "))
	return err
}

// verdict tells a set that is damaged from one that a database differs from: with a replica it is that which has to be mended.
func verdict(v app.VerifiedSet) string {
	switch {
	case v.Sound:
		return "is sound"
	case len(v.Faults) > 0:
		return "is damaged: build another with trickle baseline build --afresh"
	default:
		return "is whole, and the " + v.Against + " differs from it, or can't be compared"
	}
}

// notice is a line of progress on a terminal; anywhere else it shows nothing.
type notice struct {
	out  io.Writer
	on   bool
	last time.Time
}

func newNotice(out io.Writer) *notice { return &notice{out: out, on: onTerminal(out)} }

func (n *notice) show(text string) {
	if now := time.Now(); n.on && now.Sub(n.last) >= 200*time.Millisecond {
		n.last = now
		fmt.Fprint(n.out, "\r\x1b[K"+text)
	}
}

func (n *notice) clear() {
	if n.on {
		fmt.Fprint(n.out, "\r\x1b[K")
	}
}
