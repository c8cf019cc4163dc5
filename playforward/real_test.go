package playforward_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/debezium"
	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/internal/testbed/connect"
	"github.com/trickle-verify/trickle/internal/testbed/kafka"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/internal/testbed/stack"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/playforward"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/transport"
)

const (
	heartbeat = `CREATE SCHEMA IF NOT EXISTS trickle; CREATE TABLE trickle.heartbeat (pipeline text PRIMARY KEY, at timestamptz NOT NULL)`
	beat      = `INSERT INTO trickle.heartbeat VALUES ('p', clock_timestamp()) ON CONFLICT (pipeline) DO UPDATE SET at = clock_timestamp()`
	newest    = `SELECT max(at) FROM trickle.heartbeat`
	livePlan  = `  - table: "public.*"` + "\ngate: {heartbeat: true}\n"
)

// topics of a connector, none of which has to exist yet.
func topics(prefix string, tables ...string) transport.Position {
	p := transport.Position{}
	for _, t := range append(tables, "trickle.heartbeat") {
		p = append(p, transport.TopicPosition{Topic: prefix + "." + t})
	}
	return p
}

// session is an applier with a Kafka of its own.
func session(ctx context.Context, pool *pgxpool.Pool, broker string, from transport.Position, o playforward.Options, do func(*playforward.Applier, *transport.Player) error) (err error) {
	bus, err := transport.NewKafka(ctx, transport.KafkaOptions{Brokers: []string{broker}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bus.Close()) }()
	a, err := playforward.Open(ctx, pool, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	if a.Position() == nil {
		if err := a.Begin(ctx, from); err != nil {
			return err
		}
	}
	player, err := bus.Play(ctx, a.Position())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, player.Close()) }()
	return do(a, player)
}

