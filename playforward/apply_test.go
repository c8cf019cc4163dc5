package playforward_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/debezium"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/playforward"
	"github.com/trickle-verify/trickle/transport"
)

// script is a log that a test writes by hand, one transaction for each event.
type script struct {
	*shelf

	t   testing.TB
	lsn int
}

func newScript(t testing.TB, topics ...string) *script { return &script{newShelf(topics...), t, 100} }

// add writes an event of a table of the schema public; its partition may be named behind its operation: "c1".
func (s *script) add(op, table, key, after string) {
	s.t.Helper()
	s.at(op, table, key, after, s.lsn+10)
}

func (s *script) at(op, table, key, after string, lsn int) {
	s.t.Helper()
	s.lsn = max(s.lsn, lsn)
	partition := int32(0)
	if len(op) > 1 {
		partition = int32(op[1] - '0')
	}
	before := "null"
	if op[0] == 'd' {
		before = key
	}
	if after == "" {
		after = "null"
	}
	schema, name, found := strings.Cut(table, ".")
	if !found {
		schema, name = "public", table
	}
	r := transport.Record{Topic: "shop." + table, Partition: partition, Value: fmt.Appendf(nil,
		`{"before":%s,"after":%s,"op":%q,"source":{"connector":"postgresql","schema":%q,"table":%q,"lsn":%d,"ts_us":%d,"sequence":"[\"%d\",\"%d\"]"}}`, before, after, op[:1], schema, name, lsn, 1_700_000_000_000_000+lsn, lsn-5, lsn)}
	if key != "" {
		r.Key = []byte(key)
	}
	if !json.Valid(r.Value) {
		s.t.Fatalf("%s", r.Value)
	}
	s.put(r)
}

// run plays what there is and returns the error.
func run(t testing.TB, pool *pgxpool.Pool, s *shelf, o playforward.Options) error {
	t.Helper()
	a := player(t.Context(), t, pool, s, o)
	return errors.Join(a.Run(t.Context(), s, nil), a.Close())
}

func expect(t testing.TB, dsn, sql, want string) {
	t.Helper()
	if got := pgtest.Text(t, dsn, sql); got != want {
		t.Errorf("%s is %s, want %s", sql, got, want)
	}
}

// A table of the policy is written under the replica's names, whatever kind its columns are; one that it does not name is not touched; the heartbeat is played as well.
func TestWhatThePolicySays(t *testing.T) {
	t.Parallel()
	dsn, pool := replica(t, `CREATE SCHEMA cache; CREATE TABLE cache.orders (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, amount numeric(8,2), doubled numeric GENERATED ALWAYS AS (amount * 2) STORED, serial int GENERATED ALWAYS AS IDENTITY,
		note text DEFAULT 'own', region text)`, `CREATE TABLE other (id int PRIMARY KEY)`, `CREATE SCHEMA beat; CREATE TABLE beat.heart (pipeline text PRIMARY KEY, at timestamptz)`)
	var log bytes.Buffer
	o := playforward.Options{Log: slog.New(slog.NewTextHandler(&log, nil)), Rules: rules(t, `  - {table: public.orders, replica: cache.orders, where: "region = 'eu'", columns: {exclude: [note], rename: {total: amount}}}`+"\ngate: {heartbeat: {replica: beat.heart, table: trickle.heartbeat}}\n")}
	s := newScript(t, "shop.orders", "shop.other", "shop.trickle.heartbeat")
	s.add("c", "orders", `{"id":1}`, `{"id":1,"total":"1.50","doubled":"3.00","serial":7,"note":"theirs","region":"eu","new":1}`)
	s.add("c", "orders", `{"id":2}`, `{"id":2,"total":"2.50","doubled":"3.00","serial":8,"note":"theirs","region":"us","new":1}`)
	s.add("c", "orders", `{"id":3}`, `{"id":3,"total":"3.50","serial":9,"note":"theirs","region":"eu","new":1}`)
	s.add("u", "orders", `{"id":3}`, `{"id":3,"total":"3.75","serial":9,"note":"theirs","region":"us","new":1}`)
	s.add("u", "orders", `{"id":1}`, `{"id":1,"total":"4.00","serial":7,"note":"theirs","region":"eu","new":1}`)
	s.add("c", "other", `{"id":1}`, `{"id":1}`)
	s.add("t", "other", "", "")
	s.add("c", "trickle.heartbeat", `{"pipeline":"p"}`, `{"pipeline":"p","at":"2026-01-02T03:04:05.000006Z"}`)
	pgtest.Exec(t, dsn, `INSERT INTO other VALUES (9)`)
	done := play(t, pool, s.shelf, o)
	expect(t, dsn, `SELECT string_agg(concat_ws(' ', id, amount, doubled, serial, note, region), ', ' ORDER BY id) FROM cache.orders`, "1 4.00 8.00 7 own eu")
	expect(t, dsn, `SELECT string_agg(id::text, ' ') FROM other`, "9")
	expect(t, dsn, `SELECT string_agg(pipeline || ' ' || (at AT TIME ZONE 'UTC'), ' ') FROM beat.heart`, "p 2026-01-02 03:04:05.000006")
	if done.Applied != 6 || done.Outside != 2 || done.Behind != 0 || done.Incomplete != 0 {
		t.Errorf("%+v", done)
	}
	for _, once := range []string{"the replica lacks a column", "a table that the policy does not name"} {
		if strings.Count(log.String(), once) != 1 {
			t.Errorf("%q is not said once:\n%s", once, log.String())
		}
	}
}

