package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/internal/testbed/proxy"
)

// mount puts a version of a file where Kubernetes would for a ConfigMap: the file is a link through ..data, which is swapped.
func mount(t *testing.T, dir, version, text string) {
	t.Helper()
	err := errors.Join(
		os.Mkdir(filepath.Join(dir, version), 0o755), os.WriteFile(filepath.Join(dir, version, "policy.yaml"), []byte(text), 0o644),
		os.Symlink(version, filepath.Join(dir, "..data_tmp")), os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	if err != nil {
		t.Fatal(err)
	}
}

// As a pod lives: started before its database can be reached, at work, its database away, its policy edited rightly and wrongly, ended. It is one process
// all the time, and the probes tell each of it.
func TestAPodsLife(t *testing.T) {
	t.Parallel()
	d := newDesk(t, pgtest.Server(t, testbed.Options{}))
	u, err := url.Parse(d.src.dsn)
	if err != nil {
		t.Fatal(err)
	}
	link, err := proxy.Listen(u.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()
	u.Host = link.Address()
	link.Cut()
	replica, err := url.Parse(d.dst.dsn)
	if err != nil {
		t.Fatal(err)
	}
	far, err := proxy.Listen(replica.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	replica.Host = far.Address()

	dir := t.TempDir()
	d.policy = filepath.Join(dir, "policy.yaml")
	mount(t, dir, "..1", plainPolicy)
	if err := os.Symlink("..data/policy.yaml", d.policy); err != nil {
		t.Fatal(err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	p := d.single("--source", u.String(), "--replica", replica.String(), "--listen", address, "--wait", "10m", "--log-level", "warn")
	get := func(path string) (code int, text string) {
		t.Helper()
		answer, err := http.Get("http://" + address + path)
		if err != nil {
			return 0, err.Error()
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, strings.TrimSpace(string(body))
	}
	probes := func(what string, startup, ready string) {
		t.Helper()
		for path, want := range map[string]string{"/startupz": startup, "/readyz": ready, "/livez": "ok"} {
			code, text := get(path)
			if (code == http.StatusOK) != (want == "ok") || !strings.HasPrefix(text, want) {
				t.Errorf("%s: %s answers %d %q, want %s", what, path, code, text, want)
			}
		}
	}

	p.says(t, "waiting to start")
	probes("the source is away at the start", "starting: waiting: source database", "starting: waiting: source database")
	link.Restore()
	ready := func() bool {
		code, _ := get("/readyz")
		page, _ := get("/status.json")
		return code == http.StatusOK && page == http.StatusOK
	}
	await(t, patience, "it is ready", ready)
	probes("at work", "ok", "ok")
	_, loops := get("/livez?verbose")
	for _, name := range []string{
		"the scan", "sampling the source's transactions", "answering requests", "reading verification messages", "settling suspects",
		"confirming abandoned corrections", "keeping the ledger", "taking old lines out of the journal", "hearing the publisher's answers", "resyncing",
	} {
		if !strings.Contains(loops, "\n"+name+": ") {
			t.Errorf("nobody watches whether this is stuck: %s; only\n%s", name, loops)
		}
	}
	for _, of := range []string{"replication slot", "sink's group"} {
		if strings.Contains(loops, of) {
			t.Errorf("the policy names no %s, and a loop for it is listed:\n%s", of, loops)
		}
	}
	// The replica goes away before anybody has looked: one sentence says so, and what this process knows of the source is there.
	far.Cut()
	where := fmt.Sprintf("replica database %q at %s", strings.TrimPrefix(replica.Path, "/"), far.Address())
	await(t, patience, "status.json says that the replica is away", func() bool {
		code, text := get("/status.json")
		return code == http.StatusServiceUnavailable && strings.HasPrefix(text, where) && !strings.Contains(text, "failed to connect")
	})
	code, text := get("/")
	text = html.UnescapeString(text)
	for _, want := range []string{where, "no news of the replica yet", "Key space, by age of verification", "Scan of the source", "public.t"} {
		if code != http.StatusServiceUnavailable || !strings.Contains(text, want) {
			t.Errorf("while the replica is away / answers %d without %q", code, want)
		}
	}
	probes("the replica is away", "ok", "ok")
	far.Restore()
	await(t, patience, "the page is whole again", func() bool {
		code, text := get("/")
		return code == http.StatusOK && strings.Contains(text, "Last corrections")
	})
	link.Cut()
	p.says(t, "the scan can't go on")
	probes("the source is away", "ok", "ok")
	link.Restore()

	type state struct {
		Policy struct{ Version, Refused string }
	}
	status := func() (s state) {
		t.Helper()
		code, text := get("/status.json")
		if err := json.Unmarshal([]byte(text), &s); err != nil || code != http.StatusOK {
			t.Fatalf("/status.json answers %d: %v: %s", code, err, text)
		}
		return s
	}
	before := status().Policy
	began := time.Now()
	mount(t, dir, "..2", strings.Replace(plainPolicy, "schedule: {cycle: 2s}", "schedule: {cycle: 3s}", 1))
	await(t, 10*time.Second, "an edit is in force", func() bool { return status().Policy.Version != before.Version })
	t.Logf("an edit was in force after %s", time.Since(began).Round(100*time.Millisecond))
	edited := status().Policy
	mount(t, dir, "..3", strings.Replace(plainPolicy, "schedule: {cycle: 2s}", "schedule: {cycle: soon}", 1))
	await(t, 10*time.Second, "an invalid edit is refused", func() bool { return status().Policy.Refused != "" })
	if now := status().Policy; now.Version != edited.Version || !strings.Contains(now.Refused, "schedule.cycle") {
		t.Errorf("a refused edit shows as %+v, while %s was in force", now, edited.Version)
	}
	if _, text := get("/metrics"); !strings.Contains(text, "trickle_policy_refused{") || strings.Contains(text, `trickle_policy_refused{pipeline="desk"} 0`) {
		t.Error("the metrics do not show that an edit was refused")
	}
	p.says(t, "the old one stays in force")
	probes("an edit was refused", "ok", "ok")
	if code := p.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("it ended with %d", code)
	}
}
