package playforward_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/playforward"
)

// handing writes updates of the table a that give rows a code, and leave the large value out or make it new.
type handing struct{ *script }

func (h handing) over(id int, code string) {
	h.add("u", "a", keyOf(id), fmt.Sprintf(`{"id":%d,"code":%q,"big":"__debezium_unavailable_value"}`, id, code))
}

func (h handing) anew(op string, id int, code string) {
	h.add(op, "a", keyOf(id), fmt.Sprintf(`{"id":%d,"code":%q,"big":"new"}`, id, code))
}

const (
	// handed has a column of its own that is called as one of the source's, which is called otherwise here.
	handed = `(id int PRIMARY KEY, num text NOT NULL, big text, code text DEFAULT 'new', twice text GENERATED ALWAYS AS (num || num) STORED, n int GENERATED ALWAYS AS IDENTITY)`
	// fill gives it rows 1 to 4 with the codes a to d, and large values that are kept apart.
	fill     = `INSERT INTO cache.a (id, num, big, code) SELECT i, chr(96 + i), i || (SELECT string_agg(md5(i || ' ' || g), '') FROM generate_series(1, 300) g), 'own' FROM generate_series(1, 4) i`
	asHanded = `  - {table: public.a, replica: cache.a, columns: {rename: {code: num}}}` + "\n"
	allOf    = `SELECT string_agg(concat_ws(' ', id, num, CASE WHEN length(big) > 9000 THEN left(big, 1) ELSE big END, code, twice, n), ', ' ORDER BY id) FROM cache.a`
)

// Rows that hand a unique value on end as the source's, which held the constraint at each commit, whatever order the events come in and wherever a batch ends.
func TestUniqueValuesThatAreHandedOn(t *testing.T) {
	t.Parallel()
	const plain = `CREATE TABLE cache.a ` + handed + `; ALTER TABLE cache.a ADD CONSTRAINT one UNIQUE (num)`
	for _, c := range []struct {
		name, table, want string
		log               func(s handing)
		also, is          string // a query and what it gives
	}{
		{name: "a swap", table: plain, want: "1 b new own bb 1, 2 a 2 own aa 2, 3 c 3 own cc 3, 4 d 4 own dd 4", log: func(s handing) {
			s.anew("u", 1, "b")
			s.over(2, "a")
		}},
		{name: "a chain against its order", table: plain, want: "1 b 1 own bb 1, 2 c 2 own cc 2, 3 d 3 own dd 3, 4 e 4 own ee 4", log: func(s handing) {
			for n, code := range []string{"b", "c", "d", "e"} {
				s.over(n+1, code)
			}
		}},
		{name: "a rotation", table: plain, want: "1 d 1 own dd 1, 2 a 2 own aa 2, 3 b new own bb 3, 4 c 4 own cc 4", log: func(s handing) {
			s.over(1, "d")
			s.over(2, "a")
			s.anew("u", 3, "b")
			s.over(4, "c")
		}},
		{name: "rows that come before others go", table: plain, want: "2 a 2 own aa 2, 3 c 3 own cc 3, 4 x 4 own xx 4, 5 b new new bb 5, 6 d new new dd 5", log: func(s handing) {
			s.anew("c", 6, "d")
			s.anew("c", 5, "b")
			s.over(2, "a")
			s.over(4, "x")
			s.add("d", "a", keyOf(1), "")
		}},
		{
			name: "rows that others refer to", want: "1 b 1 own bb 1, 2 a 2 own aa 2, 3 c 3 own cc 3, 4 d 4 own dd 4",
			table: plain + `; CREATE TABLE child (a int REFERENCES cache.a, num text REFERENCES cache.a (num))`,
			log: func(s handing) {
				s.over(1, "b")
				s.over(2, "a")
			},
			also: `SELECT string_agg(a || num, ' ' ORDER BY a) FROM child`, is: "1a 2b",
		},
		{
			name: "partitions", want: "1 b new own bb 1, 2 a 2 own aa 2, 3 c 3 own cc 3, 4 d 4 own dd 4",
			table: `CREATE TABLE cache.a ` + strings.Replace(handed, "n int GENERATED ALWAYS AS IDENTITY", "n serial", 1) + ` PARTITION BY LIST (id);
				CREATE TABLE cache.few PARTITION OF cache.a FOR VALUES IN (1, 2); CREATE TABLE cache.rest PARTITION OF cache.a DEFAULT; CREATE UNIQUE INDEX ON cache.few (num)`,
			log: func(s handing) {
				s.anew("u", 1, "b")
				s.over(2, "a")
			},
		},
		{
			name: "an exclusion", want: "1 b 1 own bb 1, 2 a 2 own aa 2, 3 c 3 own cc 3, 4 d 4 own dd 4",
			table: `CREATE TABLE cache.a ` + handed + `; ALTER TABLE cache.a ADD CONSTRAINT one EXCLUDE (num WITH =)`,
			log: func(s handing) {
				s.over(1, "b")
				s.over(2, "a")
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dsn, pool := replica(t, `CREATE SCHEMA cache; `+c.table)
			s := handing{newScript(t, "shop.a")}
			c.log(s)
			for _, batch := range []int{0, 1, 2, 3} {
				pgtest.Exec(t, dsn, `TRUNCATE trickle.read_points, trickle.played_tables; TRUNCATE cache.a RESTART IDENTITY CASCADE`, fill)
				if c.also != "" {
					pgtest.Exec(t, dsn, `INSERT INTO child VALUES (1, 'a'), (2, 'b')`)
				}
				if err := run(t, pool, s.shelf, playforward.Options{Rules: rules(t, asHanded), Batch: batch, Patience: time.Nanosecond}); err != nil {
					t.Fatalf("batches of %d: %v", batch, err)
				}
				got := pgtest.Text(t, dsn, allOf)
				if c.name == "rows that come before others go" { // what attempts took of the sequence is not given back
					got = pgtest.Text(t, dsn, strings.Replace(allOf, ", n)", ", CASE WHEN n < 5 THEN n ELSE 5 END)", 1))
				}
				if got != c.want {
					t.Errorf("batches of %d: it is %s and should be %s", batch, got, c.want)
				}
				if c.also != "" {
					expect(t, dsn, c.also, c.is)
				}
			}
		})
	}
}

