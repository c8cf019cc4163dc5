// Package command is what the two commands share: flags, exit status, output and how they end.
//
// It decides that a command exits 0 on success, 1 where a check found something, 2 on an error, 130 where an interrupt kept it from its end, and that an
// error is one line that says what to do next. What always holds: the first interrupt ends a command in order, the second at once; nothing secret is printed. When a
// command fails, standard output holds nothing that could be taken for a whole result: a list that is written as it is read has no end then.
package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.opentelemetry.io/otel"
	"golang.org/x/term"

	"github.com/trickle-verify/trickle/internal/app"
	"github.com/trickle-verify/trickle/telemetry/logs"
)

// ErrFound ends a command whose check found something: exit status 1, and what was found has been printed.
var ErrFound = errors.New("the check found something")

// Main runs a root command and returns the exit status.
func Main(root *cobra.Command) int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		s := <-signals
		signal.Stop(signals) // a second interrupt ends the process at once
		cancel(&interruptedError{s})
	}()
	root.SilenceErrors, root.SilenceUsage = true, true
	root.InitDefaultCompletionCmd() // which would be made only after what follows
	refuseUnknown(root)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%w; see %s --help", plainly(err), c.CommandPath())
	})
	f, _ := root.Context().Value(flagsKey{}).(*Flags) // those that Register gave it
	err := root.ExecuteContext(ctx)
	f.flush()
	switch {
	case err == nil:
		return 0
	case errors.Is(err, ErrFound):
		return 1
	default:
		fmt.Fprintf(root.ErrOrStderr(), "%s: %v\n", root.Name(), err)
		var by *interruptedError
		if errors.As(context.Cause(ctx), &by) {
			return by.status()
		}
		return 2
	}
}

// plainly says what a flag's value has to be, in place of which function could not read it.
func plainly(err error) error {
	var invalid *pflag.InvalidValueError
	if !errors.As(err, &invalid) {
		return err
	}
	want := ""
	switch invalid.GetFlag().Value.Type() {
	case "int", "int64":
		want = "give a whole number"
	case "float64":
		want = "give a number"
	case "duration":
		want = "give a time such as 500ms, 10s, 5m or 1h30m"
	case "bool":
		want = "give true or false, or the flag alone"
	default:
		return err
	}
	return fmt.Errorf("--%s %q: %s", invalid.GetFlag().Name, invalid.GetValue(), want)
}

// interruptedError is why a command that a signal stopped did not come to its end.
type interruptedError struct{ signal os.Signal }

func (e *interruptedError) Error() string { return e.signal.String() }

// Unwrap makes it an end that was asked for, to whoever looks for one.
func (e *interruptedError) Unwrap() error { return context.Canceled }

// status is what a shell reports of a process that the signal ended.
func (e *interruptedError) status() int {
	if n, ok := e.signal.(syscall.Signal); ok {
		return 128 + int(n)
	}
	return 130
}

// refuseUnknown makes commands that only hold others refuse what they do not hold. Left alone they print their help and report success.
func refuseUnknown(c *cobra.Command) {
	for _, sub := range c.Commands() {
		refuseUnknown(sub)
	}
	if c.Runnable() {
		return
	}
	c.Args = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		hint := "see " + c.CommandPath() + " --help"
		c.SuggestionsMinimumDistance = 2
		if near := c.SuggestionsFor(args[0]); len(near) > 0 {
			hint = "did you mean " + strings.Join(near, " or ") + "? " + hint
		}
		return fmt.Errorf("unknown command %q for %s: %s", args[0], c.CommandPath(), hint)
	}
	c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
}

// Flags are those that most commands take.
type Flags struct {
	settings app.Settings
	format   string
	level    string
	logs     string
	brokers  []string
	logged   []*logs.Handler
}

// flagsKey is under which a root command's context has its flags.
type flagsKey struct{}

// flush writes what the logs still count.
func (f *Flags) flush() {
	if f == nil {
		return
	}
	for _, h := range f.logged {
		_ = h.Flush() // whoever can't be written to can't be told either
	}
}

// Register adds the flags to a root command; each of its subcommands then takes them.
func (f *Flags) Register(root *cobra.Command) {
	root.SetContext(context.WithValue(context.Background(), flagsKey{}, f))
	p := root.PersistentFlags()
	p.StringVar(&f.format, "format", "text", "output: text or json")
	p.StringVar(&f.level, "log-level", "info", "debug, info, warn or error")
	p.StringVar(&f.logs, "log-format", "auto", "the log: text, json, or auto: text on a terminal, json elsewhere")
	Complete(root, "format", Words("text", "json"))
	Complete(root, "log-format", Words("auto", "text", "json"))
	Complete(root, "log-level", Words("debug", "info", "warn", "error"))
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		if f.format != "text" && f.format != "json" {
			return fmt.Errorf("--format %q: use text or json", f.format)
		}
		return nil
	}
}

// Policy adds --policy.
func (f *Flags) Policy(c *cobra.Command) {
	c.Flags().StringVar(&f.settings.PolicyFile, "policy", os.Getenv("TRICKLE_POLICY"), "the policy `FILE` (TRICKLE_POLICY)")
	Complete(c, "policy", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
	})
}

