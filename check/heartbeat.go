package check

import (
	"context"
	"strings"
	"time"

	"github.com/trickle-verify/trickle/heartbeat"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
)

// beatTable is a heartbeat table as one side has it.
type beatTable struct {
	name     postgres.Name
	there    bool
	fits     bool // it has the columns, and the key to upsert by
	timeline bool // it has that column too, which older versions did not make
	creates  bool // the role may make it
	schema   bool // its schema is there
	usage    bool
	missing  []string // rights on it
}

// make are the statements that make it.
func (t beatTable) make() []string {
	ddl := strings.Split(heartbeat.New(nil, t.name.String(), "").DDL(), "; ")
	if t.schema {
		return ddl[1:] // the schema's asks for a right even where it exists
	}
	return ddl
}

// lookAtBeat reads what there is of a heartbeat table; rights are those that this side needs on it.
func (s *Side) lookAtBeat(ctx context.Context, name string, rights ...string) (beatTable, error) {
	t := beatTable{name: postgres.ParseName(name)}
	err := s.pool.QueryRow(ctx, `SELECT n.oid IS NOT NULL, coalesce(has_schema_privilege(n.oid, 'USAGE'), false), c.oid IS NOT NULL,
			CASE WHEN n.oid IS NULL THEN has_database_privilege(current_database(), 'CREATE') ELSE has_schema_privilege(n.oid, 'CREATE') END,
			coalesce((SELECT count(*) FROM pg_attribute a WHERE a.attrelid = c.oid AND (a.attname, a.atttypid) IN (('pipeline', 'text'::regtype), ('at', 'timestamptz'::regtype))) = 2
				AND EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0] AND a.attname = 'pipeline'
					WHERE i.indrelid = c.oid AND i.indisunique AND i.indnkeyatts = 1 AND i.indimmediate AND i.indpred IS NULL), false),
			EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'timeline' AND NOT a.attisdropped),
			coalesce((SELECT array_agg(r ORDER BY o) FROM unnest($3::text[]) WITH ORDINALITY w(r, o) WHERE c.oid IS NOT NULL AND NOT has_table_privilege(c.oid, r)), '{}')
		FROM (SELECT) one LEFT JOIN pg_namespace n ON n.nspname = $1 LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = $2 AND c.relkind IN ('r', 'p')`,
		t.name.Schema, t.name.Table, rights).Scan(&t.schema, &t.usage, &t.there, &t.creates, &t.fits, &t.timeline, &t.missing)
	return t, err
}

// judgeBeat says whether a side can use its heartbeat table; false: it can't be looked into.
func (s *Side) judgeBeat(t beatTable, rights ...string) (Finding, bool) {
	object := t.name.String()
	rightsOn := grant(strings.Join(rights, ", "), t.name.SQL(), s.role)
	usage := grant("USAGE", "SCHEMA "+postgres.Quote(t.name.Schema), s.role)
	switch {
	case !t.there && t.creates:
		return ok("is not there yet, and is made when trickle starts; put it into what CDC carries then").of(object), false
	case !t.there:
		return fail(statements(append(t.make(), usage, rightsOn)...), "is not there, and %s may not make it", s.role).of(object), false
	case !t.fits:
		return fail(statements(append([]string{"DROP TABLE " + t.name.SQL()}, append(t.make(), rightsOn)...)...),
			"is no heartbeat table: it needs the columns pipeline text PRIMARY KEY and at timestamptz").of(object), false
	case !t.timeline:
		return fail("ALTER TABLE "+t.name.SQL()+" ADD COLUMN timeline bigint NOT NULL DEFAULT 0, in the replica first and then on the source",
			"has no column timeline, which tells a beat of the primary from one of the server before it").of(object), false
	case !t.usage || len(t.missing) > 0:
		var fix, lacks []string
		if !t.usage {
			fix, lacks = append(fix, usage), append(lacks, "USAGE on its schema")
		}
		if len(t.missing) > 0 {
			fix, lacks = append(fix, grant(strings.Join(t.missing, ", "), t.name.SQL(), s.role)), append(lacks, strings.Join(t.missing, ", "))
		}
		return fail(statements(fix...), "%s lacks %s", s.role, strings.Join(lacks, " and ")).of(object), false
	}
	return Finding{}, true
}

