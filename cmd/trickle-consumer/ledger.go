package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/trickle-verify/trickle/internal/app"
	"github.com/trickle-verify/trickle/internal/command"
	"github.com/trickle-verify/trickle/status"
)

func statusCommand(f *command.Flags) *cobra.Command {
	var w *command.Watching
	c := &cobra.Command{
		Use: "status --policy FILE", Short: "Show coverage, gate, suspects, corrections, window and resyncs", Args: cobra.NoArgs,
		Long: "status reads how things stand from the replica's database, where the detectors keep it. With --watch it goes on doing so: a database that goes away is told, and read\n" +
			"again when it is back.\n\nExit status: 0, 2 on an error, 130 where Ctrl-C ended --watch.",
		Example: "  trickle-consumer status --policy policy.yaml\n" +
			"  trickle-consumer status --policy policy.yaml --watch\n" +
			"  trickle-consumer status --policy policy.yaml --watch --interval 10s --format json      # one object in each line",
		RunE: func(c *cobra.Command, _ []string) error {
			if err := w.Settled(c); err != nil {
				return err
			}
			s, err := f.SettingsTo(w.Log(c))
			if err != nil {
				return err
			}
			v, err := app.WatchReplica(s)
			if err != nil {
				return err
			}
			defer v.Close()
			w.Read = func(ctx context.Context) (command.Picture, error) {
				r, err := v.Read(ctx)
				return command.Picture{JSON: r, Text: func(l status.Look) string { return status.Text(r, l) }}, err
			}
			return w.Run(c, f)
		},
	}
	f.Policy(c)
	f.Replica(c)
	w = command.WatchFlags(c)
	return c
}

// withOffice opens the replica's ledger for a command of an operator.
func withOffice(c *cobra.Command, f *command.Flags, fn func(*app.Office) error) error {
	s, err := f.Settings()
	if err != nil {
		return err
	}
	o, err := app.OpenOffice(c.Context(), s)
	if err != nil {
		return err
	}
	defer o.Close()
	return fn(o)
}

func resyncCommand(f *command.Flags) *cobra.Command {
	var table, rng, approve, cancel string
	c := &cobra.Command{
		Use: "resync (--table T [--range A..B] | --approve ID | --cancel ID)", Short: "Ask for a resync by hand, release a waiting one, or end one", Args: cobra.NoArgs,
		Long: "resync asks for one, which the running detector then walks at its own pace: trickle-consumer status shows how far it is. A resync that the policy has wait for a person\n" +
			"(resync.approval: manual) goes on with --approve.\n\n" +
			"Exit status: 0 done or asked for, 2 on an error, also where there is no such resync.",
		Example: "  trickle-consumer resync --policy policy.yaml --table public.orders\n" +
			"  trickle-consumer resync --policy policy.yaml --table public.orders --range 1000..2000     # keys over 1000 up to 2000\n" +
			"  trickle-consumer resync --policy policy.yaml --table public.order_items --range 10,1..20,1",
		RunE: func(c *cobra.Command, _ []string) error {
			given := 0
			for _, v := range []string{table, approve, cancel} {
				if v != "" {
					given++
				}
			}
			if rng != "" && table == "" {
				return errors.New("--range is a part of a table: give --table T too")
			}
			if given != 1 {
				return errors.New("give one of --table T (with --range A..B for a part of it), --approve ID and --cancel ID")
			}
			return withOffice(c, f, func(o *app.Office) error {
				if cancel != "" {
					if err := o.Ledger.Cancel(c.Context(), cancel); err != nil {
						return err
					}
					_, err := fmt.Fprintf(c.OutOrStdout(), "resync %s is ended; what it corrected stays\n", cancel)
					return err
				}
				if approve != "" {
					if err := o.Ledger.Approve(c.Context(), approve); err != nil {
						return err
					}
					_, err := fmt.Fprintf(c.OutOrStdout(), "resync %s is released\n", approve)
					return err
				}
				id, err := o.Resync(c.Context(), table, rng)
				if err != nil {
					return err
				}
				if f.JSON() {
					return command.PrintJSON(c.OutOrStdout(), map[string]string{"id": id})
				}
				_, err = fmt.Fprintf(c.OutOrStdout(), "resync %s of %s is asked for; the running detector walks it: trickle-consumer status\n", id, table)
				return err
			})
		},
	}
	f.Policy(c)
	f.Replica(c)
	c.Flags().StringVar(&table, "table", "", "the `TABLE` as the source calls it")
	c.Flags().StringVar(&rng, "range", "", "only keys over A up to B: `A..B`; either may be left out; several key columns: commas")
	c.Flags().StringVar(&approve, "approve", "", "release the waiting resync `ID`")
	c.Flags().StringVar(&cancel, "cancel", "", "end the resync `ID`, waiting or running")
	command.Complete(c, "table", f.Tables)
	command.Complete(c, "approve", resyncIDs(f, "waiting"))
	command.Complete(c, "cancel", resyncIDs(f, "waiting", "running"))
	return c
}

