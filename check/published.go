package check

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/trickle-verify/trickle/postgres"
)

// publication is one of the source's.
type publication struct {
	Name     string
	All      bool // FOR ALL TABLES
	ViaRoot  bool
	Withheld []string // of insert, update and delete
}

func (p publication) sql() string { return "PUBLICATION " + postgres.Quote(p.Name) }

// carrier is a publication that carries a table.
type carrier struct {
	*publication
	filter string // only rows that meet it; empty: all
}

// carried is what publications carry. CDC that needs none (another plugin, triggers) leaves it empty.
type carried struct {
	publications []*publication
	by           map[postgres.Name][]carrier
}

func (c carried) of(name postgres.Name) []carrier { return c.by[name] }

// publications reads which carry which tables; partitions count as their root.
func (s *Source) publications(ctx context.Context) ([]Finding, error) {
	rows, err := s.pool.Query(ctx, `SELECT pubname::text, puballtables, pubviaroot, array_remove(ARRAY[CASE WHEN NOT pubinsert THEN 'insert' END, CASE WHEN NOT pubupdate THEN 'update' END,
		CASE WHEN NOT pubdelete THEN 'delete' END], NULL) FROM pg_publication ORDER BY 1`)
	if err != nil {
		return nil, err
	}
	s.carried.publications, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (*publication, error) {
		p := new(publication)
		return p, row.Scan(&p.Name, &p.All, &p.ViaRoot, &p.Withheld)
	})
	if err != nil {
		return nil, err
	}
	if len(s.carried.publications) == 0 {
		return []Finding{ok("none: CDC does not use pgoutput, or makes its publication when it starts")}, nil
	}
	s.carried.by = make(map[postgres.Name][]carrier)
	// As JSON, since Postgres 14 knows no row filters.
	rows, err = s.pool.Query(ctx, `SELECT DISTINCT t.pubname::text, rn.nspname::text, r.relname::text, coalesce(to_jsonb(t)->>'rowfilter', '')
		FROM pg_publication_tables t JOIN pg_namespace n ON n.nspname = t.schemaname JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
		JOIN pg_class r ON r.oid = coalesce(pg_partition_root(c.oid), c.oid) JOIN pg_namespace rn ON rn.oid = r.relnamespace ORDER BY 1`)
	if err != nil {
		return nil, err
	}
	var name, filter string
	var table postgres.Name
	_, err = pgx.ForEachRow(rows, []any{&name, &table.Schema, &table.Table, &filter}, func() error {
		at := slices.IndexFunc(s.carried.publications, func(p *publication) bool { return p.Name == name })
		if at >= 0 {
			s.carried.by[table] = append(s.carried.by[table], carrier{s.carried.publications[at], filter})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var found []Finding
	for _, p := range s.carried.publications {
		if len(p.Withheld) > 0 {
			found = append(found, warn("ALTER "+p.sql()+" SET (publish = 'insert, update, delete, truncate')", "carries no %s", strings.Join(p.Withheld, " and no ")).of(p.Name))
			continue
		}
		found = append(found, ok("carries inserts, updates and deletes").of(p.Name))
	}
	return found, nil
}

// judge says what publications do with a table.
func (c carried) judge(t sourceTable) []Finding {
	if len(c.publications) == 0 {
		return nil
	}
	object := t.name.String()
	carriers := c.of(t.name)
	if len(carriers) == 0 {
		return []Finding{warn(c.adding(t.name), "in no publication (%s): CDC by pgoutput does not carry it, and all that is written to it becomes drift", strings.Join(c.names(), ", ")).of(object)}
	}
	var found []Finding
	for _, p := range carriers {
		if t.partitioned && !p.ViaRoot {
			found = append(found, warn("ALTER "+p.sql()+" SET (publish_via_partition_root = true), unless the replica has the same partitions",
				"published by %s partition by partition: changes arrive under the partitions' names", p.Name).of(object))
		}
		if p.filter != "" && t.match.Table.Where == "" {
			found = append(found, warn("give the table's entry in the policy the same condition under where:", "%s carries only rows that meet %s: all others would be missing in the replica", p.Name, p.filter).of(object))
		}
	}
	return found
}

// adding is how a table gets into CDC.
func (c carried) adding(name postgres.Name) string {
	if len(c.publications) == 1 {
		return "ALTER " + c.publications[0].sql() + " ADD TABLE " + name.SQL()
	}
	return "ALTER PUBLICATION … ADD TABLE " + name.SQL() + ", for the one that CDC reads"
}

func (c carried) names() []string {
	out := make([]string, len(c.publications))
	for i, p := range c.publications {
		out[i] = p.Name
	}
	return out
}

// slot is what CDC reads from, where the policy names it.
func (s *Source) slot(ctx context.Context) ([]Finding, error) {
	name, w := s.Policy.Gate.Slot, s.writable()
	var level, keep string
	if err := w.pool.QueryRow(ctx, `SELECT current_setting('wal_level'), current_setting('max_slot_wal_keep_size')`).Scan(&level, &keep); err != nil {
		return nil, err
	}
	if level != "logical" && !w.identity.Standby {
		return nil, &FaultError{Err: fmt.Errorf("wal_level is %s, so there can be no logical slot %s", level, name), Fix: "ALTER SYSTEM SET wal_level = 'logical', and restart the server"}
	}
	v, there, err := postgres.NewSource(w.pool).Slot(ctx, name)
	if err != nil {
		return nil, err
	}
	if !there && w.identity.Standby {
		return nil, &absentError{"slot " + name + " is the primary's, and this is a standby", "name the primary with --primary or TRICKLE_PRIMARY_DSN"}
	}
	if !there {
		var others []string
		if err := w.pool.QueryRow(ctx, `SELECT coalesce(array_agg(slot_name::text ORDER BY slot_name), '{}') FROM pg_replication_slots WHERE slot_type = 'logical' AND database = current_database()`).Scan(&others); err != nil {
			return nil, err
		}
		fix := "start CDC, which makes it, or correct gate.slot in the policy"
		if len(others) > 0 {
			fix += "; logical slots of this database: " + strings.Join(others, ", ")
		}
		return nil, &FaultError{Err: fmt.Errorf("there is no replication slot %s", name), Fix: fix}
	}
	behind := humanize.IBytes(v.Behind)
	var found []Finding
	add := func(f Finding) { found = append(found, f.of(name)) }
	switch {
	case !v.Logical:
		add(fail("name the slot of CDC under gate.slot in the policy", "it is a physical slot, through which no CDC reads"))
	case v.Database != v.Here:
		add(fail("name the slot of this database's CDC under gate.slot in the policy", "it belongs to database %s, and not to %s", v.Database, v.Here))
	case v.Lost != "":
		add(fail(fmt.Sprintf("SELECT pg_drop_replication_slot('%s'), and have CDC begin anew with a snapshot", strings.ReplaceAll(name, "'", "''")), "CDC can't go on from it: %s", v.Lost))
	case v.Scarce:
		add(warn("start CDC, or raise max_slot_wal_keep_size", "it is about to lose log that CDC did not read yet, %s behind", behind))
	case !v.Active:
		add(warn("start CDC, or its connector", "nobody reads from it, %s behind: the gate stays closed, and the source keeps that much log", behind))
	default:
		add(ok("%s, read from, %s behind", v.Plugin, behind))
	}
	if keep == "-1" {
		add(ok("max_slot_wal_keep_size is unlimited: a CDC that stands still for long fills the source's disk"))
	}
	return found, nil
}

// readers is how many tables are looked at at once.
const readers = 4

// eachTable calls fn for each of n tables, some at once, and returns what they found in the tables' order.
func eachTable(ctx context.Context, n int, fn func(ctx context.Context, i int) ([]Finding, error)) ([]Finding, error) {
	found := make([][]Finding, n)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for i := range n {
		g.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			var err error
			found[i], err = fn(ctx, i)
			return err
		})
	}
	err := g.Wait()
	return slices.Concat(found...), err
}
