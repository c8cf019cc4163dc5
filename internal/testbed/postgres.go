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
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/internal/testbed/child"
	"github.com/trickle-verify/trickle/internal/testbed/loopback"
)

// FolderPrefix is how the names of servers' temporary folders begin.
const FolderPrefix = "trickle-pg-"

const (
	superuser    = "postgres"
	settingsFile = "testbed.conf"
	pollInterval = 10 * time.Millisecond
)

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
	// Parent is where the temporary folder is made. Empty means the system's place for such.
	Parent string
}

// Postgres is one server. Restart brings it back on the same port with its data; Pause freezes all of its processes.
type Postgres struct {
	*child.Server
	binaries string
	account  *account // whom the server runs as; nil for ourselves
	parent   string   // of base
	base     string   // temporary: socket, log and, unless the caller gave a folder, data
	data     string
	port     int
	settings map[string]string
	files    map[string][]byte
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
	if err := p.begin(ctx); err != nil {
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
	base, err := shortTempDir(opts.Parent)
	if err != nil {
		return nil, fmt.Errorf("folder for postgres: %w", err)
	}
	p := &Postgres{
		binaries: binaries,
		account:  as,
		parent:   opts.Parent,
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
	p.Server = child.NewServer(child.Plan{Name: "postgres", Dir: base, Start: p.launch, Ready: p.ready, Quit: syscall.SIGINT}) // a fast shutdown
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

// begin starts the server for the first time, on a port that is free.
func (p *Postgres) begin(ctx context.Context) error {
	err := loopback.Claim(func() ([]int, error) {
		port, err := loopback.FreePort()
		if err != nil {
			return nil, fmt.Errorf("port for postgres: %w", err)
		}
		p.port = port
		return []int{port}, p.Restart(ctx)
	})
	if err != nil {
		return errors.Join(err, p.Stop(ctx))
	}
	return nil
}

func (p *Postgres) launch(log *os.File) (*child.Process, error) {
	if err := p.writeSettings(); err != nil {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(p.binaries, "postgres"), "-D", p.data)
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.base, log, log
	cmd.SysProcAttr = as(p.account)
	return child.Start("postgres", cmd, syscall.SIGINT)
}

// ready asks the server whether it answers.
func (p *Postgres) ready(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, p.SocketDSN(superuser))
	if err != nil {
		return err
	}
	return conn.Close(ctx)
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
func shortTempDir(parent string) (string, error) {
	const longest = 60
	if parent == "" {
		parent = os.TempDir()
	}
	if len(parent) > longest {
		parent = "/tmp"
	}
	return os.MkdirTemp(parent, FolderPrefix)
}
