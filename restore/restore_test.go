package restore_test

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/restore"
)

// Into an empty database: tables, types, keys and indexes, and what has to wait.
func TestIntoAnEmptyDatabase(t *testing.T) {
	t.Parallel()
	source := fresh(t, `CREATE TYPE public.mood AS ENUM ('a', 'b');
		CREATE TABLE public.customers (id int PRIMARY KEY, mail text UNIQUE, mood public.mood);
		CREATE TABLE public.outside (id int PRIMARY KEY);
		CREATE TABLE public.orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "select" text, customer int REFERENCES public.customers, amount numeric(12,2) CHECK (amount >= 0),
			twice numeric GENERATED ALWAYS AS (amount * 2) STORED, secret text, outside int REFERENCES public.outside, EXCLUDE USING btree (id WITH =));
		CREATE INDEX orders_customer ON public.orders (customer); CREATE INDEX orders_secret ON public.orders (secret); CREATE TABLE public.empty (a int, b int, PRIMARY KEY (b, a));
		INSERT INTO public.customers SELECT i, 'm' || i, CASE WHEN i % 2 = 0 THEN 'a' ELSE 'b' END::public.mood FROM generate_series(1, 50) i;
		INSERT INTO public.orders ("select", customer, amount, secret) SELECT 'o' || i, i % 50 + 1, i, 's' FROM generate_series(1, 1000) i`)
	w := newWorld(t, source, fresh(t, "CREATE TABLE public.precious (id int); INSERT INTO public.precious VALUES (1)"), export{
		tables: []string{"public.orders", "public.customers", "public.empty"}, rows: 100,
		rules: map[string]postgres.Rules{"public.orders": {Exclude: []string{"secret"}, Rename: map[string]string{"select": "chosen", "customer": "amount", "amount": "customer"}}},
	})
	mapped := w.options.Map
	w.options.Map = func(table string) (restore.Mapping, bool) {
		m, ok := mapped(table)
		m.Name.Schema = "cache"
		return m, ok
	}
	var last restore.Progress
	w.options.Progress = func(p restore.Progress) { last = p }
	out := w.load(t)
	if len(out.Plan.Create) != 3 || len(out.Plan.LeftOut) != 2 || out.Resumed {
		t.Errorf("%+v", out.Plan)
	}
	if last.RangesDone != last.Ranges || last.Ranges != len(w.set.Tables[0].Objects)+2 || last.RowsDone != 1050 || last.Bytes != last.BytesDone {
		t.Errorf("%+v", last)
	}
	if got := state(t, w); got != "loaded" {
		t.Error(got)
	}
	constraints := `SELECT string_agg(conname || ' ' || contype::text, ', ' ORDER BY conname) FROM pg_constraint WHERE connamespace = 'cache'::regnamespace AND contype <> 'n'`
	if got := one(t, w.replica, constraints); got != "customers_pkey p, empty_pkey p, orders_amount_check c, orders_pkey p" {
		t.Error(got)
	}
	if got := one(t, w.replica, "SELECT string_agg(indexdef, '; ' ORDER BY indexname) FROM pg_indexes WHERE tablename = 'orders' AND indexname LIKE '%customer%'"); got != "CREATE INDEX orders_customer ON cache.orders USING btree (amount)" {
		t.Error(got)
	}

	// A second run has nothing to do, and needs no object.
	for _, o := range w.set.Tables[0].Objects {
		if err := w.bucket.Delete(t.Context(), pipeline+"/"+o.Name); err != nil {
			t.Fatal(err)
		}
	}
	again, err := w.restorer().Load(t.Context(), w.set)
	if err != nil || !again.Resumed {
		t.Fatalf("%+v %v", again, err)
	}
	for range 2 {
		finished, err := w.restorer().Finish(t.Context(), w.set)
		if err != nil {
			t.Fatal(err)
		}
		if err := finished.Err(); err != nil {
			t.Error(err)
		}
		if len(finished.Made) != 3 || len(finished.LeftOut) != 1 {
			t.Errorf("%+v", finished)
		}
	}
	if got := one(t, w.replica, constraints); got != "customers_mail_key u, customers_pkey p, empty_pkey p, orders_amount_check c, orders_customer_fkey f, orders_id_excl x, orders_pkey p" {
		t.Error(got)
	}
	if got := one(t, w.replica, "SELECT count(*) FROM public.precious"); got != "1" {
		t.Error(got)
	}
}

