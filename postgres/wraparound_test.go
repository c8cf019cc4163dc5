package postgres_test

import (
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
)

// Two thousand million transactions later a version has no order any more with one of before: what was read then says nothing, and frozen
// rows, which keep their raw versions, are old however young they look.
func TestVersionsThatCameRound(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "trickle-wrap-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	first := pgtest.Server(t, testbed.Options{Dir: dir})
	pool := open(t, first.DSN("postgres"))
	exec(t, pool, `CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT i, 'x' FROM generate_series(1, 5) i`)
	before, at := scan(t, pool, describe(t, pool, "public.t", postgres.Rules{}), postgres.ScanOptions{Everything: true})
	for _, database := range []string{"postgres", "template1"} {
		frozen := open(t, first.DSN(database))
		exec(t, frozen, `VACUUM (FREEZE)`)
		frozen.Close()
	}
	pool.Close()
	if err := first.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	const page = 32768 // transactions on one page of the commit log, which must begin with the next one
	jump(t, dir, 2_200_000_000/page*page)

	pool = open(t, pgtest.Server(t, testbed.Options{Dir: dir, Settings: map[string]string{"autovacuum": "off"}}).DSN("postgres"))
	l := describe(t, pool, "public.t", postgres.Rules{})
	known := &postgres.Known{Print: before.Print, Xmin: at.Xmin}
	exec(t, pool, `UPDATE t SET v = 'y' WHERE id = 1`)
	truth, now := scan(t, pool, l, postgres.ScanOptions{Everything: true})
	if now.Xmax-at.Xmin < 2_147_483_648 {
		t.Fatalf("only %d transactions have passed", now.Xmax-at.Xmin)
	}
	if truth.Print == before.Print || truth.Rows != 5 {
		t.Fatalf("%+v, before %+v", truth, before)
	}
	if s, _ := scan(t, pool, l, postgres.ScanOptions{Everything: true, Known: known}); s.Unchanged || s.Print != truth.Print {
		t.Errorf("an update passes for nothing: %+v, in truth %+v", s, truth)
	}
	if s, _ := scan(t, pool, l, postgres.ScanOptions{Settled: postgres.Settled{Xmin: now.Xmin - 10}}); s.Print.Rows != 4 || fmt.Sprint(s.LeftOut) != "[1]" {
		t.Errorf("frozen rows are old and the written one is not: %+v", s)
	}
	rows := settledRows(t, pool, l, now.Xmin)
	if rows != 5 {
		t.Errorf("%d of 5 rows are settled", rows)
	}
}

func settledRows(t *testing.T, pool *pgxpool.Pool, l *postgres.Layout, xmin uint64) (n int) {
	t.Helper()
	for _, r := range read(t, pool, l, message.Range{}, postgres.Want{Digest: digest.Record, Settled: postgres.Settled{Xmin: xmin}}) {
		if r.Settled {
			n++
		}
	}
	return n
}

// jump moves the next transaction of a stopped server.
func jump(t *testing.T, dir string, xid int) {
	t.Helper()
	binaries, err := testbed.FindBinaries(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	info, err := os.Stat(data)
	if err != nil {
		t.Fatal(err)
	}
	cmd := osexec.CommandContext(t.Context(), filepath.Join(binaries, "pg_resetwal"), "-f", "-x", fmt.Sprint(xid), "-u", fmt.Sprint(xid-1000), "-D", data)
	cmd.Dir = data
	owner := info.Sys().(*syscall.Stat_t)
	if int(owner.Uid) != os.Getuid() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
