package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/trickle-verify/trickle/internal/app"
	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/internal/testbed/s3"
)

const viewPolicy = `
pipeline: shop
tables: [{table: public.*}]
gate: {assume_lag: 1s}
privacy: {keys: show}
baseline: {url: "%s", topics: ["cdc.*"], object: 64KiB, keep: 1}
`

// vault is a source, a replica, a broker with CDC's topics, and a place for the base-line view.
type vault struct {
	*desk
	brokers string
	env     []string
}

func newVault(t *testing.T, url string) *vault {
	t.Helper()
	v := &vault{desk: newDesk(t, pgtest.Server(t, testbed.Options{}))}
	broker, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, "cdc.public.t", "cdc.public.big"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	v.brokers = broker.ListenAddrs()[0]
	v.policy = writeFile(t, "policy.yaml", fmt.Sprintf(viewPolicy, url))
	return v
}

func (v *vault) baseline(what string, args ...string) command {
	args = append([]string{"baseline", what, "--policy", v.policy}, args...)
	if what == "build" {
		args = append(args, "--source", v.src.dsn, "--brokers", v.brokers)
	}
	return trickle(args...).with(v.env...)
}

// delivered writes an event to CDC's topic.
func (v *vault) delivered(t *testing.T, key, value string) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(v.brokers))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.ProduceSync(t.Context(), &kgo.Record{Topic: "cdc.public.t", Key: []byte(key), Value: []byte(value)}).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// says runs a command that prints JSON.
func says[T any](t *testing.T, code int, c command) (out T) {
	t.Helper()
	c.args = append(c.args, "--format", "json")
	got, stdout, stderr := run(t, c)
	if err := json.Unmarshal([]byte(stdout), &out); got != code || err != nil {
		t.Fatalf("%s ends with %d, not %d (%v)\n%s\n%s", strings.Join(c.args, " "), got, code, err, stdout, stderr)
	}
	return out
}

// Sets are built, listed and verified, on a folder and on a real S3 server.
func TestBaseline(t *testing.T) {
	t.Parallel()
	server, err := s3.Start(t.Context(), "bucket")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop(context.WithoutCancel(t.Context())) })
	var account []string
	for key, value := range s3.Environ() {
		account = append(account, key+"="+value)
	}
	for name, c := range map[string]struct {
		url string
		env []string
	}{
		"folder": {"file://" + filepath.ToSlash(filepath.Join(t.TempDir(), "view")), nil},
		"s3":     {server.URL("bucket", nil), account},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVault(t, c.url)
			v.env = c.env
			if sets := says[[]app.ListedSet](t, 1, v.baseline("list")); len(sets) != 0 {
				t.Errorf("%+v", sets)
			}
			built := says[app.BuiltSet](t, 0, v.baseline("build"))
			if len(built.Tables) != 1 || built.Rows != 100 || built.Objects.New != 1 || built.Bytes == 0 || built.Seconds <= 0 {
				t.Errorf("%+v", built)
			}
			again := says[app.BuiltSet](t, 0, v.baseline("build"))
			if again.Objects.Reused != 1 || again.Objects.New != 0 || again.Removed.Sets != 1 || again.Removed.Objects != 0 {
				t.Errorf("%+v", again)
			}
			sets := says[[]app.ListedSet](t, 0, v.baseline("list", "--brokers", v.brokers))
			if len(sets) != 1 || sets[0].Set != again.Set || sets[0].Rows != 100 || sets[0].Valid == nil || !*sets[0].Valid || sets[0].Taken.IsZero() {
				t.Errorf("%+v", sets)
			}
			if code, stdout, stderr := run(t, v.baseline("verify")); code != 0 || !strings.Contains(stdout, "is sound; checked: size, SHA-256") || strings.Contains(stdout, "thumbprints") {
				t.Errorf("%d\n%s\n%s", code, stdout, stderr)
			}
			v.src.exec(t, `UPDATE t SET v = 'new' WHERE id = 5`)
			v.dst.exec(t, `UPDATE t SET v = 'drift' WHERE id = 6`)
			seen := says[app.VerifiedSet](t, 0, v.baseline("verify", "--against", "source", "--source", v.src.dsn))
			if a := seen.Tables[0].Against; !seen.Sound || a.Differ != 1 || a.Since != 1 || a.Unproven != 0 || a.Proven != 1 {
				t.Errorf("%+v", a)
			}
			seen = says[app.VerifiedSet](t, 1, v.baseline("verify", "--against", "replica", "--replica", v.dst.dsn))
			if a := seen.Tables[0].Against; seen.Sound || a.Unproven != 1 || len(a.Listed) != 1 || a.Listed[0].Key != "6" {
				t.Errorf("%+v", a)
			}
			// CDC brought row 6 since; nothing brought row 7.
			v.delivered(t, `{"id":6}`, `{"before":null,"after":{"id":6,"v":"drift"},"op":"u","ts_ms":1,"source":{"connector":"postgresql","db":"shop","schema":"public","table":"t","txId":1,"lsn":2,"ts_ms":1,"sequence":"[\"1\",\"2\"]"}}`)
			v.dst.exec(t, `DELETE FROM t WHERE id = 7`)
			seen = says[app.VerifiedSet](t, 1, v.baseline("verify", "--against", "replica", "--replica", v.dst.dsn, "--brokers", v.brokers))
			if a := seen.Tables[0].Against; a.Unproven != 1 || a.Since != 1 || len(a.Listed) != 1 || a.Listed[0].Key != "7" {
				t.Errorf("%+v", a)
			}
		})
	}
}