// until plays until the replica's heartbeat is the source's.
func until(t *testing.T, source, replica string, pool *pgxpool.Pool, broker string, from transport.Position, o playforward.Options) (done playforward.Progress) {
	t.Helper()
	pgtest.Exec(t, source, beat)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	err := session(ctx, pool, broker, from, o, func(a *playforward.Applier, p *transport.Player) error {
		for pgtest.Text(t, source, newest) != pgtest.Text(t, replica, newest) {
			if err := a.Run(ctx, p, nil); err != nil {
				return err
			}
			time.Sleep(100 * time.Millisecond)
		}
		done = a.Done()
		return a.Run(ctx, p, nil) // what other partitions still had
	})
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// print is a table's thumbprint as trickle takes it.
func printOf(t *testing.T, dsn, table string) (out digest.Thumbprint) {
	t.Helper()
	pool := open(t, dsn)
	c, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	l, err := new(postgres.Types).Describe(t.Context(), c.Conn().PgConn(), postgres.ParseName(table))
	if err != nil {
		t.Fatal(err)
	}
	layout, err := postgres.NewLayout(l, postgres.Rules{})
	if err != nil {
		t.Fatal(err)
	}
	out, err = layout.Thumbprint(t.Context(), c.Conn().PgConn(), message.Range{}, nil, digest.Record)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A real connector is killed, and so is whoever plays, while the source is written: the replica ends as the source.
func TestARealPipelineKilled(t *testing.T) {
	t.Parallel()
	source := pgtest.Database(t)
	dsn, pool := replica(t)
	for _, d := range []string{source, dsn} {
		pgtest.Exec(t, d, heartbeat, `CREATE TABLE orders (id int PRIMARY KEY, n int NOT NULL, amount numeric(10,2), at timestamp, big text); ALTER TABLE orders ALTER big SET STORAGE EXTERNAL; CREATE TABLE notes (id int, part text, v text, PRIMARY KEY (id, part))`)
	}
	pgtest.Exec(t, source, `INSERT INTO orders SELECT i, i, i / 7.0, now(), repeat(i::text, 2000) FROM generate_series(1, 50) i`)
	s := stack.Start(t, kafka.Options{})
	tables := []string{"public.notes", "public.orders"}
	connector := s.Source("shop", source, tables, map[string]string{
		"skipped.operations": "none", "topic.creation.default.partitions": "3", "tombstones.on.delete": "true", "decimal.handling.mode": "precise",
		"post.processors.reselector.reselect.unavailable.values": "false", "poll.interval.ms": "50",
	})
	from := topics("shop", tables...)
	start := func() *exec.Cmd {
		c := exec.Command(os.Args[0], "-test.run=^$")
		c.Env = append(os.Environ(), "PLAY_INTO="+dsn, "PLAY_FROM="+s.Broker.Addr())
		c.Stderr = os.Stderr
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		return c
	}
	stop := func(c *exec.Cmd) {
		_ = c.Process.Kill()
		_ = c.Wait()
	}
	process := start()
	defer func() { stop(process) }()
	arrived := func() { // all that was written so far, by way of the process
		t.Helper()
		pgtest.Exec(t, source, beat)
		for began := time.Now(); pgtest.Text(t, source, newest) != pgtest.Text(t, dsn, newest); {
			if time.Since(began) > 2*time.Minute {
				t.Fatal("nothing arrives")
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	arrived() // what was read by the first copy, and deleted before it was through, nobody would hear of
	r := rand.New(rand.NewPCG(1, 2))
	conn, err := pgx.Connect(t.Context(), source)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for n := range 800 {
		if err := something(t.Context(), conn, r); err != nil {
			t.Fatal(err)
		}
		switch {
		case n%130 == 100:
			stop(process)
			process = start()
		case n == 250, n == 520:
			if n == 250 {
				arrived() // what it has sent since it last stored its offsets it will send again
			}
			if err := s.Worker.Kill(); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			err := s.Worker.Restart(ctx)
			if err == nil {
				err = connector.Await(ctx, connect.Running)
			}
			cancel()
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	stop(process)
	done := until(t, source, dsn, pool, s.Broker.Addr(), from, playforward.Options{Pipeline: "p", Rules: rules(t, livePlan), Log: slog.New(slog.DiscardHandler)})
	for _, table := range tables {
		if want, got := printOf(t, source, table), printOf(t, dsn, table); want != got || want.Rows == 0 {
			t.Errorf("%s: %+v at the source, %+v in the replica", table, want, got)
		}
	}
	expect(t, dsn, `SELECT sum(incomplete) FROM trickle.played_tables`, "0")
	t.Logf("%+v, events of all runs: %s", done, pgtest.Text(t, dsn, `SELECT string_agg(table_name || ' ' || events, ', ') FROM trickle.played_tables`))
}

// something changes the source.
func something(ctx context.Context, c *pgx.Conn, r *rand.Rand) error {
	id, other := r.IntN(60)+1, r.IntN(60)+1
	var sql string
	switch what := r.IntN(100); {
	case what < 25:
		sql = fmt.Sprintf(`INSERT INTO orders VALUES (%d, %d, %d.25, clock_timestamp(), repeat('%d', %d)) ON CONFLICT (id) DO UPDATE SET n = excluded.n`, id, id, id, id, r.IntN(4)*3000)
	case what < 55:
		sql = fmt.Sprintf(`UPDATE orders SET n = n + 1, amount = amount + 0.01 WHERE id BETWEEN %d AND %d`, id, id+2)
	case what < 62:
		sql = fmt.Sprintf(`UPDATE orders SET big = repeat('%d', 5000) WHERE id = %d`, other, id)
	case what < 70:
		sql = fmt.Sprintf(`DELETE FROM orders WHERE id = %d`, id)
	case what < 80:
		sql = fmt.Sprintf(`UPDATE orders SET id = %d WHERE id = %d AND NOT EXISTS (SELECT FROM orders WHERE id = %d)`, other, id, other)
	case what < 98:
		sql = fmt.Sprintf(`INSERT INTO notes VALUES (%d, 'p%d', 'a'), (%d, 'q%d', 'b') ON CONFLICT (id, part) DO UPDATE SET v = notes.v || 'c'; UPDATE notes SET part = part || 'x' WHERE id = %d AND length(part) < 5`, id, id%3, id, id%3, other)
	default:
		sql = `TRUNCATE notes`
	}
	_, err := c.Exec(ctx, sql)
	return err
}

// playing is the process that TestARealPipelineKilled kills.
func playing(dsn, broker string) error {
	ctx := context.Background()
	pool, err := postgres.Open(ctx, dsn, postgres.Options{Role: "replica"})
	if err != nil {
		return err
	}
	p, _, err := policy.Parse("policy.yaml", []byte("pipeline: p\ntables:\n"+livePlan))
	if err != nil {
		return err
	}
	o := playforward.Options{Pipeline: "p", Rules: func() *policy.Policy { return p }, Batch: 20, Log: slog.New(slog.DiscardHandler)}
	for {
		err := session(ctx, pool, broker, topics("shop", "public.notes", "public.orders"), o, func(a *playforward.Applier, log *transport.Player) error { return a.Follow(ctx, log) })
		var busy *playforward.BusyError
		if !errors.As(err, &busy) { // the one that was killed may not have been missed yet
			return err
		}
	}
}

// typed is a column's type with some of its values.
type typed struct {
	name   string
	values []string
}

// carried are types and values that arrive as they are, whether events have schemas or not.
func carried() []typed {
	return []typed{
		{"bool", []string{"t", "f"}}, {"int2", []string{"-1", "32767"}}, {"int4", []string{"-2147483648", "2147483647"}}, {"int8", []string{"-9223372036854775808", "9007199254740993"}}, {"float4", []string{"1.1", "-0", "NaN", "Infinity", "-Infinity", "3.4028235e38", "1e-45"}},
		{"float8", []string{"0.30000000000000004", "NaN", "Infinity", "-Infinity", "1.7976931348623157e308", "5e-324", "123456789012345680"}}, {"numeric(12,2)", []string{"1.10", "-99.99", "0"}}, {"numeric(5,0)", []string{"42", "-7"}},
		{"numeric", []string{"1.10", "123456789012345678901234567890.123456789", "1e20", "-0.00000001", "0.000"}}, {"numeric(3,5)", []string{"0.00123"}}, {"text", []string{"", "ü'\"\\\n\t€😀", "null"}}, {"varchar(20)", []string{"a ", "b"}}, {"char(5)", []string{"a", "abc"}},
		{`"char"`, []string{"a", ""}}, {"bytea", []string{"", `\x00ff`, `\xfbfffe`}}, {"date", []string{"2024-02-29", "infinity", "-infinity", "0001-01-01", "99999-12-31"}}, {"time", []string{"00:00", "23:59:59.999999", "24:00"}}, {"time(0)", []string{"12:34:56"}}, {"time(3)", []string{"12:34:56.789"}},
		{"timestamp", []string{"2024-02-29 01:02:03.000001", "infinity", "-infinity", "0044-03-15 01:02:03 BC", "1969-12-31 23:59:59.999999", "99999-12-31 23:59:59"}}, {"timestamp(0)", []string{"2024-02-29 01:02:03", "infinity"}}, {"timestamp(3)", []string{"2024-02-29 01:02:03.004", "-infinity"}},
		{"timestamp(4)", []string{"2024-02-29 01:02:03.0045", "infinity"}}, {"timestamptz", []string{"2024-02-29 01:02:03.000001+00", "1970-01-01 00:00+02", "infinity", "-infinity", "0044-03-15 01:02:03+00 BC", "294276-12-31 23:59:59.999999+00"}}, {"interval", []string{"-00:00:01.5", "30:00", "0"}},
		{"uuid", []string{"00112233-4455-6677-8899-aabbccddeeff"}}, {"json", []string{`{"a": 1,  "a": 2}`, `[1, "ü"]`, "null"}}, {"jsonb", []string{`{"a": 5, "b": 1.0}`, `null`, `"s"`}}, {"xml", []string{"<a/>", "<b>ü</b>"}}, {"inet", []string{"10.0.0.1", "::1/64"}}, {"cidr", []string{"10.0.0.0/8"}},
		{"macaddr", []string{"08:00:2b:01:02:03"}}, {"macaddr8", []string{"08:00:2b:01:02:03:04:05"}}, {"bit(1)", []string{"0", "1"}}, {"bit(8)", []string{"00000001", "10101010"}}, {"bit(13)", []string{"0000000000001", "1010101010101"}}, {"varbit", []string{"1010", ""}}, {"money", []string{"$5.00", "-$5.05", "$1,234,567.89"}},
		{"colour", []string{"red", `it's "\`}}, {"shade", []string{"red"}}, {"price", []string{"1.50"}}, {"int4range", []string{"empty", "[1,3)"}}, {"numrange", []string{"[1.5,2]", "(,3)"}}, {"tsrange", []string{`["2024-01-01 00:00:00",)`}}, {"tstzrange", []string{"[2024-01-01 00:00+00,)", "(,)"}},
		{"daterange", []string{"[2024-01-01,)", "empty"}}, {"int4multirange", []string{"{[1,2)}"}}, {"pair", []string{"(1,a)"}}, {"point", []string{"(1.5,-2)"}}, {"line", []string{"{1,2,3}"}}, {"box", []string{"(1,1),(0,0)"}}, {"path", []string{"((0,0),(1,1))"}}, {"circle", []string{"<(0,0),1>"}},
		{"hstore", []string{`"a"=>"1"`, `"a"=>NULL, "b c"=>"q\"x"`, ""}}, {"citext", []string{"a", "B"}}, {"ltree", []string{"a.b", ""}}, {"tsvector", []string{"'a':1 'b':2A"}}, {"tsquery", []string{"'a' & 'b'"}}, {"jsonpath", []string{`$."a"`}}, {"oid", []string{"1", "4294967295"}}, {"xid8", []string{"4294967297"}},
		{"pg_lsn", []string{"0/1"}}, {"int2[]", []string{"{1,NULL}"}}, {"int4[]", []string{"{1,2,NULL}", "{}"}}, {"int8[]", []string{"{4294967296}"}}, {"text[]", []string{`{a,"b,\"c",NULL,"NULL",""}`, "{}"}}, {"char(3)[]", []string{"{a,abc}"}}, {"float8[]", []string{"{1.5,2}", "{NaN,-Infinity}"}}, {"bool[]", []string{"{t,f}"}},
		{"uuid[]", []string{"{00112233-4455-6677-8899-aabbccddeeff}"}}, {"jsonb[]", []string{`{"{\"a\": 1}"}`}}, {"numeric(12,2)[]", []string{"{1.10,-2.20,NULL}"}}, {"numeric[]", []string{"{1.1,20}"}}, {"date[]", []string{"{2024-02-29,NULL}", "{infinity}"}}, {"timestamp[]", []string{`{"2024-02-29 01:02:03.000001"}`, "{infinity}"}},
		{"timestamp(3)[]", []string{`{"2024-02-29 01:02:03.004"}`}}, {"timestamptz[]", []string{`{"2024-02-29 01:02:03.000001+00"}`, "{infinity}"}}, {"bytea[]", []string{`{"\\x00ff"}`}}, {"inet[]", []string{"{10.0.0.1}"}}, {"colour[]", []string{`{red}`}}, {"citext[]", []string{"{a}"}}, {"hstore[]", []string{`{"\"a\"=>\"1\""}`}},
		{"int4range[]", []string{`{"[1,2)"}`}}, {"shade[]", []string{"{x}"}}, {"digits", []string{"{1.5,2}"}}, {"pair[]", []string{`{"(1,a)"}`}}, {"box[]", []string{"{(1,1),(0,0)}"}},
	}
}

// losses are types with values that Debezium writes otherwise than they are, or not at all, by the settings of this test.
func losses() []typed {
	return []typed{
		{"numeric", []string{"NaN", "Infinity"}}, {"numeric(5,2)", []string{"NaN"}}, {"timetz", []string{"02:00+01"}}, {"interval", []string{"1 mon"}}, {"varbit", []string{"0001"}}, {"int4[]", []string{"{{1,2},{3,4}}", "[2:3]={1,2}"}}, {"time[]", []string{"{23:59:59.999999}"}}, {"interval[]", []string{"{1 day}"}}, {"bit(8)[]", []string{"{10101010}"}},
		{"varbit[]", []string{"{101}"}}, {"money[]", []string{"{$5.00}"}}, {"point[]", []string{`{"(1,2)"}`}}, {"xml[]", []string{"{<a/>}"}}, {"name[]", []string{"{a}"}}, {"colour[]", []string{"{red,NULL}"}}, {"numeric[]", []string{"{NaN}"}},
	}
}

func columns(types []typed) string {
	out := make([]string, len(types))
	for i, t := range types {
		out[i] = fmt.Sprintf("c%d %s", i, t.name)
	}
	return strings.Join(out, ", ")
}

func values(types []typed, n int) string {
	out := make([]string, len(types))
	for i, t := range types {
		out[i] = postgres.Literal(t.values[n%len(t.values)])
	}
	return strings.Join(out, ", ")
}

// What a real connector writes is read as what the source holds, with schemas and without, from its first copy and from the log. What Debezium loses is what docs/baseline.md says: the
// day on which it isn't lost, that list is too long.
func TestEveryTypeOfARealConnector(t *testing.T) {
	t.Parallel()
	source := pgtest.Database(t)
	carried, losses := carried(), losses()
	schema := []string{
		heartbeat, `CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE EXTENSION ltree; CREATE TYPE colour AS ENUM ('red', 'blue', 'it''s "\'); CREATE DOMAIN shade AS text; CREATE DOMAIN price AS numeric(10,2); CREATE TYPE pair AS (n int, v text); CREATE DOMAIN digits AS numeric[]`,
		`CREATE TABLE carried (id int PRIMARY KEY, ` + columns(carried) + `)`, `CREATE TABLE lost (id int PRIMARY KEY, ` + columns(losses) + `)`,
		`CREATE TABLE large (id int PRIMARY KEY, n int, a text, b jsonb, c bytea, d text[], e int[], f hstore, g xml, h uuid[])`,
	}
	pgtest.Exec(t, source, schema...)
	for i := range 8 {
		pgtest.Exec(t, source, fmt.Sprintf(`ALTER TABLE large ALTER %c SET STORAGE EXTERNAL`, 'a'+i))
	}
	fill := func(from int) {
		for n := range 7 {
			pgtest.Exec(t, source, fmt.Sprintf(`INSERT INTO carried VALUES (%d, %s)`, from+n, values(carried, n)))
		}
		for n := range 2 {
			pgtest.Exec(t, source, fmt.Sprintf(`INSERT INTO lost VALUES (%d, %s)`, from+n, values(losses, n)))
		}
		pgtest.Exec(t, source, fmt.Sprintf(`INSERT INTO large SELECT %d, 0, repeat('a', 9000), to_jsonb(repeat('b', 9000)), decode(repeat('0c', 9000), 'hex'), array_fill('dddd'::text, '{2000}'), array_fill(5, '{3000}'), hstore('f', repeat('f', 9000)),
			xmlparse(content '<g>' || repeat('g', 9000) || '</g>'), array_fill('00112233-4455-6677-8899-aabbccddeeff'::uuid, '{900}')`, from))
	}
	fill(0)
	s := stack.Start(t, kafka.Options{})
	tables := []string{"public.carried", "public.large", "public.lost"}
	for _, c := range []struct{ name, schemas string }{{"full", "true"}, {"bare", "false"}} {
		json := "org.apache.kafka.connect.json.JsonConverter"
		s.Source(c.name, source, tables, map[string]string{
			"value.converter": json, "value.converter.schemas.enable": c.schemas, "key.converter": json, "key.converter.schemas.enable": c.schemas, "slot.name": "dbz_" + c.name, "publication.name": "dbz_" + c.name, "column.propagate.source.type": "",
			"decimal.handling.mode": "precise", "interval.handling.mode": "numeric", "hstore.handling.mode": "map", "time.precision.mode": "adaptive", "include.unknown.datatypes": "true", "post.processors.reselector.reselect.unavailable.values": "false",
		})
	}
	for round := range 2 {
		for _, name := range []string{"full", "bare"} {
			dsn, pool := replica(t)
			pgtest.Exec(t, dsn, schema...)
			until(t, source, dsn, pool, s.Broker.Addr(), topics(name, tables...), playforward.Options{Pipeline: "p", Rules: rules(t, livePlan), Events: debezium.Options{}, Log: slog.New(slog.DiscardHandler)})
			for _, table := range tables[:2] {
				if want, got := printOf(t, source, table), printOf(t, dsn, table); want != got || want.Rows == 0 {
					t.Errorf("%s, %s: %+v at the source, %+v in the replica", name, table, want, got)
				}
			}
			text := func(dsn, table string, i int) string {
				return pgtest.Text(t, dsn, fmt.Sprintf(`SELECT string_agg(id || ' ' || coalesce(c%d::text, 'NULL'), ', ' ORDER BY id) FROM %s`, i, table))
			}
			for i, typ := range losses {
				if want := text(source, "lost", i); text(dsn, "lost", i) == want {
					t.Errorf("%s: %s survives: %s", name, typ.name, want)
				}
			}
			for i, typ := range carried {
				if want, got := text(source, "carried", i), text(dsn, "carried", i); t.Failed() && want != got {
					t.Logf("%s: %s is %s\nand was %s", name, typ.name, got, want)
				}
			}
		}
		if round == 0 {
			fill(100)
			pgtest.Exec(t, source, `UPDATE large SET n = n + 1`, `UPDATE large SET id = 200 WHERE id = 100`, `UPDATE large SET a = NULL, n = 7 WHERE id = 0`)
		}
	}
}
