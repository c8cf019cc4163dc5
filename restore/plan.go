package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/baseline"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/postgres"
)

// Plan is what a restore is to do.
type Plan struct {
	Create  []string // tables that it makes, by the replica's names
	Fill    []string // tables that are there and empty
	Replace []string // tables whose rows it removes
	Alone   []string // tables of the set that the policy does not name
	LeftOut []string // indexes, constraints and the like that it does not make, each with the reason
	Rows    uint64
	Bytes   int64
	Ranges  int
	// Resumes names the restore that it goes on with.
	Resumes string
}

// Fault is one thing that is in the way of a restore.
type Fault struct {
	Table  string // the replica's name; empty: it is about all
	Reason string // with the next step
}

func (f Fault) String() string {
	if f.Table == "" {
		return f.Reason
	}
	return f.Table + ": " + f.Reason
}

// RefusedError says that nothing was written, and everything that was found in the way.
type RefusedError struct {
	Set    string
	Faults []Fault
}

func (e *RefusedError) Error() string {
	all := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		all[i] = f.String()
	}
	return "set " + e.Set + " is not restored, and nothing was written: " + strings.Join(all, "; ")
}

// Plan finds out what a restore would do. It reads only, and returns a *RefusedError that holds all that it found in the way.
func (r *Restorer) Plan(ctx context.Context, m *baseline.Manifest) (Plan, error) {
	var p Plan
	id, err := postgres.Identify(ctx, r.Pool)
	if err != nil {
		return p, err
	}
	s := &survey{restorer: r, m: m, plan: &p}
	switch {
	case id.Standby:
		s.fault("", "the replica is a standby, which can't be written: point --replica at its primary")
	case m.Pipeline != r.o.Pipeline:
		s.fault("", "it is of pipeline %q and this is %q: name the store and the set of this one", m.Pipeline, r.o.Pipeline)
	case r.o.Source != "" && m.Source != r.o.Source:
		s.fault("", "it is of source %s and this replica is pinned to %s: restore from a set of that, or pin it anew (trickle-consumer pin) if the source was replaced on purpose", m.Source, r.o.Source)
	case m.Source == id.String():
		s.fault("", "it was built from this very database: --replica leads to the source")
	case m.Completed.IsZero():
		s.fault("", "it is not complete: restore from one that is")
	}
	if err := s.refused(); err != nil {
		return p, err
	}
	if err := r.Store.Check(ctx, m); err != nil {
		return p, err
	}
	tables, alone := r.tables(m)
	p.Alone = alone
	if len(tables) == 0 {
		s.fault("", "the policy names none of its tables")
		return p, s.refused()
	}
	open, err := r.open(ctx)
	if err != nil {
		return p, err
	}
	if s.open = open; resumes(open, m) {
		p.Resumes = open.ID
	}
	return p, pgx.BeginTxFunc(ctx, r.Pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		s.tx = tx
		for _, t := range tables {
			p.Rows += t.Rows
			p.Ranges += len(t.Objects)
			for _, o := range t.Objects {
				p.Bytes += o.Bytes
			}
		}
		return s.look(ctx, tables)
	})
}

// unmigrated tells whether no detector, nor a restore, has ever run here.
func (r *Restorer) unmigrated(ctx context.Context) bool {
	there := true
	err := r.Pool.QueryRow(ctx, "SELECT pg_catalog.to_regclass('trickle.restores') IS NOT NULL").Scan(&there)
	return err == nil && !there
}

// survey finds what is in the way.
type survey struct {
	restorer *Restorer
	m        *baseline.Manifest
	plan     *Plan
	tx       pgx.Tx
	open     *entry.Restore
	faults   []Fault
}

func (s *survey) fault(table, format string, args ...any) {
	f := Fault{Table: table, Reason: fmt.Sprintf(format, args...)}
	if !slices.Contains(s.faults, f) {
		s.faults = append(s.faults, f)
	}
}

