package laws

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/resync"
)

const resyncPolicy = `
pipeline: laws
quiet: 1ms
range_rows: 100
tables: [{table: public.t}]
gate: {max_lag: 1h, heartbeat: {in_commit_order: true}}
detect: {confirm: {delay: 1ms, attempts: 3}, brake: {deletes: 1000, corrections: 1000}}
resync: {partial: {discrepancies: 5}, full: {discrepancies: 40, ratio: 100%}, cooldown: 1h}
`

// count counts the requests of each kind.
func (p *pair) count(kinds map[string]int) {
	p.before = func(req *tricklepb.Envelope) {
		p.mu.Lock()
		defer p.mu.Unlock()
		kinds[fmt.Sprintf("%T", req.GetBody())]++
	}
}

// walk lets resyncs and suspects go on until no resync is running.
func (p *pair) walk() {
	p.t.Helper()
	defer p.run()()
	deadline := time.Now().Add(60 * time.Second)
	for p.value(p.dst, `SELECT count(*) FROM trickle.resyncs WHERE state = 'running'`) != "0" {
		if time.Now().After(deadline) {
			p.t.Fatalf("the resync never ended: %s", p.value(p.dst, `SELECT string_agg(key::text, ' ') FROM trickle.suspects`))
		}
		p.caughtUp()
		if err := p.settleOnce(); err != nil {
			p.t.Fatal(err)
		}
	}
}

// run starts whatever works on resyncs, and returns what ends it at once.
func (p *pair) run() (kill func()) { return p.start(p.resync) }

func (p *pair) start(r *resync.Runner) (kill func()) {
	ctx, cancel := context.WithCancel(p.t.Context())
	var wg sync.WaitGroup
	for _, part := range []func(context.Context) error{r.Run, r.Listen} {
		wg.Go(func() {
			if err := part(ctx); err != nil {
				p.t.Error(err)
			}
		})
	}
	return func() { cancel(); wg.Wait() }
}

func (p *pair) request(w entry.Wish) {
	p.t.Helper()
	made, err := p.ledger.Request(p.t.Context(), w)
	if err != nil || !made {
		p.t.Fatalf("request: %v %v", made, err)
	}
}

// An empty replica is filled with whole copies, nothing is listed first, and every row is journalled under the resync.
func TestResyncOfAnEmptyReplica(t *testing.T) {
	t.Parallel()
	p := newPair(t, resyncPolicy, 1050)
	p.exec(p.dst, `TRUNCATE t`)
	p.caughtUp()
	kinds := map[string]int{}
	p.count(kinds)
	p.request(entry.Wish{ID: "full", Scope: entry.Full, Table: "public.t", Reason: "test"})
	p.walk()
	p.identical()
	p.want(`SELECT count(*) FROM trickle.corrections WHERE resync_id = 'full' AND outcome = 'confirmed' AND kind = 'missing'`, "1050")
	p.want(`SELECT state || ' ' || rows || ' ' || corrected FROM trickle.resyncs`, "done 1050 1050")
	if n := kinds["*tricklepb.Envelope_KeyDigestsRequest"]; n != 0 {
		t.Errorf("%d ranges were listed though they were empty", n)
	}
}

// Where most is equal only what differs travels; extras are removed; a part of the table is only a part.
func TestResyncOfAPart(t *testing.T) {
	t.Parallel()
	p := newPair(t, resyncPolicy, 1000)
	p.exec(p.dst, `UPDATE t SET v = 'edited' WHERE id IN (150, 850)`)
	p.exec(p.dst, `DELETE FROM t WHERE id IN (160, 860)`)
	p.exec(p.src, `DELETE FROM t WHERE id IN (170, 870)`)
	p.caughtUp()
	var rows int
	p.after = func(_, reply *tricklepb.Envelope) {
		p.mu.Lock()
		defer p.mu.Unlock()
		rows += len(reply.GetRowsReply().GetRows())
	}
	p.request(entry.Wish{ID: "part", Scope: entry.Partial, Table: "public.t", Reason: "test", Range: message.Range{Lo: message.Key{"100"}, Hi: message.Key{"500"}}})
	p.walk()
	p.want(`SELECT string_agg((key->>'id') || kind, ' ' ORDER BY (key->>'id')::int) FROM trickle.corrections`, "150mismatched 160missing 170extra")
	if rows > 20 {
		t.Errorf("%d rows travelled for 3 differences", rows)
	}
	p.request(entry.Wish{ID: "all", Scope: entry.Full, Table: "public.t", Reason: "test"})
	p.walk()
	p.identical()
}

// A resync that is killed goes on where it was, and does not begin again.
func TestResyncGoesOnAfterAKill(t *testing.T) {
	t.Parallel()
	p := newPair(t, resyncPolicy, 1000)
	p.exec(p.dst, `TRUNCATE t`)
	p.caughtUp()
	p.request(entry.Wish{ID: "full", Scope: entry.Full, Table: "public.t", Reason: "test"})
	ctx, kill := context.WithCancel(t.Context())
	asked := 0
	p.before = func(req *tricklepb.Envelope) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if req.GetCopyRequest() != nil {
			if asked++; asked == 6 {
				kill()
			}
		}
	}
	if err := p.resync.Run(ctx); err != nil {
		t.Fatal(err)
	}
	p.want(`SELECT state FROM trickle.resyncs`, "running")
	done := p.value(p.dst, `SELECT count(*) FROM trickle.resync_ranges WHERE done`)
	if done == "0" || done == "10" {
		t.Fatalf("%s ranges were done when it was killed", done)
	}
	p.exec(p.dst, `UPDATE trickle.resync_ranges SET leased_until = '-infinity'`)
	kinds := map[string]int{}
	p.wire()
	p.count(kinds)
	p.walk()
	p.identical()
	if n := kinds["*tricklepb.Envelope_CopyRequest"]; n >= 10 {
		t.Errorf("%d of 10 ranges were asked for after the restart, though %s were done", n, done)
	}
	p.want(`SELECT count(*) FROM trickle.corrections`, "1000")
}

