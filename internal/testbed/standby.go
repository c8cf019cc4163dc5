package testbed

import (
	"context"
	"errors"
	"fmt"
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
	s, err := prepare(ctx, Options{Settings: opts.Settings, Binaries: p.binaries})
	if err != nil {
		return nil, err
	}
	if err := s.copyFrom(ctx, p, opts.Name); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.base))
	}
	if err := s.launchOrRemove(ctx); err != nil {
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

// copyFrom fills the data folder with a base backup.
func (p *Postgres) copyFrom(ctx context.Context, primary *Postgres, name string) error {
	program := "pg_basebackup"
	if _, err := os.Stat(filepath.Join(p.binaries, program)); err != nil {
		return fmt.Errorf("a standby needs %s, which %s does not hold: set PG_BIN to a complete Postgres installation", program, p.binaries)
	}
	source := fmt.Sprintf("host=%s port=%d user=%s application_name=%s", primary.base, primary.port, superuser, name)
	return p.run(ctx, program, "-d", source, "-D", p.data, "-R", "-X", "stream", "-c", "fast", "--no-sync")
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
