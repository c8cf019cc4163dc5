package e2e

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
)

const (
	copyRows  = 90_000
	copyKills = 8

	copyPolicy = `
pipeline: copy
schedule: {cycle: 24h}
quiet: 1s
range_rows: 3000
tables: [{table: public.t}]
gate: {max_lag: 1m, assume_lag: 2s}
detect: {confirm: {delay: 500ms}, brake: {deletes: 1000000, corrections: 1000000}}
resync: {in_flight: 2}
`
)

// Kill -9 of publisher and detectors while an empty table is copied in bulk, and while rows of it are deleted at the source, whose deletes mostly meet nothing in the
// replica: nothing is lost, nothing comes back, and every row there is in the journal.
func TestKillWhileCopying(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(killSeed, killSeed))
	y := &yard{t: t, random: random, policy: writeFile(t, "policy.yaml", copyPolicy)}
	server := pgtest.Server(t, testbed.Options{})
	y.src, y.dst = connect(t, pgtest.DatabaseOn(t, server)), connect(t, pgtest.DatabaseOn(t, server))
	const ddl = `CREATE TABLE t (id bigint PRIMARY KEY, v text, at timestamptz)`
	y.src.exec(t, ddl, `INSERT INTO t SELECT i, md5(i::text), now() FROM generate_series(1, 90000) AS i`)
	y.dst.exec(t, ddl)
	var err error
	if y.broker, err = kfake.NewCluster(kfake.NumBrokers(1), kfake.GroupMinSessionTimeout(time.Second)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(y.broker.Close)
	missSoon(y.broker)
	publisher := &victim{name: "publisher", start: y.publisher}
	detectors := []*victim{{name: "first detector", start: y.detector}, {name: "second detector", start: y.detector}}
	for _, v := range append(detectors, publisher) {
		v.now = v.start()
	}
	await(t, patience, "the gate is open", func() bool {
		open := values[bool](t, y.dst, `SELECT to_regclass('trickle.copies') IS NOT NULL`)
		return open[0] && len(values[bool](t, y.dst, `SELECT true FROM trickle.pipelines WHERE gate_open`)) > 0
	})
	// CDC, within what is vouched for: each delete at once.
	stop := background(t, func(ctx context.Context) error {
		deletes := rand.New(rand.NewPCG(killSeed, 1))
		for ctx.Err() == nil {
			id := 1 + deletes.IntN(copyRows)
			for _, d := range []database{y.src, y.dst} {
				if _, err := d.pool.Exec(context.WithoutCancel(ctx), `DELETE FROM t WHERE id = $1`, id); err != nil {
					return err
				}
			}
			time.Sleep(5 * time.Millisecond)
		}
		return nil
	})
	if code, _, stderr := run(t, trickleConsumer("resync", "--policy", y.policy, "--replica", y.dst.dsn, "--table", "public.t")); code != 0 {
		t.Fatal(stderr)
	}
	for range copyKills {
		done, limit := y.walked(), time.Now().Add(10*time.Second)
		await(t, patience, "the resync gets on", func() bool { return y.walked() > done || time.Now().After(limit) })
		for _, v := range []*victim{detectors[random.IntN(2)], publisher} {
			time.Sleep(y.between(0, 200*time.Millisecond))
			y.strike(v)
		}
	}
	stop()
	await(t, 4*time.Minute, "the resync is done, and nothing is open", func() bool {
		return y.work().none() && value[int](t, y.dst, `SELECT count(*) FROM trickle.copies WHERE closed_at IS NULL`) == 0
	})
	const all = `SELECT count(*) || ' ' || coalesce(sum(hashtextextended(t::text, 0)), 0) FROM t`
	if here, there := value[string](t, y.src, all), value[string](t, y.dst, all); here != there {
		t.Errorf("the source has %s, the replica %s", here, there)
	}
	if n := value[int](t, y.dst, `SELECT count(*) FROM t WHERE t.xmin::text NOT IN (SELECT version::text FROM trickle.copies UNION SELECT version::text FROM trickle.corrections)`); n != 0 {
		t.Errorf("%d rows are in no journal", n)
	}
	t.Log(value[string](t, y.dst, `SELECT count(*) || ' copies of ' || sum(rows) || ' rows, ' || (SELECT count(*) FROM trickle.corrections) || ' corrections' FROM trickle.copies`))
	if n := value[int](t, y.dst, `SELECT count(*) FROM trickle.copies`); n < 20 {
		t.Errorf("only %d copies: the test shows nothing", n)
	}
}
