package diff_test

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/diff"
	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/postgres"
)

func TestMain(m *testing.M) {
	// A check builds two tables of up to some thousand rows: fewer than rapid's hundred, unless the command line says otherwise.
	if err := flag.Set("rapid.checks", "30"); err != nil {
		panic(err)
	}
	pgtest.Main(m)
}

const patience = time.Minute

// pair is a source and a replica.
type pair struct{ source, replica *pgxpool.Pool }

// newPair makes two empty databases.
func newPair(t testing.TB) pair {
	t.Helper()
	return pair{open(t, pgtest.Database(t)), open(t, pgtest.Database(t))}
}

// open connects as trickle diff does for three jobs.
func open(t testing.TB, dsn string) *pgxpool.Pool {
	t.Helper()
	pool, err := postgres.Open(t.Context(), dsn, postgres.Options{Role: "test", Setting: "--test", MaxConns: 7})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// fataler is what testing.TB and *rapid.T have in common.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// exec runs scripts.
func exec(t fataler, pool *pgxpool.Pool, statements ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, sql := range statements {
		conn, err := pool.Acquire(ctx)
		if err != nil {
			t.Fatalf("%v", err)
		}
		_, err = conn.Conn().PgConn().Exec(ctx, sql).ReadAll()
		conn.Release()
		if err != nil {
			t.Fatalf("%.300s: %v", sql, err)
		}
	}
}

// both runs scripts on both sides.
func (p pair) both(t fataler, statements ...string) {
	t.Helper()
	exec(t, p.source, statements...)
	exec(t, p.replica, statements...)
}

// table names the same table on both sides.
func table(name string) diff.Table {
	return diff.Table{Source: postgres.ParseName(name), Replica: postgres.ParseName(name)}
}

// listing gathers differences: kind and key, and the names of the columns that differ.
type listing struct {
	mu    sync.Mutex
	found map[string][]string
	whole []diff.Difference
}

func newListing() *listing { return &listing{found: make(map[string][]string)} }

func (l *listing) add(_ diff.Table, d diff.Difference) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	values := make([]string, len(d.Key))
	for i, f := range d.Key {
		values[i] = f.Value
	}
	id := entry(d.Kind, values...)
	if _, ok := l.found[id]; ok {
		return fmt.Errorf("%s was found twice", id)
	}
	l.found[id] = []string{}
	for _, c := range d.Columns {
		l.found[id] = append(l.found[id], c.Name)
	}
	l.whole = append(l.whole, d)
	return nil
}

// ids are the entries, sorted.
func (l *listing) ids() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]string, 0, len(l.found))
	for id := range l.found {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

func entry(kind drift.Kind, key ...string) string {
	return string(kind) + " " + strings.Join(key, "|")
}

// compare compares one table of the pair, and fails where that fails.
func (p pair) compare(t testing.TB, table diff.Table, o diff.Options) (diff.Result, *listing) {
	t.Helper()
	l := newListing()
	if o.Found == nil {
		o.Found = l.add
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := diff.New(p.source, p.replica, o).Table(ctx, table)
	if err != nil {
		t.Fatal(err)
	}
	return r, l
}

// counts are what a result found.
type counts struct{ rows, missing, mismatched, extra, unsettled int64 }

func of(r diff.Result) counts {
	return counts{r.Rows, r.Missing, r.Mismatched, r.Extra, r.Unsettled}
}

// eventually polls until check returns nil, or fails with what it last returned.
func eventually(t testing.TB, within time.Duration, check func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v: %v", within, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