// What cannot be made in the end is named, with its statement, and the rest is made.
func TestFinishNamesWhatFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fresh(t, orders, rows(10), "CREATE UNIQUE INDEX orders_name ON public.orders (name); ALTER TABLE public.orders ADD UNIQUE (amount)"), fresh(t), export{tables: []string{"public.orders"}, rows: 4})
	w.load(t)
	exec(t, w.replica, "UPDATE public.orders SET name = 'same' WHERE id < 3")
	f, err := w.restorer().Finish(t.Context(), w.set)
	if err != nil || len(f.Failed) != 1 || len(f.Made) != 1 {
		t.Fatalf("%+v %v", f, err)
	}
	holds(t, f.Err(), "orders_name", "CREATE UNIQUE INDEX", "public.orders", "23505")
	const remembered = "SELECT coalesce(string_agg(e->>'name', ' '), '') FROM trickle.restores, jsonb_array_elements(not_made) e"
	if got := one(t, w.replica, remembered); got != "orders_name" {
		t.Error(got)
	}
	exec(t, w.replica, "UPDATE public.orders SET name = 'other' WHERE id = 1")
	if f, err = w.restorer().Finish(t.Context(), w.set); err != nil || f.Err() != nil || len(f.Made) != 2 {
		t.Fatalf("%+v %v", f, err)
	}
	if got := one(t, w.replica, remembered); got != "" {
		t.Error(got)
	}
}

// Everything in the way is named at once, and nothing is written.
func TestRefused(t *testing.T) {
	t.Parallel()
	source := fresh(t, orders, rows(10), `CREATE TABLE public.a (id int PRIMARY KEY, v int); CREATE TABLE public.b (id int PRIMARY KEY, v int, a int REFERENCES public.a); INSERT INTO public.a VALUES (1, 1); INSERT INTO public.b VALUES (1, 1, 1)`)
	all := []string{"public.orders", "public.a", "public.b"}
	for name, c := range map[string]struct {
		there   string
		options func(*restore.Options)
		set     func(*world)
		want    []string
	}{
		"rows": {
			there: orders + "INSERT INTO public.orders VALUES (1), (2); CREATE TABLE public.a (id int PRIMARY KEY, v int); INSERT INTO public.a VALUES (7)",
			want:  []string{"public.orders: it holds 2 rows", "public.a: it holds 1 rows", "--replace"},
		},
		"a column is missing": {there: "CREATE TABLE public.a (id int PRIMARY KEY)", want: []string{"public.a", `"v"`}},
		"a column is extra":   {there: "CREATE TABLE public.a (id int PRIMARY KEY, v int, x int NOT NULL, y int NOT NULL DEFAULT 1)", want: []string{"public.a", `column "x" is NOT NULL`}},
		"no key":              {there: "CREATE TABLE public.a (id int, v int)", want: []string{"public.a", "no primary key"}},
		"a view":              {there: "CREATE VIEW public.a AS SELECT 1 AS id, 2 AS v", want: []string{"public.a", "no table"}},
		"unlogged":            {there: "CREATE UNLOGGED TABLE public.a (id int PRIMARY KEY, v int)", want: []string{"public.a", "UNLOGGED", "SET LOGGED"}},
		"unlogged in parts":   {there: "CREATE TABLE public.a (id int PRIMARY KEY, v int) PARTITION BY RANGE (id); CREATE UNLOGGED TABLE public.a1 PARTITION OF public.a DEFAULT", want: []string{"public.a", "UNLOGGED", "a1 SET LOGGED"}},
		"rules":               {there: "CREATE TABLE public.a (id int PRIMARY KEY, v int); CREATE RULE r AS ON INSERT TO public.a DO INSTEAD NOTHING", want: []string{"rewrite rules"}},
		"foreign keys among them": {
			there: "CREATE TABLE public.a (id int PRIMARY KEY, v int); CREATE TABLE public.b (id int PRIMARY KEY, v int, a int REFERENCES public.a)",
			want:  []string{"public.b", "b_a_fkey", "session_replication_role"},
		},
		"a foreign key from outside": {
			there:   "CREATE TABLE public.a (id int PRIMARY KEY, v int); INSERT INTO public.a VALUES (5); CREATE TABLE public.z (a int CONSTRAINT from_outside REFERENCES public.a); INSERT INTO public.z VALUES (5)",
			options: func(o *restore.Options) { o.Replace = true }, want: []string{"from_outside", "public.z"},
		},
		"rows of others": {
			there: "CREATE TABLE public.a (id int PRIMARY KEY, v int); INSERT INTO public.a VALUES (5, 1), (6, NULL)",
			options: func(o *restore.Options) {
				o.Replace = true
				all := o.Map
				o.Map = func(table string) (restore.Mapping, bool) {
					m, ok := all(table)
					if table == "public.a" {
						m.Rules.Where = "v = 1"
					}
					return m, ok
				}
			}, want: []string{"public.a", "not this pipeline's", "v = 1"},
		},
		"another type":     {there: "CREATE TABLE public.a (id int PRIMARY KEY, v date)", want: []string{"public.a", `column "v"`}},
		"another pipeline": {options: func(o *restore.Options) { o.Pipeline = "other" }, want: []string{`"shop"`, `"other"`}},
		"another source":   {options: func(o *restore.Options) { o.Source = "1/x" }, want: []string{"1/x"}},
		"the source":       {set: func(w *world) { w.replica = w.source }, want: []string{"leads to the source"}},
		"another probe":    {set: func(w *world) { w.set.Tables[1].Schema.Probe++ }, want: []string{"public.a", "portable"}},
		"not to be made":   {set: func(w *world) { w.set.Tables[1].Definition.Unmakeable = []string{"no luck"} }, want: []string{"public.a", "no luck"}},
		"an object is missing": {set: func(w *world) {
			if err := w.bucket.Delete(t.Context(), pipeline+"/"+w.set.Tables[0].Objects[1].Name); err != nil {
				t.Fatal(err)
			}
		}, want: []string{"missing", "orders"}},
		"another type of a name": {there: "CREATE TYPE public.a AS ENUM ('x')", want: []string{"public.a"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, source, fresh(t, c.there), export{tables: all, rows: 4})
			if c.options != nil {
				c.options(&w.options)
			}
			if c.set != nil {
				c.set(w)
			}
			const what = `SELECT md5(string_agg(c.oid::text || c.relname || coalesce(pg_relation_filenode(c.oid)::text, ''), ',' ORDER BY c.oid)) FROM pg_class c WHERE relnamespace = 'public'::regnamespace`
			before := one(t, w.replica, what)
			_, err := w.restorer().Load(t.Context(), w.set)
			holds(t, err, c.want...)
			if after := one(t, w.replica, what); after != before {
				t.Error("something was written")
			}
			if one(t, w.replica, "SELECT to_regclass('trickle.restores') IS NOT NULL") == "true" && one(t, w.replica, "SELECT count(*) FROM trickle.restores") != "0" {
				t.Error("a restore was recorded")
			}
		})
	}
}