// A truncation takes away the rows that the policy's condition is about, and no others.
func TestTruncationKeepsToTheCondition(t *testing.T) {
	t.Parallel()
	dsn, pool := replica(t, `CREATE TABLE a (id int PRIMARY KEY, region text); INSERT INTO a VALUES (1, 'eu'), (2, 'us'), (3, NULL)`, `CREATE TABLE b (id int PRIMARY KEY); INSERT INTO b VALUES (1)`)
	s := newScript(t, "shop.a", "shop.b")
	s.add("t", "a", "", "")
	s.add("t", "b", "", "")
	s.add("c", "a", `{"id":4}`, `{"id":4,"region":"eu"}`)
	play(t, pool, s.shelf, playforward.Options{Rules: rules(t, `  - {table: public.a, where: "region = 'eu'"}`+"\n"+`  - {table: public.b}`+"\n")})
	expect(t, dsn, `SELECT string_agg(id::text, ' ' ORDER BY id) FROM a`, "2 3 4")
	expect(t, dsn, `SELECT count(*)::text FROM b`, "0")
}

// An update that leaves out a large value leaves it alone; where the row is not there it is counted.
func TestLargeValues(t *testing.T) {
	t.Parallel()
	dsn, pool := replica(t, `CREATE TABLE a (id int PRIMARY KEY, n int, big text); INSERT INTO a VALUES (1, 1, 'large'), (2, 2, 'larger')`)
	s := newScript(t, "shop.a")
	const gap = `"__debezium_unavailable_value"`
	s.add("u", "a", `{"id":1}`, `{"id":1,"n":10,"big":`+gap+`}`)
	s.add("u", "a", `{"id":3}`, `{"id":3,"n":30,"big":`+gap+`}`)
	s.add("d", "a", `{"id":2}`, ``)
	s.add("u", "a", `{"id":2}`, `{"id":2,"n":30,"big":`+gap+`}`)
	s.add("c", "a", `{"id":4}`, `{"id":4,"n":40,"big":"new"}`)
	s.add("u", "a", `{"id":4}`, `{"id":4,"n":41,"big":`+gap+`}`)
	done := play(t, pool, s.shelf, playforward.Options{Rules: rules(t, everything)})
	expect(t, dsn, `SELECT string_agg(concat_ws(' ', id, n, big), ', ' ORDER BY id) FROM a`, "1 10 large, 4 41 new")
	if done.Incomplete != 2 {
		t.Errorf("%+v", done)
	}
	expect(t, dsn, `SELECT events || ' ' || incomplete FROM trickle.played_tables`, "6 2")
}

