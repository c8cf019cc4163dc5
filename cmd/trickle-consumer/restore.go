package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/trickle-verify/trickle/internal/app"
	"github.com/trickle-verify/trickle/internal/command"
)

// mostRestoreJobs is more than any replica has cores to take rows with.
const mostRestoreJobs = 64

func restoreCommand(f *command.Flags) *cobra.Command {
	var o app.RestoreOptions
	var connector string
	c := &cobra.Command{
		Use: "restore (--play-forward [--follow] | --reset-group GROUP)", Short: "Bring a lost replica back from the base-line view, and up to date from the CDC's log", Args: cobra.NoArgs,
		Long: "restore looks first whether the log still holds all that came after the replica's last read point: then nothing is loaded. Otherwise it loads the newest\n" +
			"set of the base-line view that can be restored from, each range verified against its thumbprint as it lands, and has what came since applied: by this\n" +
			"process, or by your own sink, whose group it sets to the set's position. Indexes and constraints that need all rows of one moment are made then, and a full pass\n" +
			"against the source proves the replica. Everything that is in the way is found before anything is written; killed at any moment, the same command goes on.\n\n" +
			"Exit status: 0 restored and proven, 1 restored, but not proven or without an index or a constraint, 2 an error, 130 interrupted, 143 terminated.",
		Example: "  trickle-consumer restore --policy policy.yaml --play-forward            # Debezium's events are applied by trickle, until it has caught up\n" +
			"  trickle-consumer restore --policy policy.yaml --play-forward --follow   # and from then on\n" +
			"  trickle-consumer restore --policy policy.yaml --reset-group connect-sink # your own sink applies them; stop it first\n" +
			"  trickle-consumer restore --policy policy.yaml --play-forward --replace  # rows that are there go",
		RunE: func(c *cobra.Command, _ []string) error {
			show := newRestoreBar(c.ErrOrStderr())
			s, err := f.SettingsTo(show.above())
			if err != nil {
				return err
			}
			if o.Jobs < 1 || o.Jobs > mostRestoreJobs {
				return fmt.Errorf("--jobs takes a number from 1 to %d", mostRestoreJobs)
			}
			if o.Connector, err = connectorSettings(connector); err != nil {
				return err
			}
			o.Progress = show.tell
			report, err := app.Restore(c.Context(), s, o)
			show.end()
			if err != nil {
				return err
			}
			if f.JSON() {
				err = command.PrintJSON(c.OutOrStdout(), report)
			} else {
				err = printRestore(c.OutOrStdout(), report)
			}
			if err == nil && !report.Sound() {
				err = command.ErrFound
			}
			return err
		},
	}
	f.Policy(c)
	f.Replica(c)
	f.Brokers(c)
	f.Consumer(c)
	fl := c.Flags()
	fl.StringVar(&o.URL, "url", "", "`URL` of the base-line store, in place of the policy's baseline.url")
	fl.StringVar(&o.Set, "set", "", "load this `SET`, whatever the replica holds of the log; default: the newest that can be restored from, if one has to be loaded")
	fl.BoolVar(&o.PlayForward, "play-forward", false, "apply Debezium's events from the CDC's topics in this process, until the replica has caught up")
	fl.BoolVar(&o.Follow, "follow", false, "with --play-forward: go on applying until interrupted")
	fl.StringVar(&o.ResetGroup, "reset-group", "", "set the offsets of your sink's consumer `GROUP` to the set's position, or the replica's read point, and wait until it has caught up; it must have no members at first")
	fl.BoolVar(&o.Replace, "replace", false, "remove the rows of the pipeline's tables that are there; with --set also a restore of another set that is under way")
	fl.BoolVar(&o.NoProof, "no-proof", false, "do not hold the replica against the source at the end")
	fl.IntVar(&o.Jobs, "jobs", 2, "ranges that are copied in at a time")
	fl.StringVar(&connector, "connector", "", "`FILE` with the source connector's settings as JSON, where it writes values in another way than Debezium does by itself")
	return c
}

// connectorSettings reads a connector's settings: a flat object, or one with a name and a config, as Kafka Connect shows them.
func connectorSettings(file string) (map[string]string, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--connector: %w", err)
	}
	var whole struct {
		Config map[string]string `json:"config"`
	}
	if err := json.Unmarshal(text, &whole); err == nil && whole.Config != nil {
		return whole.Config, nil
	}
	var flat map[string]string
	if err := json.Unmarshal(text, &flat); err != nil {
		return nil, fmt.Errorf("--connector %s: %w; give the connector's settings as Kafka Connect shows them: GET /connectors/NAME", file, err)
	}
	return flat, nil
}

// printRestore says in text what was done.
func printRestore(out io.Writer, r app.RestoreReport) error {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	if r.Loaded && r.Set != nil {
		line("set %s is loaded: %s rows of %d tables in %d ranges, %s of objects; its position was read at %s", r.Set.Set, humanize.Comma(r.Set.Rows), r.Set.Tables, r.Set.Ranges,
			humanize.IBytes(uint64(max(r.Set.Bytes, 0))), r.Set.Taken.UTC().Format(time.RFC3339))
		if strings.HasPrefix(r.Set.Travelled, "agrees") { // a note tells why else
			line("the set %s when it was built", r.Set.Travelled)
		}
	}
	for _, n := range r.Notes {
		line("%s", n)
	}
	if p := r.Played; p != nil {
		line("played forward: %s events applied, %s sent twice, %s updates of rows that were not there", humanize.Comma(int64(p.Applied)), humanize.Comma(int64(p.Duplicates)), humanize.Comma(int64(p.Incomplete)))
	}
	for _, m := range r.Made {
		line("made: %s", m)
	}
	for _, l := range r.LeftOut {
		line("left out: %s", l)
	}
	for _, f := range r.Failed {
		line("NOT MADE: %s of %s: %s; once the reason is gone: %s", f.Name, f.Table, f.Error, f.SQL)
	}
	if p := r.Proof; p != nil {
		verdict := "proven"
		if !p.Proven {
			verdict = "NOT PROVEN"
		}
		line("%s: %d of %d ranges agreed with the source when they were looked at, of %s rows; %s rows were corrected, %s differ still", verdict, p.Agreed, p.Ranges, humanize.Comma(p.Rows), humanize.Comma(p.Corrected), humanize.Comma(p.Remaining))
	}
	_, err := io.WriteString(out, b.String())
	return err
}
