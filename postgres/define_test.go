package postgres_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/postgres"
)

const elaborate = `
	CREATE SCHEMA ext; CREATE SCHEMA "Odd one";
	CREATE EXTENSION cube SCHEMA ext; SET search_path = public, ext; CREATE EXTENSION earthdistance SCHEMA ext; RESET search_path; CREATE EXTENSION hstore SCHEMA ext; CREATE EXTENSION pg_trgm SCHEMA ext; CREATE EXTENSION btree_gist SCHEMA ext;
	CREATE TYPE public.mood AS ENUM ('so', 'it''s so', 'fine'); ALTER TYPE public.mood ADD VALUE 'best' BEFORE 'so';
	CREATE COLLATION "Odd one".fold (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
	CREATE DOMAIN public.word AS varchar(20) COLLATE "C" NOT NULL CONSTRAINT short CHECK (length(VALUE) < 15);
	CREATE FUNCTION public.known(text) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT true';
	CREATE DOMAIN public.words AS public.word[] CONSTRAINT known CHECK (public.known(VALUE[1])) CONSTRAINT anything CHECK (cardinality(VALUE) > 0);
	CREATE TYPE "Odd one"."Pair" AS (a public.mood, "b c" numeric(10,2)[], d text COLLATE "Odd one".fold, e public.words);
	CREATE TYPE public.span AS RANGE (subtype = float8, subtype_diff = float8mi, multirange_type_name = public.spans);
	CREATE TABLE public.owner (id bigint, tenant int, PRIMARY KEY (tenant, id));
	CREATE TABLE public.t (
		id bigint GENERATED ALWAYS AS IDENTITY, serial serial, "select" numeric(12,2) DEFAULT 1, mood public.mood NOT NULL DEFAULT 'so', moods public.mood[], name text COLLATE "Odd one".fold, word public.word,
		words public.words, pair "Odd one"."Pair", pairs "Odd one"."Pair"[], span public.span, spans public.spans, attrs ext.hstore, place ext.earth, at timestamptz(3), during tstzrange, tenant int, owner bigint,
		"left" char(3), iv interval day to second(2), bits bit varying(8), search tsvector, twice numeric GENERATED ALWAYS AS ("select" * 2) STORED,
		CONSTRAINT t_key PRIMARY KEY (id, tenant) INCLUDE (at),
		CONSTRAINT positive CHECK ("select" > 0 AND name NOT LIKE '%x%'), CONSTRAINT cheered CHECK (mood > 'so'::public.mood), CONSTRAINT noted CHECK (public.known(name)), CONSTRAINT searched CHECK (search IS NOT NULL),
		CONSTRAINT one_word UNIQUE (word) DEFERRABLE, CONSTRAINT no_overlap EXCLUDE USING gist (tenant WITH =, during WITH &&) WHERE (tenant > 0),
		CONSTRAINT owned FOREIGN KEY (tenant, owner) REFERENCES public.owner (tenant, id) MATCH FULL ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED,
		CONSTRAINT itself FOREIGN KEY (id, tenant) REFERENCES public.t);
	ALTER TABLE public.t ADD CONSTRAINT later CHECK (tenant < 1000) NOT VALID;
	CREATE INDEX t_name_trgm ON public.t USING gin (lower(name COLLATE "C") ext.gin_trgm_ops) WITH (fastupdate = off) WHERE name LIKE '%;%';
	CREATE INDEX "t odd ""index" ON public.t ("select" DESC NULLS LAST, name COLLATE "C" text_pattern_ops) INCLUDE (at);
	CREATE INDEX t_hash ON public.t USING hash (owner); CREATE INDEX t_brin ON public.t USING brin (at) WITH (pages_per_range = 4);
	CREATE INDEX t_mood ON public.t ((mood = 'fine'::public.mood));
	CREATE INDEX t_search ON public.t USING gin (search); CREATE INDEX t_known ON public.t (public.known(name));
	CREATE UNIQUE INDEX t_unique ON public.t (lower(word::text), tenant) WHERE tenant IS NOT NULL`