// Rights that are missing are found before anything is written, each with the statement that grants it.
func TestRights(t *testing.T) {
	t.Parallel()
	source := fresh(t, orders, rows(10))
	extended := fresh(t, "CREATE SCHEMA ext; CREATE EXTENSION bloom SCHEMA ext; CREATE TABLE public.orders (id int PRIMARY KEY); CREATE INDEX ON public.orders USING bloom (id)")
	for name, c := range map[string]struct {
		there, want string
		replace     bool
		source      *pgxpool.Pool
	}{
		"extension": {there: "CREATE SCHEMA ext; GRANT USAGE, CREATE ON SCHEMA public TO PUBLIC", want: `CREATE EXTENSION "bloom" SCHEMA "ext"`, source: extended},
		"schema":    {there: "", want: "GRANT USAGE, CREATE ON SCHEMA"},
		"insert":    {there: orders + "GRANT SELECT ON public.orders TO PUBLIC", want: "GRANT INSERT ON"},
		"truncate":  {there: orders + "INSERT INTO public.orders VALUES (1); GRANT SELECT, INSERT ON public.orders TO PUBLIC", want: "GRANT TRUNCATE ON", replace: true},
		"security":  {there: orders + "ALTER TABLE public.orders ENABLE ROW LEVEL SECURITY; GRANT SELECT, INSERT ON public.orders TO PUBLIC", want: "BYPASSRLS"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			admin := fresh(t, "REVOKE CREATE ON SCHEMA public FROM PUBLIC", c.there)
			db := one(t, admin, "current_database()")
			role := "plain_" + db
			exec(t, admin, "CREATE ROLE "+postgres.Quote(role), "CREATE SCHEMA trickle AUTHORIZATION "+postgres.Quote(role))
			t.Cleanup(func() { exec(t, admin, "DROP OWNED BY "+postgres.Quote(role), "DROP ROLE "+postgres.Quote(role)) })
			replica := as(t, admin, role)
			if c.source == nil {
				c.source = source
			}
			w := newWorld(t, c.source, replica, export{tables: []string{"public.orders"}, rows: 4})
			w.options.Replace = c.replace
			_, err := w.restorer().Load(t.Context(), w.set)
			var refused *restore.RefusedError
			if !errors.As(err, &refused) {
				t.Fatal(err)
			}
			holds(t, err, c.want)
		})
	}
}