// A flipped bit, a missing object, a manifest that was cut off or belongs to another: each is found and named.
func TestBaselineThatIsDamaged(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "view")
	v := newVault(t, "file://"+filepath.ToSlash(folder))
	built := says[app.BuiltSet](t, 0, v.baseline("build"))
	manifest := filepath.Join(folder, "shop", "sets", built.Set+".json")
	objects, err := filepath.Glob(filepath.Join(folder, "shop", "objects", "public.t", "*.zst"))
	if err != nil || len(objects) != 1 {
		t.Fatalf("%q, %v", objects, err)
	}
	object := objects[0]
	damage := func(path string, how func([]byte) []byte) (mend func()) {
		was, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if now := how(append([]byte(nil), was...)); now == nil {
			err = os.Remove(path)
		} else {
			err = os.WriteFile(path, now, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		return func() {
			if err := os.WriteFile(path, was, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, c := range map[string]struct {
		path string
		how  func([]byte) []byte
		says string
	}{
		"a flipped bit":    {object, func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, "SHA-256"},
		"a missing object": {object, func([]byte) []byte { return nil }, "missing"},
	} {
		mend := damage(c.path, c.how)
		seen := says[app.VerifiedSet](t, 1, v.baseline("verify"))
		if len(seen.Faults) != 1 || !strings.Contains(seen.Faults[0], c.says) || !strings.Contains(seen.Faults[0], filepath.Base(object)) {
			t.Errorf("%s: %q", name, seen.Faults)
		}
		mend()
	}
	mend := damage(manifest, func(b []byte) []byte { return b[:len(b)/2] })
	if code, stdout, stderr := run(t, v.baseline("verify")); code != 2 || stdout != "" || !strings.Contains(stderr, built.Set) || !strings.Contains(stderr, "cut off") {
		t.Errorf("%d\n%s\n%s", code, stdout, stderr)
	}
	if sets := says[[]app.ListedSet](t, 1, v.baseline("list")); len(sets) != 1 || sets[0].State != app.SetUnreadable || !strings.Contains(sets[0].Reason, "cut off") {
		t.Errorf("%+v", sets)
	}
	mend()
	if code, _, stderr := run(t, v.baseline("verify").with("TRICKLE_SIGNING_KEY=secret")); code != 2 || !strings.Contains(stderr, "not signed") {
		t.Errorf("%d\n%s", code, stderr)
	}
	if code, _, stderr := run(t, v.baseline("verify", "--against", "source", "--source", v.dst.dsn)); code != 2 || !strings.Contains(stderr, "source") || !strings.Contains(stderr, built.Set) {
		t.Errorf("another source: %d\n%s", code, stderr)
	}
	// A set of another pipeline, put where this one's are.
	other := strings.Replace(fmt.Sprintf(viewPolicy, "file://"+filepath.ToSlash(folder)), "pipeline: shop", "pipeline: other", 1)
	b, err := os.ReadFile(manifest)
	if err == nil {
		err = os.MkdirAll(filepath.Join(folder, "other", "sets"), 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(folder, "other", "sets", built.Set+".json"), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	v.policy = writeFile(t, "other.yaml", other)
	if code, _, stderr := run(t, v.baseline("verify")); code != 2 || !strings.Contains(stderr, `"shop"`) || !strings.Contains(stderr, built.Set) {
		t.Errorf("another pipeline: %d\n%s", code, stderr)
	}
}

// A build that is killed goes on where it was, and what was complete before stays so.
func TestBaselineBuildIsKilled(t *testing.T) {
	t.Parallel()
	folder := filepath.Join(t.TempDir(), "view")
	v := newVault(t, "file://"+filepath.ToSlash(folder))
	first := says[app.BuiltSet](t, 0, v.baseline("build"))
	v.src.exec(t, `CREATE TABLE big (id int PRIMARY KEY, v text)`, `INSERT INTO big SELECT i, repeat(md5(i::text), 4) FROM generate_series(1, 150000) i`, `ANALYZE big`)
	p := start(t, v.baseline("build"))
	await(t, patience, "a checkpoint names objects of the table", func() bool {
		found, _ := filepath.Glob(filepath.Join(folder, "shop", "sets", "*.partial.json"))
		for _, path := range found {
			if b, err := os.ReadFile(path); err == nil && strings.Contains(string(b), "objects/public.big/") {
				return true
			}
		}
		return !p.running()
	})
	p.kill()
	if code := p.cmd.ProcessState.ExitCode(); code != -1 {
		t.Fatalf("the build ended with %d before it could be killed: %s", code, tail(p.stderr.String()))
	}
	sets := says[[]app.ListedSet](t, 0, v.baseline("list"))
	if len(sets) != 2 || sets[0].State != app.SetUnderWay || sets[1].Set != first.Set {
		t.Fatalf("%+v", sets)
	}
	again := says[app.BuiltSet](t, 0, v.baseline("build"))
	if again.Rows != 150100 || again.Objects.Reused < 2 {
		t.Errorf("%+v", again)
	}
	if seen := says[app.VerifiedSet](t, 0, v.baseline("verify", "--against", "source", "--source", v.src.dsn)); seen.Tables[0].Against.Differ+seen.Tables[1].Against.Differ != 0 {
		t.Errorf("%+v", seen)
	}
}

// What is missing is said before anything is read.
func TestBaselineRefusals(t *testing.T) {
	t.Parallel()
	v := newVault(t, "file://"+filepath.ToSlash(t.TempDir()))
	for says, c := range map[string]command{
		"baseline.url":            trickle("baseline", "list", "--policy", writeFile(t, "none.yaml", plainPolicy)),
		"--brokers":               trickle("baseline", "build", "--policy", v.policy, "--source", v.src.dsn),
		"takes source or replica": v.baseline("verify", "--against", "both"),
		"trickle baseline build":  v.baseline("verify"),
		"trickle baseline list":   v.baseline("verify", "--set", "nonsense"),
		"baseline.topics":         trickle("baseline", "build", "--policy", writeFile(t, "n.yaml", strings.Replace(fmt.Sprintf(viewPolicy, "mem://"), `topics: ["cdc.*"], `, `topics: ["nothing.*"], `, 1)), "--source", v.src.dsn, "--brokers", v.brokers),
		"TRICKLE_SOURCE_DSN":      trickle("baseline", "build", "--policy", v.policy, "--brokers", v.brokers),
		"no policy given":         trickle("baseline", "list"),
		"a number from 0 on":      v.baseline("verify", "--limit", "-1"),
	} {
		if code, stdout, stderr := run(t, c); code != 2 || stdout != "" || !strings.Contains(stderr, says) {
			t.Errorf("%s: %d\n%s\n%s", says, code, stdout, stderr)
		}
	}
}