func pretty(t testing.TB, d postgres.Definition) string {
	t.Helper()
	text, err := json.MarshalIndent(d, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// define reads a definition as a builder does, and sends it through a manifest.
func define(t testing.TB, pool *pgxpool.Pool, l *postgres.Layout) postgres.Definition {
	t.Helper()
	var d, read postgres.Definition
	on(t, pool, func(c *pgconn.PgConn) {
		var err error
		if d, err = postgres.Define(t.Context(), c, l); err != nil {
			t.Fatal(err)
		}
	})
	text, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	return read
}

// build makes a table and all of its parts, twice: the second time everything is there.
func build(t testing.TB, pool *pgxpool.Pool, d postgres.Definition, at postgres.Place, places map[string]postgres.Place) {
	t.Helper()
	transact(t, pool, func(c *pgconn.PgConn) error { return d.Make(t.Context(), c, at) })
	parts := append(append([]postgres.DefinedPart{d.Key}, d.Ready...), d.Later...)
	for _, again := range []bool{false, true} {
		for _, p := range parts {
			transact(t, pool, func(c *pgconn.PgConn) error {
				m, err := p.Make(t.Context(), c, at, places[p.Refers])
				if err == nil && m.There != again {
					t.Errorf("%s: there: %t", p.Name, m.There)
				}
				return err
			})
		}
	}
}

func transact(t testing.TB, pool *pgxpool.Pool, fn func(c *pgconn.PgConn) error) {
	t.Helper()
	err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error { return fn(tx.Conn().PgConn()) })
	if err != nil {
		t.Fatal(err)
	}
}

// A definition makes a table whose definition is the same, in another database and in another version of Postgres.
func TestADefinitionMakesTheSameTable(t *testing.T) {
	t.Parallel()
	majors := map[string]func(testing.TB) string{
		"alike": pgtest.Database, "newer": func(t testing.TB) string { return pgtest.DatabaseOf(t, 18) },
	}
	for name, database := range majors {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			source, replica := fresh(t, elaborate), open(t, database(t))
			l := describe(t, source, "public.t", postgres.Rules{Exclude: []string{"search"}})
			owner := describe(t, source, "public.owner", postgres.Rules{})
			want, of := define(t, source, l), define(t, source, owner)
			if len(want.Unmakeable) > 0 {
				t.Fatal(want.Unmakeable)
			}
			left := strings.Join(want.LeftOut, "\n")
			for _, s := range []string{`"noted": it needs function public.known(text)`, `"searched": it needs column "search"`, `"t_search"`, `"t_known"`, `"known" of domain public.words`} {
				if !strings.Contains(left, s) {
					t.Errorf("left out, without %s:\n%s", s, left)
				}
			}
			if len(want.LeftOut) != 5 {
				t.Errorf("left out:\n%s", left)
			}
			places := map[string]postgres.Place{
				"public.owner": {Name: postgres.Name{Schema: "cache", Table: "possessor"}, Rename: map[string]string{"id": "tenant", "tenant": "id"}},
				"public.t": {Name: postgres.Name{Schema: "cache", Table: "T two"}, Rename: map[string]string{
					"select": "from", "name": "full name", "tenant": "owner", "owner": "tenant", "id": "ID", "search": "unused",
				}},
			}
			build(t, replica, of, places["public.owner"], places)
			build(t, replica, want, places["public.t"], places)

			// By the names of the source it is the source's table.
			exec(t, replica, `ALTER TABLE cache."T two" RENAME "from" TO "select"`, `ALTER TABLE cache."T two" RENAME "full name" TO name`, `ALTER TABLE cache."T two" RENAME owner TO x`,
				`ALTER TABLE cache."T two" RENAME tenant TO owner`, `ALTER TABLE cache."T two" RENAME x TO tenant`, `ALTER TABLE cache."T two" RENAME "ID" TO id`,
				`ALTER TABLE cache."T two" RENAME TO t`, `ALTER TABLE cache.possessor RENAME id TO x`, `ALTER TABLE cache.possessor RENAME tenant TO id`, `ALTER TABLE cache.possessor RENAME x TO tenant`,
				`ALTER TABLE cache.possessor RENAME TO owner`, `DROP TABLE IF EXISTS public.t`, `ALTER TABLE cache.owner SET SCHEMA public`, `ALTER TABLE cache.t SET SCHEMA public`)
			got := define(t, replica, describe(t, replica, "public.t", postgres.Rules{}))
			want.LeftOut = nil
			have := strings.Split(pretty(t, got), "\n")
			for n, line := range strings.Split(pretty(t, want), "\n") {
				if n >= len(have) || line != have[n] {
					t.Fatalf("line %d is not %s:\n%s", n+1, line, strings.Join(have, "\n"))
				}
			}
		})
	}
}

func TestWhatCannotBeMadeIsNamed(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ table, want string }{
		"row type":            {`CREATE TABLE public.u (a int); CREATE TABLE public.t (id int PRIMARY KEY, u public.u)`, `column "u" needs the row type of table public.u`},
		"generated":           {`CREATE FUNCTION public.f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1'; CREATE TABLE public.t (id int PRIMARY KEY, u int GENERATED ALWAYS AS (public.f(id)) STORED)`, `column "u" needs function public.f(integer)`},
		"of what is excluded": {`CREATE TABLE public.t (id int PRIMARY KEY, x int, u int GENERATED ALWAYS AS (x + 1) STORED)`, `column "u" needs column "x", which is not exported`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := fresh(t, tt.table)
			rules := postgres.Rules{}
			if strings.Contains(tt.want, `"x"`) {
				rules.Exclude = []string{"x"}
			}
			d := define(t, pool, describe(t, pool, "public.t", rules))
			if got := strings.Join(d.Unmakeable, "; "); !strings.Contains(strings.ReplaceAll(got, "function f(", "function public.f("), tt.want) {
				t.Errorf("%q", got)
			}
		})
	}
}