// A type in which Debezium can't say that a value was left alone is warned of.
func TestUnmarked(t *testing.T) {
	t.Parallel()
	_, pool := replica(t, `CREATE TABLE a (id int PRIMARY KEY, a inet[], b text[], c bool)`)
	s := newScript(t, "shop.a")
	var log bytes.Buffer
	o := playforward.Options{Log: slog.New(slog.NewTextHandler(&log, nil)), Rules: rules(t, everything)}
	s.add("c", "a", `{"id":1}`, `{"id":1,"a":null,"b":null,"c":null}`)
	play(t, pool, s.shelf, o)
	if log.Len() > 0 {
		t.Errorf("it says %s", log.String())
	}
	s.add("u", "a", `{"id":1}`, `{"id":1,"a":null,"b":null,"c":null}`)
	play(t, pool, s.shelf, o)
	if strings.Count(log.String(), "an update brought NULL") != 1 || !strings.Contains(log.String(), "column=a") {
		t.Errorf("it says %s", log.String())
	}
}

// What the replica refuses ends the run: the error names table, key, column and what to do, the events before it are there, and the next run goes on at it.
func TestRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, table, after, cure string
		says                     []string
	}{
		{"type", `(id int PRIMARY KEY, v int)`, `{"id":2,"v":"a secret"}`, `ALTER TABLE a ALTER v TYPE text`, []string{`column "v"`, "columns.exclude"}},
		{"null", `(id int PRIMARY KEY, v text NOT NULL)`, `{"id":2,"v":null}`, `ALTER TABLE a ALTER v DROP NOT NULL`, []string{`column "v"`, "NULL"}},
		{"check", `(id int PRIMARY KEY, v text CONSTRAINT short CHECK (length(v) < 5))`, `{"id":2,"v":"a secret"}`, `ALTER TABLE a DROP CONSTRAINT short`, []string{"constraint short"}},
		{"unique", `(id int PRIMARY KEY, v text CONSTRAINT one UNIQUE)`, `{"id":2,"v":"fine"}`, `ALTER TABLE a DROP CONSTRAINT one`, []string{"one", "unique"}},
		{"length", `(id int PRIMARY KEY, v varchar(4))`, `{"id":2,"v":"a secret"}`, `ALTER TABLE a ALTER v TYPE text`, []string{"columns.exclude"}},
		{"decoding", `(id int PRIMARY KEY, v text)`, `{"id":2,"v":[1]}`, `ALTER TABLE a ALTER v TYPE jsonb USING to_jsonb(v)`, []string{`column "v"`, "list"}},
		{"no key", `(id int UNIQUE, v text)`, `{"id":2,"v":"b"}`, `ALTER TABLE a ALTER id SET NOT NULL`, []string{"unique index over NOT NULL columns"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dsn, pool := replica(t, `CREATE TABLE a `+c.table)
			s := newScript(t, "shop.a")
			s.add("c", "a", `{"id":1}`, `{"id":1,"v":"fine"}`)
			if c.name == "type" {
				s.topics["shop.a"][0][0].Value = bytes.Replace(s.topics["shop.a"][0][0].Value, []byte(`"fine"`), []byte(`1`), 1)
			}
			s.add("c", "a", `{"id":2}`, c.after)
			s.add("c", "a", `{"id":3}`, `{"id":3,"v":null}`)
			if c.name == "null" {
				s.topics["shop.a"][0][2].Value = bytes.Replace(s.topics["shop.a"][0][2].Value, []byte(`null,"op"`), []byte(`"x","op"`), 1)
			}
			o := playforward.Options{Rules: rules(t, everything+"privacy: {keys: show}\n"), Patience: time.Nanosecond}
			err := run(t, pool, s.shelf, o)
			var refused *playforward.RowError
			if !errors.As(err, &refused) || refused.Table.String() != "public.a" || c.name != "no key" && (refused.Key != "2" || refused.Offset != 1) {
				t.Fatalf("%+v: %v", refused, err)
			}
			for _, words := range append(c.says, "public.a", "shop.a") {
				if !strings.Contains(err.Error(), words) {
					t.Errorf("%q is not in %v", words, err)
				}
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("a value is shown: %v", err)
			}
			if c.name != "no key" {
				expect(t, dsn, `SELECT string_agg(id::text, ' ') FROM a`, "1")
				expect(t, dsn, `SELECT next FROM trickle.read_points`, "1")
			}
			pgtest.Exec(t, dsn, c.cure)
			if err := run(t, pool, s.shelf, o); err != nil {
				t.Fatal(err)
			}
			expect(t, dsn, `SELECT string_agg(id::text, ' ' ORDER BY id) FROM a`, "1 2 3")
		})
	}
}

