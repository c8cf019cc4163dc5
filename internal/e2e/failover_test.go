package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/trickle-verify/trickle/heartbeat"
	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
)

const failoverPolicy = `
pipeline: failover
schedule: {cycle: 2s}
quiet: 100ms
tables: [{table: public.t}]
gate: {max_lag: 20s, heartbeat: {interval: 200ms, in_commit_order: true}}
detect: {confirm: {delay: 100ms}}
`

// A publisher that reads a standby lives through the loss of the primary and the promotion of that standby: no restart, nothing set back, nothing corrected before the heartbeat has
// come through from the new primary, and then what the new primary lacks.
func TestPublisherLivesThroughAFailover(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	primary, third := pgtest.Server(t, testbed.Options{}), pgtest.Server(t, testbed.Options{})
	for _, server := range []*testbed.Postgres{primary, third} {
		if _, err := server.CreateDatabase(ctx, "shop"); err != nil {
			t.Fatal(err)
		}
	}
	old, replica := connect(t, primary.DSN("shop")), connect(t, third.DSN("shop"))
	for _, d := range []database{old, replica} {
		d.exec(t, heartbeat.New(nil, "trickle.heartbeat", "failover").DDL(), `CREATE TABLE t (id int PRIMARY KEY, v text)`)
	}
	old.exec(t, `INSERT INTO t SELECT i, 'value ' || i FROM generate_series(1, 100) i`, `CREATE PUBLICATION cdc FOR ALL TABLES`)
	standby := pgtest.Standby(t, primary, testbed.StandbyOptions{})
	subscribe := func(server *testbed.Postgres, name, with string) {
		t.Helper()
		replica.exec(t, fmt.Sprintf("CREATE SUBSCRIPTION %s CONNECTION '%s' PUBLICATION cdc%s", name, server.DSN("shop"), with))
	}
	has := func(want string) func() bool {
		return func() bool {
			return strings.Join(values[string](t, replica, `SELECT v FROM t WHERE id = 7`), "") == want
		}
	}
	subscribe(primary, "before", "")
	await(t, patience, "the first copy", func() bool {
		return value[bool](t, replica, `SELECT count(*) = 2 AND bool_and(srsubstate = 'r') FROM pg_subscription_rel`)
	})

	policy := writeFile(t, "policy.yaml", failoverPolicy)
	for name, c := range map[string]struct {
		source, primary string
		words           []string
	}{
		"no primary for the heartbeat": {source: standby.DSN("shop"), words: []string{"the heartbeat can't be written on a standby", "TRICKLE_PRIMARY_DSN"}},
		"a standby for the primary":    {source: primary.DSN("shop"), primary: standby.DSN("shop"), words: []string{"is a standby itself", "--primary or TRICKLE_PRIMARY_DSN"}},
	} {
		code, stdout, stderr := run(t, trickle("run", "--policy", policy, "--source", c.source, "--primary", c.primary, "--replica", replica.dsn, "--listen", ""))
		for _, word := range c.words {
			if code != 2 || stdout != "" || !strings.Contains(stderr, word) {
				t.Errorf("%s: it ends with %d and does not say %q: %s", name, code, word, stderr)
			}
		}
	}
	hosts := fmt.Sprintf("postgres://postgres@%s,%s/shop?sslmode=disable&target_session_attrs=", standby.Address(), primary.Address())
	p := start(t, trickle("run", "--policy", policy, "--source", hosts+"prefer-standby", "--primary", hosts+"read-write", "--replica", replica.dsn, "--listen", "",
		"--cursor-file", t.TempDir()+"/cursors.json"))
	replica.exec(t, `UPDATE t SET v = 'drift' WHERE id = 7`, `DELETE FROM t WHERE id = 8`, `INSERT INTO t VALUES (200, 'extra')`)
	corrected := func(n int) func() bool {
		return func() bool {
			return value[bool](t, replica, `SELECT count(*) = $1 AND bool_and(closed_at IS NOT NULL) FROM trickle.corrections`, n)
		}
	}
	p.says(t, "verifying")
	await(t, patience, "drift is corrected from the standby", corrected(3))

	// The standby is cut off, and CDC delivers what it will never have. Nobody can say how far the standby is, so nothing is set back.
	if err := standby.Detach(ctx); err != nil {
		t.Fatal(err)
	}
	old.exec(t, `UPDATE t SET v = 'lost' WHERE id = 7`, `INSERT INTO t VALUES (300, 'lost')`)
	await(t, patience, "CDC has delivered what will be lost", has("lost"))
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := standby.Promote(ctx); err != nil {
		t.Fatal(err)
	}
	// A promotion leaves connections open; whoever moves the address cuts them.
	promoted := connect(t, standby.DSN("shop"))
	promoted.exec(t, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'trickle source'`)
	p.says(t, "the source is another server now")
	await(t, patience, "the gate says that the source failed over", func() bool {
		return strings.Contains(status(t, policy, replica.dsn).Gate.Reason, "timeline 2")
	})
	await(t, patience, "the difference is seen", func() bool { return table(status(t, policy, replica.dsn), "public.t").Suspects > 0 })
	if !has("lost")() || !corrected(3)() {
		t.Error("something was corrected before CDC ran from the new primary")
	}

	replica.exec(t, `ALTER SUBSCRIPTION before DISABLE`, `ALTER SUBSCRIPTION before SET (slot_name = NONE)`, `DROP SUBSCRIPTION before`)
	subscribe(standby, "after", " WITH (copy_data = false)")
	await(t, patience, "what the new primary lacks is corrected", corrected(5))
	d := desk{t: t, src: promoted, dst: replica}
	d.corrected("public.t")
	if code := p.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("it ends with %d", code)
	}
}