// Source adds --source.
func (f *Flags) Source(c *cobra.Command) {
	c.Flags().StringVar(&f.settings.SourceDSN, "source", "", "`DSN` of the source database (TRICKLE_SOURCE_DSN)")
}

// Primary adds --primary.
func (f *Flags) Primary(c *cobra.Command) {
	c.Flags().StringVar(&f.settings.PrimaryDSN, "primary", "", "`DSN` of the primary, where --source is a standby of it: it is asked how far it is and takes the heartbeat, and no table is read there (TRICKLE_PRIMARY_DSN)")
}

// Replica adds --replica.
func (f *Flags) Replica(c *cobra.Command) {
	c.Flags().StringVar(&f.settings.ReplicaDSN, "replica", "", "`DSN` of the replica database (TRICKLE_REPLICA_DSN)")
}

// Brokers adds --brokers.
func (f *Flags) Brokers(c *cobra.Command) {
	c.Flags().StringSliceVar(&f.brokers, "brokers", nil, "Kafka's bootstrap servers, a `LIST` of host:port with commas between them (TRICKLE_BROKERS); TLS and login come from the environment: see docs/security.md")
}

// Consumer adds --consumer.
func (f *Flags) Consumer(c *cobra.Command) {
	c.Flags().StringVar(&f.settings.Consumer, "consumer", os.Getenv("TRICKLE_CONSUMER"), "`NAME` of this replica in topics and groups; default: made of its identity (TRICKLE_CONSUMER)")
}

// Listen adds --listen.
func (f *Flags) Listen(c *cobra.Command, def string) {
	c.Flags().StringVar(&f.settings.Listen, "listen", def, "`ADDRESS` of the status port; '' for none")
}

// Wait adds --wait.
func (f *Flags) Wait(c *cobra.Command) {
	c.Flags().DurationVar(&f.settings.Wait, "wait", 0, "how long to try to reach a database or Kafka that is away at the start, such as 5m; left out: not at all. What is wrong otherwise ends it at once")
}

// CursorFile adds --cursor-file.
func (f *Flags) CursorFile(c *cobra.Command) {
	c.Flags().StringVar(&f.settings.CursorFile, "cursor-file", "trickle-cursors.json", "where the scan's position is kept without Kafka")
}

// JSON reports whether output is to be JSON.
func (f *Flags) JSON() bool { return f.format == "json" }

// Settings fills in the environment and makes the logger.
func (f *Flags) Settings() (app.Settings, error) { return f.SettingsTo(os.Stderr) }

// SettingsTo does so with a log that goes elsewhere than to standard error.
func (f *Flags) SettingsTo(log io.Writer) (app.Settings, error) {
	s := f.settings
	if s.SourceDSN == "" {
		s.SourceDSN = os.Getenv("TRICKLE_SOURCE_DSN")
	}
	if s.PrimaryDSN == "" {
		s.PrimaryDSN = os.Getenv("TRICKLE_PRIMARY_DSN")
	}
	if s.ReplicaDSN == "" {
		s.ReplicaDSN = os.Getenv("TRICKLE_REPLICA_DSN")
	}
	if s.Brokers = list(strings.Join(f.brokers, ",")); len(s.Brokers) == 0 {
		s.Brokers = list(os.Getenv("TRICKLE_BROKERS"))
	}
	if s.Wait < 0 {
		return s, fmt.Errorf("--wait %s: give a time from 0s on", s.Wait)
	}
	var err error
	if s.Security, err = security(); err != nil {
		return s, err
	}
	s.SigningKey = os.Getenv("TRICKLE_SIGNING_KEY")
	var level slog.Level
	if err := level.UnmarshalText([]byte(f.level)); err != nil {
		return s, fmt.Errorf("--log-level %q: use debug, info, warn or error", f.level)
	}
	handler, err := f.logTo(log, level)
	if err != nil {
		return s, err
	}
	s.Log = slog.New(handler)
	// A command has its process to itself, so what OpenTelemetry has to say of it goes to the same log.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { s.Log.Warn("telemetry can't be sent", "err", err) }))
	s.Watch = true
	return s, nil
}

// logTo writes text to a terminal and JSON to anything else, unless a flag says which. What it still counts when the command ends is written then.
func (f *Flags) logTo(w io.Writer, level slog.Level) (slog.Handler, error) {
	form := f.logs
	switch form {
	case logs.Text, logs.JSON:
	case "auto", "":
		form = logs.JSON
		if onTerminal(w) {
			form = logs.Text
		}
	default:
		return nil, fmt.Errorf("--log-format %q: use text, json or auto", f.logs)
	}
	h := logs.New(w, form, level)
	f.logged = append(f.logged, h)
	return h, nil
}

// onTerminal tells whether a person reads what is written: on a terminal, or through what says that it writes to one.
func onTerminal(w io.Writer) bool {
	switch w := w.(type) {
	case *os.File:
		return term.IsTerminal(int(w.Fd()))
	case interface{ Terminal() bool }:
		return w.Terminal()
	}
	return false
}

// PrintJSON writes one indented object.
func PrintJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