// heartbeat is the row that the publisher writes and CDC carries.
func (s *Source) heartbeat(ctx context.Context) ([]Finding, error) {
	beat, w := s.Policy.Gate.Heartbeat, s.writable()
	rights := []string{"SELECT", "INSERT", "UPDATE"}
	t, err := w.lookAtBeat(ctx, beat.Table, rights...)
	if err != nil {
		return nil, err
	}
	t.creates = t.creates && !w.identity.Standby
	bad, usable := w.judgeBeat(t, rights...)
	if !usable {
		return []Finding{bad}, nil
	}
	object := t.name.String()
	age, err := w.beatAge(ctx, t.name)
	var f Finding
	switch {
	case err != nil:
		return nil, err
	case len(s.carried.publications) > 0 && len(s.carried.of(t.name)) == 0:
		f = fail(s.carried.adding(t.name), "in no publication (%s): it never reaches the replica, and the gate stays closed", strings.Join(s.carried.names(), ", "))
	case age == nil:
		f = ok("may be written; no beat yet, since no publisher has run")
	case *age > 3*time.Duration(beat.Interval)+apart:
		f = warn("start the publisher: trickle run", "the last beat is %s old: no publisher runs", age.Round(time.Second))
	default:
		f = ok("a publisher runs: it beat %s ago", age.Round(100*time.Millisecond))
	}
	return []Finding{f.of(object)}, nil
}

// order is whether CDC keeps commit order between the heartbeat and the tables, which nothing else proves where the heartbeat stands alone. Debezium is known not to.
func (s *Source) order(ctx context.Context) ([]Finding, error) {
	there, err := heartbeat.New(s.writable().pool, s.Policy.Gate.Heartbeat.Table, s.pipeline).BesideDebezium(ctx)
	if err != nil {
		return nil, err
	}
	if there {
		return []Finding{warn("gate: {slot: <slot.name of the connector>, group: connect-<name of the sink>} in the policy, with or without the heartbeat",
			"Debezium reads this database, and gate.heartbeat stands alone: with a topic for each table, and a sink that writes in batches, the heartbeat overtakes rows that were committed before it, and changes in flight are taken for drift")}, nil
	}
	return []Finding{ok("no session of Debezium is here, beside which a heartbeat alone proves nothing")}, nil
}

// beatAge is how old the pipeline's beat is by this server's clock; nil where there is none.
func (s *Side) beatAge(ctx context.Context, name postgres.Name) (*time.Duration, error) {
	var at *float64
	err := s.pool.QueryRow(ctx, "SELECT (SELECT extract(epoch FROM clock_timestamp() - at)::float8 FROM "+name.SQL()+" WHERE pipeline = $1)", s.pipeline).Scan(&at)
	if err != nil || at == nil {
		return nil, err
	}
	age := max(0, time.Duration(*at*float64(time.Second)))
	return &age, nil
}

// Lag is the check of how the policy has the replica's lag known. It is among those of a replica.
func Lag(p *policy.Policy) Check {
	return Check{Group: "gate", Name: "lag", Run: func(context.Context) ([]Finding, error) { return []Finding{gated(p.Gate)}, nil }}
}

// gated is how the policy has the replica's lag known.
func gated(g policy.Gate) Finding {
	var ways []string
	if g.Heartbeat.Enabled {
		ways = append(ways, "heartbeat "+g.Heartbeat.Replica)
	}
	if g.Slot != "" {
		ways = append(ways, "slot "+g.Slot)
	}
	if g.Group != "" {
		ways = append(ways, "group "+g.Group)
	}
	switch {
	case !g.Known() && g.Heartbeat.Enabled:
		return warn("gate.slot and gate.group in the policy, or gate: {heartbeat: {in_commit_order: true}} if CDC applies in commit order across tables",
			"the heartbeat may overtake other tables' rows, so it proves nothing by itself: drift is reported, and nothing is corrected")
	case !g.Known():
		return warn("gate.slot and gate.group in the policy, gate: {heartbeat: {in_commit_order: true}} if CDC applies in commit order across tables, or assume_lag if you vouch for the lag",
			"no way to know the replica's lag: drift is reported, and nothing is corrected")
	case g.AssumeLag > 0:
		return ok("you vouch that CDC is never more than %s behind", time.Duration(g.AssumeLag))
	default:
		return ok("measured by %s; corrections wait above %s", strings.Join(ways, ", "), time.Duration(g.MaxLag))
	}
}
