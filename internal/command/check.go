package command

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/trickle-verify/trickle/check"
	"github.com/trickle-verify/trickle/internal/app"
)

// Check is the preflight of one side.
func Check(f *Flags, side app.CheckSide) *cobra.Command {
	o := app.CheckOptions{Side: side}
	var strict, ask bool
	c := &cobra.Command{
		Use: "check --policy FILE", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := f.Settings()
			if err != nil {
				return err
			}
			if o.Timeout <= 0 {
				return fmt.Errorf("--timeout %s: give each check some time", o.Timeout)
			}
			if ask {
				o.Ask = app.AskPublisher
			}
			report, err := app.Check(c.Context(), s, o)
			if err != nil {
				return err
			}
			if f.JSON() {
				err = PrintJSON(c.OutOrStdout(), report)
			} else {
				err = printReport(c.OutOrStdout(), report)
			}
			switch {
			case err != nil:
				return err
			case c.Context().Err() != nil:
				return c.Context().Err()
			case !report.OK, strict && report.Counts.Warning+report.Counts.NotChecked > 0:
				return ErrFound
			}
			return nil
		},
	}
	const status = "Nothing is written. Each line is ok, warning, failure or not checked, with what mends it.\n\n" +
		"Exit status: 0 no failure, 1 at least one (with --strict also a warning, or something that was not checked), 2 bad flags or a bad policy."
	f.Policy(c)
	f.Source(c)
	f.Primary(c)
	f.Replica(c)
	f.Brokers(c)
	if side == app.CheckPublisher {
		c.Short = "Look, before anything runs, at rights, keys, publications, slots, topics and clocks"
		c.Long = "check looks at all that trickle run needs: the source, each table that the policy names, what CDC carries of it, and Kafka. Where the replica is\nnamed (TRICKLE_REPLICA_DSN or --replica) it looks at that too, for trickle run --without-kafka. " + status
		c.Example = "  trickle check --policy policy.yaml --source postgres://… --brokers kafka:9092"
	} else {
		c.Short = "Look, before anything runs, at rights, agreement with the source, the gate, topics and clocks"
		c.Long = "check looks at all that trickle-consumer run needs: the replica, each table's counterpart there, the gate, and Kafka. Whether tables agree with the\n" +
			"source's it finds out from the source itself, with --source, or with --ask from the running publisher, to which it sends a question for each table. " + status
		c.Example = "  trickle-consumer check --policy policy.yaml --replica postgres://… --brokers kafka:9092 --source postgres://…"
		f.Consumer(c)
		c.Flags().BoolVar(&ask, "ask", false, "ask the running publisher about each table, over Kafka, instead of looking at the source")
	}
	c.Flags().DurationVar(&o.Timeout, "timeout", 30*time.Second, "how long one check may take")
	c.Flags().BoolVar(&strict, "strict", false, "exit with 1 for warnings too, and for what was not checked")
	return c
}

// mark is how a verdict's line begins.
func mark(v check.Verdict, colour func(code, text string) string) string {
	code := "36"
	switch v {
	case check.OK:
		code = "32"
	case check.Warning:
		code = "33"
	case check.Failure:
		code = "31"
	}
	return colour(code, fmt.Sprintf("%-11s", v))
}

// printReport writes the report for people, group by group.
func printReport(out io.Writer, r check.Report) error {
	colour := func(_, text string) string { return text }
	if file, isFile := out.(*os.File); isFile && term.IsTerminal(int(file.Fd())) && os.Getenv("NO_COLOR") == "" {
		colour = func(code, text string) string { return "\x1b[" + code + "m" + text + "\x1b[0m" }
	}
	var b strings.Builder
	group := ""
	for _, f := range r.Checks {
		if f.Group != group {
			if group != "" {
				b.WriteByte('\n')
			}
			group = f.Group
			b.WriteString(group + "\n")
		}
		subject := f.Check
		if f.Object != "" {
			subject += " of " + f.Object
		}
		fmt.Fprintf(&b, "  %s  %s\n", mark(f.Verdict, colour), Visible(subject+": "+f.Detail))
		if f.Fix != "" {
			fmt.Fprintf(&b, "  %-11s    fix: %s\n", "", Visible(f.Fix))
		}
	}
	c := r.Counts
	fmt.Fprintf(&b, "\n%d ok, %s, %s, %d not checked\n", c.OK, plural(c.Warning, "warning"), plural(c.Failure, "failure"), c.NotChecked)
	_, err := io.WriteString(out, b.String())
	return err
}

// Visible keeps a terminal from obeying what a name holds.
func Visible(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

func plural[N int | int64](n N, of string) string {
	if n == 1 {
		return "1 " + of
	}
	return humanize.Comma(int64(n)) + " " + of + "s"
}
