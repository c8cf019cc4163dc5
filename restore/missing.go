package restore

import (
	"context"
	"fmt"
	"slices"

	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/postgres"
)

// missing looks at a table that has to be made.
func (s *survey) missing(ctx context.Context, t *table) error {
	name, d := t.to.Name, &t.Definition
	s.plan.Create = append(s.plan.Create, name.String())
	for _, why := range d.LeftOut {
		s.plan.LeftOut = append(s.plan.LeftOut, name.String()+": "+why)
	}
	if s.made(t) {
		s.fault(name.String(), "the restore that stopped had made it, and it is gone: give that up and begin anew with --replace and another set")
	}
	if len(d.Columns) == 0 || d.Key.Body == "" {
		s.fault(name.String(), "it is not there, and the set does not say how to make it: make it, and leave it empty")
	}
	for _, why := range d.Unmakeable {
		s.fault(name.String(), "it can't be made: %s: make it yourself, and leave it empty", why)
	}
	schemas := append(d.Schemas(), name.Schema)
	slices.Sort(schemas)
	for _, schema := range slices.Compact(schemas) {
		var there, may, mayMake bool
		var database, user string
		err := s.tx.QueryRow(ctx, `SELECT n.oid IS NOT NULL, coalesce(pg_catalog.has_schema_privilege(n.oid, 'CREATE') AND pg_catalog.has_schema_privilege(n.oid, 'USAGE'), false), pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE'),
				pg_catalog.quote_ident(pg_catalog.current_database()), pg_catalog.quote_ident(current_user)
			FROM (SELECT pg_catalog.to_regnamespace($1)) r(ns) LEFT JOIN pg_catalog.pg_namespace n ON n.oid = r.ns`, postgres.Quote(schema)).Scan(&there, &may, &mayMake, &database, &user)
		switch {
		case err != nil:
			return fmt.Errorf("asking for rights on schema %s: %w", schema, err)
		case !there && !mayMake:
			s.fault(name.String(), "its schema %s is missing: run CREATE SCHEMA %s AUTHORIZATION %s, or GRANT CREATE ON DATABASE %s TO %s", postgres.Quote(schema), postgres.Quote(schema), user, database, user)
		case there && !may && (schema == name.Schema || slices.ContainsFunc(d.Types, func(x postgres.Type) bool { return postgres.ParseName(x.Name).Schema == schema })):
			s.fault(name.String(), "it, or a type of it, is to be made in schema %s: run GRANT USAGE, CREATE ON SCHEMA %s TO %s", postgres.Quote(schema), postgres.Quote(schema), user)
		}
	}
	for _, e := range d.Extensions {
		if err := s.extension(ctx, name.String(), e); err != nil {
			return err
		}
	}
	return nil
}

// extension looks whether one is there, or can be made.
func (s *survey) extension(ctx context.Context, table string, e postgres.Extension) error {
	var here *string
	var available, may bool
	err := s.tx.QueryRow(ctx, `SELECT (SELECT n.nspname::text FROM pg_catalog.pg_extension x JOIN pg_catalog.pg_namespace n ON n.oid = x.extnamespace WHERE x.extname = $1),
			EXISTS (SELECT FROM pg_catalog.pg_available_extensions WHERE name = $1),
			(SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) OR EXISTS (SELECT FROM pg_catalog.pg_available_extensions a JOIN pg_catalog.pg_available_extension_versions v
				ON v.name = a.name AND v.version = a.default_version WHERE a.name = $1 AND (NOT v.superuser OR v.trusted AND pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')))`,
		e.Name).Scan(&here, &available, &may)
	switch {
	case err != nil:
		return fmt.Errorf("looking for extension %s: %w", e.Name, err)
	case here != nil && *here != e.Schema:
		s.fault(table, "it needs extension %s in schema %s, as at the source, and it is in %s here: ALTER EXTENSION %s SET SCHEMA %s", postgres.Quote(e.Name), postgres.Quote(e.Schema), postgres.Quote(*here), postgres.Quote(e.Name), postgres.Quote(e.Schema))
	case here != nil:
	case !available:
		s.fault(table, "it needs extension %s, which this server does not have: install the package that brings it", postgres.Quote(e.Name))
	case !may:
		s.fault(table, "it needs extension %s, which this role may not make: run, as a superuser, CREATE EXTENSION %s SCHEMA %s", postgres.Quote(e.Name), postgres.Quote(e.Name), postgres.Quote(e.Schema))
	}
	return nil
}

// made tells whether the restore that is gone on with had made a table.
func (s *survey) made(t *table) bool {
	if s.plan.Resumes == "" {
		return false
	}
	return slices.ContainsFunc(s.open.Tables, func(o entry.RestoredTable) bool { return o.Created && o.Table == t.Table.Table })
}
