package e2e

import (
	"strings"
	"testing"

	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
)

// What concerns all tables ends diff at once: one thing said, nothing on standard output, exit status 2.
func TestDiffBadInput(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, testbed.Options{})
	login(t, server, "locked")
	p := newPair(t, server, people)
	bare := connect(t, pgtest.DatabaseOn(t, server))
	p.src.exec(t, `CREATE ROLE hasty LOGIN`, `ALTER ROLE hasty SET statement_timeout = '1ms'`)
	nowhere := closedPort(t)
	policy := writeFile(t, "policy.yaml", "pipeline: p\ntables: [{table: public.people}]\ndetect: {action: report}\n")
	typo := writeFile(t, "policy.yaml", "pipeline: p\ntabels: [{table: public.people}]\n")
	for name, c := range map[string]struct {
		args  []string
		words []string
	}{
		"wrong port":                {[]string{"--source", strings.Replace(p.src.dsn, server.Address(), nowhere, 1)}, []string{"source", nowhere, "can't be reached", "--source"}},
		"wrong port, replica":       {[]string{"--replica", strings.Replace(p.src.dsn, server.Address(), nowhere, 1)}, []string{"replica", nowhere, "--replica"}},
		"unknown host":              {[]string{"--source", "postgres://u@host.invalid/shop?connect_timeout=5"}, []string{"source", "host.invalid", "--source"}},
		"wrong password":            {[]string{"--replica", as(t, p.dst.dsn, "locked", "wrong")}, []string{"replica", `"locked"`, "password", "--replica"}},
		"unknown user":              {[]string{"--source", as(t, p.src.dsn, "stranger", "")}, []string{"source", `"stranger"`, "--source"}},
		"unknown database":          {[]string{"--replica", server.DSN("missing")}, []string{"replica", `"missing"`, "does not exist", "--replica"}},
		"garbage for a DSN":         {[]string{"--source", "no such thing"}, []string{"source", "--source"}},
		"a port that is none":       {[]string{"--source", "postgres://u:secret@h:notaport/db"}, []string{"source", "--source", "port"}},
		"no source":                 {[]string{"--source", ""}, []string{"source", "--source", "TRICKLE_SOURCE_DSN"}},
		"no replica":                {[]string{"--replica", ""}, []string{"replica", "--replica", "TRICKLE_REPLICA_DSN"}},
		"one database":              {[]string{"--replica", p.src.dsn}, []string{"same database", "--source", "--replica"}},
		"an empty replica":          {[]string{"--replica", bare.dsn}, []string{"nothing to compare", "1 tables", "DSN"}},
		"no jobs":                   {[]string{"--jobs", "0"}, []string{"--jobs 0", "from 1 to 256"}},
		"jobs that are no number":   {[]string{"--jobs", "many"}, []string{"--jobs", `"many"`, "--help"}},
		"a limit below 0":           {[]string{"--list", "--limit", "-1"}, []string{"--limit -1", "from 0 on"}},
		"a limit that is none":      {[]string{"--list", "--limit", "1k"}, []string{"--limit", `"1k"`, "--help"}},
		"a limit of no list":        {[]string{"--limit", "5"}, []string{"--limit", "--list"}},
		"a time below 0":            {[]string{"--settle", "-1s"}, []string{"--settle -1s", "from 0s on"}},
		"a time without a unit":     {[]string{"--settle", "10"}, []string{"--settle", `"10"`, "--help"}},
		"an unknown flag":           {[]string{"--lsit"}, []string{"--lsit", "trickle diff --help"}},
		"an argument too many":      {[]string{"people"}, []string{`"people"`}},
		"an unknown format":         {[]string{"--format", "xml"}, []string{`"xml"`, "text or json"}},
		"a table of three parts":    {[]string{"--table", "a.b.c"}, []string{`"a.b.c"`, "schema.name", "quote"}},
		"a table without a name":    {[]string{"--table", ""}, []string{`""`, "schema.name"}},
		"a policy that isn't there": {[]string{"--policy", "/nonexistent.yaml"}, []string{"/nonexistent.yaml", "no such file"}},
		"fixing under report":       {[]string{"--policy", policy, "--fix"}, []string{"detect.action: report", "--fix"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, format := range []string{"text", "json"} {
				args := c.args
				if name != "an unknown format" {
					args = append([]string{"--format", format}, args...)
				}
				code, stdout, stderr := run(t, p.diff(args...))
				if code != 2 || stdout != "" {
					t.Errorf("exit status %d, standard output %q", code, stdout)
				}
				for _, word := range c.words {
					if !strings.Contains(stderr, word) {
						t.Errorf("%q does not say %q", stderr, word)
					}
				}
				if strings.Contains(stderr, "secret@") || strings.Contains(stderr, "wrong@") {
					t.Errorf("a password is shown: %s", stderr)
				}
			}
		})
	}
	// Whichever statement it ends, the first or one about the table.
	code, stdout, stderr := run(t, p.diff("--source", as(t, p.src.dsn, "hasty", "")))
	for _, word := range []string{"source", "statement timeout", "statement_timeout = 0"} {
		if code != 2 || !strings.Contains(stdout+stderr, word) {
			t.Errorf("a timeout of 1 ms: exit status %d, %q and %q do not say %q", code, stdout, stderr, word)
		}
	}
	// A policy may have several faults, each with its place.
	code, stdout, stderr = run(t, p.diff("--policy", typo))
	if code != 2 || stdout != "" || !strings.Contains(stderr, typo+":2:1") || !strings.Contains(stderr, `did you mean "tables"`) {
		t.Errorf("exit status %d, %q, %q", code, stdout, stderr)
	}
}