// Extensions come along, wherever the source has them, with what only they can compare.
func TestExtensions(t *testing.T) {
	t.Parallel()
	source := fresh(t, `CREATE SCHEMA ext; CREATE EXTENSION citext SCHEMA ext; CREATE EXTENSION hstore SCHEMA ext; CREATE TABLE public.t (mail ext.citext PRIMARY KEY, attrs ext.hstore);
		INSERT INTO public.t SELECT 'M' || i, ext.hstore('a', i::text) FROM generate_series(1, 200) i; CREATE INDEX ON public.t USING gin (attrs)`)
	source.Reset()
	w := newWorld(t, source, fresh(t), export{tables: []string{"public.t"}, rows: 30})
	w.load(t)
	if got := one(t, w.replica, "SELECT count(*) FROM pg_indexes WHERE schemaname = 'public'"); got != "2" {
		t.Error(got)
	}
}

// Types of every kind arrive, in both formats, by both digests, in this version and in a newer one; a partitioned table as an ordinary one.
func TestEveryKindOfType(t *testing.T) {
	t.Parallel()
	source := fresh(t, `CREATE SCHEMA ext; CREATE EXTENSION citext SCHEMA ext; CREATE EXTENSION cube SCHEMA ext; CREATE TYPE public.mood AS ENUM ('a', 'b'); CREATE DOMAIN public.word AS text CHECK (length(VALUE) < 9);
		CREATE TYPE public.pair AS (a public.mood, b numeric(9,3)); CREATE TYPE public.span AS RANGE (subtype = float8, subtype_diff = float8mi); CREATE DOMAIN public.words AS public.word[];
		CREATE COLLATION public.fold (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
		CREATE TABLE public.plain (id uuid PRIMARY KEY, a smallint, b double precision, c timestamptz, d interval, e bytea, f jsonb, g inet, h date[], i int4range, j numeric, k bit varying, l money, m char(5), n "char", o oid,
			p point, q macaddr, r tsvector, t time);
		CREATE TABLE public.odd (at date, name text COLLATE public.fold, mood public.mood, moods public.mood[], word public.word, words public.words, pair public.pair, pairs public.pair[], span public.span, doc xml,
			mail ext.citext, place ext.cube, many int8multirange, PRIMARY KEY (at, name)) PARTITION BY RANGE (at);
		CREATE TABLE public.odd1 PARTITION OF public.odd FOR VALUES FROM ('2020-01-01') TO ('2020-03-01'); CREATE TABLE public.odd2 PARTITION OF public.odd DEFAULT;
		INSERT INTO public.plain SELECT gen_random_uuid(), i, i / 3.0, now() + i * interval '1 h', i * interval '1 day 2 s', decode(md5(i::text), 'hex'), jsonb_build_object('k', i), '10.0.0.1', ARRAY['2020-01-01'::date + i, NULL],
			int4range(i, i + 3), i / 7.0, i::bit(9), i::money, i::text, 'x', i, point(i, 1), '08:00:2b:01:02:03', to_tsvector('a b ' || i), '01:02:03' FROM generate_series(1, 120) i;
		INSERT INTO public.odd SELECT '2020-01-01'::date + i, 'N' || i, 'b', ARRAY['a', NULL]::public.mood[], 'w' || i, ARRAY['x', 'y']::public.words, ROW('a', i / 7.0)::public.pair, ARRAY[ROW('b', i)::public.pair],
			public.span(i, i + 1), '<a>1</a>', 'Mail' || i, ext.cube(i), int8multirange(int8range(i, i + 1)) FROM generate_series(1, 120) i`)
	source.Reset()
	for _, kind := range []digest.Kind{digest.Record, digest.Portable} {
		replica := fresh(t)
		if kind == digest.Portable {
			replica = open(t, pgtest.DatabaseOf(t, 18))
		}
		w := newWorld(t, source, replica, export{tables: []string{"public.plain", "public.odd"}, rows: 50, kind: kind})
		if !w.set.Tables[0].Binary || w.set.Tables[1].Binary {
			t.Error("not one in binary and one as text")
		}
		w.load(t)
		if got := one(t, w.replica, "SELECT relkind FROM pg_class WHERE oid = 'public.odd'::regclass"); got != "r" {
			t.Error(got)
		}
	}
}
