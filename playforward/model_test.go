package playforward_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/trickle-verify/trickle/playforward"
	"github.com/trickle-verify/trickle/transport"
)

func init() {
	if err := flag.Set("rapid.checks", "25"); err != nil { // a check is hundreds of statements
		panic(err)
	}
}

// imagined is a row of the source.
type imagined struct {
	n   int
	big string
}

// sent is an event on its way, before it has a partition.
type sent struct {
	topic, key string // key is empty for a truncation
	value      string
	headers    map[string]string
	read       func() (value string, there bool) // of a snapshot: it reads again
}

// pretender is a source with tables a and b, and the connector that reads it.
type pretender struct {
	*rapid.T

	shelf      *shelf
	tables     map[string]map[int]imagined
	sent       []sent
	partitions int
	flying     map[transport.Partition][]transport.Record // not acknowledged yet
	first      []int                                      // of each that is flying, its index
	commit     uint64
	lsn        uint64
	clock      time.Time
}

func newPretender(t *rapid.T) *pretender {
	return &pretender{
		T: t, shelf: newShelf(topic("a"), topic("b")), tables: map[string]map[int]imagined{"a": {}, "b": {}}, partitions: rapid.IntRange(1, 3).Draw(t, "partitions"),
		flying: map[transport.Partition][]transport.Record{}, commit: 1000, lsn: 1000, clock: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
	}
}

func topic(table string) string { return "shop.public." + table }

func (p *pretender) event(table, op, key string, before, after map[string]any, headers map[string]string) {
	source := map[string]any{"connector": "postgresql", "schema": "public", "table": table, "lsn": p.lsn, "ts_us": p.clock.UnixMicro(), "sequence": fmt.Sprintf(`["%d","%d"]`, p.commit, p.lsn), "txId": 7}
	value, err := json.Marshal(map[string]any{"op": op, "before": before, "after": after, "source": source})
	if err != nil {
		p.Fatal(err)
	}
	p.sent = append(p.sent, sent{topic: topic(table), key: key, value: string(value), headers: headers})
	p.dispatch(len(p.sent) - 1)
}

// snapshot has a row read, as it is then.
func (p *pretender) snapshot(table string, id int) {
	p.event(table, "r", keyOf(id), nil, row(id, p.tables[table][id], false), nil)
	p.sent[len(p.sent)-1].read = func() (string, bool) {
		r, there := p.tables[table][id]
		if !there {
			return "", false
		}
		scratch := &pretender{T: p.T, lsn: p.lsn, commit: p.commit, clock: p.clock, flying: map[transport.Partition][]transport.Record{}, partitions: 1}
		scratch.event(table, "r", keyOf(id), nil, row(id, r, false), nil)
		return scratch.sent[0].value, true
	}
}

// dispatch hands an event to its partition; when it arrives there is another matter.
func (p *pretender) dispatch(n int) {
	e := p.sent[n]
	h := fnv.New32a()
	h.Write([]byte(e.key))
	id := int32(h.Sum32() % uint32(p.partitions))
	if e.key == "" {
		id = int32(rapid.IntRange(0, p.partitions-1).Draw(p.T, "partition of a truncation"))
	}
	at := transport.Partition{Topic: e.topic, ID: id}
	r := transport.Record{Topic: e.topic, Partition: id, Value: []byte(e.value), Headers: e.headers}
	if e.key != "" {
		r.Key = []byte(e.key)
	}
	p.flying[at] = append(p.flying[at], r)
	p.first = append(p.first, n)
}

// land lets events arrive, in the order of their partition.
func (p *pretender) land(all bool) {
	for _, at := range slices.SortedFunc(maps.Keys(p.flying), func(a, b transport.Partition) int { return strings.Compare(a.String(), b.String()) }) {
		n := len(p.flying[at])
		if !all {
			n = rapid.IntRange(0, n).Draw(p.T, "arrive")
		}
		for _, r := range p.flying[at][:n] {
			p.shelf.put(r)
		}
		p.flying[at] = p.flying[at][n:]
	}
	if all {
		p.first = nil
	}
}

func keyOf(id int) string { return fmt.Sprintf(`{"id":%d}`, id) }

func row(id int, r imagined, unavailable bool) map[string]any {
	out := map[string]any{"id": id, "n": r.n, "big": r.big, "secret": "x"}
	if r.big == "" {
		out["big"] = nil
	}
	if unavailable {
		out["big"] = "__debezium_unavailable_value"
	}
	return out
}

// write is one transaction.
func (p *pretender) write() {
	for range rapid.IntRange(1, 3).Draw(p.T, "changes") {
		p.lsn += uint64(rapid.IntRange(1, 50).Draw(p.T, "bytes"))
		table := rapid.SampledFrom([]string{"a", "b"}).Draw(p.T, "table")
		rows, id := p.tables[table], rapid.IntRange(1, 5).Draw(p.T, "id")
		r, there := rows[id]
		n := rapid.IntRange(0, 99).Draw(p.T, "n")
		switch what := rapid.IntRange(0, 9).Draw(p.T, "what"); {
		case !there:
			r = imagined{n, rapid.SampledFrom([]string{"", "large", "larger"}).Draw(p.T, "big")}
			rows[id] = r
			if rapid.IntRange(0, 3).Draw(p.T, "by a snapshot") == 0 {
				p.snapshot(table, id)
				continue
			}
			p.event(table, "c", keyOf(id), nil, row(id, r, false), nil)
		case what < 4:
			r.n = n
			rows[id] = r
			p.event(table, "u", keyOf(id), nil, row(id, r, r.big != ""), nil)
		case what < 6:
			rows[id] = imagined{n, "other " + strconv.Itoa(n)}
			p.event(table, "u", keyOf(id), nil, row(id, rows[id], false), nil)
		case what < 8:
			delete(rows, id)
			p.event(table, "d", keyOf(id), map[string]any{"id": id}, nil, nil)
			p.sent = append(p.sent, sent{topic: topic(table), key: keyOf(id)})
			p.dispatch(len(p.sent) - 1)
		case what == 8:
			p.move(table, id, rapid.IntRange(1, 5).Draw(p.T, "new id"))
		default:
			p.land(true) // whose place in the order decides is not overtaken
			clear(rows)
			p.event(table, "t", "", nil, nil, nil)
			p.land(true)
		}
	}
	p.commit = p.lsn + 8
	p.lsn = p.commit
	p.clock = p.clock.Add(time.Duration(rapid.IntRange(1, 1000).Draw(p.T, "µs")) * time.Microsecond)
}