// No row is deleted to be written again where others would go with it: that is refused, with the way out, and nothing is changed.
func TestRowsThatOthersGoWith(t *testing.T) {
	t.Parallel()
	dsn, pool := replica(t, `CREATE SCHEMA cache; CREATE TABLE cache.a `+handed+`; ALTER TABLE cache.a ADD CONSTRAINT one UNIQUE (num); `+fill,
		`CREATE TABLE child (a int REFERENCES cache.a ON DELETE CASCADE); INSERT INTO child VALUES (1)`)
	s := handing{newScript(t, "shop.a")}
	s.over(1, "b")
	s.over(2, "a")
	o := playforward.Options{Rules: rules(t, asHanded), Patience: time.Nanosecond}
	err := run(t, pool, s.shelf, o)
	for _, want := range []string{"one", "child", "ON DELETE", "session_replication_role"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
	expect(t, dsn, `SELECT string_agg(num, ' ' ORDER BY id) FROM cache.a`, "a b c d")
	o.Rules = rules(t, asHanded+"detect: {session_replication_role: replica}\n")
	if err := run(t, pool, s.shelf, o); err != nil {
		t.Fatal(err)
	}
	expect(t, dsn, `SELECT string_agg(num, ' ' ORDER BY id) FROM cache.a`, "b a c d")
	expect(t, dsn, `SELECT count(*) FROM child`, "1")
}

// A batch that is cut where rows need each other takes in more, and the next is as small again as it was.
func TestBatchThatTakesInMore(t *testing.T) {
	t.Parallel()
	dsn, pool := replica(t, `CREATE SCHEMA cache; CREATE TABLE cache.a `+handed+`; ALTER TABLE cache.a ADD CONSTRAINT one UNIQUE (num); INSERT INTO cache.a (id, num) SELECT i, i FROM generate_series(1, 20) i`)
	s := handing{newScript(t, "shop.a")}
	for id := range 20 {
		s.over(id+1, fmt.Sprint(id+2))
	}
	for id := range 40 {
		s.anew("c", 30+id, fmt.Sprint(30+id))
	}
	var applied []uint64
	err := run(t, pool, s.shelf, playforward.Options{
		Rules: rules(t, asHanded), Batch: 2, Patience: time.Nanosecond, Progress: func(p playforward.Progress) { applied = append(applied, p.Applied) },
	})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, dsn, `SELECT bool_and(num = CASE WHEN id > 20 THEN id ELSE id + 1 END::text)::text || count(*) FROM cache.a`, "true60")
	if applied = slices.Compact(applied); !slices.Equal(applied[:4], []uint64{0, 32, 34, 36}) {
		t.Errorf("%d", applied)
	}
}

