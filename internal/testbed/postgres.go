// Package testbed runs a real Postgres for tests and for the demo.
//
// It decides where the binaries come from, as whom they run and which settings make a throw-away server quick. What always holds: a
// server that StartPostgres returned answers queries on a free loopback port and on a unix socket; it dies with the process that started
// it; Stop removes every folder that was made for it. Durability is off (fsync), so it survives kill -9 of its processes but not of the
// machine: never keep anything in it. When something fails to start, the error carries the end of the server's own log.
package testbed

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/internal/testbed/child"
	"github.com/trickle-verify/trickle/internal/testbed/loopback"
)

const (
	superuser    = "postgres"
	settingsFile = "testbed.conf"
	pollInterval = 10 * time.Millisecond
	startTimeout = 60 * time.Second
	portAttempts = 5
)

// ErrNotRunning is returned by operations that need a running server.
var ErrNotRunning = errors.New("postgres is not running: call Restart first")

// Options of a server; the zero value is a fine throw-away server.
type Options struct {
	// Dir holds the data; it is kept on Stop and used again by the next start. Empty means a temporary folder.
	Dir string
	// Settings go on top of the defaults, in the way of postgresql.conf; ALTER SYSTEM overrides them.
	Settings map[string]string
	// Files are written into the data folder of a new server before it starts, by name: certificates, a pg_hba.conf.
	Files map[string][]byte
	// Binaries is the folder with postgres and initdb. Empty means that FindBinaries looks for it.
	Binaries string
}

// Postgres is one server.
type Postgres struct {
	binaries string
	account  *account // whom the server runs as; nil for ourselves
	base     string   // temporary: socket, log and, unless the caller gave a folder, data
	data     string
	port     int
	settings map[string]string
	files    map[string][]byte

	mu      sync.Mutex     // guards proc
	proc    *child.Process // nil when stopped
	stopped bool           // for good: folders are gone
}

// StartPostgres starts a server and returns once it answers. The context bounds the start, not the server's life.
func StartPostgres(ctx context.Context, opts Options) (*Postgres, error) {
	p, err := prepare(ctx, opts)
	if err != nil {
		return nil, err
	}
	if err := p.initialise(ctx); err != nil {
		return nil, errors.Join(err, os.RemoveAll(p.base))
	}
	if err := p.launchOrRemove(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// prepare finds everything a server needs and makes its folders, without data yet.
func prepare(ctx context.Context, opts Options) (*Postgres, error) {
	binaries, err := opts.Binaries, error(nil)
	if binaries == "" {
		if binaries, err = FindBinaries(ctx); err != nil {
			return nil, err
		}
	}
	as, err := serverAccount()
	if err != nil {
		return nil, err
	}
	base, err := shortTempDir()
	if err != nil {
		return nil, fmt.Errorf("folder for postgres: %w", err)
	}
	p := &Postgres{
		binaries: binaries,
		account:  as,
		base:     base,
		data:     filepath.Join(base, "data"),
		settings: map[string]string{
			"fsync":                           "off",
			"full_page_writes":                "off",
			"wal_level":                       "logical",
			"max_connections":                 "100",
			"max_wal_senders":                 "20",
			"max_replication_slots":           "20",
			"max_logical_replication_workers": "8",
			"shared_buffers":                  "128MB",
			"log_min_messages":                "warning",
			"timezone":                        "UTC",
		},
	}
	p.files = opts.Files
	maps.Copy(p.settings, opts.Settings)
	if opts.Dir != "" {
		p.data = filepath.Join(opts.Dir, "data")
	}
	if err := p.own(base, p.data); err != nil {
		return nil, errors.Join(err, os.RemoveAll(base))
	}
	return p, nil
}

// own makes the folders and gives them to the account the server runs as.
func (p *Postgres) own(folders ...string) error {
	for _, folder := range folders {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return fmt.Errorf("folder for postgres: %w", err)
		}
		if p.account == nil {
			continue
		}
		if err := os.Chown(folder, int(p.account.uid), int(p.account.gid)); err != nil {
			return fmt.Errorf("give %s to user %s: %w", folder, p.account.name, err)
		}
		if err := p.account.reaches(folder); err != nil {
			return err
		}
	}
	return nil
}

// initialise runs initdb unless there is data already.
func (p *Postgres) initialise(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(p.data, "PG_VERSION")); err == nil {
		return nil
	}
	var failures []error
	for _, locale := range []string{"C.UTF-8", "C"} {
		err := p.run(ctx, "initdb", "-D", p.data, "--auth", "trust", "-U", superuser, "--no-sync", "-E", "UTF8", "--locale", locale)
		if err == nil {
			return errors.Join(p.include(), p.writeFiles())
		}
		failures = append(failures, err)
	}
	return errors.Join(failures...)
}

// include makes postgresql.conf read our settings. They are not given on the command line, where ALTER SYSTEM could not override them.
func (p *Postgres) include() error {
	f, err := os.OpenFile(filepath.Join(p.data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("postgres settings: %w", err)
	}
	_, err = fmt.Fprintf(f, "\ninclude '%s'\n", settingsFile)
	return errors.Join(err, f.Close())
}

// writeFiles writes what a test gave, for the server's eyes only.
func (p *Postgres) writeFiles() error {
	for name, content := range p.files {
		path := filepath.Join(p.data, name)
		err := os.WriteFile(path, content, 0o600)
		if err == nil {
			err = os.Chmod(path, 0o600)
		}
		if err == nil && p.account != nil {
			err = os.Chown(path, int(p.account.uid), int(p.account.gid))
		}
		if err != nil {
			return fmt.Errorf("file for postgres: %w", err)
		}
	}
	return nil
}

func (p *Postgres) writeSettings() error {
	all := maps.Clone(p.settings)
	all["port"] = strconv.Itoa(p.port)
	all["listen_addresses"] = "127.0.0.1"
	all["unix_socket_directories"] = p.base
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&b, "%s = '%s'\n", name, strings.ReplaceAll(all[name], "'", "''"))
	}
	file := filepath.Join(p.data, settingsFile)
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("postgres settings: %w", err)
	}
	return nil
}

