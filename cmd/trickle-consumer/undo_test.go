package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/internal/app"
	"github.com/trickle-verify/trickle/internal/command"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// office is a replica with a journal, and a policy beside it.
type office struct {
	*testing.T
	pool   *pgxpool.Pool
	dsn    string
	policy string
}

const officePolicy = "pipeline: p\ntables: [{table: public.t, replica: cache.t}]\ngate: {assume_lag: 1m}\n"

// newOffice has a replica in which rows 1 to 4 were corrected, and a range was copied: row 1 was missing, 2 mismatched, 3 extra, 4 missing and written again since.
func newOffice(t *testing.T) *office {
	t.Helper()
	o := &office{T: t, dsn: pgtest.Database(t), policy: filepath.Join(t.TempDir(), "policy.yaml")}
	o.decide("")
	var err error
	if o.pool, err = postgres.Open(t.Context(), o.dsn, postgres.Options{Role: "replica", Setting: "the test"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.pool.Close)
	l := ledger.New(o.pool, "p")
	if err := l.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	o.exec(`CREATE SCHEMA cache`, `CREATE TABLE cache.t (id int PRIMARY KEY, v text)`)
	image := func(id int, v string) *string {
		s := fmt.Sprintf(`{"id": %d, "v": %q}`, id, v)
		return &s
	}
	write := func(e ledger.Entry, sql string) {
		t.Helper()
		err := pgx.BeginFunc(t.Context(), o.pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(t.Context(), sql); err != nil {
				return err
			}
			if err := tx.QueryRow(t.Context(), `SELECT pg_current_xact_id()::text::bigint`).Scan(&e.Version); err != nil {
				return err
			}
			_, err := l.Journal(t.Context(), tx, "public.t", []ledger.Entry{e})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	entry := func(id int, kind drift.Kind) ledger.Entry {
		return ledger.Entry{Key: message.Key{fmt.Sprint(id)}, KeyJSON: fmt.Sprintf(`{"id": %d}`, id), Kind: kind, ResyncID: map[int]string{3: "r3"}[id]}
	}
	e := entry(1, drift.Missing)
	e.After, e.TraceID = image(1, "a"), "0af7651916cd43dd8448eb211c80319c"
	write(e, `INSERT INTO cache.t VALUES (1, 'a')`)
	e = entry(2, drift.Mismatched)
	e.Before, e.After = image(2, "x"), image(2, "b")
	write(e, `INSERT INTO cache.t VALUES (2, 'b')`)
	e = entry(3, drift.Extra)
	e.Before = image(3, "secret")
	write(e, `SELECT`)
	e = entry(4, drift.Missing)
	e.After = image(4, "d")
	write(e, `INSERT INTO cache.t VALUES (4, 'd')`)
	o.exec(`UPDATE cache.t SET v = 'by CDC' WHERE id = 4`)
	o.exec(`WITH w AS (INSERT INTO cache.t SELECT i, 'copied' FROM generate_series(101, 105) i)
		INSERT INTO trickle.copies (pipeline, table_name, lo, hi, rows, version, undo, resync_id, piece) SELECT 'p', 'public.t', '{100}', '{200}', 5, x, 'DELETE FROM ONLY "cache"."t" t WHERE (t."id") OPERATOR(pg_catalog.>) (''100''::"pg_catalog"."int8")'
			|| ' AND t.xmin OPERATOR(pg_catalog.=) ''' || x || '''::pg_catalog.xid', 'r9', 1 FROM (SELECT pg_current_xact_id()::text::bigint AS x) x`)
	return o
}

// decide writes the policy.
func (o *office) decide(more string) {
	o.Helper()
	if err := os.WriteFile(o.policy, []byte(officePolicy+more), 0o600); err != nil {
		o.Fatal(err)
	}
}

func (o *office) exec(statements ...string) {
	o.Helper()
	for _, sql := range statements {
		if _, err := o.pool.Exec(o.Context(), sql); err != nil {
			o.Fatalf("%s: %v", sql, err)
		}
	}
}

// run is a command as somebody types it.
func (o *office) run(args ...string) (string, error) {
	o.Helper()
	c := root()
	c.SilenceErrors, c.SilenceUsage = true, true
	var out bytes.Buffer
	c.SetOut(&out)
	c.SetIn(strings.NewReader("y\n"))
	c.SetArgs(append(args, "--policy", o.policy, "--replica", o.dsn))
	err := c.ExecuteContext(o.Context())
	return out.String(), err
}

// rows is the replica's table in short.
func (o *office) rows() string {
	o.Helper()
	var s string
	if err := o.pool.QueryRow(o.Context(), `SELECT coalesce(string_agg(id || '=' || v, ' ' ORDER BY id), '') FROM cache.t`).Scan(&s); err != nil {
		o.Fatal(err)
	}
	return s
}

func TestUndo(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	const before = "1=a 2=b 4=by CDC 101=copied 102=copied 103=copied 104=copied 105=copied"
	if o.rows() != before {
		t.Fatal(o.rows())
	}
	out, err := o.run("undo", "--since", "1h", "--dry-run")
	if !errors.Is(err, command.ErrFound) || o.rows() != before {
		t.Fatalf("a dry run: %v\n%s\n%s", err, out, o.rows())
	}
	for _, want := range []string{"4 corrections can be undone, 1 can not; nothing was done", "the row holds something else since, in v", "delete the 5 rows", "put the values back", "insert the row", "corrects it again", "#4b227777d4dd"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if strings.Contains(out, "secret") {
		t.Errorf("a value is shown:\n%s", out)
	}
	o.exec(`UPDATE cache.t SET v = 'mine' WHERE id = 103`)
	out, err = o.run("undo", "--since", "1h", "--yes", "--format", "json")
	if !errors.Is(err, command.ErrFound) || o.rows() != "2=x 3=secret 4=by CDC 103=mine" {
		t.Fatalf("%v\n%s\n%s", err, out, o.rows())
	}
	var done app.Undoing
	if err := json.Unmarshal([]byte(out), &done); err != nil || done.Undone != 4 || done.Refused != 2 || len(done.Warnings) != 1 || len(done.Corrections) != 5 || done.DryRun {
		t.Errorf("%v\n%s", err, out)
	}
	if !strings.Contains(out, "1 of its 5 rows were written again or deleted since") {
		t.Error(out)
	}
	if out, err := o.run("undo", "1", "99", "copy-1", "--yes"); !errors.Is(err, command.ErrFound) || strings.Count(out, "undone already") != 2 || !strings.Contains(out, "no such correction") {
		t.Errorf("%v\n%s", err, out)
	}
	o.exec(`UPDATE cache.t SET v = 'd' WHERE id = 4`, `UPDATE trickle.corrections SET version = (SELECT xmin::text::bigint FROM cache.t WHERE id = 4) WHERE id = 4`)
	o.decide("detect: {action: report}\n")
	if out, err := o.run("undo", "--since", "1h", "--table", "public.t", "--yes"); err != nil || strings.Contains(out, "warning") || !strings.Contains(out, "1 correction undone, 0 not") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := o.run("undo", "--since", "1h", "--yes"); err != nil || !strings.Contains(out, "undone already") {
		t.Errorf("%v\n%s", err, out)
	}
}

// What can not be meant is refused before anything is opened, and nothing is undone that nobody confirmed.
func TestUndoRefusesBadFlags(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	before := o.rows()
	for args, want := range map[string]string{
		"undo":                             "say what to undo",
		"undo --yes":                       "say what to undo",
		"undo 1 --since 1h --yes":          "not both",
		"undo 1":                           "nobody to ask",
		"undo 1 --format json":             "nobody to ask",
		"undo 1 --yes --dry-run":           "give one of them",
		"undo x --yes":                     "no correction",
		"undo --since yesterday":           "nobody to ask",
		"undo --since x --yes":             "is no time",
		"undo --since 1h --until 2h --yes": "nothing lies between",
		"corrections --kind wrong":         "use missing, mismatched, extra, copied",
		"corrections --outcome wrong":      "use open, confirmed, superseded, undone",
		"corrections --key {":              "--key {",
		"corrections --after nowhere":      "no cursor",
		"corrections --limit -1":           "--limit -1",
		"corrections 7":                    "unknown command",
	} {
		if out, err := o.run(strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), want) || out != "" {
			t.Errorf("%s: %v\n%s", args, err, out)
		}
	}
	if o.rows() != before {
		t.Errorf("the rows are %s", o.rows())
	}
}

func TestCorrections(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	for _, c := range []struct {
		privacy, args string
		want, not     []string
	}{
		{"", "", []string{"copy-1", "#6b86b273ff34", "5 rows", "https://traces/0af7651916cd43dd8448eb211c80319c", "open", "r9"}, []string{"secret", "by CDC"}},
		{"{keys: omit, values: omit}", "", []string{"…"}, []string{"#", "secret"}},
		{"{keys: show, values: show}", "", []string{"(100, 200]", `v: "x" → "b"`}, []string{"#"}},
		{"{keys: show, values: hash}", "--kind mismatched", []string{"v: #2d711642b726 → #"}, []string{"missing"}},
		{"", "--key #6b86b273ff34", []string{"missing"}, []string{"mismatched", "copy-1"}},
		{"", "--key 2 --since 1h", []string{"mismatched"}, []string{"missing"}},
		{"", "--trace 0AF7651916CD43DD8448EB211C80319C", []string{"missing"}, []string{"mismatched"}},
		{"", "--until 1h", []string{"nothing in the journal"}, nil},
		{"", "--limit 1", []string{"more: --after "}, []string{"missing"}},
		{"{keys: show, values: show}", "--kind extra --format json", []string{`"v": "secret"`, `"id": 3`, `"key": "3"`, `"next": ""`, `"resync_id": "r3"`, `"closed_at": null`}, []string{"after"}},
		{"", "--kind extra --format json", []string{`"key": "#4e07408562be"`}, []string{"secret", "before", "after"}},
	} {
		o.decide("tracing: {link: \"https://traces/{trace_id}\"}\n")
		if c.privacy != "" {
			o.decide("privacy: " + c.privacy + "\n")
		}
		out, err := o.run(append([]string{"corrections"}, strings.Fields(c.args)...)...)
		if err != nil {
			t.Errorf("%s: %v", c.args, err)
		}
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s %s: %q is not in\n%s", c.privacy, c.args, want, out)
			}
		}
		for _, not := range c.not {
			if strings.Contains(out, not) {
				t.Errorf("%s %s: %q is in\n%s", c.privacy, c.args, not, out)
			}
		}
	}
}

// An edit of the policy that is refused keeps nobody from looking at what the one in force has done; what takes the whole policy says why it can't be done.
func TestCommandsUnderARefusedPolicy(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	if out, err := o.run("corrections", "--until", "1h"); err != nil || !strings.Contains(out, "nothing in the journal is like that") {
		t.Errorf("%v: %s", err, out)
	}
	o.decide("detect: {action: corect}\nprivacy: {keys: show}\n")
	for _, args := range []string{"status", "corrections", "brake", "status --format json"} {
		if out, err := o.run(strings.Fields(args)...); err != nil || out == "" {
			t.Errorf("%s: %v\n%s", args, err, out)
		}
	}
	if out, err := o.run("corrections", "--kind", "extra"); err != nil || strings.Contains(out, "#") || !strings.Contains(out, " 3 ") {
		t.Errorf("privacy: %v\n%s", err, out)
	}
	for _, args := range []string{"undo 1 --yes", "resync --table public.t"} {
		if out, err := o.run(strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), "corect") || out != "" {
			t.Errorf("%s: %v\n%s", args, err, out)
		}
	}
	o.exec(`TRUNCATE trickle.corrections, trickle.copies`)
	o.decide("")
	if out, err := o.run("corrections"); err != nil || !strings.Contains(out, "nothing was corrected yet") {
		t.Errorf("%v: %s", err, out)
	}
}

