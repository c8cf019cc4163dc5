package main

import (
	"fmt"
	"io"
	"net"
	"time"

	"github.com/spf13/cobra"

	"github.com/trickle-verify/trickle/internal/command"
	"github.com/trickle-verify/trickle/internal/demo"
)

func demoCommand(f *command.Flags) *cobra.Command {
	duration, listen := time.Minute, "127.0.0.1:0"
	c := &cobra.Command{
		Use: "demo", Short: "Watch drift appear, be corrected, and a resync happen, on embedded parts", Args: cobra.NoArgs,
		Long: "demo starts two Postgres servers and a Kafka broker of its own, replicates one server to the other under a write load, makes rows\n" +
			"of the replica wrong and lets trickle find and correct them, which a page in the browser shows too. It needs Postgres binaries and downloads them where there are none,\n" +
			"stops and removes everything at its end, and ends.\n\n" +
			"Exit status: 0 only if both databases are identical, every wrong row was corrected, no other row was, and a partial and a full resync were done; 1 if not, with what did\n" +
			"not hold; 2 on an error.",
		Example: "  trickle demo\n  trickle demo --duration 2m\n  trickle demo --format json 2>/dev/null",
		RunE: func(c *cobra.Command, _ []string) error {
			if _, _, err := net.SplitHostPort(listen); err != nil && listen != "" {
				return fmt.Errorf("--listen %q: give HOST:PORT, or '' for no page", listen)
			}
			progress := c.OutOrStdout()
			if f.JSON() {
				// Lines, also where standard error is a terminal: whoever asks for JSON is a program.
				progress = struct{ io.Writer }{c.ErrOrStderr()}
			}
			r, err := demo.Run(c.Context(), demo.Options{Duration: duration, Listen: listen, Progress: progress})
			if err != nil {
				return err
			}
			if f.JSON() {
				if err := command.PrintJSON(c.OutOrStdout(), r); err != nil {
					return err
				}
			}
			for _, fault := range r.Faults() {
				fmt.Fprintf(c.ErrOrStderr(), "trickle demo: this did not hold: %s\n", fault)
				err = command.ErrFound
			}
			return err
		},
	}
	c.Flags().DurationVar(&duration, "duration", duration, fmt.Sprintf("about how long it takes, from %s to %s", demo.MinDuration, demo.MaxDuration))
	c.Flags().StringVar(&listen, "listen", listen, "`ADDRESS` of the live page, by default a port that is free; '' for none")
	return c
}
