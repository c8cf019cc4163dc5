package laws

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/cursor"
	"github.com/trickle-verify/trickle/detector"
	"github.com/trickle-verify/trickle/gate"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/replica"
	"github.com/trickle-verify/trickle/resync"
	"github.com/trickle-verify/trickle/scanner"
	"github.com/trickle-verify/trickle/scheduler"
	"github.com/trickle-verify/trickle/sidechannel"
	"github.com/trickle-verify/trickle/transport"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// pair is a source and a replica with a detector between them. There is no CDC: the test plays it, statement by statement, which is what
// makes any interleaving possible. The side channel is a function call.
type pair struct {
	t        *testing.T
	src, dst *pgxpool.Pool
	// reads is what the publisher reads and primary what it asks for the fence; where nil, src and nobody.
	reads, primary *pgxpool.Pool
	scanner        *scanner.Scanner
	detector       *detector.Detector
	resync         *resync.Runner
	ledger         *ledger.Ledger
	replica        *replica.Replica
	policy         *policy.Policy
	beat           *beat
	sent           []*tricklepb.Envelope
	// connector is the way to Debezium, where the policy wants one.
	connector resync.Debezium

	mu      sync.Mutex
	samples []cursor.Sample
	// before and after run around each answer of the publisher.
	before func(req *tricklepb.Envelope)
	after  func(req, reply *tricklepb.Envelope)
	// refuse answers in the publisher's place where it returns something.
	refuse func(req *tricklepb.Envelope) *tricklepb.ErrorReply
	// scanned sees each verification message before the detector does.
	scanned func(env *tricklepb.Envelope)
}

// beat is a heartbeat that the test moves by hand.
type beat struct {
	mu       sync.Mutex
	at       time.Time
	timeline uint32
}

func (b *beat) Beat(context.Context) (time.Time, uint32, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.at, b.timeline, nil
}

func (b *beat) onto(timeline uint32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.timeline = timeline
}

func (b *beat) set(at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.at = at
}

const lawPolicy = `
pipeline: laws
quiet: 1ms
range_rows: 100
tables: [{table: public.t}]
gate: {max_lag: 1h, heartbeat: {in_commit_order: true}}
detect: {confirm: {delay: 1ms, attempts: 3}, brake: {deletes: 5, corrections: 1000}}
`

// newPair makes table t(id, v) on both sides and fills it with the same n rows.
func newPair(t *testing.T, policyText string, n int) *pair {
	t.Helper()
	return newPairOn(t, policyText, n, pgtest.Database(t), pgtest.Database(t))
}

// newPairOn does so in these databases.
func newPairOn(t *testing.T, policyText string, n int, src, dst string) *pair {
	t.Helper()
	pol, _, err := policy.Parse("test.yaml", []byte(policyText))
	if err != nil {
		t.Fatal(err)
	}
	p := &pair{t: t, policy: pol, beat: &beat{timeline: 1}} // a server that was never promoted is on timeline 1
	p.src, p.dst = open(t, src), open(t, dst)
	p.fill(n)
	p.wire()
	return p
}

func (p *pair) fill(n int) {
	p.t.Helper()
	for _, pool := range []*pgxpool.Pool{p.src, p.dst} {
		p.exec(pool, `CREATE TABLE t (id bigint PRIMARY KEY, v text)`)
		p.exec(pool, `INSERT INTO t SELECT i, 'value ' || i FROM generate_series(1, $1::int) AS i`, n)
	}
}

