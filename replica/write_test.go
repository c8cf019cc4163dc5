package replica_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

// The cases whose outcome depends on what the replica's table is like.
func TestWriteInto(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, ddl, replica string // replica: DDL, where it is another
		source, target     string
		keys               []string
		want               string
		differs            bool // both sides are not the same afterwards
		reason             string
		after              string // a query and what it gives, by " -> "
		rules              postgres.Rules
	}{
		{name: "a failing row among neighbours", ddl: simple, replica: `CREATE TABLE t (id int PRIMARY KEY, v text CHECK (v <> 'bad'))`,
			source: `INSERT INTO t SELECT i, CASE i WHEN 5 THEN 'bad' ELSE 'x' END FROM generate_series(1, 8) i`, keys: []string{"1", "2", "3", "4", "5", "6", "7", "8"},
			want: "WWWWFWWW", differs: true, reason: "t_v_check", after: `SELECT count(*) FROM trickle.corrections -> 7`},
		{name: "two rows swap a unique value", ddl: `CREATE TABLE t (id int PRIMARY KEY, v text UNIQUE)`,
			source: `INSERT INTO t VALUES (1, 'a'), (2, 'b')`, target: `INSERT INTO t VALUES (1, 'b'), (2, 'a')`, keys: []string{"1", "2"}, want: "WW"},
		{name: "a swap keeps what only the replica has", ddl: `CREATE TABLE t (id int PRIMARY KEY, v text UNIQUE)`, replica: `CREATE TABLE t (id int PRIMARY KEY, v text UNIQUE, note text)`,
			source: `INSERT INTO t VALUES (1, 'a'), (2, 'b')`, target: `INSERT INTO t VALUES (1, 'b', 'mine'), (2, 'a', 'too')`, keys: []string{"1", "2"}, want: "FF", differs: true,
			reason: "t_v_key", after: `SELECT string_agg(note, ',' ORDER BY id) FROM t -> mine,too`},
		{name: "a swap cascades to nobody", ddl: `CREATE TABLE t (id int PRIMARY KEY, v text UNIQUE)`,
			replica: `CREATE TABLE t (id int PRIMARY KEY, v text UNIQUE); CREATE TABLE child (t int REFERENCES t ON DELETE CASCADE); `,
			source:  `INSERT INTO t VALUES (1, 'a'), (2, 'b')`, target: `INSERT INTO t VALUES (1, 'b'), (2, 'a'); INSERT INTO child VALUES (1), (2)`, keys: []string{"1", "2"}, want: "FF", differs: true,
			reason: "t_v_key", after: `SELECT count(*) FROM child -> 2`},
		{name: "another row has the unique value", ddl: `CREATE TABLE t (id int PRIMARY KEY, v text UNIQUE)`,
			source: `INSERT INTO t VALUES (1, 'a'), (3, 'c')`, target: `INSERT INTO t VALUES (2, 'a')`, keys: []string{"1", "3"}, want: "FW", differs: true, reason: "t_v_key"},
		{name: "the row that has it goes in the same batch", ddl: `CREATE TABLE t (id int PRIMARY KEY, v text UNIQUE)`,
			source: `INSERT INTO t VALUES (1, 'a')`, target: `INSERT INTO t VALUES (2, 'a')`, keys: []string{"1", "2"}, want: "WW"},
		{name: "a trigger that changes the value", ddl: simple,
			replica: simple + `; CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.v := upper(NEW.v); RETURN NEW; END'; CREATE TRIGGER g BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f()`,
			source:  `INSERT INTO t VALUES (1, 'a'), (2, 'B')`, target: `INSERT INTO t VALUES (1, 'x')`, keys: []string{"1", "2"}, want: "FW", differs: true, reason: "stores something else",
			after: `SELECT v FROM t WHERE id = 1 -> X`},
		{name: "a trigger that changes the key", ddl: simple,
			replica: simple + `; CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.id := NEW.id + 100; RETURN NEW; END'; CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()`,
			source:  `INSERT INTO t VALUES (1, 'a')`, keys: []string{"1"}, want: "F", differs: true, reason: "stores something else", after: `SELECT count(*) FROM t -> 0`},
		{name: "a trigger that keeps the row", ddl: simple,
			replica: simple + `; INSERT INTO t VALUES (2, 'keep'); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; CREATE TRIGGER g BEFORE DELETE ON t FOR EACH ROW EXECUTE FUNCTION f()`,
			keys:    []string{"2"}, want: "F", differs: true, reason: "stores something else", after: `SELECT count(*) FROM trickle.corrections -> 0`},
		{name: "generated columns", ddl: `CREATE TABLE t (id int PRIMARY KEY, v int, g int GENERATED ALWAYS AS (v * 2) STORED)`,
			source: `INSERT INTO t VALUES (1, 1), (2, 2)`, target: `INSERT INTO t VALUES (2, 9)`, keys: []string{"1", "2"}, want: "WW"},
		{name: "a generated key", ddl: `CREATE TABLE t (v int, id int GENERATED ALWAYS AS (v * 2) STORED PRIMARY KEY, w text)`,
			source: `INSERT INTO t VALUES (1, DEFAULT, 'a'), (2, DEFAULT, 'b')`, target: `INSERT INTO t VALUES (2, DEFAULT, 'x')`, keys: []string{"2", "4"}, want: "WW"},
		{name: "an identity key", ddl: `CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text)`,
			source: `INSERT INTO t OVERRIDING SYSTEM VALUE VALUES (7, 'a'), (8, 'b')`, target: `INSERT INTO t OVERRIDING SYSTEM VALUE VALUES (8, 'x')`, keys: []string{"7", "8"}, want: "WW"},
		{name: "an identity beside the key", ddl: `CREATE TABLE t (id int PRIMARY KEY, n int GENERATED ALWAYS AS IDENTITY, v text)`,
			source: `INSERT INTO t OVERRIDING SYSTEM VALUE VALUES (1, 70, 'a'), (2, 80, 'b'), (3, 5, 'c')`, target: `INSERT INTO t OVERRIDING SYSTEM VALUE VALUES (2, 80, 'x'), (3, 90, 'c')`,
			keys: []string{"1", "2", "3"}, want: "WWW"},
		{name: "an excluded column with a default", ddl: `CREATE TABLE t (id int PRIMARY KEY, v text, w text NOT NULL DEFAULT 'd')`, rules: postgres.Rules{Exclude: []string{"w"}},
			source: `INSERT INTO t VALUES (1, 'a', 's'), (2, 'b', 's')`, target: `INSERT INTO t VALUES (2, 'x', 'kept')`, keys: []string{"1", "2"}, want: "WW", differs: true,
			after: `SELECT string_agg(w, ',' ORDER BY id) FROM t -> d,kept`},
		{name: "an excluded column without one", ddl: `CREATE TABLE t (id int PRIMARY KEY, v text, w text NOT NULL)`, rules: postgres.Rules{Exclude: []string{"w"}},
			source: `INSERT INTO t VALUES (1, 'a', 's')`, keys: []string{"1"}, want: "F", differs: true, reason: `"w"`},
		{name: "a foreign key that is not met", ddl: simple, replica: `CREATE TABLE parent (id text PRIMARY KEY); INSERT INTO parent VALUES ('a'); CREATE TABLE t (id int PRIMARY KEY, v text REFERENCES parent)`,
			source: `INSERT INTO t VALUES (1, 'a'), (2, 'b')`, keys: []string{"1", "2"}, want: "WF", differs: true, reason: "t_v_fkey"},
		{name: "a narrower column", ddl: `CREATE TABLE t (id int PRIMARY KEY, v numeric)`, replica: `CREATE TABLE t (id int PRIMARY KEY, v numeric(9,1))`,
			source: `INSERT INTO t VALUES (1, 1.25), (2, 1.5)`, keys: []string{"1", "2"}, want: "FW", differs: true, reason: "stores something else"},
		{name: "partitions laid out in their own way", ddl: `CREATE TABLE t (id int PRIMARY KEY, v text)`,
			replica: `CREATE TABLE t (gone int, id int PRIMARY KEY, v text) PARTITION BY RANGE (id); ALTER TABLE t DROP gone;
				CREATE TABLE t1 (v text, id int NOT NULL); ALTER TABLE t ATTACH PARTITION t1 FOR VALUES FROM (0) TO (5); CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (5) TO (10)`,
			source: `INSERT INTO t VALUES (1, 'a'), (2, 'b'), (6, 'c')`, target: `INSERT INTO t VALUES (2, 'x'), (3, 'y'), (7, 'z')`, keys: []string{"1", "2", "3", "6", "7"}, want: "WWWWW"},
		{name: "a composite key", ddl: `CREATE TABLE t (a int, b text, v text, PRIMARY KEY (a, b))`,
			source: `INSERT INTO t VALUES (1, '11', 'x'), (11, '1', 'y')`, target: `INSERT INTO t VALUES (11, '1', 'x'), (1, '1', 'z')`, keys: []string{"1/11", "11/1", "1/1"}, want: "WWW"},
		{name: "nothing but a key", ddl: `CREATE TABLE t (a int, b int, PRIMARY KEY (b, a))`, source: `INSERT INTO t VALUES (1, 2)`, target: `INSERT INTO t VALUES (2, 1)`, keys: []string{"2/1", "1/2"}, want: "WW"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, c.ddl, options{replicaDDL: c.replica, rules: c.rules})
			p.on(p.source, c.source)
			p.on(p.target, c.target)
			out := p.write(p.changes(c.keys...))
			p.expect(out, c.want)
			if !c.differs {
				p.same()
			}
			for _, o := range out {
				if o.Result == drift.Failed && (o.Err == nil || !strings.Contains(o.Err.Error(), c.reason)) {
					t.Errorf("reason %v, want %q", o.Err, c.reason)
				}
			}
			if query, want, ok := strings.Cut(c.after, " -> "); ok {
				if got := p.text(p.target, query); got != want {
					t.Errorf("%s: %s, want %s", query, got, want)
				}
			}
			if got, want := p.text(p.target, `SELECT count(*) FROM trickle.corrections`), fmt.Sprint(strings.Count(c.want, "W")); got != want {
				t.Errorf("%s journal entries, want %s", got, want)
			}
		})
	}
}

