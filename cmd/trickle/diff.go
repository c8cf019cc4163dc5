package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/trickle-verify/trickle/diff"
	"github.com/trickle-verify/trickle/internal/app"
	"github.com/trickle-verify/trickle/internal/command"
	"github.com/trickle-verify/trickle/postgres"
)

// settleToFix is how long CDC is given by default before anything is written.
const settleToFix = 10 * time.Second

// mostJobs is more than any server has cores to read one table with.
const mostJobs = 256

func diffCommand(f *command.Flags) *cobra.Command {
	var o app.DiffOptions
	var list, fix bool
	var limit int
	var jsonb string
	c := &cobra.Command{
		Use: "diff --source DSN --replica DSN", Short: "Compare two databases in one pass: no Kafka, nothing installed on either", Args: cobra.NoArgs,
		Long: "diff compares every table that both databases have, or those that --table or the policy names, and counts the rows that differ. Rows are digested\n" +
			"inside Postgres; each side is read in one snapshot a table and needs SELECT only. Where both are being written, --settle gives CDC its time.\n\n" +
			"Exit status: 0 all identical, 1 something differs (fixed or not), 2 a table that was asked for could not be compared, 130 interrupted, 143\n" +
			"terminated. Tables that only one side has are named and change nothing, unless --table or the policy asks for them by name.\n" +
			"The DSNs may stand in TRICKLE_SOURCE_DSN and TRICKLE_REPLICA_DSN instead.",
		Example: "  trickle diff --source postgres://… --replica postgres://…\n" +
			"  trickle diff --source … --replica … --table public.orders --list --limit 100\n" +
			"  trickle diff --source … --replica … --settle 10s                # both are being written\n" +
			"  trickle diff --source … --replica … --policy policy.yaml --fix  # correct what differs, with a journal",
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := f.Settings()
			if err != nil {
				return err
			}
			switch {
			case o.Jobs < 1 || o.Jobs > mostJobs:
				return fmt.Errorf("--jobs %d: give a number from 1 to %d", o.Jobs, mostJobs)
			case o.Settle < 0:
				return fmt.Errorf("--settle %s: give a time from 0s on", o.Settle)
			case limit < 0:
				return fmt.Errorf("--limit %d: give a number from 0 on, or leave it out to list all", limit)
			case c.Flags().Changed("limit") && !list:
				return errors.New("--limit bounds what --list prints: give --list too")
			}
			switch jsonb {
			case "hash":
			case "text":
				o.JSON = postgres.JSONAsText
			default:
				return fmt.Errorf("--jsonb takes hash or text, and not %q", jsonb)
			}
			if list {
				if o.Limit = -1; c.Flags().Changed("limit") {
					o.Limit = limit
				}
			}
			if fix {
				if o.Fix = app.Correct; !c.Flags().Changed("settle") {
					o.Settle = settleToFix
				}
			}
			return runDiff(c, f, s, o)
		},
	}
	f.Policy(c)
	f.Source(c)
	f.Replica(c)
	fl := c.Flags()
	fl.StringArrayVar(&o.Tables, "table", nil, "only this `TABLE`, schema.name as the source has it, a * for any run of characters; without a schema it is one of public; may be given again")
	fl.IntVar(&o.Jobs, "jobs", 1, "connections that read on each side at once")
	fl.DurationVar(&o.Settle, "settle", 0, "how long CDC may take to bring a change: what differs is looked at again after it; with --fix 10s by default")
	fl.StringVar(&jsonb, "jsonb", "hash", "what of jsonb is compared, `hash|text`: Postgres's hash of it, which does not see a number's sign or where a nested value ends, or its text, which costs more; a policy's text stands")
	fl.BoolVar(&list, "list", false, "print each row that differs: its key, and of a mismatched one the columns with both values")
	fl.IntVar(&limit, "limit", 0, "with --list: list at most this many rows of each table, and count on; left out: all")
	fl.BoolVar(&fix, "fix", false, "correct what differs in the replica, with a journal in its schema trickle")
	return c
}

func runDiff(c *cobra.Command, f *command.Flags, s app.Settings, o app.DiffOptions) error {
	var out interface {
		app.Printer
		end(o app.Outcome) error
	}
	o.Progress = &diff.Progress{}
	bar := newBar(c.ErrOrStderr(), o.Progress)
	if f.JSON() {
		// Its lines are whole only with the next one's begin, so the bar would wipe them out where both are shown on one screen.
		bar.terminal = bar.terminal && !onTerminal(c.OutOrStdout())
		out = newJSONPrinter(c.OutOrStdout())
	} else {
		out = &textPrinter{out: bar.above(c.OutOrStdout())}
	}
	o.Printer = out
	stop := bar.start(c.Context())
	result, err := app.Diff(c.Context(), s, o)
	stop()
	if result.Tables > 0 { // also after an interrupt
		err = errors.Join(err, out.end(result))
	}
	if err != nil {
		return err
	}
	switch {
	case result.Failed > 0:
		return fmt.Errorf("%d of %d tables could not be compared: see above for the reasons", result.Failed, result.Tables)
	case result.Different > 0:
		return command.ErrFound
	default:
		return nil
	}
}
