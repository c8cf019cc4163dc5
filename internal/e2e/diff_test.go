package e2e

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
)

// pair is two databases to compare.
type pair struct{ src, dst database }

// newPair makes two databases on one server and runs the statements in both.
func newPair(t *testing.T, server *testbed.Postgres, statements ...string) pair {
	t.Helper()
	p := pair{connect(t, pgtest.DatabaseOn(t, server)), connect(t, pgtest.DatabaseOn(t, server))}
	p.src.exec(t, statements...)
	p.dst.exec(t, statements...)
	return p
}

// diff is the command that compares them.
func (p pair) diff(args ...string) command {
	return trickle(append([]string{"diff", "--source", p.src.dsn, "--replica", p.dst.dsn}, args...)...)
}

// comparison is what trickle diff --format json prints.
type comparison struct {
	Identical   bool
	Tables      []compared
	OnlySource  []string `json:"only_source"`
	OnlyReplica []string `json:"only_replica"`
}

type compared struct {
	Table, Replica                   string
	Rows, Missing, Mismatched, Extra int64
	Fixed, Unsettled                 int64
	Unfixed                          map[string]int64
	Seconds                          float64
	Digest, Read, Error              string
	Notes                            []string
	Differences                      []difference
}

type difference struct {
	Kind    string
	Key     map[string]string
	Columns []struct {
		Column          string
		Source, Replica *string
	}
}

// compare runs trickle diff --format json and expects an exit status and one JSON object.
func (p pair) compare(t *testing.T, code int, args ...string) comparison {
	t.Helper()
	got, stdout, stderr := run(t, p.diff(append(args, "--format", "json")...))
	if got != code {
		t.Fatalf("diff %q ends with %d, want %d; it printed %s and said %s", args, got, code, stdout, stderr)
	}
	return decode(t, stdout)
}

func decode(t *testing.T, stdout string) comparison {
	t.Helper()
	var c comparison
	d := json.NewDecoder(strings.NewReader(stdout))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil || strings.TrimSpace(stdout[d.InputOffset():]) != "" {
		t.Fatalf("standard output is not one JSON object (%v): %s", err, stdout)
	}
	return c
}

// table is the one with this name.
func (c comparison) table(t *testing.T, name string) compared {
	t.Helper()
	i := slices.IndexFunc(c.Tables, func(x compared) bool { return x.Table == name })
	if i < 0 {
		t.Fatalf("no table %s among %+v", name, c.Tables)
	}
	return c.Tables[i]
}

// prints checks a run's exit status and that standard output holds the lines, whole.
func (p pair) prints(t *testing.T, code int, lines []string, args ...string) {
	t.Helper()
	got, stdout, stderr := run(t, p.diff(args...))
	if got != code {
		t.Errorf("diff %q ends with %d, want %d: %s", args, got, code, stderr)
	}
	all := strings.Split(stdout, "\n")
	for _, want := range lines {
		if !slices.ContainsFunc(all, func(line string) bool { return seconds(line) == want }) {
			t.Errorf("diff %q does not print %q but %q", args, want, stdout)
		}
	}
	if strings.ContainsAny(stdout+stderr, "\r\x1b") {
		t.Errorf("diff %q draws where no terminal is: %q", args, stdout+stderr)
	}
}

// seconds takes the time from a line, which differs each time.
func seconds(line string) string {
	i := strings.LastIndex(line, ", ")
	if i < 0 || !strings.HasSuffix(line, " s") {
		return line
	}
	return line[:i]
}

const people = `CREATE TABLE people (id int PRIMARY KEY, name text, seen timestamptz); INSERT INTO people SELECT i, 'name ' || i, '2024-01-01Z' FROM generate_series(1, 100) i`