// move changes a row's key.
func (p *pretender) move(table string, from, to int) {
	rows := p.tables[table]
	if _, taken := rows[to]; taken {
		return
	}
	p.land(true)
	r := rows[from]
	delete(rows, from)
	rows[to] = r
	if rapid.Bool().Draw(p.T, "as one event") && p.partitions == 1 {
		p.event(table, "u", keyOf(to), map[string]any{"id": from}, row(to, r, r.big != ""), nil)
	} else {
		p.event(table, "d", keyOf(from), map[string]any{"id": from}, nil, map[string]string{"__debezium.newkey": keyOf(to)})
		p.event(table, "c", keyOf(to), nil, row(to, r, r.big != ""), map[string]string{"__debezium.oldkey": keyOf(from)})
	}
	p.land(true)
}

// crash loses what has not arrived and sends again from somewhere before.
func (p *pretender) crash() {
	if len(p.sent) == 0 {
		return
	}
	from := len(p.sent) - 1
	if len(p.first) > 0 {
		from = p.first[0]
	}
	clear(p.flying)
	p.first = nil
	for n := rapid.IntRange(max(from-20, 0), from).Draw(p.T, "again from"); n < len(p.sent); n++ {
		if read := p.sent[n].read; read != nil {
			value, there := read()
			if !there {
				continue
			}
			p.sent[n].value = value
		}
		p.dispatch(n)
	}
}

// fragile breaks off now and then.
type fragile struct {
	*shelf

	after int
}

var errFragile = errors.New("broken off")

func (f *fragile) Next(ctx context.Context, at transport.Partition, end int64) (transport.Record, bool, error) {
	if f.after--; f.after == 0 {
		return transport.Record{}, false, errFragile
	}
	return f.shelf.Next(ctx, at, end)
}

// Whatever is written, sent again, arrives late, is cut off or repartitioned, the replica ends as the source.
func TestReplicaEndsAsTheSource(t *testing.T) {
	t.Parallel()
	_, pool := replica(t, `CREATE SCHEMA cache; CREATE TABLE cache.a (id int PRIMARY KEY, num int, big text, secret text DEFAULT 'own'); CREATE TABLE cache.b (LIKE cache.a INCLUDING ALL); CREATE TABLE public.a (id int PRIMARY KEY)`)
	policy := rules(t, `  - {table: "public.*", replica: "cache.*", columns: {exclude: [secret], rename: {n: num}}}`+"\n")
	rapid.Check(t, func(t *rapid.T) {
		ctx := context.Background()
		if _, err := pool.Exec(ctx, `TRUNCATE cache.a, cache.b, trickle.read_points, trickle.played_tables`); err != nil {
			t.Fatal(err)
		}
		p := newPretender(t)
		o := playforward.Options{Rules: policy, Batch: rapid.IntRange(1, 12).Draw(t, "batch")}
		last := rapid.Bool().Draw(t, "repartition")
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			switch what := rapid.IntRange(0, 9).Draw(t, "step"); {
			case what < 6:
				p.write()
			case what == 6:
				p.crash()
			case what == 7:
				p.land(false)
			case what == 8 && last:
				p.land(true)
				p.partitions++
				last = false
			default:
				f := &fragile{p.shelf, rapid.IntRange(1, 40).Draw(t, "break off")}
				if err := once(ctx, t, pool, f, o); err != nil && !errors.Is(err, errFragile) {
					t.Fatal(err)
				}
			}
		}
		p.land(true)
		if err := once(ctx, t, pool, &fragile{p.shelf, -1}, o); err != nil {
			t.Fatal(err)
		}
		for table, rows := range p.tables {
			var want []string
			for id, r := range rows {
				want = append(want, fmt.Sprintf("%d %d %s own", id, r.n, r.big))
			}
			slices.Sort(want)
			var got string
			if err := pool.QueryRow(ctx, `SELECT coalesce(string_agg(concat_ws(' ', id, num, coalesce(big, ''), secret), ', ' ORDER BY id), '') FROM cache.`+table).Scan(&got); err != nil {
				t.Fatal(err)
			}
			if got != strings.Join(want, ", ") {
				t.Fatalf("%s is %s and should be %s", table, got, strings.Join(want, ", "))
			}
		}
		var behind int64
		if err := pool.QueryRow(ctx, `SELECT sum(next) FROM trickle.read_points`).Scan(&behind); err != nil {
			t.Fatal(err)
		}
		for _, partitions := range p.shelf.topics {
			for _, records := range partitions {
				behind -= int64(len(records))
			}
		}
		if behind != 0 {
			t.Fatalf("the read point is off by %d", behind)
		}
	})
}

// once is one run of the applier, as a process has it.
func once(ctx context.Context, t *rapid.T, pool *pgxpool.Pool, f *fragile, o playforward.Options) error {
	a := player(ctx, t, pool, f.shelf, o)
	err := a.Run(ctx, f, nil)
	return errors.Join(err, a.Close())
}