// resyncIDs completes to the resyncs in one of these states, by default all that status shows.
func resyncIDs(f *command.Flags, states ...string) command.Completion {
	return command.Asked(func(ctx context.Context) ([]string, error) {
		s, err := f.SettingsTo(io.Discard)
		if err != nil {
			return nil, err
		}
		o, err := app.OpenOffice(ctx, s)
		if err != nil {
			return nil, err
		}
		defer o.Close()
		r, err := o.Ledger.Report(ctx)
		if err != nil {
			return nil, err
		}
		var ids []string
		for _, s := range r.Resyncs {
			if len(states) == 0 || slices.Contains(states, s.State) {
				ids = append(ids, s.ID+"\t"+s.State+", "+s.Scope+" of "+s.Table)
			}
		}
		return ids, nil
	})
}

func brakeCommand(f *command.Flags) *cobra.Command {
	var release bool
	c := &cobra.Command{
		Use: "brake [--release]", Short: "Show whether the brake holds corrections back, or release it", Args: cobra.NoArgs,
		Long: "The brake goes on by itself where more rows are deleted or corrected within detect.window than detect.brake allows; corrections and resyncs then wait for a person. Look at\n" +
			"the source first: what was corrected stands in trickle-consumer corrections, and trickle-consumer undo takes it back.\n\n" +
			"Exit status: 0 whether it is on or off, 2 on an error, with --release also where it is not on.",
		Example: "  trickle-consumer brake --policy policy.yaml\n  trickle-consumer brake --policy policy.yaml --release",
		RunE: func(c *cobra.Command, _ []string) error {
			return withOffice(c, f, func(o *app.Office) error {
				if !release {
					reason, err := o.Ledger.Braked(c.Context())
					if err != nil {
						return err
					}
					if f.JSON() {
						return command.PrintJSON(c.OutOrStdout(), struct {
							On     bool   `json:"on"`
							Reason string `json:"reason"`
						}{reason != "", reason})
					}
					if reason == "" {
						reason = "off"
					}
					_, err = fmt.Fprintln(c.OutOrStdout(), "brake:", reason)
					return err
				}
				was, err := o.Ledger.Release(c.Context())
				if err != nil {
					return err
				}
				if !was {
					return errors.New("the brake is not on")
				}
				_, err = fmt.Fprintln(c.OutOrStdout(), "the brake is released; what was counted so far counts no more")
				return err
			})
		},
	}
	f.Policy(c)
	f.Replica(c)
	c.Flags().BoolVar(&release, "release", false, "let corrections go on")
	return c
}

func pinCommand(f *command.Flags) *cobra.Command {
	var source string
	c := &cobra.Command{
		Use: "pin --source SYSTEM/DATABASE", Short: "Accept another source, because it was replaced on purpose", Args: cobra.NoArgs,
		Long:    "A replica takes corrections from the first source it hears and from no other, so that a restored or empty database never empties it. pin names another one.\n\nExit status: 0, 2 on an error.",
		Example: "  trickle-consumer pin --policy policy.yaml --source 7712278149390489009/shop",
		RunE: func(c *cobra.Command, _ []string) error {
			system, database, ok := strings.Cut(source, "/")
			if _, err := strconv.ParseUint(system, 10, 64); err != nil || !ok || database == "" {
				return fmt.Errorf("--source %q: give SYSTEM/DATABASE, as the reason in trickle-consumer status names it", source)
			}
			return withOffice(c, f, func(o *app.Office) error {
				if err := o.Ledger.Repin(c.Context(), source); err != nil {
					return err
				}
				_, err := fmt.Fprintf(c.OutOrStdout(), "pinned to %s\n", source)
				return err
			})
		},
	}
	f.Policy(c)
	f.Replica(c)
	c.Flags().StringVar(&source, "source", "", "the source's identity, `SYSTEM/DATABASE`")
	return c
}
