package replica_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/replica"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const table = "public.t"

// pair is a source and a replica of one table, with a ledger.
type pair struct {
	*testing.T
	source, target *pgxpool.Pool
	layout         *postgres.Layout
	replica        *replica.Replica
	ledger         *ledger.Ledger
	rules          postgres.Rules
	writing        replica.Writing
}

// options of a pair beyond its table.
type options struct {
	replicaDDL string // where it is another than the source's
	rules      postgres.Rules
	journal    func(*ledger.Ledger) replica.Journal
}

func newPair(t *testing.T, ddl string, o options) *pair {
	t.Helper()
	p := &pair{T: t, source: open(t), target: open(t), rules: o.rules}
	p.writing = replica.Writing{Brake: ledger.Limits{Deletes: 1000, Corrections: 10_000, Window: time.Hour}}
	p.ledger = ledger.New(p.target, "p")
	if err := p.ledger.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if o.replicaDDL == "" {
		o.replicaDDL = ddl
	}
	p.on(p.source, ddl)
	p.on(p.target, o.replicaDDL)
	var journal replica.Journal = p.ledger
	if o.journal != nil {
		journal = o.journal(p.ledger)
	}
	p.replica = replica.New(p.target, journal, replica.Options{
		Map: func(name string) (replica.Mapping, bool) {
			return replica.Mapping{Name: postgres.ParseName(table), Rules: o.rules}, name == table
		},
		Write: func() replica.Writing { return p.writing },
	})
	p.fit()
	return p
}

func open(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool, err := postgres.Open(t.Context(), pgtest.Database(t), postgres.Options{Role: "replica", Setting: "--replica", MaxConns: 6})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func (p *pair) fit() {
	p.Helper()
	var err error
	if p.layout, err = postgres.NewSource(p.source).Describe(p.Context(), postgres.ParseName(table), p.rules); err != nil {
		p.Fatal(err)
	}
	if _, err := p.replica.Fit(p.Context(), table, p.layout.Schema); err != nil {
		p.Fatal(err)
	}
}

// on runs a script.
func (p *pair) on(pool *pgxpool.Pool, sql string) {
	p.Helper()
	conn, err := pool.Acquire(p.Context())
	if err != nil {
		p.Fatal(err)
	}
	defer conn.Release()
	if _, err := conn.Conn().PgConn().Exec(p.Context(), sql).ReadAll(); err != nil {
		p.Fatalf("%.300s: %v", sql, err)
	}
}

func keys(ids ...string) []message.Key {
	out := make([]message.Key, len(ids))
	for i, id := range ids {
		out[i] = strings.Split(id, "/")
	}
	return out
}

// changes observes the replica, then refetches the source.
func (p *pair) changes(ids ...string) []drift.Change {
	p.Helper()
	observed, err := p.replica.Observe(p.Context(), table, keys(ids...), digest.Record)
	if err != nil {
		p.Fatal(err)
	}
	out := make([]drift.Change, len(ids))
	err = postgres.NewSource(p.source).Read(p.Context(), p.layout, func(c *pgconn.PgConn, _ postgres.At) error {
		rows, err := p.layout.Rows(p.Context(), c, keys(ids...), postgres.Want{Digest: digest.Record, Values: true})
		for i, row := range rows {
			out[i] = drift.Change{Replica: observed[i], Source: drift.Fetched{Present: row.Present, Version: row.Version, Digest: row.Digest, Values: row.Values}}
		}
		return err
	})
	if err != nil {
		p.Fatal(err)
	}
	return out
}

func (p *pair) write(changes []drift.Change) []drift.Outcome {
	p.Helper()
	out, err := p.replica.Write(p.Context(), table, changes, digest.Record)
	if err != nil {
		p.Fatal(err)
	}
	return out
}

// results is the outcomes' results in short: W, M, H, F.
func results(out []drift.Outcome) string {
	var b strings.Builder
	for _, o := range out {
		b.WriteByte("WMHF"[o.Result])
	}
	return b.String()
}

func (p *pair) expect(got []drift.Outcome, want string) {
	p.Helper()
	if results(got) != want {
		for i, o := range got {
			p.Logf("%d: %+v", i, o)
		}
		p.Fatalf("outcomes %s, want %s", results(got), want)
	}
	for i, o := range got {
		if (o.Result == drift.Written) != (o.Entry != 0) {
			p.Errorf("outcome %d: result %d with journal entry %d", i, o.Result, o.Entry)
		}
	}
}

// text reads one query as text, rows by newline.
func (p *pair) text(pool *pgxpool.Pool, sql string) string {
	p.Helper()
	rows, err := pool.Query(p.Context(), sql, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		p.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
		var parts []string
		for _, v := range row.RawValues() {
			if v == nil {
				parts = append(parts, "NULL")
				continue
			}
			parts = append(parts, string(v))
		}
		return strings.Join(parts, " "), nil
	})
	if err != nil {
		p.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

// same fails unless both sides hold the same rows, by digest and by text.
func (p *pair) same() {
	p.Helper()
	const all = `SELECT t::text FROM t ORDER BY 1`
	if s, r := p.text(p.source, all), p.text(p.target, all); s != r {
		p.Errorf("source:\n%.2000s\nreplica:\n%.2000s", s, r)
	}
}

func (p *pair) journal() string {
	p.Helper()
	return p.text(p.target, `SELECT kind, key::text, coalesce(before::text, '-'), coalesce(after::text, '-') FROM trickle.corrections ORDER BY id`)
}

// broken is a journal that fails.
type broken struct{ *ledger.Ledger }

func (broken) Journal(context.Context, pgx.Tx, string, []ledger.Entry) ([]int64, error) {
	return nil, fmt.Errorf("the journal is broken")
}
