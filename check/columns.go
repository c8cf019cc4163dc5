package check

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
)

// columnsSQL tells of each column how much fits into it, and whether a row can do without a value for it.
const columnsSQL = `SELECT n.nspname::text, c.relname::text, a.attname::text, b.typname::text, m.mod, format_type(b.oid, m.mod),
		(a.attnotnull OR t.typnotnull) AND NOT a.atthasdef AND a.attidentity = '' AND t.typdefault IS NULL
	FROM unnest($1::text[], $2::text[]) v(schema, name) JOIN pg_namespace n ON n.nspname = v.schema JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = v.name
	JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped JOIN pg_type t ON t.oid = a.atttypid
	CROSS JOIN LATERAL (SELECT CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END AS base, CASE t.typtype WHEN 'd' THEN t.typtypmod ELSE a.atttypmod END AS mod) m
	JOIN pg_type b ON b.oid = m.base ORDER BY a.attnum`

// room is how much fits into a column.
type room struct {
	name     string
	kind     string // the type's own name, of an array that of its elements
	mod      int    // the type's modifier, as Postgres keeps it; -1: none
	spelt    string
	required bool // NOT NULL, and nothing fills it
}

func rooms(ctx context.Context, pool *pgxpool.Pool, names []postgres.Name) (map[postgres.Name][]room, error) {
	schemas, bare := make([]string, len(names)), make([]string, len(names))
	for i, n := range names {
		schemas[i], bare[i] = n.Schema, n.Table
	}
	rows, err := pool.Query(ctx, columnsSQL, schemas, bare)
	if err != nil {
		return nil, err
	}
	out := make(map[postgres.Name][]room)
	var table postgres.Name
	var r room
	_, err = pgx.ForEachRow(rows, []any{&table.Schema, &table.Table, &r.name, &r.kind, &r.mod, &r.spelt, &r.required}, func() error {
		r.kind = strings.TrimPrefix(r.kind, "_")
		out[table] = append(out[table], r)
		return nil
	})
	return out, err
}

// room is whether the replica's columns take what the source's hold: what does not fit is refused, or cut, at each correction.
func (r *Replica) room(ctx context.Context) ([]Finding, error) {
	if r.Policy.Detect.Action == policy.ActionReport {
		return []Finding{ok("nothing is written: detect.action is report")}, nil
	}
	var here, there []postgres.Name
	for _, t := range r.tables {
		here, there = append(here, t.source), append(there, t.name)
	}
	replica, err := rooms(ctx, r.pool, there)
	if err != nil {
		return nil, err
	}
	source := map[postgres.Name][]room{}
	if r.Source != nil {
		if source, err = rooms(ctx, r.Source.pool, here); err != nil {
			return nil, err
		}
	}
	var found []Finding
	known := 0
	for i, t := range r.tables {
		if r.fitted[i] == nil {
			continue
		}
		known++
		rules := r.Rules(t.match.Table)
		filled := map[string]string{} // by a correction: the source's column
		for _, c := range r.fitted[i].GetColumns() {
			filled[cmp.Or(rules.Rename[c.GetName()], c.GetName())] = c.GetName()
		}
		alter := "ALTER TABLE " + t.name.SQL() + " ALTER COLUMN "
		for _, own := range replica[t.name] {
			from, is := filled[own.name]
			if !is {
				if own.required {
					found = append(found, warn(alter+postgres.Quote(own.name)+" DROP NOT NULL",
						"column %s is NOT NULL without a default, and no column that is compared fills it: rows that are missing can't be inserted until it has a default or may be NULL", own.name).of(t.name.String()))
				}
				continue
			}
			at := slices.IndexFunc(source[t.source], func(c room) bool { return c.name == from })
			if _, loose := rules.Compare[from]; at < 0 || loose || !own.narrower(source[t.source][at]) {
				continue
			}
			spelt := source[t.source][at].spelt
			found = append(found, warn(alter+postgres.Quote(own.name)+" TYPE "+spelt,
				"column %s is %s here and %s at the source: values that do not fit are refused or cut, and stay drift", own.name, own.spelt, spelt).of(t.name.String()))
		}
	}
	if r.Source == nil {
		return remaining(found, known, "%s: no column needs a value that the source's row does not have"), nil
	}
	return remaining(found, known, "%s: what the source holds fits, and no other column needs a value"), nil
}

// narrower is whether values of another column need not fit into this one.
func (r room) narrower(than room) bool {
	mod, other := r.mod, than.mod
	switch r.kind {
	case "int2":
		return than.kind != "int2"
	case "int4":
		return than.kind == "int8"
	case "varchar", "bpchar", "bit", "varbit":
		return mod >= 0 && (other < 0 || mod < other)
	case "timestamp", "timestamptz", "time", "timetz":
		if other < 0 {
			other = finest
		}
		return mod >= 0 && mod < other
	case "numeric":
		if mod < 0 || other < 0 {
			return mod >= 0
		}
		digits, scale := precision(mod)
		digitsThere, scaleThere := precision(other)
		return scale < scaleThere || digits-scale < digitsThere-scaleThere
	default:
		return false
	}
}

// finest is how many digits of a second Postgres keeps.
const finest = 6

// precision takes the modifier of a numeric apart: all its digits, and those behind the point.
func precision(mod int) (digits, scale int) {
	const header, low, sign = 4, 0x7ff, 1024
	mod -= header
	return mod >> 16 & 0xffff, (mod&low ^ sign) - sign
}