// A type of the same name that is another refuses the table; one that is the same is taken.
func TestOtherTypes(t *testing.T) {
	t.Parallel()
	source := fresh(t, `CREATE TYPE public.mood AS ENUM ('a', 'b'); CREATE DOMAIN public.d AS int CHECK (VALUE > 0); CREATE TYPE public.c AS (a int, b text); CREATE EXTENSION hstore;
		CREATE TABLE public.t (id int PRIMARY KEY, m public.mood, d public.d, c public.c, h public.hstore)`)
	d := define(t, source, describe(t, source, "public.t", postgres.Rules{}))
	for name, tt := range map[string]struct{ there, want string }{
		"same":      {`CREATE TYPE public.mood AS ENUM ('a', 'b'); CREATE DOMAIN public.d AS int CHECK (VALUE > 0); CREATE TYPE public.c AS (a int, b text); CREATE EXTENSION hstore`, ""},
		"order":     {`CREATE TYPE public.mood AS ENUM ('b', 'a')`, "public.mood"},
		"kind":      {`CREATE DOMAIN public.mood AS text`, "public.mood"},
		"base":      {`CREATE DOMAIN public.d AS bigint CHECK (VALUE > 0)`, "public.d"},
		"check":     {`CREATE DOMAIN public.d AS int CHECK (VALUE > 1)`, "public.d"},
		"attribute": {`CREATE TYPE public.c AS (a int, b varchar)`, "public.c"},
		"extension": {`CREATE SCHEMA e; CREATE EXTENSION hstore SCHEMA e`, `"hstore"`},
		"a table's": {`CREATE TABLE public.c (a int, b text)`, "public.c"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			replica := fresh(t, tt.there)
			err := pgx.BeginFunc(t.Context(), replica, func(tx pgx.Tx) error {
				return d.Make(t.Context(), tx.Conn().PgConn(), postgres.Place{Name: postgres.Name{Schema: "public", Table: "t"}})
			})
			var other *postgres.OtherTypeError
			switch {
			case tt.want == "" && err != nil:
				t.Fatal(err)
			case tt.want != "" && (!errors.As(err, &other) || other.Name != tt.want):
				t.Fatal(err)
			}
		})
	}
}

// What a definition says is one statement, whatever is in it.
func TestADefinitionRunsNoSecondStatement(t *testing.T) {
	t.Parallel()
	replica := fresh(t, "CREATE TABLE public.precious (id int)")
	d := postgres.Definition{Columns: []postgres.DefinedColumn{{Name: "id", SQL: `integer); DROP TABLE public.precious; CREATE TABLE public.x (y int`}}}
	err := pgx.BeginFunc(t.Context(), replica, func(tx pgx.Tx) error {
		return d.Make(t.Context(), tx.Conn().PgConn(), postgres.Place{Name: postgres.Name{Schema: "public", Table: "t"}})
	})
	if postgres.State(err) != "42601" {
		t.Error(err)
	}
	if err := replica.QueryRow(context.WithoutCancel(t.Context()), "SELECT count(*) FROM public.precious").Scan(new(int)); err != nil {
		t.Error(err)
	}
}

// The key of a partitioned table, and one that is no primary key; a name that another table has taken.
func TestKeys(t *testing.T) {
	t.Parallel()
	source := fresh(t, `CREATE TABLE public.p (id int, at date, x text, PRIMARY KEY (at, id)) PARTITION BY RANGE (at); CREATE TABLE public.p1 PARTITION OF public.p DEFAULT; CREATE INDEX ON public.p (x)`,
		`CREATE TABLE public.u (a int NOT NULL, b text, c int); CREATE UNIQUE INDEX taken ON public.u (a DESC) INCLUDE (b, c)`)
	replica := fresh(t, "CREATE TABLE public.taken (a int)")
	for table, want := range map[string]string{"public.p": "PRIMARY KEY (at, id)", "public.u": `btree ("a")`} {
		rules := postgres.Rules{}
		if table == "public.u" {
			rules.Exclude = []string{"c"}
		}
		d := define(t, source, describe(t, source, table, rules))
		if d.Key.Body != want {
			t.Errorf("%s: %+v", table, d.Key)
		}
		build(t, replica, d, postgres.Place{Name: postgres.ParseName(table)}, nil)
		got := describe(t, replica, table, postgres.Rules{})
		if len(got.Schema.GetKey()) == 0 {
			t.Errorf("%s has no key", table)
		}
	}
}