// Rows that refer to one another are applied in an order that foreign keys and unique constraints allow, as the source's was.
func TestConstraints(t *testing.T) {
	t.Parallel()
	dsn, pool := replica(t, `CREATE TABLE parent (id int PRIMARY KEY, code text UNIQUE)`, `CREATE TABLE child (id int PRIMARY KEY, parent int NOT NULL REFERENCES parent, next int REFERENCES child)`,
		`INSERT INTO parent VALUES (1, 'a'), (2, 'b'); INSERT INTO child VALUES (1, 1), (2, 2)`)
	s := newScript(t, "shop.child", "shop.parent")
	s.add("d", "child", `{"id":1}`, "") // before its parent, whose topic sorts behind
	s.add("d", "parent", `{"id":1}`, "")
	s.add("c", "parent", `{"id":3}`, `{"id":3,"code":"a"}`) // which 1 had
	s.add("c", "child", `{"id":3}`, `{"id":3,"parent":3,"next":4}`)
	s.add("c", "child", `{"id":4}`, `{"id":4,"parent":3,"next":null}`) // in one statement with the one before
	s.add("u", "parent", `{"id":2}`, `{"id":2,"code":"c"}`)
	s.add("u", "parent", `{"id":3}`, `{"id":3,"code":"b"}`) // which 2 had
	s.add("t", "child", "", "")
	s.add("t", "parent", "", "")
	s.add("c", "parent", `{"id":3}`, `{"id":3,"code":"b"}`)
	s.add("c", "child", `{"id":3}`, `{"id":3,"parent":3,"next":null}`)
	for _, batch := range []int{0, 2, 3, 5} {
		pgtest.Exec(t, dsn, `TRUNCATE trickle.read_points, trickle.played_tables, child, parent; INSERT INTO parent VALUES (1, 'a'), (2, 'b'); INSERT INTO child VALUES (1, 1), (2, 2)`)
		if err := run(t, pool, s.shelf, playforward.Options{Rules: rules(t, everything), Batch: batch}); err != nil {
			t.Fatalf("batches of %d: %v", batch, err)
		}
		expect(t, dsn, `SELECT string_agg(concat_ws(' ', c.id, p.id, p.code), ', ') FROM parent p JOIN child c ON c.parent = p.id`, "3 3 b")
	}
}

// Rows that need one another are applied together, and the one behind them that is refused is told from them.
func TestRowsThatNeedEachOther(t *testing.T) {
	t.Parallel()
	dsn, pool := replica(t, `CREATE TABLE a (id int PRIMARY KEY, next int REFERENCES a, n int CHECK (n > 0))`)
	s := newScript(t, "shop.a")
	s.add("c", "a", `{"id":1}`, `{"id":1,"next":3,"n":1}`)
	s.add("c", "a", `{"id":2}`, `{"id":2,"next":1,"n":1}`)
	s.add("c", "a", `{"id":3}`, `{"id":3,"next":2,"n":1}`)
	s.add("c", "a", `{"id":4}`, `{"id":4,"next":3,"n":-1}`)
	var refused *playforward.RowError
	if err := run(t, pool, s.shelf, playforward.Options{Rules: rules(t, everything), Patience: time.Nanosecond}); !errors.As(err, &refused) || refused.Offset != 3 {
		t.Errorf("got %v", err)
	}
	expect(t, dsn, `SELECT count(*) FROM a`, "3")
}

