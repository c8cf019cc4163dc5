package testbed

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// CreateDatabase makes an empty database and returns its DSN.
func (p *Postgres) CreateDatabase(ctx context.Context, name string) (string, error) {
	err := p.exec(ctx, superuser, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()+" TEMPLATE template0")
	if err != nil {
		return "", fmt.Errorf("create database %s: %w", name, err)
	}
	return p.DSN(name), nil
}

// DropDatabase removes a database with all that would keep it: its subscriptions, its replication slots, its sessions.
func (p *Postgres) DropDatabase(ctx context.Context, name string) error {
	err := errors.Join(
		p.each(ctx, name, dropSubscriptions),
		p.exec(ctx, superuser, endSlots, name),
		p.awaitNone(ctx, activeSlots, name),
		p.exec(ctx, superuser, dropSlots, name),
		p.exec(ctx, superuser, "DROP DATABASE IF EXISTS "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)"),
	)
	if err != nil {
		return fmt.Errorf("drop database %s: %w", name, err)
	}
	return nil
}

const (
	// A subscription lets go of its slot first: the publisher may be gone.
	dropSubscriptions = `SELECT format('ALTER SUBSCRIPTION %1$I DISABLE', subname), format('ALTER SUBSCRIPTION %1$I SET (slot_name = NONE)', subname),
		format('DROP SUBSCRIPTION %1$I', subname) FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())`
	endSlots    = `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = $1 AND active_pid IS NOT NULL`
	activeSlots = `SELECT count(*) FROM pg_replication_slots WHERE database = $1 AND active`
	dropSlots   = `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = $1`
)

// exec runs one statement in a database, as superuser.
func (p *Postgres) exec(ctx context.Context, database, sql string, args ...any) error {
	conn, err := pgx.Connect(ctx, p.SocketDSN(database))
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, sql, args...)
	return errors.Join(err, conn.Close(ctx))
}

// each runs the statements that a query returns, row by row.
func (p *Postgres) each(ctx context.Context, database, query string) (err error) {
	conn, err := pgx.Connect(ctx, p.SocketDSN(database))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	rows, err := conn.Query(ctx, query)
	if err != nil {
		return err
	}
	groups, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) ([]any, error) { return row.Values() })
	if err != nil {
		return err
	}
	for _, group := range groups {
		for _, statement := range group {
			if _, err := conn.Exec(ctx, statement.(string)); err != nil {
				return err
			}
		}
	}
	return nil
}

// awaitNone waits until a count is zero.
func (p *Postgres) awaitNone(ctx context.Context, count string, args ...any) error {
	return p.await(ctx, "SELECT ("+count+") = 0", args...)
}
