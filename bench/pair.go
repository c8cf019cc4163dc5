package main

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/trickle-verify/trickle/internal/testbed"
)

// pair is the two servers.
type pair struct{ source, replica *testbed.Postgres }

// The databases: bench is on both sides and equal; the next three are the replica's, each a copy of it that differs; empty is on both sides
// and holds tables without rows; ranges is the source's.
const (
	equalData   = "bench"
	hundredData = "hundred"
	percentData = "percent"
	allData     = "everything"
	emptyData   = "empty"
	rangesData  = "ranges"
)

const (
	ordered = "public.verified"  // a heap in the order of its key
	random  = "public.scattered" // the same rows under uuids, in an order that has nothing to do with them
)

// others are the columns after the key.
const others = "account, name, amount, note, created_at, updated_at, attributes"

// createOrdered and fillOrdered make rows of eight columns of the kinds that tables are made of, some of them NULL, in the order of the key. Every
// other key is left out, for rows to be added between them.
const createOrdered = `CREATE TABLE ` + ordered + ` (id bigint PRIMARY KEY, account bigint NOT NULL, name text NOT NULL, amount numeric(12,2) NOT NULL, note text,
		created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL, attributes jsonb NOT NULL)`

const fillOrdered = `INSERT INTO ` + ordered + ` SELECT 2 * n, n * 7919 % 100003, 'customer ' || md5(n::text), (n * 37 % 1000000) / 100.0, CASE WHEN n % 5 > 0 THEN repeat('note ' || n % 97 || ' ', 1 + (n % 4)::int) END,
		timestamptz '2020-01-01' + n * interval '13 seconds', timestamptz '2024-01-01' + n * interval '7 seconds',
		jsonb_build_object('tags', jsonb_build_array('t' || n % 11, 't' || n % 13), 'score', n % 1000, 'city', 'city ' || n % 499)
		FROM generate_series(1, $1::bigint) AS n`

const (
	createRandom = `CREATE TABLE ` + random + ` (LIKE ` + ordered + `);
		ALTER TABLE ` + random + ` ALTER COLUMN id TYPE uuid USING NULL`
	fillRandom = `INSERT INTO ` + random + ` SELECT md5(id::text)::uuid, ` + others + ` FROM ` + ordered + ` ORDER BY id;
		ALTER TABLE ` + random + ` ADD PRIMARY KEY (id)`
)

// startPair starts both servers. One core does the work of one query: how many workers the planner would take for a floor says nothing about
// what the floor costs. The buffers hold every copy of the default size, so that no reading is dearer for having come after another; a server
// takes only as much of them as it fills. Nothing but the readings runs in the background.
func startPair(ctx context.Context, further map[string]string) (*pair, error) {
	settings := map[string]string{
		"max_parallel_workers_per_gather": "0", "shared_buffers": "4GB", "autovacuum": "off", "max_wal_size": "16GB",
		"checkpoint_timeout": "1d", "bgwriter_lru_maxpages": "0",
	}
	maps.Copy(settings, further)
	p := &pair{}
	start := func(server **testbed.Postgres) func() error {
		return func() (err error) {
			*server, err = testbed.StartPostgres(ctx, testbed.Options{Settings: settings})
			return err
		}
	}
	var g errgroup.Group
	g.Go(start(&p.source))
	g.Go(start(&p.replica))
	if err := g.Wait(); err != nil {
		return nil, errors.Join(err, p.stop(context.WithoutCancel(ctx)))
	}
	return p, nil
}

func (p *pair) stop(ctx context.Context) error {
	var failures []error
	for _, server := range []*testbed.Postgres{p.source, p.replica} {
		if server != nil {
			failures = append(failures, server.Stop(ctx))
		}
	}
	return errors.Join(failures...)
}

func (p *pair) both(f func(*testbed.Postgres) error) error {
	var g errgroup.Group
	g.Go(func() error { return f(p.source) })
	g.Go(func() error { return f(p.replica) })
	return g.Wait()
}

func (p *pair) version(ctx context.Context) (string, error) {
	c, err := pgx.Connect(ctx, p.source.DSN("postgres"))
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close(ctx) }()
	var version string
	err = c.QueryRow(ctx, "SELECT current_setting('server_version')").Scan(&version)
	return "Postgres " + version, err
}

