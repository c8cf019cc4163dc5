package testbed_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
)

// programs makes a folder that looks like the binaries of a Postgres whose version is told in this way.
func programs(t *testing.T, version string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"postgres", "initdb"} {
		script := fmt.Sprintf("#!/bin/sh\n%s\n", version)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// No other Postgres has version 97, so that only PG_BIN can be the answer.
func TestFindBinariesOf(t *testing.T) {
	for _, c := range []struct{ name, version, fault string }{
		{"the version wanted", "echo postgres '(PostgreSQL)' 97.2", ""},
		{"a beta", "echo postgres '(PostgreSQL)' 97beta1", ""},
		{"another version", "echo postgres '(PostgreSQL)' 9.7", "9 in %s"},
		{"no version", "echo mysql 97", `%s/postgres --version: "mysql 97" names no version`},
		{"a library that is missing", "echo libicu: not found >&2; exit 127", "%s/postgres --version: exit status 127: libicu: not found"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := programs(t, c.version)
			t.Setenv("PG_BIN", dir)
			got, err := testbed.FindBinariesOf(t.Context(), 97)
			if c.fault == "" {
				if err != nil || got != dir {
					t.Errorf("got %q, %v; want %s", got, err, dir)
				}
				return
			}
			if err == nil {
				t.Fatalf("got %s", got)
			}
			for _, want := range []string{"there is no Postgres 97 here", "scripts/prerequisites", "PG_BIN", fmt.Sprintf(c.fault, dir)} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
		})
	}
}

// A second major version is a whole Postgres: extensions and collations are found from wherever it lies.
func TestDatabaseOf(t *testing.T) {
	t.Parallel()
	dsn := pgtest.DatabaseOf(t, 18)
	mustExec(t, dsn, "CREATE EXTENSION citext", "CREATE EXTENSION hstore", "CREATE EXTENSION ltree")
	for _, c := range []struct{ sql, want string }{
		{"SELECT current_setting('server_version_num')::int / 10000 || ''", "18"},
		{"SELECT ('a'::citext = 'A') || ' ' || ('a=>1'::hstore -> 'a') || ' ' || ('a.b'::ltree <@ 'a')", "true 1 true"},
		{"SELECT ('a' < 'B' COLLATE \"en-x-icu\") || ' ' || ('a' < 'B' COLLATE \"C\")", "true false"},
		{"SELECT current_setting('wal_level') || ' ' || current_setting('server_encoding')", "logical UTF8"},
	} {
		if got := mustQuery(t, dsn, c.sql); got != c.want {
			t.Errorf("%s: %s, want %s", c.sql, got, c.want)
		}
	}
	if again := pgtest.DatabaseOf(t, 18); again == dsn || mustQuery(t, again, "SELECT count(*)::text FROM pg_extension WHERE extname = 'citext'") != "0" {
		t.Error("two tests share a database")
	}
	if a, b := identifier(t, dsn), identifier(t, pgtest.DatabaseOf(t, 18)); a != b {
		t.Error("every database has a server of its own")
	}
	if a, b := identifier(t, dsn), identifier(t, pgtest.Database(t)); a == b {
		t.Error("the server of this version is the one shared by all tests")
	}
}

func identifier(t *testing.T, dsn string) string {
	t.Helper()
	return mustQuery(t, dsn, "SELECT system_identifier::text FROM pg_control_system()")
}