func TestReplicationRoleSilencesTriggers(t *testing.T) {
	t.Parallel()
	p := newPair(t, simple, options{replicaDDL: simple +
		`; CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''not now''; END'; CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()`})
	p.on(p.source, `INSERT INTO t VALUES (1, 'a')`)
	p.expect(p.write(p.changes("1")), "F")
	p.writing.Role = "replica"
	p.expect(p.write(p.changes("1")), "W")
	if got := p.text(p.target, `SHOW session_replication_role`); got != "origin" {
		t.Errorf("the session was left with role %s", got)
	}
	p.same()
}

func TestWideAndBigRows(t *testing.T) {
	t.Parallel()
	cols := make([]string, 150)
	for i := range cols {
		cols[i] = fmt.Sprintf(`"Column %d" %s`, i, []string{"int", "text", "numeric", "timestamptz"}[i%4])
	}
	p := newPair(t, `CREATE TABLE t (id int PRIMARY KEY, big text, `+strings.Join(cols, ", ")+`)`, options{})
	p.on(p.source, `INSERT INTO t SELECT i, repeat('ü"\', 700000), i, 'x', i / 3.0, 'infinity' FROM generate_series(1, 2) i`)
	p.on(p.target, `INSERT INTO t (id, big) VALUES (2, 'small')`)
	p.expect(p.write(p.changes("1", "2")), "WW")
	if s, r := p.text(p.source, `SELECT md5(string_agg(t::text, '' ORDER BY id)) FROM t`), p.text(p.target, `SELECT md5(string_agg(t::text, '' ORDER BY id)) FROM t`); s != r {
		t.Error("the rows differ")
	}
}