// Drift in one neighbourhood asks for that part; drift all over asks for the table; each once within the cooldown.
func TestEscalation(t *testing.T) {
	t.Parallel()
	p := newPair(t, resyncPolicy, 1000)
	p.exec(p.dst, `UPDATE t SET v = 'edited' WHERE id BETWEEN 195 AND 204`) // across two ranges
	p.caughtUp()
	p.scan()
	p.settle()
	p.want(`SELECT string_agg(scope || ' ' || state || ' ' || lo::text || ' ' || hi::text, ', ') FROM trickle.resyncs`, "partial running {100} {300}")
	p.walk()
	p.exec(p.dst, `UPDATE t SET v = 'edited' WHERE id % 20 = 3`) // 50 rows, 5 in each range
	p.caughtUp()
	p.scan()
	p.settle()
	p.want(`SELECT count(*) FROM trickle.resyncs WHERE scope = 'full' AND state = 'running' AND lo IS NULL AND hi IS NULL`, "1")
	p.walk()
	p.identical()
	p.exec(p.dst, `UPDATE t SET v = 'edited' WHERE id % 20 = 4`)
	p.caughtUp()
	p.scan()
	p.settle()
	p.want(`SELECT count(*) FROM trickle.resyncs WHERE scope = 'full'`, "1") // the cooldown
	p.identical()
}

// With approval: manual a resync waits for a person.
func TestApproval(t *testing.T) {
	t.Parallel()
	p := newPair(t, strings.Replace(resyncPolicy, "cooldown: 1h", "cooldown: 1h, approval: manual", 1), 1000)
	p.exec(p.dst, `DELETE FROM t WHERE id <= 60`)
	p.caughtUp()
	p.scan()
	p.settle()
	p.want(`SELECT string_agg(scope || ' ' || state, ', ') FROM trickle.resyncs`, "full waiting")
	if err := p.ledger.Approve(t.Context(), "nonsense"); err == nil {
		t.Error("a resync that does not exist was approved")
	}
	if err := p.ledger.Approve(t.Context(), p.value(p.dst, `SELECT id FROM trickle.resyncs`)); err != nil {
		t.Fatal(err)
	}
	p.walk()
	p.identical()
}

// A resync while the source is written corrects only what has drifted: what is in flight comes by CDC.
func TestResyncLeavesWhatIsInFlight(t *testing.T) {
	t.Parallel()
	p := newPair(t, resyncPolicy, 300)
	p.exec(p.dst, `DELETE FROM t WHERE id = 50`)
	p.caughtUp()
	p.exec(p.src, `UPDATE t SET v = 'new' WHERE id = 7`)
	p.exec(p.src, `DELETE FROM t WHERE id = 8`)
	p.exec(p.src, `INSERT INTO t VALUES (1000, 'new')`)
	p.request(entry.Wish{ID: "full", Scope: entry.Full, Table: "public.t", Reason: "test"})
	stop := p.run()
	p.eventuallyIn(`SELECT planned AND NOT EXISTS (SELECT FROM trickle.resync_ranges WHERE NOT done) FROM trickle.resyncs`, "true")
	p.settle()
	p.want(`SELECT string_agg(key->>'id', ',') FROM trickle.corrections`, "50")
	p.want(`SELECT state FROM trickle.resyncs`, "running") // its suspects wait
	p.exec(p.dst, `UPDATE t SET v = 'new' WHERE id = 7`)
	p.exec(p.dst, `DELETE FROM t WHERE id = 8`)
	p.exec(p.dst, `INSERT INTO t VALUES (1000, 'new')`)
	p.caughtUp()
	p.settle()
	p.eventuallyIn(`SELECT state FROM trickle.resyncs`, "done")
	stop()
	p.identical()
	p.want(`SELECT count(*) FROM trickle.corrections`, "1")
}

// What a full pass over tables came to can be told: how much agreed, and how much did not.
func TestWhatAFullPassCameTo(t *testing.T) {
	t.Parallel()
	p := newPair(t, resyncPolicy, 1000)
	p.exec(p.dst, `UPDATE t SET v = 'edited' WHERE id IN (150, 160, 850)`)
	p.exec(p.dst, `DELETE FROM t WHERE id > 990`)
	p.caughtUp()
	p.request(entry.Wish{ID: "full", Scope: entry.Full, Table: "public.t", Reason: "test"})
	p.walk()
	passes, err := p.ledger.Passes(p.t.Context(), []string{"full", "another"})
	if err != nil || len(passes) != 1 {
		t.Fatal(passes, err)
	}
	differing := p.value(p.dst, `SELECT count(*) FROM trickle.resync_ranges WHERE differing > 0`)
	got := passes[0]
	if !got.Over() || !got.Proven() || got.Table != "public.t" || got.Corrected != 13 || got.Ranges != got.Done || got.Ranges < 8 || fmt.Sprint(got.Ranges-got.Agreed) != differing || differing != "3" {
		t.Errorf("%+v, %s ranges differed", got, differing)
	}
	p.want(`SELECT sum(differing) FROM trickle.resync_ranges`, "13")
}
