package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/internal/app"
	"github.com/trickle-verify/trickle/playforward"
	"github.com/trickle-verify/trickle/restore"
)

func TestConnectorSettings(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{"name": "c", "config": {"binary.handling.mode": "hex"}}`: "hex",
		`{"binary.handling.mode": "base64"}`:                       "base64",
		`[]`:                                                       "",
	} {
		file := filepath.Join(t.TempDir(), "connector.json")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := connectorSettings(file)
		if got["binary.handling.mode"] != want || (err != nil) != (want == "") {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	if _, err := connectorSettings("missing.json"); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "--connector") {
		t.Errorf("got %v", err)
	}
}

// What is no terminal gets a line now and then, the first one of each phase at once.
func TestRestoreIsShownInLines(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	now := time.Unix(0, 0)
	b := newRestoreBar(&out)
	b.now = func() time.Time { return now }
	for i := range 300 {
		now = now.Add(100 * time.Millisecond)
		b.tell(app.RestoreProgress{Phase: app.PhaseLoad, Load: restore.Progress{Ranges: 300, RangesDone: i, Bytes: 300, BytesDone: int64(i), Rows: 3000, RowsDone: int64(10 * i), Doing: "making index a"}})
	}
	b.tell(app.RestoreProgress{Phase: app.PhasePlay, Play: playforward.Progress{Applied: 1000, Behind: 5}})
	b.tell(app.RestoreProgress{Phase: app.PhaseProve, Proof: app.Proof{Rows: 7, Done: 2}})
	for range 5 { // it is played forward meanwhile
		b.tell(app.RestoreProgress{Phase: app.PhasePlay, Play: playforward.Progress{Applied: 2000}})
		b.tell(app.RestoreProgress{Phase: app.PhaseProve, Proof: app.Proof{Rows: 7, Done: 2}})
	}
	b.tell(app.RestoreProgress{Phase: app.PhaseFollow})
	now = now.Add(time.Minute)
	b.tell(app.RestoreProgress{Phase: app.PhasePlay, Play: playforward.Progress{Applied: 3000}})
	b.end()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 7 || lines[6] != "following: 3,000 events applied" || !strings.Contains(lines[1], "33 %, 100 of 300 ranges, 1,000 of 3,000 rows, making index a") || !strings.Contains(lines[3], "1,000 events, 5 records to go") || !strings.Contains(lines[4], "7 rows in 2 ranges") {
		t.Errorf("%d lines:\n%s", len(lines), out.String())
	}
}

func TestRestoreIsToldInText(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	err := printRestore(&out, app.RestoreReport{
		Loaded: true, Set: &app.RestoreSet{Set: "s1", Rows: 5000, Tables: 2, Ranges: 3, Travelled: "agrees with what travelled in the data"}, Played: &app.Played{Applied: 12},
		Failed: []app.NotMade{{Table: "public.t", Name: "t_v_key", SQL: "ALTER TABLE t ADD UNIQUE (v)", Error: "duplicate"}},
		Proof:  &app.Proof{Ranges: 10, Agreed: 9, Rows: 5000, Corrected: 2, Remaining: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"set s1 is loaded: 5,000 rows of 2 tables", "the set agrees with what travelled in the data when it was built", "12 events applied", "NOT MADE: t_v_key of public.t: duplicate; once the reason is gone: ALTER TABLE", "NOT PROVEN: 9 of 10 ranges agreed", "2 rows were corrected, 1 differ still"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, out.String())
		}
	}
}

// What can not be meant is refused before anything is opened.
func TestRestoreRefusesBadFlags(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{"--jobs 0": "--jobs takes a number", "--play-forward --reset-group g": "give one of them", "--follow": "--play-forward too"} {
		c := root()
		c.SetArgs(append([]string{"restore"}, strings.Fields(args)...))
		c.SilenceErrors, c.SilenceUsage = true, true
		if err := c.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", args, err)
		}
	}
}