// latecomer shows one topic only after some looks.
type latecomer struct {
	*shelf

	topic string
	looks int
}

func (l *latecomer) Ends(ctx context.Context) (transport.Position, error) {
	ends, err := l.shelf.Ends(ctx)
	if l.looks--; l.looks > 0 {
		for i := range ends {
			if ends[i].Topic == l.topic {
				ends[i].Offsets[0] = 0
			}
		}
	}
	return ends, err
}

// A row whose parent is still on its way waits for it.
func TestLateParent(t *testing.T) {
	t.Parallel()
	dsn, pool := replica(t, `CREATE TABLE parent (id int PRIMARY KEY)`, `CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent)`)
	s := newScript(t, "shop.child", "shop.parent")
	s.add("c", "parent", `{"id":1}`, `{"id":1}`)
	s.add("c", "child", `{"id":1}`, `{"id":1,"parent":1}`)
	s.add("u", "child", `{"id":1}`, `{"id":1,"parent":1}`)
	late := &latecomer{s.shelf, "shop.parent", 3}
	a := player(t.Context(), t, pool, s.shelf, playforward.Options{Rules: rules(t, everything)})
	ends, err := s.Ends(t.Context())
	if err == nil {
		err = a.Run(t.Context(), late, ends)
	}
	if err := errors.Join(err, a.Close()); err != nil {
		t.Fatal(err)
	}
	expect(t, dsn, `SELECT count(*) FROM child`, "1")
}

// A truncation that turns up behind what was written after it can't be carried out, and is not passed over.
func TestLateTruncation(t *testing.T) {
	t.Parallel()
	dsn, pool := replica(t, `CREATE TABLE a (id int PRIMARY KEY)`)
	s := newScript(t, "shop.a")
	s.at("c0", "a", `{"id":1}`, `{"id":1}`, 200)
	o := playforward.Options{Rules: rules(t, everything)}
	play(t, pool, s.shelf, o)
	s.at("t1", "a", "", "", 150)
	if err := run(t, pool, s.shelf, o); err == nil || !strings.Contains(err.Error(), "resync") || !strings.Contains(err.Error(), "public.a") {
		t.Errorf("got %v", err)
	}
	expect(t, dsn, `SELECT count(*) FROM a`, "1")
}

// What was there before a truncation does not come back when it is sent again, though its partition has nothing newer.
func TestSentAgainBehindATruncation(t *testing.T) {
	t.Parallel()
	dsn, pool := replica(t, `CREATE TABLE a (id int PRIMARY KEY)`)
	s := newScript(t, "shop.a")
	o := playforward.Options{Rules: rules(t, everything)}
	s.at("c1", "a", `{"id":1}`, `{"id":1}`, 100)
	s.at("t0", "a", "", "", 200)
	s.at("c0", "a", `{"id":2}`, `{"id":2}`, 300)
	play(t, pool, s.shelf, o)
	s.at("c1", "a", `{"id":1}`, `{"id":1}`, 100)
	s.at("t1", "a", "", "", 200)
	play(t, pool, s.shelf, o)
	expect(t, dsn, `SELECT string_agg(id::text, ' ') FROM a`, "2")
}

