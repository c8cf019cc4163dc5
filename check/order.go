package check

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/postgres"
)

// orderSQL names, for columns that are sorted by a collation, what sorts them: provider, locale and version; of the database's default, the database's.
const orderSQL = `SELECT n.nspname::text, c.relname::text, a.attname::text, CASE WHEN l.collname = 'default' THEN concat_ws(' ', coalesce(to_jsonb(d)->>'datlocprovider', 'c'),
			coalesce(to_jsonb(d)->>'datlocale', to_jsonb(d)->>'daticulocale', to_jsonb(d)->>'datcollate'), to_jsonb(d)->>'datcollversion')
		ELSE concat_ws(' ', l.collprovider::text, coalesce(to_jsonb(l)->>'colllocale', to_jsonb(l)->>'colliculocale', to_jsonb(l)->>'collcollate'), pg_collation_actual_version(l.oid)) END
	FROM pg_database d, unnest($1::text[], $2::text[]) v(schema, name) JOIN pg_namespace n ON n.nspname = v.schema JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = v.name
	JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped JOIN pg_collation l ON l.oid = a.attcollation
	WHERE d.datname = current_database()`

type column struct {
	table postgres.Name
	name  string
}

func orders(ctx context.Context, pool *pgxpool.Pool, names []postgres.Name) (map[column]string, error) {
	schemas, bare := make([]string, len(names)), make([]string, len(names))
	for i, n := range names {
		schemas[i], bare[i] = n.Schema, n.Table
	}
	rows, err := pool.Query(ctx, orderSQL, schemas, bare)
	if err != nil {
		return nil, err
	}
	out := make(map[column]string)
	var c column
	var order string
	_, err = pgx.ForEachRow(rows, []any{&c.table.Schema, &c.table.Table, &c.name, &order}, func() error {
		out[c] = order
		return nil
	})
	return out, err
}

// textKeys compares what sorts the text of keys on both sides: ranges hold the same rows only where both sort alike.
func (r *Replica) textKeys(ctx context.Context) ([]Finding, error) {
	if r.Source == nil {
		return nil, &absentError{"only the source itself says how it sorts", "give --source as well"}
	}
	var here, there []postgres.Name
	for _, t := range r.tables {
		here, there = append(here, t.source), append(there, t.name)
	}
	source, err := orders(ctx, r.Source.pool, here)
	if err != nil {
		return nil, err
	}
	replica, err := orders(ctx, r.pool, there)
	if err != nil {
		return nil, err
	}
	var found []Finding
	laid := make(map[postgres.Name]*postgres.Layout)
	for i, t := range r.Source.tables {
		laid[t.name] = r.Source.layouts[i]
	}
	known := 0
	for i, t := range r.tables {
		if len(r.keys[i]) > 0 {
			known++
		}
		var differ []string
		for n, k := range r.keys[i] { // known only of tables that are laid out
			name := laid[t.source].Schema.GetKey()[n]
			s, d := source[column{t.source, name}], replica[column{t.name, k}]
			if s != d {
				differ = append(differ, fmt.Sprintf("%s by %s at the source and by %s here", name, spell(s), spell(d)))
			}
		}
		if len(differ) > 0 {
			found = append(found, warn("give the key column the same collation on both sides, best \"C\", or run both on systems with the same version of it",
				"the two sides sort it differently: %s. Ranges then hold different rows and never agree; nothing wrong is written", strings.Join(differ, "; ")).of(t.name.String()))
		}
	}
	return remaining(found, known, "%s: both sides sort the key alike"), nil
}

// spell is an order for people: the provider's letter, the locale, the version.
func spell(order string) string {
	provider, rest, _ := strings.Cut(order, " ")
	switch provider {
	case "c":
		return "libc " + rest
	case "i":
		return "ICU " + rest
	case "b":
		return "built-in " + rest
	case "":
		return "no collation"
	default:
		return order
	}
}
