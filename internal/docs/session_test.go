package docs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/child"
	"github.com/trickle-verify/trickle/internal/testbed/loopback"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
)

const (
	blockTimeout = 90 * time.Second // for one run of a block
	patience     = 60 * time.Second // for what a block has to print
	stopping     = 15 * time.Second
)

// session is a document being followed.
type session struct {
	t       *testing.T
	rig     *rig
	doc     document
	dir     string // where the blocks run
	home    string // what the session keeps beside it: the shell's state, words, logs
	socket  string
	broker  string
	swaps   *strings.Replacer
	own     bool // the document brings its servers up itself
	cluster cluster
	ports   [4]int // source, replica, publisher's status, detector's status

	mu      sync.Mutex
	running map[string]*daemon
	found   bool   // exit status 1 of our commands is in order in this block
	typed   string // what our commands read in this block
}

// daemon is a command of ours that runs until it is stopped.
type daemon struct {
	process *child.Process
	log     string // file
}

func newSession(t *testing.T, r *rig, d document) *session {
	t.Helper()
	s := &session{t: t, rig: r, doc: d, dir: t.TempDir(), home: t.TempDir(), running: make(map[string]*daemon)}
	s.own = d.bringsServers()
	s.broker = broker(t)
	for i := range s.ports {
		port, err := loopback.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		s.ports[i] = port
	}
	s.furnish()
	link(t, r.tools, filepath.Join(s.dir, "bin"))
	link(t, filepath.Join(root, "deploy"), filepath.Join(s.dir, "deploy"))
	switch {
	case s.own:
		s.prepareServers()
	case needsDatabases(d):
		if err := r.renew(t.Context(), strings.Contains(d.text, "CREATE ROLE trickle")); err != nil {
			t.Fatal(err)
		}
	}
	s.swaps = s.replacements()
	s.socket = serve(t, s.do) // last: it sees what was set before
	t.Cleanup(s.end)
	return s
}

// bringsServers tells a document whose blocks start the servers that they are about.
func (d document) bringsServers() bool { return strings.Contains(d.text, "initdb -D") }

// needsDatabases is false for a document whose blocks call nothing that speaks to one.
func needsDatabases(d document) bool {
	return slices.ContainsFunc(d.blocks, func(b block) bool {
		return strings.HasPrefix(b.language, "sql") || strings.Contains(b.text, "trickle ") || strings.Contains(b.text, "trickle-consumer ")
	})
}

