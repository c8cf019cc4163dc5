package ledger_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/policy"
)

// A replica in another encoding takes every reason, with what it lacks written in ASCII.
func TestReasonsInAnotherEncoding(t *testing.T) {
	t.Parallel()
	dsn := pgtest.Database(t)
	pool := open(t, dsn)
	name := one[string](t, pool, `SELECT current_database()`)
	exec(t, pool, `CREATE DATABASE `+name+`_latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'`)
	latin := open(t, strings.Replace(dsn, name, name+"_latin", 1))
	t.Cleanup(func() {
		latin.Close()
		if _, err := pool.Exec(context.WithoutCancel(t.Context()), `DROP DATABASE `+name+`_latin`); err != nil {
			t.Error(err)
		}
	})
	l := ledger.New(latin, "p")
	ctx := t.Context()
	must(t, l.Migrate(ctx))
	must(t, l.Table(ctx, table, "cache.t"))
	const reason = "key …: “no” щ"
	must(t, l.Settle(ctx, table, entry.Settled{Done: []message.Key{{"1"}}, Failed: 1, Failure: reason}))
	must(t, l.Pause(ctx, table, reason))
	must(t, l.Refused(ctx, reason))
	must(t, l.Brake(ctx, reason))
	must(t, l.SaveGate(ctx, entry.Gate{Reason: reason, Sources: []entry.GateSource{{Name: "slot", Reason: reason}}}, time.Hour, time.Time{}))
	must(t, l.SavePolicy(ctx, policy.State{Refused: reason}))
	_, err := l.Request(ctx, entry.Wish{ID: "r", Scope: entry.Full, Table: table, Reason: reason})
	must(t, err)
	must(t, l.Note(ctx, "r", reason))
	_, err = l.End(ctx, "r", reason)
	must(t, err)
	report, err := l.Report(ctx)
	must(t, err)
	if got := report.Tables[0].Paused; got != `key ...: \u201cno\u201d \u0449` {
		t.Errorf("it says %q", got)
	}
}