func (p *Postgres) launchOrRemove(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.launch(ctx); err != nil {
		p.stopped = true
		return errors.Join(err, os.RemoveAll(p.base))
	}
	return nil
}

// launch starts the server on its port, the first time on a port that is free now. Somebody may take that port in between: then it
// tries another.
func (p *Postgres) launch(ctx context.Context) error {
	keepPort := p.port != 0
	for attempt := 1; ; attempt++ {
		if !keepPort {
			port, err := loopback.FreePort()
			if err != nil {
				return err
			}
			p.port = port
		}
		err := p.launchOnce(ctx)
		if err == nil || keepPort || attempt == portAttempts || loopback.IsFree(p.port) {
			return err
		}
	}
}

func (p *Postgres) launchOnce(ctx context.Context) error {
	if err := p.writeSettings(); err != nil {
		return err
	}
	log, err := os.OpenFile(p.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("postgres log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(p.binaries, "postgres"), "-D", p.data)
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.base, log, log
	cmd.SysProcAttr = as(p.account)
	proc, err := child.Start("postgres", cmd, syscall.SIGINT) // a fast shutdown
	if err != nil {
		return fmt.Errorf("start postgres: %w", err)
	}
	if err := p.awaitReady(ctx, proc); err != nil {
		return fmt.Errorf("start postgres: %w; its log ends with:\n%s", errors.Join(err, proc.Kill()), p.logTail())
	}
	p.proc = proc
	return nil
}

func (p *Postgres) awaitReady(ctx context.Context, proc *child.Process) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		conn, err := pgx.Connect(ctx, p.SocketDSN(superuser))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-proc.Done():
			return fmt.Errorf("it ended by itself: %w", errors.Join(proc.Err(), err))
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-tick.C:
		}
	}
}

// DSN is a URL over TCP for pgx, psql and anything else with libpq.
func (p *Postgres) DSN(database string) string {
	return p.url("127.0.0.1:"+strconv.Itoa(p.port), database, url.Values{"sslmode": {"disable"}})
}

// SocketDSN is the same over the unix socket.
func (p *Postgres) SocketDSN(database string) string {
	return p.url("", database, url.Values{"host": {p.base}, "port": {strconv.Itoa(p.port)}, "sslmode": {"disable"}})
}

func (p *Postgres) url(host, database string, query url.Values) string {
	u := url.URL{Scheme: "postgres", User: url.User(superuser), Host: host, Path: "/" + database, RawQuery: query.Encode()}
	return u.String()
}

// Address is the server's loopback address, host:port.
func (p *Postgres) Address() string { return "127.0.0.1:" + strconv.Itoa(p.port) }

// PID is the postmaster's process, whose children are the server's other processes; 0 when it is not running.
func (p *Postgres) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proc == nil {
		return 0
	}
	return p.proc.PID()
}

// LogFile is the path of the server's log.
func (p *Postgres) LogFile() string { return filepath.Join(p.base, "postgres.log") }

func (p *Postgres) logTail() string {
	const most = 2000
	text, err := os.ReadFile(p.LogFile())
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-most):])
}

// Stop shuts the server down in good order, cutting off its clients, and removes its temporary folders. When the context ends first the
// server is killed. A second Stop does nothing.
func (p *Postgres) Stop(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return nil
	}
	p.stopped = true
	return errors.Join(p.shutdown(ctx), os.RemoveAll(p.base))
}

// shutdown ends the process and keeps the data.
func (p *Postgres) shutdown(ctx context.Context) error {
	proc := p.proc
	if proc == nil {
		return nil
	}
	p.proc = nil
	if err := proc.Resume(); err != nil { // a stopped process can't shut down
		return errors.Join(err, proc.Kill())
	}
	if err := proc.Signal(syscall.SIGINT); err != nil {
		return errors.Join(err, proc.Kill())
	}
	select {
	case <-proc.Done():
		return nil
	case <-ctx.Done():
		return proc.Kill()
	}
}

// Kill ends every process of the server at once, as a crash would. Restart brings it back with its data.
func (p *Postgres) Kill() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proc == nil {
		return ErrNotRunning
	}
	proc := p.proc
	p.proc = nil
	return proc.Kill()
}

// Restart shuts the server down if it runs, and starts it again on the same port with the same data.
func (p *Postgres) Restart(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return fmt.Errorf("restart postgres: it was stopped for good: start a new one")
	}
	if err := p.shutdown(ctx); err != nil {
		return err
	}
	return p.launch(ctx)
}

// Pause freezes every process of the server until Resume: connections stay open and nothing answers.
func (p *Postgres) Pause() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proc == nil {
		return ErrNotRunning
	}
	return p.proc.Pause()
}

// Resume lets a paused server go on.
func (p *Postgres) Resume() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proc == nil {
		return ErrNotRunning
	}
	return p.proc.Resume()
}

// run executes one of the server's own programs to its end.
func (p *Postgres) run(ctx context.Context, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(p.binaries, program), args...)
	cmd.Dir = p.base
	cmd.SysProcAttr = as(p.account)
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(string(output)))
	}
	return nil
}

// shortTempDir makes a folder whose path leaves room for a socket's name: those have about a hundred bytes on every system.
func shortTempDir() (string, error) {
	const longest = 60
	parent := os.TempDir()
	if len(parent) > longest {
		parent = "/tmp"
	}
	return os.MkdirTemp(parent, "trickle-pg-")
}
