package restore_test

import (
	"testing"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/postgres"
)

// Tables that are there are filled as they are: with other types, with columns of their own, in partitions.
func TestIntoExistingTables(t *testing.T) {
	t.Parallel()
	source := fresh(t, `CREATE TABLE public.orders (id int PRIMARY KEY, flag boolean, amount numeric(12,4), doc json, name varchar(30), twice int); CREATE TYPE public.mood AS ENUM ('a', 'b');
		ALTER TABLE public.orders ADD mood public.mood;
		INSERT INTO public.orders SELECT i, i % 2 = 0, i / 7.0, '{"b": 1, "a": 2}', 'n' || i, 2 * i, CASE WHEN i % 3 > 0 THEN 'a' END::public.mood FROM generate_series(1, 500) i`)
	for name, there := range map[string]string{
		"the same types": `CREATE TYPE public.mood AS ENUM ('b', 'a'); CREATE TABLE public.orders (id int PRIMARY KEY, flag boolean, amount numeric(12,4), doc json, name varchar(30), twice int, mood public.mood)`,
		"wider types, in another order, and more columns": `CREATE TABLE public.orders (own serial, mood text, twice bigint, name text, doc jsonb, amount numeric, flag boolean, id bigint PRIMARY KEY, note text NOT NULL DEFAULT 'x')`,
		"identity and generated":                          `CREATE TABLE public.orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, flag boolean, amount numeric(12,4), doc json, name text, twice int GENERATED ALWAYS AS (2 * id) STORED, mood text)`,
		"identity alone":                                  `CREATE TABLE public.orders (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, flag boolean, amount numeric(12,4), doc json, name text, twice int, mood text)`,
		"domains":                                         `CREATE DOMAIN public.whole AS int CHECK (VALUE > 0); CREATE TABLE public.orders (id public.whole PRIMARY KEY, flag boolean, amount numeric(12,4), doc jsonb, name text, twice bigint, mood text)`,
		"partitions": `CREATE TABLE public.orders (id bigint PRIMARY KEY, flag boolean, amount numeric, doc json, name text, twice int, mood text) PARTITION BY RANGE (id);
			CREATE TABLE public.o1 PARTITION OF public.orders FOR VALUES FROM (0) TO (250); CREATE TABLE public.o2 PARTITION OF public.orders DEFAULT`,
		"inherited from": `CREATE TABLE public.orders (id int PRIMARY KEY, flag boolean, amount numeric(12,4), doc json, name text, twice int, mood text); CREATE TABLE public.child () INHERITS (public.orders);
			INSERT INTO public.child VALUES (1, true, 1, '{}', 'c', 2)`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, rules := range []map[string]postgres.Rules{nil, {"public.orders": {Exclude: []string{"mood"}}}} { // the second time in binary
				w := newWorld(t, source, fresh(t, there), export{tables: []string{"public.orders"}, rows: 70, rules: rules})
				if w.set.Tables[0].Binary != (rules != nil) {
					t.Error(w.set.Tables[0].Binary)
				}
				if out := w.load(t); len(out.Plan.Fill) != 1 || len(out.Plan.Create) != 0 {
					t.Errorf("%+v", out.Plan)
				}
				if left := one(t, w.replica, "SELECT count(*) FROM pg_class WHERE relpersistence = 't' AND relkind = 'r'"); left != "0" {
					t.Errorf("%s temporary tables are left", left)
				}
			}
		})
	}
}

// Rows that are there go with --replace, in all tables or in none; what inherits or partitions keeps to its table.
func TestReplace(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fresh(t, orders, rows(300), "CREATE TABLE public.a (id int PRIMARY KEY); INSERT INTO public.a VALUES (1)"),
		fresh(t, orders, rows(20), "CREATE TABLE public.a (id int PRIMARY KEY); CREATE TABLE public.child () INHERITS (public.orders); INSERT INTO public.child VALUES (1)"),
		export{tables: []string{"public.orders", "public.a"}, rows: 70})
	_, err := w.restorer().Load(t.Context(), w.set)
	holds(t, err, "public.orders: it holds 20 rows")
	w.options.Replace = true
	if out := w.load(t); len(out.Plan.Replace) != 1 || len(out.Plan.Fill) != 1 {
		t.Errorf("%+v", out.Plan)
	}
	if got := one(t, w.replica, "SELECT count(*) FROM public.child"); got != "1" {
		t.Error(got)
	}
}