func (s *survey) refused() error {
	if len(s.faults) == 0 {
		return nil
	}
	return &RefusedError{Set: s.m.Set, Faults: s.faults}
}

// look goes through the tables.
func (s *survey) look(ctx context.Context, tables []*table) error {
	names := make(map[postgres.Name]string)
	for _, t := range tables {
		if other, taken := names[t.to.Name]; taken {
			s.fault(t.to.Name.String(), "the policy has both %s and %s be called so: correct replica", other, t.Table.Table)
		}
		names[t.to.Name] = t.Table.Table
	}
	var there []*table
	for _, t := range tables {
		kind := ""
		err := s.tx.QueryRow(ctx, "SELECT relkind::text FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass($1)", t.to.Name.SQL()).Scan(&kind)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			if err := s.missing(ctx, t); err != nil {
				return err
			}
		case err != nil:
			return fmt.Errorf("looking for %s: %w", t.to.Name, err)
		case kind != "r" && kind != "p":
			s.fault(t.to.Name.String(), "there is something of that name that is no table: remove it, or give the table another name with replica in the policy")
		default:
			t.partitioned = kind == "p"
			there = append(there, t)
			if err := s.existing(ctx, t); err != nil {
				return err
			}
		}
	}
	if s.plan.Resumes == "" {
		if err := s.filled(ctx, there); err != nil {
			return err
		}
	}
	if err := s.foreign(ctx, there); err != nil {
		return err
	}
	for _, t := range tables {
		for _, p := range t.Definition.Later {
			if why := unmet(p, tables); p.Kind == postgres.ForeignKey && why != "" && !slices.Contains(there, t) {
				s.plan.LeftOut = append(s.plan.LeftOut, fmt.Sprintf("%s: foreign key %s: %s", t.to.Name, postgres.Quote(p.Name), why))
			}
		}
	}
	if role := s.restorer.o.Role; role != "" && role != "origin" {
		if err := s.settable(ctx, role); err != nil {
			return err
		}
	}
	return s.refused()
}

// existing looks at a table that is there.
func (s *survey) existing(ctx context.Context, t *table) error {
	name := t.to.Name.String()
	var user string
	var hidden, rules bool
	var lacking, unlogged []string
	err := s.tx.QueryRow(ctx, `SELECT pg_catalog.quote_ident(current_user), pg_catalog.row_security_active(c.oid), c.relhasrules,
			ARRAY(SELECT u.oid::pg_catalog.regclass::text FROM pg_catalog.pg_class u WHERE u.relpersistence = 'u' AND (u.oid = c.oid OR u.oid IN (SELECT p.relid FROM pg_catalog.pg_partition_tree(c.oid) p)) ORDER BY 1),
			ARRAY(SELECT r FROM pg_catalog.unnest($2::text[]) r WHERE NOT pg_catalog.has_table_privilege(c.oid, r))
		FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass($1)`, t.to.Name.SQL(), s.rights()).Scan(&user, &hidden, &rules, &unlogged, &lacking)
	if err != nil {
		return fmt.Errorf("asking for rights on %s: %w", name, err)
	}
	if hidden {
		s.fault(name, "it has row-level security, which hides rows from %s: ALTER ROLE %s BYPASSRLS, or restore as the table's owner", user, user)
	}
	for _, u := range unlogged {
		s.fault(name, "%s is UNLOGGED, so a server that crashes empties it, and what is noted of its ranges and of the log would not be true any more: ALTER TABLE %s SET LOGGED", u, u)
	}
	if rules {
		s.fault(name, "it has rewrite rules, which COPY does not follow: drop them, or the table")
	}
	if len(lacking) > 0 {
		s.fault(name, "run GRANT %s ON %s TO %s", strings.Join(lacking, ", "), t.to.Name.SQL(), user)
	}
	if s.made(t) || s.half(t) {
		return nil
	}
	return s.fits(ctx, t)
}