// What can be known is completed: words of a flag, the tables of the policy, and resyncs by the state in which they can be meant.
func TestCompletion(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.exec(`INSERT INTO trickle.resyncs (id, pipeline, scope, table_name, state, reason) VALUES ('w1', 'p', 'full', 'public.t', 'waiting', ''), ('d1', 'p', 'full', 'public.t', 'done', '')`)
	complete := func(args ...string) string {
		t.Helper()
		c := root()
		var out bytes.Buffer
		c.SetOut(&out)
		c.SetErr(io.Discard)
		c.SetArgs(append([]string{"__complete"}, args...))
		if err := c.ExecuteContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		return strings.Join(strings.Fields(out.String()), " ")
	}
	for args, want := range map[string]string{
		"status --format ":                                                                   "text json :4",
		"corrections --kind missing,e":                                                       "missing,missing missing,mismatched missing,extra missing,copied :4",
		"corrections --policy " + o.policy + " --table ":                                     "public.t :4",
		"corrections --policy nowhere.yaml --table ":                                         ":4",
		"resync --policy " + o.policy + " --replica " + o.dsn + " --approve ":                "w1 waiting, full of public.t :4",
		"undo --policy " + o.policy + " --replica " + o.dsn + " --resync ":                   "d1 done, full of public.t w1 waiting, full of public.t :4",
		"resync --policy " + o.policy + " --replica postgres://nowhere.invalid/x --approve ": ":4",
		"policy ": "plan Work out the pace",
	} {
		got := complete(strings.Split(args, " ")...)
		if !strings.HasPrefix(got, want) && !(strings.HasPrefix(args, "undo") && strings.Contains(got, "w1") && strings.Contains(got, "d1")) {
			t.Errorf("%s: %q, want %q", args, got, want)
		}
	}
}
