package command_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/trickle-verify/trickle/internal/command"
)

// policies runs a policy command as somebody types it.
func policies(t *testing.T, args ...string) (string, error) {
	t.Helper()
	f := &command.Flags{}
	c := &cobra.Command{Use: "trickle", SilenceErrors: true, SilenceUsage: true}
	f.Register(c)
	c.AddCommand(command.Policy(f))
	var out bytes.Buffer
	c.SetOut(&out)
	c.SetArgs(append([]string{"policy"}, args...))
	err := c.ExecuteContext(t.Context())
	return out.String(), err
}

func TestPlan(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte("pipeline: p\ntables: [{table: public.t, mode: rows}]\nschedule: {cycle: 12h, windows: [{start: \"0 0,12 * * *\", for: 6h}]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string][]string{
		"plan --rows 8640000 --row-bytes 1kB": {"a range every 50s; set by schedule.cycle 24h", "100 a second, 98 KiB a second read", "0.02 a second, 4 B a second sent", "0.012 % of the time", "one pass     24h\n", "12h on average, 24h at worst", "12h10m, 24h10m", "8d at worst",
			"60,000 rows are verified within detect.window 10m", "0.133 % of the rows in a neighbourhood differ, a full one where 0.833 % of all rows differ"},
		"plan --rows 100 --cycle 90s":                             {"100 rows of 200 B, in 1 range of up to 5,000 rows, as thumbprints", "a range every 1m30s", "50s on average, 1m35s at worst", "never (too few rows"},
		"plan --rows 1":                                           {"1 row of 200 B", "less than 0.001 a second, less than 1 B a second read"},
		"plan --rows 8640000 --policy " + file:                    {"as rows", "which is 50 % of the time", "a range every 12.5s", "one pass     12h\n"},
		"plan --rows 8640000 --mode thumbprints --policy " + file: {"as thumbprints"},
	} {
		out, err := policies(t, strings.Fields(args)...)
		if err != nil {
			t.Errorf("%s: %v", args, err)
		}
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("%s: %q is not in\n%s", args, w, out)
			}
		}
	}
	out, err := policies(t, "plan", "--rows", "8640000", "--rows-per-second", "50", "--format", "json")
	var plan struct {
		Late bool    `json:"late"`
		Pass float64 `json:"pass_seconds"`
		By   string  `json:"paced_by"`
		Full float64 `json:"full_resync_at_share"`
	}
	if jerr := json.Unmarshal([]byte(out), &plan); !errors.Is(err, command.ErrFound) || jerr != nil || !plan.Late || plan.Pass != 172800 || plan.By != "rate.rows_per_second 50" || plan.Full < 0.009 {
		t.Errorf("%v, %v: %+v\n%s", err, jerr, plan, out)
	}
	for args, want := range map[string]string{
		"plan": "--rows 0", "plan --rows -1": "--rows -1", "plan --rows 1 --row-bytes big": "--row-bytes \"big\"", "plan --rows 1 --mode x": "--mode", "plan --rows 1 --cycle 0s": "--cycle", "plan --rows 1 --cycle soon": "--cycle \"soon\"",
		"plan --rows 1 --rows-per-second -1": "--rows-per-second", "plan --rows 1 --seconds-per-million 0": "--seconds-per-million", "plan --rows 1 --policy nowhere.yaml": "nowhere.yaml", "plan 5": "unknown command",
	} {
		if out, err := policies(t, strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), want) || out != "" {
			t.Errorf("%s: %v\n%s", args, err, out)
		}
	}
}
