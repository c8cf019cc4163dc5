package check_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/check"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/scanner"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const patience = 2 * time.Minute

var counter atomic.Int64

// desk is a source and a replica in which all is well, and a role without any right but those that docs/security.md grants.
type desk struct {
	t               *testing.T
	role            string
	source, replica string // DSNs of an administrator
	policy          string
	ask             check.Publisher
	primary         *check.Side
}

const plain = "pipeline: shop\ntables: [{table: public.*}]\n"

// newDesk makes one with the sides that are named.
func newDesk(t *testing.T, sides string) *desk {
	t.Helper()
	d := &desk{t: t, role: fmt.Sprintf("Checked %d-%d", os.Getpid(), counter.Add(1)), policy: plain + "gate: {assume_lag: 1m}\n"}
	role := pgx.Identifier{d.role}.Sanitize()
	make := func() string {
		dsn := pgtest.Database(t)
		pgtest.Exec(t, dsn, `DO $$ BEGIN IF to_regrole('`+role+`') IS NULL THEN CREATE ROLE `+role+` LOGIN; GRANT pg_read_all_stats TO `+role+`; END IF; END $$`,
			"REVOKE ALL ON SCHEMA public FROM PUBLIC; GRANT USAGE ON SCHEMA public TO "+role,
			`CREATE TABLE orders (id int PRIMARY KEY, customer text NOT NULL, amount numeric(12,2))`)
		return dsn
	}
	if strings.Contains(sides, "source") {
		d.source = make()
		pgtest.Exec(t, d.source, "GRANT SELECT ON orders TO "+role)
	}
	if strings.Contains(sides, "replica") {
		d.replica = make()
		pgtest.Exec(t, d.replica, "GRANT SELECT, INSERT, UPDATE, DELETE ON orders TO "+role, "CREATE SCHEMA trickle AUTHORIZATION "+role)
	}
	t.Cleanup(func() {
		last := ""
		for _, dsn := range []string{d.source, d.replica} {
			if dsn != "" {
				pgtest.Exec(t, dsn, "DROP OWNED BY "+role+" CASCADE")
				last = dsn
			}
		}
		pgtest.Exec(t, last, "DROP ROLE "+role)
	})
	return d
}

// as is a DSN with the desk's role in the place of the administrator.
func (d *desk) as(dsn string) string {
	u, err := url.Parse(dsn)
	if err != nil {
		d.t.Fatal(err)
	}
	u.User = url.User(d.role)
	return u.String()
}

func (d *desk) load() *policy.Policy {
	d.t.Helper()
	file := filepath.Join(d.t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte(d.policy), 0o600); err != nil {
		d.t.Fatal(err)
	}
	p, _, err := policy.Load(file)
	if err != nil {
		d.t.Fatal(err)
	}
	return p
}

func (d *desk) side(name, dsn string) check.Side {
	return check.Side{Name: name, Setting: "--" + name, Open: func(ctx context.Context) (*pgxpool.Pool, error) {
		pool, err := postgres.Open(ctx, dsn, postgres.Options{Role: name, Setting: "--" + name, MaxConns: 4})
		if err == nil {
			d.t.Cleanup(pool.Close)
		}
		return pool, err
	}}
}

// look runs the preflight of both sides, or of one.
func (d *desk) look(sides string) check.Report {
	d.t.Helper()
	p := d.load()
	var checks []check.Check
	var source *check.Source
	if strings.Contains(sides, "source") {
		source = check.NewSource(d.side("source", d.as(d.source)), p, scanner.Rules)
		source.Primary = d.primary
		checks = append(checks, source.Checks()...)
	}
	if strings.Contains(sides, "replica") {
		replica := check.NewReplica(d.side("replica", d.as(d.replica)), p, scanner.Rules)
		replica.Source, replica.Publisher = source, d.ask
		checks = append(checks, replica.Checks()...)
	}
	return check.Run(d.t.Context(), checks, patience)
}

// bad are the findings of a check about an object that are not ok.
func bad(r check.Report, group, name, object string) []check.Finding {
	var out []check.Finding
	for _, f := range r.Checks {
		if f.Group == group && f.Check == name && f.Object == object && f.Verdict != check.OK {
			out = append(out, f)
		}
	}
	return out
}

func lines(r check.Report) string {
	var b strings.Builder
	for _, f := range r.Checks {
		fmt.Fprintf(&b, "%s / %s / %s: %s: %s\n    fix: %s\n", f.Group, f.Check, f.Object, f.Verdict, f.Detail, f.Fix)
	}
	return b.String()
}

// fault is something that is wrong, what finds it, and whether what it prints mends it.
type fault struct {
	name            string
	policy          string // in place of the plain one
	source, replica []string
	sides           string // default "source"
	group, check    string
	object          string
	verdict         check.Verdict // default failure
	// mend is where the fix is run, in the words that were printed: "source" or "replica". Empty: the fix is no SQL, and says this.
	mend string
	says string
}

func (f fault) test(t *testing.T) {
	t.Helper()
	if f.sides == "" {
		f.sides = "source"
	}
	d := newDesk(t, f.sides)
	if f.policy != "" {
		d.policy = f.policy
	}
	fill := strings.NewReplacer("$role", pgx.Identifier{d.role}.Sanitize())
	if f.verdict == "" {
		f.verdict = check.Failure
	}
	for dsn, statements := range map[string][]string{d.source: f.source, d.replica: f.replica} {
		for _, sql := range statements {
			pgtest.Exec(t, dsn, fill.Replace(sql))
		}
	}
	broken := d.look(f.sides)
	found := bad(broken, f.group, f.check, f.object)
	if len(found) == 0 {
		t.Fatalf("nothing was found:\n%s", lines(broken))
	}
	for _, one := range found {
		if one.Verdict != f.verdict {
			t.Errorf("verdict %s and not %s: %s", one.Verdict, f.verdict, one.Detail)
		}
		if one.Fix == "" && one.Verdict != check.NotChecked {
			t.Errorf("no fix for: %s", one.Detail)
		}
	}
	if broken.OK != (f.verdict != check.Failure) && f.verdict != check.NotChecked { // something else failed before
		t.Errorf("ok is %t:\n%s", broken.OK, lines(broken))
	}
	if f.mend == "" {
		if !strings.Contains(found[0].Detail+" "+found[0].Fix, f.says) || f.says == "" {
			t.Errorf("neither %q nor its fix %q says %q", found[0].Detail, found[0].Fix, f.says)
		}
		return
	}
	at := map[string]string{"source": d.source, "replica": d.replica}[f.mend]
	for _, one := range found {
		sql := one.Fix
		if i := strings.LastIndex(sql, ", "); i > 0 && strings.Contains(sql[i:], " the ") || strings.Contains(sql[max(i, 0):], "leave it") {
			sql = sql[:i] // what follows is for people
		}
		pgtest.Exec(t, at, strings.Split(sql, "; ")...)
	}
	mended := d.look(f.sides)
	for _, one := range bad(mended, f.group, f.check, f.object) {
		if one.Verdict == f.verdict { // what was a failure may leave a warning behind it
			t.Errorf("after %q:\n%s", found[0].Fix, lines(mended))
		}
	}
}