func open(t *testing.T, dsn string) *pgxpool.Pool {
	t.Helper()
	pool, err := postgres.Open(t.Context(), dsn, postgres.Options{Role: "test", Setting: "the test", Failover: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func (p *pair) wire() {
	p.t.Helper()
	ctx := p.t.Context()
	log := slog.New(slog.NewTextHandler(p.t.Output(), nil))
	reads := p.reads
	if reads == nil {
		reads = p.src
	}
	sourceID, err := postgres.Identify(ctx, reads)
	if err != nil {
		p.t.Fatal(err)
	}
	replicaID, err := postgres.Identify(ctx, p.dst)
	if err != nil {
		p.t.Fatal(err)
	}
	p.scanner = scanner.New(p.policy, scanner.Parts{
		Source: postgres.NewStandbySource(reads, p.primary), Identity: sourceID, Sender: p, Samples: current{p}, Log: log,
	})
	p.ledger = ledger.New(p.dst, p.policy.Pipeline)
	if err := p.ledger.Migrate(ctx); err != nil {
		p.t.Fatal(err)
	}
	g := gate.New(p.policy.Gate, gate.Parts{Heartbeat: p.beat})
	p.replica = replica.New(p.dst, p.ledger, replica.Options{Map: p.mapping, Write: func() replica.Writing {
		d := p.policy.Detect
		return replica.Writing{Brake: ledger.Limits{Deletes: d.Brake.Deletes, Corrections: d.Brake.Corrections, Window: time.Duration(d.Window)}}
	}})
	ids := 0
	p.detector = detector.New(p.policy, detector.Parts{
		Replica: p.replica, Ledger: p.ledger, Asker: p, Gate: g, Log: log, Self: replicaID.String(),
		NewID: func() string { ids++; return fmt.Sprintf("r%d", ids) },
	})
	p.resync = resync.New(resync.Parts{
		Ledger: p.ledger, Source: p.detector.Source(), Replica: p.replica, Corrector: p.detector.Corrector(), Copier: p.replica, Gate: g, Log: log,
		Debezium: p.connector, Snapshots: p.ledger, Policy: func() *policy.Policy { return p.policy },
	})
}

func (p *pair) mapping(table string) (replica.Mapping, bool) {
	n := postgres.ParseName(table)
	m, ok := p.policy.For(n.Schema, n.Table)
	return replica.Mapping{Name: postgres.Name{Schema: m.Replica.Schema, Table: m.Replica.Name}, Rules: scanner.Rules(m.Table)}, ok
}

// current has the samples that were taken when the heartbeat was moved.
type current struct{ p *pair }

func (c current) Before(at time.Time) (cursor.Sample, bool) {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	for i := len(c.p.samples) - 1; i >= 0; i-- {
		if s := c.p.samples[i]; !s.At.After(at) {
			return s, true
		}
	}
	return cursor.Sample{}, false
}

// caughtUp says that CDC has delivered everything up to now, truthfully only when the test played all of it.
func (p *pair) caughtUp() {
	p.t.Helper()
	// The horizon is the whole server's: wait until what other tests had running is over.
	var horizon int64
	if err := p.src.QueryRow(p.t.Context(), `SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint`).Scan(&horizon); err != nil {
		p.t.Fatal(err)
	}
	s, err := p.scanner.Sample(p.t.Context())
	for ; err == nil && s.Xmin < uint64(horizon); s, err = p.scanner.Sample(p.t.Context()) {
	}
	if err != nil {
		p.t.Fatal(err)
	}
	p.mu.Lock()
	p.samples = append(p.samples, s)
	p.mu.Unlock()
	var beat time.Time
	if err := p.src.QueryRow(p.t.Context(), `SELECT clock_timestamp()`).Scan(&beat); err != nil {
		p.t.Fatal(err)
	}
	p.beat.set(beat)
}

// Send takes the scanner's messages.
func (p *pair) Send(_ context.Context, records ...transport.Record) error {
	for _, r := range records {
		env, err := message.Codec{}.Decode(r.Topic, r.Value)
		if err != nil {
			return err
		}
		p.sent = append(p.sent, env)
	}
	return nil
}

// Ask is the side channel.
func (p *pair) Ask(ctx context.Context, req *tricklepb.Envelope) (*tricklepb.Envelope, error) {
	p.mu.Lock()
	before, after := p.before, p.after
	p.mu.Unlock()
	if before != nil {
		before(req)
	}
	if p.refuse != nil {
		if refusal := p.refuse(req); refusal != nil {
			return nil, &sidechannel.Error{Code: refusal.GetCode(), Reason: refusal.GetReason()}
		}
	}
	reply := p.scanner.Answer(ctx, req)
	if refusal := reply.GetErrorReply(); refusal != nil {
		return nil, &sidechannel.Error{Code: refusal.GetCode(), Reason: refusal.GetReason()}
	}
	if after != nil {
		after(req, reply)
	}
	return reply, nil
}

// on runs fn once, after the first answer that match accepts.
func (p *pair) on(match func(req *tricklepb.Envelope) bool, fn func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	done := false
	p.after = func(req, _ *tricklepb.Envelope) {
		if !done && match(req) {
			done = true
			fn()
		}
	}
}

func refetch(req *tricklepb.Envelope) bool { return req.GetRefetchRequest() != nil }

// scan verifies the quiet rows of the whole table once and hands the messages to the detector.
func (p *pair) scan() {
	p.t.Helper()
	p.scanAs(scanner.Job{})
}

func (p *pair) scanAs(job scanner.Job) {
	p.t.Helper()
	ctx := p.t.Context()
	ranges, err := p.scanner.Plan(ctx, "public.t", message.Range{})
	if err != nil {
		p.t.Fatal(err)
	}
	p.sent = nil
	for i, r := range ranges {
		r.ID = scheduler.RangeID(r.Bounds)
		job.Table, job.Cycle, job.Ranges, job.Range = "public.t", 1, len(ranges), r
		if _, err := p.scanner.Scan(ctx, job); err != nil {
			p.t.Fatalf("range %d: %v", i, err)
		}
	}
	for _, env := range p.sent {
		if p.scanned != nil {
			p.scanned(env)
		}
		if err := p.detector.Handle(ctx, "test/0@0", env); err != nil {
			p.t.Fatal(err)
		}
	}
}

// settle looks at every suspect a few times.
func (p *pair) settle() {
	p.t.Helper()
	for range 3 {
		if err := p.settleOnce(); err != nil {
			p.t.Fatal(err)
		}
	}
}

// settleOnce works on one batch.
func (p *pair) settleOnce() error {
	p.exec(p.dst, `UPDATE trickle.suspects SET due = now() - interval '1 second'`)
	_, err := p.detector.Settle(p.t.Context())
	return err
}

func (p *pair) exec(pool *pgxpool.Pool, sql string, args ...any) {
	p.t.Helper()
	if _, err := pool.Exec(context.Background(), sql, args...); err != nil {
		p.t.Fatalf("%s: %v", sql, err)
	}
}

func (p *pair) value(pool *pgxpool.Pool, sql string) string {
	p.t.Helper()
	var v *string
	if err := pool.QueryRow(p.t.Context(), "SELECT ("+sql+")::text").Scan(&v); err != nil {
		p.t.Fatalf("%s: %v", sql, err)
	}
	if v == nil {
		return "NULL"
	}
	return *v
}

// eventually polls until the value of a query is the wanted one.
func (p *pair) eventually(pool *pgxpool.Pool, sql, want string) {
	p.t.Helper()
	got := ""
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		if got = p.value(pool, sql); got == want {
			return
		}
	}
	p.t.Fatalf("%s never became %s but %s", sql, want, got)
}

// eventuallyIn polls the replica.
func (p *pair) eventuallyIn(sql, want string) {
	p.t.Helper()
	p.eventually(p.dst, sql, want)
}

// want compares a value of the replica.
func (p *pair) want(sql, want string) {
	p.t.Helper()
	if got := p.value(p.dst, sql); got != want {
		p.t.Errorf("%s: got %s, want %s", sql, got, want)
	}
}

// identical compares both sides row by row.
func (p *pair) identical() {
	p.t.Helper()
	const all = `SELECT string_agg(id || '=' || coalesce(v, 'NULL'), ',' ORDER BY id) FROM t`
	if s, d := p.value(p.src, all), p.value(p.dst, all); s != d {
		p.t.Errorf("the sides differ:\nsource  %.200s\nreplica %.200s", s, d)
	}
}