// After a failover the source may count anew: what was committed later is new, wherever it stands.
func TestFailover(t *testing.T) {
	t.Parallel()
	dsn, pool := replica(t, `CREATE TABLE a (id int PRIMARY KEY, n int)`)
	s := newScript(t, "shop.a")
	o := playforward.Options{Rules: rules(t, everything)}
	s.at("c", "a", `{"id":1}`, `{"id":1,"n":1}`, 900)
	play(t, pool, s.shelf, o)
	s.at("u", "a", `{"id":1}`, `{"id":1,"n":2}`, 500) // sent again
	r := s.topics["shop.a"][0][1]
	r.Value = bytes.Replace(bytes.Replace(r.Value, []byte("1700000000000500"), []byte("1700000000002000"), 1), []byte(`"n":2`), []byte(`"n":3`), 1)
	s.put(r)
	if done := play(t, pool, s.shelf, o); done.Duplicates != 1 || done.Applied != 1 {
		t.Errorf("%+v", done)
	}
	expect(t, dsn, `SELECT n FROM a`, "3")
}

// One replica has one applier.
func TestOneAtATime(t *testing.T) {
	t.Parallel()
	dsn, pool := replica(t)
	s := newShelf("shop.a")
	o := playforward.Options{Pipeline: "p", Rules: rules(t, everything)}
	first := player(t.Context(), t, pool, s, o)
	_, err := playforward.Open(t.Context(), pool, o)
	var busy *playforward.BusyError
	if !errors.As(err, &busy) || pgtest.Text(t, dsn, fmt.Sprintf(`SELECT count(*) FROM pg_stat_activity WHERE pid = %d`, busy.PID)) != "1" {
		t.Errorf("got %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := playforward.Open(t.Context(), pool, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
}

// The read point is known before anything was played, tells topics that did not exist, and is told to others as it moves.
func TestReadPoint(t *testing.T) {
	t.Parallel()
	_, pool := replica(t, `CREATE TABLE a (id int PRIMARY KEY)`)
	s := newScript(t, "shop.a")
	for n := range 7 {
		s.add("c", "a", fmt.Sprintf(`{"id":%d}`, n), fmt.Sprintf(`{"id":%d}`, n))
	}
	var told []int64
	var behind []int64
	o := playforward.Options{
		Pipeline: "p", Rules: rules(t, everything), Batch: 3, Progress: func(p playforward.Progress) { behind = append(behind, p.Behind) }, Log: slog.New(slog.DiscardHandler),
		Commit: func(_ context.Context, at transport.Position) error {
			topic, _ := at.Of("shop.a")
			told = append(told, topic.Offsets[0])
			return errors.New("no broker") // which is no reason to stop
		},
	}
	a, err := playforward.Open(t.Context(), pool, o)
	if err != nil {
		t.Fatal(err)
	}
	if a.Position() != nil {
		t.Errorf("it is at %v", a.Position())
	}
	begin := transport.Position{{Topic: "later"}, {Topic: "shop.a", ID: "x", Offsets: []int64{2}}}
	if err := a.Begin(t.Context(), begin); err != nil {
		t.Fatal(err)
	}
	if err := a.Run(t.Context(), s.from(a.Position()), nil); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(told, behind) != "[5 7] [2 0]" {
		t.Errorf("told %v, behind %v", told, behind)
	}
	again, err := playforward.Open(t.Context(), pool, o)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(again.Position()); got != "[{later  []} {shop.a x [7]}]" {
		t.Errorf("it is at %s", got)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}

// What can't be decoded is not passed over.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	dsn, pool := replica(t, `CREATE TABLE a (id int PRIMARY KEY)`)
	s := newScript(t, "shop.a")
	s.add("c", "a", `{"id":1}`, `{"id":1}`)
	s.put(transport.Record{Topic: "shop.a", Value: []byte(`{"id":2}`)})
	for range 2 {
		if err := run(t, pool, s.shelf, playforward.Options{Rules: rules(t, everything)}); !errors.Is(err, debezium.ErrFlattened) || !strings.Contains(err.Error(), "shop.a[0], offset 1") {
			t.Errorf("got %v", err)
		}
	}
	expect(t, dsn, `SELECT count(*) FROM a`, "0")
}