// furnish puts what a reader has into the session's folder.
func (s *session) furnish() {
	s.t.Helper()
	composed, err := os.ReadFile(filepath.Join(root, "deploy", "compose", "policy.yaml"))
	if err != nil {
		s.t.Fatal(err)
	}
	for name, text := range map[string]string{"orders.yaml": rigPolicy, "etc/orders.yaml": rigPolicy, "etc/policy.yaml": string(composed), "admin.properties": "", "var/README": ""} {
		file := filepath.Join(s.dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			s.t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
}

// rigPolicy is the file orders.yaml that the commands of most documents name.
const rigPolicy = `pipeline: orders
schedule: {cycle: 5s}
quiet: 1s
tables: [{table: public.*}]
gate: {heartbeat: {in_commit_order: true}}
`

// replacements put what is here in the place of what the reader has.
func (s *session) replacements() *strings.Replacer {
	status := func(i int) string { return fmt.Sprint("127.0.0.1:", s.ports[2+i]) }
	pairs := []string{
		"kafka-1.example:9093,kafka-2.example:9093", s.broker, "kafka:9092", s.broker, "kafka:9093", s.broker,
		"127.0.0.1:8480", status(0), "localhost:8480", status(0), "127.0.0.1:8481", status(1), "localhost:8481", status(1),
		"--settle 10s", "--settle 1s", "/etc/trickle", s.dir + "/etc", "/var/lib/trickle", s.dir + "/var", "/var/log", s.dir + "/var",
	}
	if s.own {
		pairs = append(pairs, "/tmp/shop-", s.home+"/shop-", "-h /tmp", "-h "+s.home, "host=/tmp", "host="+s.home, "-k /tmp", "-k "+s.home,
			"5501", fmt.Sprint(s.ports[0]), "5502", fmt.Sprint(s.ports[1]))
		return strings.NewReplacer(pairs...)
	}
	source, replica := s.rig.source.DSN(database), s.rig.replica.DSN(database)
	_, sourcePort, _ := strings.Cut(s.rig.source.Address(), ":")
	_, replicaPort, _ := strings.Cut(s.rig.replica.Address(), ":")
	if strings.Contains(s.doc.text, "host=standby") {
		standby := pgtest.Standby(s.t, s.rig.source, testbed.StandbyOptions{})
		pairs = append(pairs, "host=standby dbname=shop user=trickle", asTrickle(standby.DSN(database)), "host=primary dbname=shop user=trickle", asTrickle(source))
	}
	pairs = append(pairs, "postgres://trickle:change%20me@source/shop", asTrickle(source), "postgres://trickle:change%20me@replica/shop", asTrickle(replica), "postgres://trickle@source/shop", asTrickle(source), "postgres://trickle@replica/shop", asTrickle(replica),
		"-h /tmp", "-h 127.0.0.1", "host=/tmp", "host=127.0.0.1", "5501", sourcePort, "5502", replicaPort)
	return strings.NewReplacer(pairs...)
}

func asTrickle(dsn string) string { return strings.Replace(dsn, "//postgres@", "//trickle@", 1) }

// state is the shell's file of what one block leaves to the next.
func (s *session) state() string { return filepath.Join(s.home, "state") }

// shell runs commands as a reader would, behind what earlier blocks have set.
func (s *session) shell(text string) (string, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), blockTimeout)
	defer cancel()
	script := fmt.Sprintf("set -eu -o pipefail\nif [ -e %[1]q ]; then . %[1]q; fi\n%[2]s\nexport -p >%[1]q; printf 'cd %%q\\n' \"$PWD\" >>%[1]q\n", s.state(), s.swaps.Replace(text))
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Dir, cmd.Env = s.dir, s.environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (s *session) environment() []string {
	var env []string
	for _, e := range os.Environ() { // without settings that whoever runs the tests may have
		if name, _, _ := strings.Cut(e, "="); !strings.HasPrefix(name, "TRICKLE_") && !strings.HasPrefix(name, "PG") && !strings.HasPrefix(name, "OTEL_") {
			env = append(env, e)
		}
	}
	env = append(env, socketVariable+"="+s.socket, "HOME="+s.home, "PATH="+s.rig.tools+":"+s.rig.postgres+":"+os.Getenv("PATH"))
	if !s.own {
		env = append(env, "TRICKLE_SOURCE_DSN="+asTrickle(s.rig.source.DSN(database)), "TRICKLE_REPLICA_DSN="+asTrickle(s.rig.replica.DSN(database)),
			"ADMIN_SOURCE="+s.rig.source.DSN(database), "ADMIN_REPLICA="+s.rig.replica.DSN(database))
	}
	return env
}

// lines runs a block's lines one by one, as alternatives of which a reader takes one, each behind the same commands.
func (s *session) lines(text, before string) (string, error) {
	var all strings.Builder
	for line := range strings.Lines(text) {
		out, err := s.shell(before + "\n" + line)
		all.WriteString(out)
		if err != nil {
			return all.String(), fmt.Errorf("%s: %w", strings.TrimSpace(line), err)
		}
	}
	return all.String(), nil
}

// sql runs an SQL block on the sides that its fence names.
func (s *session) sql(b block) (string, error) {
	var out strings.Builder
	var err error
	sides := strings.Fields(b.language)[1:]
	if len(sides) == 0 {
		return "", errors.New("the fence does not say whether the SQL is for the source or the replica, or both")
	}
	for _, side := range sides {
		var dsn string
		switch {
		case side != "source" && side != "replica":
			return "", fmt.Errorf("there is no side %q", side)
		case s.own:
			port := s.ports[0]
			if side == "replica" {
				port = s.ports[1]
			}
			dsn = fmt.Sprintf("host=%s port=%d dbname=%s user=postgres", s.home, port, database)
		case side == "source":
			dsn = s.rig.source.DSN(database)
		default:
			dsn = s.rig.replica.DSN(database)
		}
		printed, sqlErr := s.rig.psql(s.t.Context(), dsn, s.swaps.Replace(b.text))
		out.WriteString(printed)
		err = errors.Join(err, sqlErr)
	}
	return out.String(), err
}

// run runs a block, again and again where it is to print something that takes its time.
func (s *session) run(b block, once func() (string, error)) (string, error) {
	_, found := b.marked("found")
	typed, _ := b.marked("typed")
	s.mu.Lock()
	s.found, s.typed = found, typed
	s.mu.Unlock()
	for _, mark := range b.marks {
		if hidden, ok := strings.CutPrefix(mark, "run:"); ok {
			if out, err := s.shell(hidden); err != nil {
				return out, fmt.Errorf("the run before the block: %w", err)
			}
		}
	}
	wanted, ok := b.marked("until")
	if !ok {
		return once()
	}
	var out string
	err := await(s.t.Context(), patience, func() error {
		var err error
		if out, err = once(); err != nil {
			return err
		}
		if re, err := regexp.Compile(wanted); err != nil || !re.MatchString(out) {
			return errors.Join(err, fmt.Errorf("it does not print %q", wanted))
		}
		return nil
	})
	return out, err
}

// end stops what still runs, as a reader would by Ctrl-C.
func (s *session) end() {
	s.mu.Lock()
	names := make([]string, 0, len(s.running))
	for name := range s.running {
		names = append(names, name)
	}
	s.mu.Unlock()
	for _, name := range names {
		if err := s.stop(name); err != nil {
			s.t.Error(err)
		}
	}
	if s.own {
		s.stopServers()
	}
}

// stop ends a command of ours that runs, if one does under this name.
func (s *session) stop(name string) error {
	s.mu.Lock()
	d := s.running[name]
	delete(s.running, name)
	s.mu.Unlock()
	if d == nil {
		return nil
	}
	err := d.process.Signal(syscall.SIGTERM)
	select {
	case <-d.process.Done():
		// One that has not begun ends by the signal, like any program.
		if exit := new(exec.ExitError); errors.As(d.process.Err(), &exit) && exit.ExitCode() != 143 {
			return errors.Join(err, exit)
		}
		return err
	case <-time.After(stopping):
		return errors.Join(err, d.process.Kill(), fmt.Errorf("%s does not end within %s of SIGTERM: %s", name, stopping, d.tail()))
	}
}

func (d *daemon) tail() string {
	const most = 3000
	text, err := os.ReadFile(d.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-most):])
}