// A key from outside is in the way of what is emptied, and of nothing else: an empty table is filled.
func TestAKeyFromOutside(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fresh(t, orders, rows(30), "CREATE TABLE public.a (id int PRIMARY KEY); INSERT INTO public.a VALUES (1)"),
		fresh(t, orders, rows(20), "CREATE TABLE public.a (id int PRIMARY KEY); CREATE TABLE public.outside (a int REFERENCES public.a)"), export{tables: []string{"public.orders", "public.a"}, rows: 10})
	w.options.Replace = true
	w.load(t)
}

// INSERT and SELECT are enough for tables that are there.
func TestTheLeastRights(t *testing.T) {
	t.Parallel()
	admin := fresh(t, orders, "ALTER TABLE public.orders ALTER id TYPE numeric", "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
	role := "least_" + one(t, admin, "current_database()")
	exec(t, admin, "CREATE ROLE "+postgres.Quote(role), "CREATE SCHEMA trickle AUTHORIZATION "+postgres.Quote(role), "GRANT INSERT, SELECT ON public.orders TO "+postgres.Quote(role))
	t.Cleanup(func() { exec(t, admin, "DROP OWNED BY "+postgres.Quote(role), "DROP ROLE "+postgres.Quote(role)) })
	newWorld(t, fresh(t, orders, rows(50)), as(t, admin, role), export{tables: []string{"public.orders"}, rows: 20, rules: map[string]postgres.Rules{"public.orders": {Compare: map[string]string{"id": "numeric"}}}}).load(t)
}

// A trigger that stores something else undoes the range, unless the policy keeps triggers from acting.
func TestTriggers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fresh(t, orders, rows(50)), fresh(t, orders, `CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.name := upper(NEW.name); RETURN NEW; END $$;
		CREATE TRIGGER t BEFORE INSERT ON public.orders FOR EACH ROW EXECUTE FUNCTION public.f()`), export{tables: []string{"public.orders"}, rows: 20})
	w.options.Jobs = 1
	_, err := w.restorer().Load(t.Context(), w.set)
	holds(t, err, "a trigger", w.set.Tables[0].Objects[0].Name)
	if got := one(t, w.replica, "SELECT count(*) FROM public.orders"); got != "0" {
		t.Error(got)
	}
	w.options.Role = "replica"
	w.load(t)
}

// Another major version takes the set where its digests are those that any server computes, and says so where they are not.
func TestIntoAnotherVersion(t *testing.T) {
	t.Parallel()
	source := fresh(t, orders, rows(100))
	for _, kind := range []digest.Kind{digest.Record, digest.Portable} {
		w := newWorld(t, source, open(t, pgtest.DatabaseOf(t, 18)), export{tables: []string{"public.orders"}, rows: 30, kind: kind})
		w.set.Tables[0].Schema.Probe++ // two versions may well agree
		_, err := w.restorer().Load(t.Context(), w.set)
		if kind == digest.Portable {
			if err != nil {
				t.Fatal(err)
			}
			w.same(t)
			continue
		}
		holds(t, err, "public.orders", "portable")
		if got := one(t, w.replica, "SELECT to_regclass('public.orders')"); got != "NULL" {
			t.Error("the table was made")
		}
	}
}

// Two tables of one schema may have indexes of one name in the source, where they lie in two.
func TestNamesThatMeet(t *testing.T) {
	t.Parallel()
	const table = ".t (id int PRIMARY KEY, v int); CREATE INDEX t_v ON "
	w := newWorld(t, fresh(t, "CREATE SCHEMA a; CREATE SCHEMA b; CREATE TABLE a"+table+"a.t (v); CREATE TABLE b"+table+"b.t (v); INSERT INTO a.t VALUES (1, 1); INSERT INTO b.t VALUES (2, 2)"),
		fresh(t), export{tables: []string{"a.t", "b.t"}, rows: 10})
	names := map[string]postgres.Name{"a.t": {Schema: "public", Table: "ta"}, "b.t": {Schema: "public", Table: "tb"}}
	mapped := w.options.Map
	w.options.Map = to(mapped, names)
	w.options.Jobs = 1
	w.load(t)
	if got := one(t, w.replica, "SELECT count(*) FROM pg_indexes WHERE schemaname = 'public'"); got != "4" {
		t.Error(got)
	}
}
