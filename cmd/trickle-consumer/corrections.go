package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/trickle-verify/trickle/internal/app"
	"github.com/trickle-verify/trickle/internal/command"
)

const timeShown = "2006-01-02 15:04:05"

func correctionsCommand(f *command.Flags) *cobra.Command {
	var q app.JournalQuery
	c := &cobra.Command{
		Use: "corrections --policy FILE", Short: "List and search the journal of what was corrected", Args: cobra.NoArgs,
		Long: "corrections lists the journal, newest first: each row that was corrected, and each range that a resync copied whole, with what became of it. Of keys and values it\n" +
			"shows what the policy's privacy allows: with keys: hash, --key takes the hash that logs and this list show too.\n\n" +
			"The order does not change while new ones come: a page ends with what --after takes to go on behind it. With --format json it is one object:\n" +
			"{\"corrections\": [...], \"next\": \"\", \"gone\": \"\"}, where next is what --after takes, and empty at the end, and gone says where older lines have left the journal (detect.journal). Lines are written as they are read, and not held:\n" +
			"--limit 0 lists a journal of any size, and JSON that an error cut short is no whole object.\n\n" +
			"Exit status: 0, also where there is none, 2 on an error.",
		Example: "  trickle-consumer corrections --policy policy.yaml --since 1h\n" +
			"  trickle-consumer corrections --policy policy.yaml --table public.orders --kind extra --since \"2026-11-26 08:00\" --until \"2026-11-26 09:00\"\n" +
			"  trickle-consumer corrections --policy policy.yaml --key 42                   # several key columns: 10,1, or '{\"id\": 10, \"line\": 1}'\n" +
			"  trickle-consumer corrections --policy policy.yaml --outcome open             # written, not confirmed yet\n" +
			"  trickle-consumer corrections --policy policy.yaml --limit 0 --format json",
		RunE: func(c *cobra.Command, _ []string) error {
			if err := q.Check(); err != nil {
				return err
			}
			return withOffice(c, f, func(o *app.Office) error {
				nothing := "nothing was corrected yet"
				if q.Searches() {
					nothing = "nothing in the journal is like that"
				}
				text := newTextLister(c.OutOrStdout(), nothing)
				var l lister = text
				if f.JSON() {
					l = &jsonLister{out: c.OutOrStdout()}
				}
				next, err := o.Corrections(c.Context(), q, l.line)
				if err != nil {
					return errors.Join(err, text.table.Close()) // what was read before it
				}
				gone := ""
				if next == "" {
					if gone, err = o.Gone(c.Context(), q); err != nil {
						return errors.Join(err, text.table.Close())
					}
				}
				return l.end(next, gone)
			})
		},
	}
	f.Policy(c)
	f.Replica(c)
	journalFlags(c, f, &q)
	fl := c.Flags()
	fl.StringVar(&q.Key, "key", "", "only the row of this `KEY`: its columns with commas between them, a JSON object of columns, or # and the hash that is shown of it")
	fl.StringSliceVar(&q.Outcomes, "outcome", nil, "only those that stand like this: `"+strings.Join(app.JournalOutcomes(), "|")+"`")
	fl.StringVar(&q.Trace, "trace", "", "only those of this trace `ID`")
	fl.IntVar(&q.Limit, "limit", 50, "at most this many; 0: all")
	fl.StringVar(&q.After, "after", "", "go on behind the page that ended with this `CURSOR`")
	command.Complete(c, "outcome", command.Words(app.JournalOutcomes()...))
	return c
}

// journalFlags are those by which lines of the journal are picked.
func journalFlags(c *cobra.Command, f *command.Flags, q *app.JournalQuery) {
	fl := c.Flags()
	fl.StringSliceVar(&q.Tables, "table", nil, "only this `TABLE`, as the source calls it; may be repeated")
	fl.StringSliceVar(&q.Kinds, "kind", nil, "only of this kind: `"+strings.Join(app.JournalKinds(), "|")+"`")
	fl.StringVar(&q.Since, "since", "", "only from this `TIME` on: 10m, 2h or 7d ago, a date, or a date and a time")
	fl.StringVar(&q.Until, "until", "", "only before this `TIME`")
	fl.StringVar(&q.Resync, "resync", "", "only those of the resync `ID`")
	command.Complete(c, "table", f.Tables)
	command.Complete(c, "kind", command.Words(app.JournalKinds()...))
	command.Complete(c, "resync", resyncIDs(f))
}

// shown is a value in a list.
func shown(v any) string {
	const most = 60
	text := "NULL"
	switch v := v.(type) {
	case nil:
	case string:
		text = v
	case fmt.Stringer:
		text = v.String()
	default:
		text = fmt.Sprintf("%s", v)
	}
	if r := []rune(text); len(r) > most {
		text = string(r[:most]) + "…"
	}
	return text
}