// half tells whether a table was made by a restore of another set that stopped, and so is to be made anew.
func (s *survey) half(t *table) bool {
	return s.open != nil && s.plan.Resumes == "" && slices.ContainsFunc(s.open.Tables, func(o entry.RestoredTable) bool { return o.Created && o.Replica == t.to.Name.String() })
}

func (s *survey) rights() []string {
	rights := []string{"INSERT", "SELECT"}
	if s.restorer.o.Replace && s.plan.Resumes == "" {
		rights = append(rights, "TRUNCATE")
	}
	return rights
}

// fits looks whether a table that is there can take the set's rows, and whether these can be compared once it has.
func (s *survey) fits(ctx context.Context, t *table) error {
	name, c := t.to.Name.String(), s.tx.Conn().PgConn()
	found, err := postgres.Describe(ctx, c, t.to.Name)
	var noKey *postgres.NoKeyError
	if errors.As(err, &noKey) {
		s.fault(name, "%s", err)
		return nil
	}
	if err != nil {
		return err
	}
	l, err := postgres.Fit(found, t.Schema.Wire(), t.to.Rules)
	var mismatch *postgres.MismatchError
	if errors.As(err, &mismatch) {
		s.fault(name, "%s", mismatch.Reason)
		return nil
	}
	if err != nil {
		return err
	}
	t.layout = l
	if err := s.comparable(ctx, t); err != nil {
		return err
	}
	stream, declared := t.stream()
	var temporary bool
	var unfilled []string
	err = s.tx.QueryRow(ctx, `SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'TEMPORARY'),
			ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a WHERE a.attrelid = pg_catalog.to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull
				AND NOT a.atthasdef AND a.attidentity = '' AND a.attgenerated = '' AND NOT a.attname::text = ANY ($2::text[]) ORDER BY a.attnum)`,
		t.to.Name.SQL(), l.ColumnNames()).Scan(&temporary, &unfilled)
	if err != nil {
		return fmt.Errorf("looking at the columns of %s: %w", name, err)
	}
	for _, column := range unfilled {
		s.fault(name, "column %s is NOT NULL, has no default, and the set does not hold it: give it a default, or drop NOT NULL", postgres.Quote(column))
	}
	if l.NewLoading(stream, declared).Staged() && !temporary {
		s.fault(name, "its columns have other types than the source's, so rows go through a temporary table: GRANT TEMPORARY ON DATABASE … TO this role")
	}
	return nil
}

// comparable makes sure that this server sums rows as the source's does: else no range could be held against its thumbprint.
func (s *survey) comparable(ctx context.Context, t *table) error {
	name, c := t.to.Name.String(), s.tx.Conn().PgConn()
	if t.Digest == digestRecord {
		probe, err := t.layout.Probe(ctx, c)
		if err != nil {
			return err
		}
		if probe != t.Schema.Probe {
			s.fault(name, "this server hashes its types otherwise than the source's (another major version, or another encoding), so its rows can't be held against the set: "+
				"build the view with digests that any server computes (trickle baseline build --digest portable)")
			return nil
		}
	}
	return nil
}

// filled looks for rows where there must be none.
func (s *survey) filled(ctx context.Context, there []*table) error {
	for _, t := range there {
		name := t.to.Name.String()
		var rows int64
		from := t.to.Name.SQL()
		if !t.partitioned {
			from = "ONLY " + from
		}
		if err := s.tx.QueryRow(ctx, "SELECT count(*) FROM "+from).Scan(&rows); err != nil {
			if postgres.State(err) == "42501" {
				return s.refused() // the right that is missing has been named
			}
			return fmt.Errorf("counting the rows of %s: %w", name, err)
		}
		switch {
		case rows == 0 && !s.half(t):
			s.plan.Fill = append(s.plan.Fill, name)
		case s.restorer.o.Replace:
			s.plan.Replace = append(s.plan.Replace, name)
			if err := s.spare(ctx, t, from); err != nil {
				return err
			}
		case s.half(t):
			s.fault(name, "it holds %s rows of a restore of set %s that stopped: go on with that (--set %s), or begin anew with --replace", strconv.FormatInt(rows, 10), s.open.Set, s.open.Set)
		default:
			s.fault(name, "it holds %s rows: they are removed only with --replace", strconv.FormatInt(rows, 10))
		}
	}
	return nil
}