// execute runs statements in a database, one after the other.
func execute(ctx context.Context, server *testbed.Postgres, database string, statements ...string) error {
	c, err := pgx.Connect(ctx, server.DSN(database))
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(ctx) }()
	for _, sql := range statements {
		if _, err := c.Exec(ctx, sql); err != nil {
			return fmt.Errorf("database %s: %w", database, err)
		}
	}
	return nil
}

// load makes a database with the ordered table of so many rows.
func load(ctx context.Context, server *testbed.Postgres, database string, rows int) error {
	dsn, err := server.CreateDatabase(ctx, database)
	if err != nil {
		return err
	}
	c, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(ctx) }()
	_, err1 := c.Exec(ctx, createOrdered)
	_, err2 := c.Exec(ctx, fillOrdered, rows)
	_, err3 := c.Exec(ctx, "VACUUM (ANALYZE) "+ordered)
	if err := errors.Join(err1, err2, err3); err != nil {
		return fmt.Errorf("loading %d rows into database %s: %w", rows, database, err)
	}
	return nil
}

// build makes the databases that are wanted, and bench always.
func (p *pair) build(ctx context.Context, rows int, wanted map[string]bool) error {
	if err := p.both(func(s *testbed.Postgres) error { return load(ctx, s, equalData, rows) }); err != nil {
		return err
	}
	if wanted[percentData] {
		if err := p.alter(ctx, percentData, change(ordered, rows, rows/100)...); err != nil {
			return err
		}
	}
	if wanted[allData] {
		// A new expression for a column writes the whole table anew, in the same order.
		if err := p.alter(ctx, allData, "ALTER TABLE "+ordered+" ALTER COLUMN account TYPE bigint USING account + 1", "VACUUM (ANALYZE) "+ordered); err != nil {
			return err
		}
	}
	err := p.both(func(s *testbed.Postgres) error {
		return execute(ctx, s, equalData, createRandom, fillRandom, "VACUUM (ANALYZE) "+random)
	})
	if err != nil {
		return err
	}
	if wanted[hundredData] {
		if err := p.alter(ctx, hundredData, append(change(ordered, rows, 100), change(random, rows, 100)...)...); err != nil {
			return err
		}
	}
	return p.both(func(s *testbed.Postgres) error {
		_, err := s.CreateDatabase(ctx, emptyData)
		return errors.Join(err, execute(ctx, s, emptyData, createOrdered, "VACUUM (ANALYZE) "+ordered, "CHECKPOINT"))
	})
}

// alter makes a copy of bench on the replica's server and runs statements in it.
func (p *pair) alter(ctx context.Context, database string, statements ...string) error {
	if err := execute(ctx, p.replica, "postgres", "CREATE DATABASE "+database+" TEMPLATE "+equalData); err != nil {
		return err
	}
	return execute(ctx, p.replica, database, statements...)
}

// change makes so many differences, scattered evenly over the table: every third row that it meets is updated, added anew under another key, or
// deleted. How many of each is what changed says.
func change(table string, rows, differences int) []string {
	anew := map[string]string{ordered: "id + 1", random: "md5(id::text)::uuid"}[table]
	// A row's place in the table is in its created_at, whatever its key. An added row is a copy of one that is left alone.
	met := func(kind int) string {
		const place = "(extract(epoch FROM created_at - timestamptz '2020-01-01')::bigint / 13)"
		step := rows / differences
		return fmt.Sprintf(" WHERE %s %% %d = 0 AND %s <= %d AND %s / %d %% 3 = %d", place, step, place, step*differences, place, step, kind)
	}
	return []string{
		"UPDATE " + table + " SET amount = amount + 1" + met(1),
		"INSERT INTO " + table + " SELECT " + anew + ", " + others + " FROM " + table + met(2),
		"DELETE FROM " + table + met(0),
		"VACUUM (ANALYZE) " + table,
	}
}

// changed is what a comparison must find after change.
func changed(differences int) found {
	return found{Missing: differences / 3, Mismatched: (differences + 2) / 3, Extra: (differences + 1) / 3}
}
