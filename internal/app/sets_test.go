package app

import (
	"net/url"
	"testing"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
)

// A set that another major version can't be held against is refused there, and what the refusal says to do helps: here the versions differ in how they keep text, too.
func TestRestoreIntoAnotherVersion(t *testing.T) {
	t.Parallel()
	r := newRestoreRig(t)
	r.exec(r.src, `UPDATE t SET v = 'Müller' WHERE id = 3`)
	there := pgtest.DatabaseOf(t, 18)
	pgtest.Exec(t, there, "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
	t.Cleanup(func() { pgtest.Exec(t, there, "DROP DATABASE latin WITH (FORCE)") })
	u, err := url.Parse(there)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/latin"
	r.settings.ReplicaDSN = u.String()
	r.dst = r.open(u.String())
	r.publish()

	if _, err := BaselineBuild(t.Context(), r.settings, BuildOptions{}); err != nil {
		t.Fatal(err)
	}
	r.refused(RestoreOptions{PlayForward: true, Jobs: 2}, "trickle baseline build --digest portable")
	if there := r.value(r.dst, `SELECT to_regclass('public.t')`); there != "" {
		t.Error("the table was made")
	}
	built, err := BaselineBuild(t.Context(), r.settings, BuildOptions{Digest: digest.Portable})
	if err != nil || built.Objects.Reused != 0 {
		t.Fatalf("%+v, %v", built, err)
	}
	r.change(5, "changed")
	report, err := r.restore(RestoreOptions{PlayForward: true, Jobs: 2})
	if err != nil {
		t.Fatal(err)
	}
	if report.Set.Set != built.Set || !report.Sound() || report.Proof == nil || !report.Proof.Proven {
		t.Errorf("%+v\n%+v", report, report.Proof)
	}
	const all = `SELECT string_agg(id || ' ' || v, ',' ORDER BY id) FROM t`
	if r.value(r.src, all) != r.value(r.dst, all) {
		t.Error("the rows differ")
	}
}