// One table's trouble is that table's: it is named with the next step, and the others are compared.
func TestDiffTablesInTrouble(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, testbed.Options{})
	p := newPair(t, server, people,
		`CREATE TABLE keyless (v text)`, `CREATE TABLE types (id int PRIMARY KEY, v int)`, `CREATE TABLE alien (id int PRIMARY KEY, v int)`,
		`CREATE TABLE secret (id int PRIMARY KEY)`, `CREATE TABLE keys (a int PRIMARY KEY, b int UNIQUE NOT NULL)`,
		`CREATE TABLE held (id int PRIMARY KEY)`)
	p.dst.exec(t, `ALTER TABLE types ALTER v TYPE text USING v::text`, `ALTER TABLE alien RENAME v TO w`, `ALTER TABLE keys DROP a`)
	p.src.exec(t, `CREATE ROLE slow LOGIN`, `ALTER ROLE slow SET statement_timeout = '1s'`, `GRANT SELECT ON ALL TABLES IN SCHEMA public TO slow`)
	p.src.exec(t, `CREATE ROLE few LOGIN`, `GRANT SELECT ON ALL TABLES IN SCHEMA public TO few`, `REVOKE SELECT ON secret FROM few`)
	p.dst.exec(t, `UPDATE people SET name = 'drift' WHERE id = 5`)

	release := p.dst.lock(t, "held")
	troubles := map[string][]string{
		"public.keyless": {"no primary key", "ADD PRIMARY KEY"},
		"public.types":   {`"v"`, "int4", "text", "columns.compare"},
		"public.alien":   {"no column in common", "columns.rename"},
		"public.secret":  {"source", "permission denied", "GRANT"},
		"public.keys":    {`"a"`, "key"},
		"public.held":    {"replica", "lock", "try again"},
	}
	few := []string{"--source", as(t, p.src.dsn, "few", "")}
	c := p.compare(t, 2, few...)
	if c.Identical || len(c.Tables) != len(troubles)+1 {
		t.Errorf("%+v", c)
	}
	for name, words := range troubles {
		got := c.table(t, name)
		for _, word := range words {
			if !strings.Contains(got.Error, word) {
				t.Errorf("%s: %q does not say %q", name, got.Error, word)
			}
		}
	}
	if got := c.table(t, "public.people"); got.Mismatched != 1 || got.Rows != 100 || got.Error != "" {
		t.Errorf("the others are not compared: %+v", got)
	}
	release()
	code, stdout, stderr := run(t, p.diff(few...))
	if code != 2 || !strings.Contains(stdout, "public.people: 0 missing, 1 mismatched, 0 extra of 100 rows") || !strings.Contains(stdout, "public.keyless: not compared: ") ||
		!strings.Contains(stdout, "public.held: identical") || !strings.Contains(stderr, "5 of 7 tables could not be compared") {
		t.Errorf("exit status %d, %s, %s", code, stdout, stderr)
	}

	// A statement that takes too long, here because it waits.
	p.src.lock(t, "held")
	c = p.compare(t, 2, "--source", as(t, p.src.dsn, "slow", ""), "--table", "held", "--table", "people")
	if got := c.table(t, "public.held").Error; !strings.Contains(got, "source") || !strings.Contains(got, "statement timeout") || !strings.Contains(got, "statement_timeout = 0") {
		t.Errorf("a statement timeout: %q", got)
	}
	if got := c.table(t, "public.people"); got.Mismatched != 1 || got.Error != "" {
		t.Errorf("the others are not compared: %+v", got)
	}
	// The way out that it names: it waits on, for the lock.
	c = p.compare(t, 2, "--source", as(t, p.src.dsn, "slow", "")+"&options=-c%20statement_timeout%3D0", "--table", "held")
	if got := c.table(t, "public.held").Error; !strings.Contains(got, "lock timeout") {
		t.Errorf("without a statement timeout: %q", got)
	}
}