// Whatever transactions do to unique values, in whatever order their events come and wherever runs and batches end, the replica ends as the source.
func TestUniqueValuesEndAsTheSources(t *testing.T) {
	t.Parallel()
	_, pool := replica(t, `CREATE SCHEMA cache; CREATE TABLE cache.a `+handed+`; ALTER TABLE cache.a ADD CONSTRAINT one UNIQUE (num)`)
	policy := rules(t, asHanded)
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		if _, err := pool.Exec(ctx, `TRUNCATE cache.a, trickle.read_points, trickle.played_tables`); err != nil {
			t.Fatal(err)
		}
		p := newPretender(t)
		codes, large := map[int]string{}, map[int]string{} // of the source's rows
		o := playforward.Options{Rules: policy, Batch: rapid.IntRange(1, 9).Draw(t, "batch"), Patience: time.Nanosecond}
		// play runs the applier; within a transaction it may find that what it has read does not hold yet.
		play := func(whole bool) {
			var refused *playforward.RowError
			if err := once(ctx, t, pool, &fragile{p.shelf, -1}, o); err != nil && (whole || !errors.As(err, &refused)) {
				t.Fatal(err)
			}
		}
		for n := range rapid.IntRange(1, 8).Draw(t, "transactions") {
			had := slices.Sorted(maps.Values(codes))
			taken := rapid.Permutation(append(had, fmt.Sprint("x", n), fmt.Sprint("y", n), fmt.Sprint("z", n), fmt.Sprint("u", n), fmt.Sprint("v", n))).Draw(t, "codes")
			for i, id := range rapid.Permutation([]int{1, 2, 3, 4, 5}).Draw(t, "order") {
				_, was := codes[id]
				is := rapid.IntRange(0, 3).Draw(t, "there") > 0
				after := map[string]any{"id": id, "code": taken[i], "big": "__debezium_unavailable_value"}
				if !was || rapid.Bool().Draw(t, "new value") {
					large[id] = fmt.Sprint("large ", n)
					after["big"] = large[id]
				}
				p.lsn += 10
				switch {
				case is && was:
					p.event("a", "u", keyOf(id), nil, after, nil)
				case is:
					p.event("a", "c", keyOf(id), nil, after, nil)
				case was:
					p.event("a", "d", keyOf(id), map[string]any{"id": id}, nil, nil)
				}
				if delete(codes, id); is {
					codes[id] = taken[i]
				}
				p.land(true)
				if rapid.IntRange(0, 9).Draw(t, "run within") == 0 {
					play(false)
				}
			}
			p.commit, p.clock = p.lsn+8, p.clock.Add(time.Microsecond)
			p.lsn = p.commit
			if rapid.Bool().Draw(t, "run between") {
				play(true)
			}
		}
		play(true)
		var want []string
		for id, code := range codes {
			want = append(want, fmt.Sprint(id, " ", code, " ", large[id]))
		}
		slices.Sort(want)
		var got string
		if err := pool.QueryRow(ctx, `SELECT coalesce(string_agg(concat_ws(' ', id, num, big), ', ' ORDER BY id), '') FROM cache.a`).Scan(&got); err != nil {
			t.Fatal(err)
		}
		if got != strings.Join(want, ", ") {
			t.Fatalf("the replica has %s and should have %s", got, strings.Join(want, ", "))
		}
	})
}
