package testbed

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
)

// StandbyOptions of a streaming replica.
type StandbyOptions struct {
	// Name is its application_name, by which the primary knows it; default "standby".
	Name string
	// Synchronous makes the primary's commits wait for it, from now on. Before it is paused or stopped for good, mind that every commit
	// on the primary, CREATE DATABASE included, then hangs until SetSynchronousStandby names another or none.
	Synchronous bool
	Settings    map[string]string
}

// StartStandby copies the server and starts the copy as a physical standby. It returns once the standby streams, and is in step if it is
// synchronous. The caller stops it.
func (p *Postgres) StartStandby(ctx context.Context, opts StandbyOptions) (*Postgres, error) {
	if opts.Name == "" {
		opts.Name = "standby"
	}
	s, err := prepare(ctx, Options{Settings: opts.Settings, Binaries: p.binaries, Parent: p.parent})
	if err != nil {
		return nil, err
	}
	if err := s.copyFrom(ctx, p, opts.Name); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.base))
	}
	if err := s.begin(ctx); err != nil {
		return nil, err
	}
	err = p.await(ctx, `SELECT EXISTS (SELECT FROM pg_stat_replication WHERE application_name = $1 AND state = 'streaming')`, opts.Name)
	if err == nil && opts.Synchronous {
		err = p.SetSynchronousStandby(ctx, opts.Name)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("standby %s: %w", opts.Name, err), s.Stop(ctx))
	}
	return s, nil
}

// copyFrom fills the data folder with a base backup. Where there is no pg_basebackup, as in the installation that npm serves, the files are copied one by one.
func (p *Postgres) copyFrom(ctx context.Context, primary *Postgres, name string) error {
	program := "pg_basebackup"
	source := fmt.Sprintf("host=%s port=%d user=%s application_name=%s", primary.base, primary.port, superuser, name)
	if _, err := os.Stat(filepath.Join(p.binaries, program)); err != nil {
		return p.copyFiles(ctx, primary, source)
	}
	return p.run(ctx, program, "-d", source, "-D", p.data, "-R", "-X", "stream", "-c", "fast", "--no-sync")
}

// copyFiles is a base backup by hand. The log is not copied: the standby streams it from where the backup began.
func (p *Postgres) copyFiles(ctx context.Context, primary *Postgres, source string) (err error) {
	conn, err := pgx.Connect(ctx, primary.SocketDSN(superuser))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	if _, err := conn.Exec(ctx, "SELECT pg_backup_start('testbed', true)"); err != nil {
		return fmt.Errorf("copy %s: %w", primary.data, err)
	}
	err = filepath.WalkDir(primary.data, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a temporary file
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(primary.data, path)
		if err != nil {
			return err
		}
		switch to := filepath.Join(p.data, rel); {
		case d.IsDir():
			return p.own(to)
		case !d.Type().IsRegular() || d.Name() == "postmaster.pid" || filepath.Dir(rel) == "pg_wal" || filepath.Dir(rel) == "pg_replslot":
			return nil
		default:
			text, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return errors.Join(err, p.put(to, text))
		}
	})
	if err != nil {
		return fmt.Errorf("copy %s: %w", primary.data, err)
	}
	var label string
	if err := conn.QueryRow(ctx, "SELECT labelfile FROM pg_backup_stop(false)").Scan(&label); err != nil {
		return fmt.Errorf("copy %s: %w", primary.data, err)
	}
	own, err := os.ReadFile(filepath.Join(p.data, "postgresql.auto.conf"))
	return errors.Join(err,
		p.put(filepath.Join(p.data, "postgresql.auto.conf"), fmt.Appendf(own, "primary_conninfo = '%s'\n", source)),
		p.put(filepath.Join(p.data, "backup_label"), []byte(label)),
		p.put(filepath.Join(p.data, "standby.signal"), nil))
}

// put writes a file that belongs to the server's account.
func (p *Postgres) put(path string, text []byte) error {
	if err := os.WriteFile(path, text, 0o600); err != nil || p.account == nil {
		return err
	}
	return os.Chown(path, int(p.account.uid), int(p.account.gid))
}

// SetSynchronousStandby makes commits wait for the named standby and returns once it is in step; an empty name makes them wait for none.
func (p *Postgres) SetSynchronousStandby(ctx context.Context, name string) error {
	quoted := "''"
	if name != "" {
		quoted = "'" + pgx.Identifier{name}.Sanitize() + "'"
	}
	err := p.exec(ctx, superuser, "ALTER SYSTEM SET synchronous_standby_names = "+quoted)
	if err != nil {
		return fmt.Errorf("synchronous standby: %w", err)
	}
	if err := p.exec(ctx, superuser, "SELECT pg_reload_conf()"); err != nil {
		return fmt.Errorf("synchronous standby: %w", err)
	}
	if name == "" {
		return p.await(ctx, `SELECT current_setting('synchronous_standby_names') = ''`)
	}
	return p.await(ctx, `SELECT EXISTS (SELECT FROM pg_stat_replication WHERE application_name = $1 AND sync_state = 'sync')`, name)
}

// Detach ends a standby's streaming for good: what its primary commits from now on is lost to it.
func (p *Postgres) Detach(ctx context.Context) error {
	for _, sql := range []string{"ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()"} {
		if err := p.exec(ctx, superuser, sql); err != nil {
			return fmt.Errorf("detach: %w", err)
		}
	}
	return p.await(ctx, "SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)")
}

// Promote makes a standby a primary of a new timeline, and returns once it takes writes. What it was a standby of is left as it is: stop that one first for a
// failover, or leave it running for two servers that both believe to be the primary.
func (p *Postgres) Promote(ctx context.Context) error {
	if err := p.exec(ctx, superuser, "SELECT pg_promote(false)"); err != nil {
		return fmt.Errorf("promote: %w", err)
	}
	return p.await(ctx, "SELECT NOT pg_is_in_recovery()")
}

// await asks a question of one boolean until the answer is yes.
func (p *Postgres) await(ctx context.Context, question string, args ...any) (err error) {
	conn, err := pgx.Connect(ctx, p.SocketDSN(superuser))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		var yes bool
		if err := conn.QueryRow(ctx, question, args...).Scan(&yes); err != nil {
			return err
		}
		if yes {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %q: %w", question, ctx.Err())
		case <-tick.C:
		}
	}
}