// A cron job goes by the exit status, and a script by the object.
func TestDiffExitStatus(t *testing.T) {
	t.Parallel()
	p := newPair(t, pgtest.Server(t, testbed.Options{}), people, `CREATE TABLE empty (id int PRIMARY KEY)`)

	p.prints(t, 0, []string{"public.empty: identical, 0 rows", "public.people: identical, 100 rows", "2 tables, 100 rows: identical"})
	if c := p.compare(t, 0); !c.Identical || len(c.Tables) != 2 || c.OnlySource != nil || c.OnlyReplica != nil || c.table(t, "public.people").Rows != 100 {
		t.Errorf("identical: %+v", c)
	}
	p.prints(t, 0, []string{"public.people: identical, 100 rows"}, "--table", "people", "--jobs", "3")

	p.dst.exec(t, `DELETE FROM people WHERE id = 1`, `UPDATE people SET name = 'drift' WHERE id IN (2, 3)`, `INSERT INTO people VALUES (1001), (1002), (1003), (1004)`)
	p.prints(t, 1, []string{"public.people: 1 missing, 2 mismatched, 4 extra of 100 rows", "2 tables, 100 rows: 1 differ"})
	code, stdout, _ := run(t, p.diff("--table", "public.people", "--format", "json"))
	var raw struct {
		Tables []map[string]any
	}
	if err := json.Unmarshal([]byte(stdout), &raw); code != 1 || err != nil || len(raw.Tables) != 1 {
		t.Fatalf("exit status %d, %v: %s", code, err, stdout)
	}
	took, ok := raw.Tables[0]["seconds"].(float64)
	if !ok || took <= 0 || took > shortRun.Seconds() {
		t.Errorf("it took %v", raw.Tables[0]["seconds"])
	}
	// Each of these is there, also where it is 0.
	for key, want := range map[string]any{"table": "public.people", "rows": 100.0, "missing": 1.0, "mismatched": 2.0, "extra": 4.0, "fixed": 0.0} {
		if got := raw.Tables[0][key]; got != want {
			t.Errorf("%s is %v, want %v", key, got, want)
		}
	}
	if decode(t, stdout).Identical {
		t.Error("differences are called identical")
	}
	if n := value[int](t, p.dst, `SELECT count(*) FROM pg_namespace WHERE nspname = 'trickle'`); n != 0 {
		t.Error("comparing left a schema behind")
	}

	// Nobody asked for what one side has only, so it is told and is no error.
	p.src.exec(t, `CREATE TABLE "left" (id int PRIMARY KEY)`)
	p.dst.exec(t, `CREATE TABLE "right" (id int PRIMARY KEY)`, `CREATE SCHEMA trickle`, `CREATE TABLE trickle.corrections (id int)`)
	p.prints(t, 1, []string{"only in the source: public.left", "only in the replica: public.right"})
	c := p.compare(t, 1)
	if !slices.Equal(c.OnlySource, []string{"public.left"}) || !slices.Equal(c.OnlyReplica, []string{"public.right"}) {
		t.Errorf("only in the source %q, in the replica %q", c.OnlySource, c.OnlyReplica)
	}
	if c := p.compare(t, 0, "--table", "empty"); c.OnlySource != nil || c.OnlyReplica != nil {
		t.Errorf("asked for one table, told of others: %+v", c)
	}
	// What could not be compared outweighs what was found.
	p.prints(t, 2, []string{"public.people: 1 missing, 2 mismatched, 4 extra of 100 rows", "2 tables, 100 rows: 1 differ, 1 not compared"}, "--table", "left", "--table", "people")
}