// foreign looks for foreign keys that are in the way: of other tables to one that is emptied, since nothing cascades; and of a table that is loaded, which ranges of
// different moments may not meet.
func (s *survey) foreign(ctx context.Context, there []*table) error {
	if len(there) == 0 {
		return nil
	}
	names, emptied := make([]string, len(there)), make([]bool, len(there))
	for i, t := range there {
		names[i], emptied[i] = t.to.Name.SQL(), slices.Contains(s.plan.Replace, t.to.Name.String())
	}
	rows, err := s.tx.Query(ctx, `WITH ours AS (SELECT pg_catalog.to_regclass(n)::oid AS root, emptied FROM unnest($1::text[], $2::bool[]) x(n, emptied)),
			all_of(oid, emptied) AS (SELECT root, emptied FROM ours UNION SELECT p.relid, emptied FROM ours, LATERAL pg_catalog.pg_partition_tree(root) p)
		SELECT k.conname, nf.nspname, f.relname, nt.nspname, t.relname, f.oid IN (SELECT oid FROM all_of), t.oid IN (SELECT oid FROM all_of), t.oid IN (SELECT oid FROM all_of WHERE emptied)
		FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class f ON f.oid = k.conrelid JOIN pg_catalog.pg_namespace nf ON nf.oid = f.relnamespace
			JOIN pg_catalog.pg_class t ON t.oid = k.confrelid JOIN pg_catalog.pg_namespace nt ON nt.oid = t.relnamespace
		WHERE k.contype = 'f' AND k.conparentid = 0 AND (k.conrelid IN (SELECT oid FROM all_of) OR k.confrelid IN (SELECT oid FROM all_of)) ORDER BY 2, 3, 1`, names, emptied)
	if err != nil {
		return fmt.Errorf("looking for foreign keys: %w", err)
	}
	var name string
	var of, to postgres.Name
	var from, into, goes bool
	acts := s.restorer.o.Role == "" || s.restorer.o.Role == "origin"
	_, err = pgx.ForEachRow(rows, []any{&name, &of.Schema, &of.Table, &to.Schema, &to.Table, &from, &into, &goes}, func() error {
		switch {
		case goes && !from && s.plan.Resumes == "":
			s.fault(to.String(), "foreign key %s of %s, which is not restored, refers to it, so it can't be emptied and nothing cascades: drop that key for the restore, or restore that table too", postgres.Quote(name), of)
		case from && into && acts:
			s.fault(of.String(), "its foreign key %s refers to %s, which it may not do before CDC has caught up, as ranges are of different moments: set detect.session_replication_role: replica, drop the key for the restore, "+
				"or drop the table, so that the restore makes it", postgres.Quote(name), to)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("looking for foreign keys: %w", err)
	}
	return nil
}

// settable asks whether the session may keep triggers and foreign keys from acting.
func (s *survey) settable(ctx context.Context, role string) error {
	err := pgx.BeginFunc(ctx, s.tx, func(tx pgx.Tx) error { // a savepoint: what fails fails alone
		_, err := tx.Exec(ctx, "SELECT pg_catalog.set_config('session_replication_role', $1, true)", role)
		return err
	})
	if postgres.State(err) == "42501" {
		s.fault("", "this role may not set session_replication_role, as detect.session_replication_role asks: GRANT SET ON PARAMETER session_replication_role TO it (Postgres 15 and newer), or restore as a superuser")
		return nil
	}
	return err
}