func TestFiveThousandInserts(t *testing.T) {
	t.Parallel()
	p := newPair(t, simple, options{})
	p.on(p.source, `INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, 5000) i`)
	ids := make([]string, 5000)
	for i := range ids {
		ids[i] = fmt.Sprint(i + 1)
	}
	changes := p.changes(ids...)
	began := time.Now()
	p.expect(p.write(changes), strings.Repeat("W", 5000))
	t.Logf("5,000 inserts took %s", time.Since(began))
	s, err := p.replica.Thumbprint(t.Context(), table, message.Range{}, nil, digest.Record)
	if err != nil || s.Rows != 5000 {
		t.Fatalf("%+v, %v", s, err)
	}
	p.same()
}

// What is written is what the source has, by digest and by text, for types of every kind.
func TestValuesSurvive(t *testing.T) {
	t.Parallel()
	const ddl = `CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE TYPE mood AS ENUM ('sad', 'it''s "\'); CREATE TYPE pair AS (n int, m mood); CREATE DOMAIN positive AS int CHECK (VALUE > 0);
		CREATE TABLE t (id int PRIMARY KEY, v0 numeric, v1 numeric(10,3), v2 float4, v3 float8, v4 text, v5 varchar(20), v6 char(8), v7 bytea, v8 bool, v9 uuid, v10 date, v11 timestamp, v12 timestamptz,
		v13 interval, v14 json, v15 jsonb, v16 int[], v17 text[], v18 mood, v19 mood[], v20 pair, v21 pair[], v22 positive, v23 int4range, v24 tstzrange, v25 int4multirange, v26 inet, v27 cidr, v28 macaddr,
		v29 bit(4), v30 varbit, v31 xml, v32 point, v33 tsvector, v34 money, v35 "char", v36 name, v37 oid, v38 regclass, v39 hstore, v40 citext, v41 time, v42 timetz, v43 pg_lsn, v44 json[], v45 int8, v46 int2)`
	p := newPair(t, ddl, options{replicaDDL: "CREATE TYPE junk AS ENUM ('x');" + ddl})
	p.on(p.source, `INSERT INTO t VALUES
		(1, 1.00, 1.5, '-0', 'NaN', '', ' a', 'a', '\x00ff', true, '00112233-4455-6677-8899-aabbccddeeff', 'infinity', '-infinity', 'infinity', '1 year 2 months 3 days 04:05:06.7', '{"b":2, "a":[1, null]}', '{"b": 1.50}',
		'{1,NULL}', '{"a,b",NULL,"NULL","\"",""}', 'it''s "\', '{"it''s \"\\",NULL,sad}', '(1,sad)', '{"(1,sad)",NULL}', 7, '[1,5)', '[2024-01-01 00:00+00,infinity)', '{[1,3),[5,6)}', '10.0.0.1/8', '10.0.0.0/8', '08:00:2b:01:02:03',
		'1010', '', '<a b="c">x</a>', '(1,0.1)', '''a'':2 ''b'':1A', '-$1,234.50', 'a', 'Name', 4294967295, 'pg_class', 'a=>1, b=>NULL', 'CiText', '24:00', '01:00+02', '16/B374D848', '{"{\"a\": 1}"}', 9223372036854775807, -1),
		(2, 'NaN', -0.001, 'Infinity', '-0', 'a|b''c"\d', '', '', '', false, NULL, '0044-03-15 BC', '2024-01-01 00:00:00.000001', '1999-12-31 23:59:59.999999+00', '-00:00:01', 'null', 'null',
		'{}', '{}', 'sad', '{}', '(,)', '{}', 1, 'empty', 'empty', '{}', '::1', '::/0', '00:00:00:00:00:00', '0000', '0', '', '(-0,NaN)', '', '$0.00', '', '', 0, 't', '', '', '00:00', '00:00-12', '0/0', '{}', 0, 0),
		(3, 1e100, 0`+strings.Repeat(", NULL", 45)+`)`)
	p.on(p.target, `INSERT INTO t (id, v4) VALUES (2, 'drift'), (3, 'drift')`)
	p.expect(p.write(p.changes("1", "2", "3")), "WWW")
	p.same()
	for _, kind := range []digest.Kind{digest.Record, digest.Portable} {
		ours, err := p.replica.Thumbprint(t.Context(), table, message.Range{}, nil, kind)
		if err != nil || ours.Rows != 3 {
			t.Fatalf("%+v, %v", ours, err)
		}
		conn, err := p.source.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := p.layout.Thumbprint(t.Context(), conn.Conn().PgConn(), message.Range{}, nil, kind)
		conn.Release()
		if err != nil || ours != theirs {
			t.Errorf("%s: %+v here, %+v at the source, %v", kind, ours, theirs, err)
		}
	}
}