func TestDiffListsDifferences(t *testing.T) {
	t.Parallel()
	p := newPair(t, pgtest.Server(t, testbed.Options{}),
		`CREATE TABLE pairs (a text, b int, v text, "Odd name" text, PRIMARY KEY (a, b))`,
		`INSERT INTO pairs VALUES ('same', 1, 'v', 'v'), ('x, b=2', 1, NULL, 'a'), ('', 2, 'null', 'a'), ('gone', 3, 'v', NULL), ('plain', 4, 'a "b"', '1')`,
		`CREATE TABLE "My.Table" (id int PRIMARY KEY, v text)`, `INSERT INTO "My.Table" SELECT i, 'v' FROM generate_series(1, 3000) i`,
		`CREATE TABLE other (id int PRIMARY KEY)`)
	p.dst.exec(t, `UPDATE pairs SET v = 'null' WHERE a = 'x, b=2'`, `UPDATE pairs SET v = NULL WHERE a = ''`, `DELETE FROM pairs WHERE a = 'gone'`,
		`UPDATE pairs SET v = E'a\tb\033[2J', "Odd name" = '' WHERE a = 'plain'`, `INSERT INTO pairs VALUES ('more', -5)`)

	p.prints(t, 1, []string{
		`mismatched  public.pairs  a="x, b=2", b=1  v: NULL in the source, "null" in the replica`,
		`mismatched  public.pairs  a="", b=2  v: "null" in the source, NULL in the replica`,
		`mismatched  public.pairs  a=plain, b=4  v: "a \"b\"" in the source, "a\tb\x1b[2J" in the replica; "Odd name": 1 in the source, "" in the replica`,
		`missing     public.pairs  a=gone, b=3`,
		`extra       public.pairs  a=more, b=-5`,
		`public.pairs: 1 missing, 3 mismatched, 1 extra of 5 rows`,
	}, "--list")

	c := p.compare(t, 1, "--list", "--jobs", "2")
	if c.Identical || len(c.Tables) != 3 {
		t.Errorf("%+v", c)
	}
	found := map[string]difference{}
	for _, d := range c.table(t, "public.pairs").Differences {
		found[d.Kind+" "+d.Key["a"]+"/"+d.Key["b"]] = d
	}
	if len(found) != 5 {
		t.Errorf("listed: %+v", found)
	}
	null, text := found["mismatched x, b=2/1"], found["mismatched /2"]
	if len(null.Columns) != 1 || null.Columns[0].Column != "v" || null.Columns[0].Source != nil || *null.Columns[0].Replica != "null" {
		t.Errorf("NULL at the source: %+v", null)
	}
	if len(text.Columns) != 1 || text.Columns[0].Replica != nil || *text.Columns[0].Source != "null" {
		t.Errorf("NULL in the replica: %+v", text)
	}
	if both := found["mismatched plain/4"]; len(both.Columns) != 2 || *both.Columns[0].Replica != "a\tb\x1b[2J" || *both.Columns[1].Replica != "" {
		t.Errorf("two columns differ: %+v", both)
	}
	for _, name := range []string{"missing gone/3", "extra more/-5"} {
		if d, ok := found[name]; !ok || d.Columns != nil {
			t.Errorf("%s: %+v", name, d)
		}
	}

	// A limit is one for each table, and for what is listed only.
	p.dst.exec(t, `UPDATE "My.Table" SET v = 'drift' WHERE id % 2 = 0`)
	for _, jobs := range []string{"1", "3"} {
		c = p.compare(t, 1, "--list", "--limit", "2", "--jobs", jobs)
		for name, differ := range map[string]int64{"public.pairs": 5, `public."My.Table"`: 1500, "public.other": 0} {
			got := c.table(t, name)
			if n := got.Missing + got.Mismatched + got.Extra; n != differ || len(got.Differences) != int(min(differ, 2)) {
				t.Errorf("%s: %d differ, %d are listed", name, n, len(got.Differences))
			}
		}
	}
	p.prints(t, 1, []string{`public."My.Table": 0 missing, 1,500 mismatched, 0 extra of 3,000 rows`, "  1 row listed, as --limit says"}, "--list", "--limit", "1", "--table", `public."My.Table"`)
	if c := p.compare(t, 1, "--list", "--limit", "0"); len(c.table(t, "public.pairs").Differences) != 0 {
		t.Errorf("listed beyond a limit of 0: %+v", c)
	}
}

// With a policy what is listed is what it lets be shown; without privacy in it keys are hashed and values left out.
func TestDiffShowsWhatThePolicyAllows(t *testing.T) {
	t.Parallel()
	p := newPair(t, pgtest.Server(t, testbed.Options{}), people)
	p.dst.exec(t, `UPDATE people SET name = 'Mallory', seen = NULL WHERE id = 77`)
	for name, c := range map[string]struct {
		privacy   string
		key, name string
	}{
		"nothing said": {"", "#", "…"},
		"all shown":    {"privacy: {keys: show, values: show}", "77", "Mallory"},
		"hashes":       {"privacy: {keys: hash, values: hash}", "#", "#"},
		"nothing":      {"privacy: {keys: omit, values: omit}", "…", "…"},
	} {
		policy := writeFile(t, "policy.yaml", "pipeline: p\ntables: [{table: public.people}]\n"+c.privacy+"\n")
		code, stdout, stderr := run(t, p.diff("--policy", policy, "--list", "--format", "json"))
		got := decode(t, stdout).Tables[0].Differences
		if code != 1 || len(got) != 1 || len(got[0].Columns) != 2 {
			t.Fatalf("%s: exit status %d, %s", name, code, stdout)
		}
		key, value := got[0].Key["id"], *got[0].Columns[0].Replica
		if !strings.HasPrefix(key, c.key) || !strings.HasPrefix(value, c.name) || len(key) > 13 {
			t.Errorf("%s: shows the key %s and the value %s", name, key, value)
		}
		if got[0].Columns[1].Replica != nil {
			t.Errorf("%s: NULL is shown as %s", name, *got[0].Columns[1].Replica)
		}
		_, text, _ := run(t, p.diff("--policy", policy, "--list"))
		if c.name != "Mallory" && strings.Contains(stdout+text+stderr, "Mallory") {
			t.Errorf("%s: the value is shown: %s%s", name, text, stdout)
		}
		// Without a gate this policy would correct nothing by itself, which is no concern of a comparison.
		if strings.Contains(stderr, "gate") {
			t.Errorf("%s: said %s", name, stderr)
		}
	}
}