// Whatever --table or a policy names and can't be compared is told in the words that it was asked in.
func TestDiffAskedForInVain(t *testing.T) {
	t.Parallel()
	p := newPair(t, pgtest.Server(t, testbed.Options{}), people,
		`CREATE VIEW seen AS SELECT * FROM people`, `CREATE MATERIALIZED VIEW kept AS SELECT * FROM people`,
		`CREATE EXTENSION postgres_fdw`, `CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw`, `CREATE FOREIGN TABLE away (id int) SERVER far`,
		`CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id)`, `CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM (1) TO (10)`,
		`CREATE SEQUENCE numbers`, `CREATE TABLE "Mixed" (id int PRIMARY KEY)`, `CREATE SCHEMA "a.b"`, `CREATE TABLE "a.b"."c ""d""" (id int PRIMARY KEY)`)
	p.src.exec(t, `CREATE TABLE here (id int PRIMARY KEY)`, `CREATE TABLE half (id int PRIMARY KEY)`)
	p.dst.exec(t, `CREATE TABLE there (id int PRIMARY KEY)`, `CREATE VIEW half AS SELECT 1 AS id`)
	for asked, words := range map[string][]string{
		"nowhere":             {"public.nowhere", "schema.name"},
		"public.nowhere":      {"public.nowhere", "schema.name"},
		"sales.*":             {"no table of the source matches"},
		"seen":                {"view", "the tables that it reads"},
		"public.kept":         {"view"},
		"away":                {"foreign table"},
		"part_1":              {"partition", "parts"},
		"numbers":             {"no table"},
		"mixed":               {`did you mean 'public."Mixed"'`},
		"here":                {"the replica has no table public.here", "create it"},
		"half":                {"replica", "view"},
		"there":               {"only the replica has it"},
		"pg_catalog.pg_class": {"Postgres's"},
	} {
		c := p.compare(t, 2, "--table", asked, "--table", "people")
		if len(c.Tables) != 2 || c.table(t, "public.people").Rows != 100 {
			t.Errorf("%s: the others are not compared: %+v", asked, c)
		}
		for _, word := range words {
			if got := c.Tables[0].Error; !strings.Contains(got, word) {
				t.Errorf("%s: %q does not say %q", asked, got, word)
			}
		}
		if got := c.Tables[0].Table; got != asked && got != "public."+asked {
			t.Errorf("%s is called %s", asked, got)
		}
	}
	p.prints(t, 2, []string{"sales.*: not compared: no table of the source matches: give schema.name as the catalogue has it, with a * for any run of characters"}, "--table", "sales.*")
	// Names as the catalogue has them, and as SQL quotes them.
	for _, asked := range []string{"Mixed", "public.Mixed", `public."Mixed"`, `"a.b"."c ""d"""`, "public.par*", "p*.peop*"} {
		if c := p.compare(t, 0, "--table", asked); len(c.Tables) != 1 {
			t.Errorf("--table %s: %+v", asked, c)
		}
	}

	policy := writeFile(t, "policy.yaml", "pipeline: p\ntables: [{table: public.people}, {table: public.here}, {table: public.nowhere}, {table: 'sales.*'}]\n")
	c := p.compare(t, 2, "--policy", policy)
	for name, words := range map[string]string{"public.here": "the replica has no table", "public.nowhere": "entry of the policy", "sales.*": "entry of the policy"} {
		if got := c.table(t, name).Error; !strings.Contains(got, words) {
			t.Errorf("%s: %q does not say %q", name, got, words)
		}
	}
	if len(c.Tables) != 4 || c.table(t, "public.people").Error != "" {
		t.Errorf("%+v", c)
	}
	c = p.compare(t, 2, "--policy", policy, "--table", "public.Mixed", "--table", "public.people")
	if got := c.table(t, `public."Mixed"`).Error; len(c.Tables) != 2 || !strings.Contains(got, "no entry of the policy") {
		t.Errorf("a table in no entry: %+v", c)
	}
}