func undoCommand(f *command.Flags) *cobra.Command {
	var q app.JournalQuery
	var dry, yes bool
	c := &cobra.Command{
		Use: "undo (ID... | --since T [--until T] [--table T])", Short: "Take corrections back: put the rows as they were before",
		Long: "undo puts back the row that the journal has from before a correction, if the row still is what the correction left: the same version and the same values. What somebody has\n" +
			"written since stays. Each is undone in one transaction with its mark in the journal, the newest first; of a range that was copied whole (copy-ID) the rows go that nobody has\n" +
			"written since. It first lists what it would do, and why it can't do some of it; then it asks, on a terminal, or takes --yes.\n\n" +
			"What is undone differs from the source again, so that a running detector finds and corrects it anew, unless the policy says detect.action: report, or the brake is on. A brake\n" +
			"that is on and a gate that is closed do not keep a person from undoing; a restore that is under way does. More than 50,000 corrections, or 256 MiB of their rows, are refused: take the newest first, with a later --since.\n\n" +
			"Exit status: 0 all was undone (with --dry-run: can be), 1 some could not, with the reason, 2 an error or nothing was confirmed, 130 interrupted.",
		Example: "  trickle-consumer undo --policy policy.yaml 1041 1042\n" +
			"  trickle-consumer undo --policy policy.yaml --since 1h --table public.orders --dry-run\n" +
			"  trickle-consumer undo --policy policy.yaml --since \"2026-11-26 08:00\" --until \"2026-11-26 08:30\" --yes\n" +
			"  trickle-consumer undo --policy policy.yaml copy-7",
		RunE: func(c *cobra.Command, args []string) error {
			switch q.IDs = args; {
			case len(args) == 0 && q.Since == "" && q.Resync == "":
				return errors.New("say what to undo: the IDs that trickle-consumer corrections lists, or --since TIME, or --resync ID")
			case len(args) > 0 && (q.Since != "" || q.Until != "" || q.Resync != "" || len(q.Tables)+len(q.Kinds) > 0):
				return errors.New("give IDs, or --since and the like, not both")
			case dry && yes:
				return errors.New("--dry-run only lists, and --yes undoes: give one of them")
			}
			asks := !dry && !yes
			if asks && (f.JSON() || !command.OnTerminal(c.InOrStdin()) || !command.OnTerminal(c.OutOrStdout())) {
				return errors.New("nothing was undone: there is nobody to ask; give --dry-run to see what would be done, and --yes to do it")
			}
			if err := q.Check(); err != nil {
				return err
			}
			return withOffice(c, f, func(o *app.Office) error { return undo(c, f, o, undoing{q, dry, asks}) })
		},
	}
	f.Policy(c)
	f.Replica(c)
	journalFlags(c, f, &q)
	c.Flags().BoolVar(&dry, "dry-run", false, "only list what would be done, and what could not")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}

// undoing is how undo is asked for.
type undoing struct {
	query app.JournalQuery
	dry   bool
	asks  bool
}

func undo(c *cobra.Command, f *command.Flags, o *app.Office, how undoing) error {
	out := c.OutOrStdout()
	u, err := o.PlanUndo(c.Context(), how.query)
	if err != nil {
		return err
	}
	u.DryRun = how.dry
	possible := len(u.Corrections) - u.Refused
	if how.asks {
		if err := printUndo(out, u); err != nil {
			return err
		}
		if possible > 0 {
			fmt.Fprintf(out, "Undo %s of %s? [y/N] ", humanize.Comma(int64(possible)), counted(len(u.Corrections)))
			yes, err := command.Confirmed(c.Context(), c.InOrStdin())
			if err != nil {
				return err
			}
			if !yes {
				return errors.New("nothing was undone")
			}
		}
	}
	if !how.dry && possible > 0 {
		if err := u.Run(c.Context()); err != nil {
			return err
		}
	}
	switch {
	case f.JSON():
		err = command.PrintJSON(out, u)
	case how.asks:
		err = printUndone(out, u)
	default:
		err = printUndo(out, u)
	}
	if err == nil && u.Refused > 0 {
		err = command.ErrFound
	}
	return err
}

// counted is so many corrections.
func counted(n int) string {
	if n == 1 {
		return "1 correction"
	}
	return humanize.Comma(int64(n)) + " corrections"
}

// printUndo lists what is to be done, or what was.
func printUndo(out io.Writer, u *app.Undoing) error {
	if len(u.Corrections) == 0 {
		_, err := fmt.Fprintln(out, strings.Join(append([]string{"nothing in the journal is like that, or all of it was undone already"}, u.Warnings...), "\n"))
		return err
	}
	w := table.NewWriter()
	w.SetStyle(table.StyleLight)
	w.AppendHeader(table.Row{"id", "at (UTC)", "table", "kind", "key", "undoing it", ""})
	for _, l := range u.Corrections {
		at := ""
		if !l.At.IsZero() {
			at = l.At.Format(timeShown)
		}
		w.AppendRow(table.Row{l.ID, at, l.Table, l.Kind, command.Visible(l.Key + l.Range), l.Action, command.Visible(said(l))})
	}
	var b strings.Builder
	b.WriteString(w.Render() + "\n")
	for _, text := range u.Warnings {
		b.WriteString("warning: " + text + "\n")
	}
	possible := len(u.Corrections) - u.Refused
	if u.DryRun {
		fmt.Fprintf(&b, "%s can be undone, %d can not; nothing was done\n", counted(possible), u.Refused)
	} else if u.Undone > 0 || possible == 0 {
		fmt.Fprintf(&b, "%s undone, %d not\n", counted(u.Undone), u.Refused)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// printUndone tells, to whoever has seen the list, what came of it.
func printUndone(out io.Writer, u *app.Undoing) error {
	var b strings.Builder
	for _, l := range u.Corrections {
		if l.Reason != "" {
			fmt.Fprintf(&b, "%s %s: %s\n", l.ID, l.Table, command.Visible(said(l)))
		}
	}
	fmt.Fprintf(&b, "%s undone, %d not\n", counted(u.Undone), u.Refused)
	_, err := io.WriteString(out, b.String())
	return err
}

// said is what is to be said of a line.
func said(l *app.UndoLine) string {
	switch {
	case l.Reason == "" && l.Undone:
		return "undone"
	case l.Reason == "":
		return ""
	case l.Undone:
		return "undone, but " + l.Reason
	case l.Note != "":
		return "NOT: " + l.Reason + "; " + l.Note
	default:
		return "NOT: " + l.Reason
	}
}
