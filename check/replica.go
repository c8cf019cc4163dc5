package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/heartbeat"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
)

// Publisher is asked how the source's tables look, as a detector asks.
type Publisher interface {
	// Hello returns a table's schema and the source it is of, "<system identifier>/<database>".
	Hello(ctx context.Context, table string) (*tricklepb.Schema, string, error)
}

// Replica is what the detector's side is checked against.
type Replica struct {
	Side
	Policy *policy.Policy
	Rules  func(policy.Table) postgres.Rules
	// Source is the other side where its DSN was given too; nil otherwise.
	Source *Source
	// Publisher is asked instead where there is no Source; nil: nobody is.
	Publisher Publisher

	// Each is found out by one check, and read by those that need it.
	tables    []replicaTable      // "found"
	forbidden []bool              // "rights": which of the tables can't be read
	keys      [][]string          // "agreement": the source's key in the replica's words; nil where it is not known
	fitted    []*tricklepb.Schema // "agreement": the source's table, where the replica's fits it; nil elsewhere
	ledger    bool                // "schema trickle": its tables are there
	pinned    string              // "pinned source"; empty: none yet
}

// NewReplica makes the checks of a replica.
func NewReplica(side Side, p *policy.Policy, rules func(policy.Table) postgres.Rules) *Replica {
	side.pipeline = p.Pipeline
	return &Replica{Side: side, Policy: p, Rules: rules}
}

// Checks lists them. Those of the source stand before them, where there is one.
func (r *Replica) Checks() []Check {
	connected, usable := []string{r.id("connect")}, []string{r.id("connect"), r.id("version")}
	checks := append(r.common(),
		Check{Group: r.Name, Name: "standing", Needs: connected, Run: r.standing},
		Check{Group: r.Name, Name: "schema trickle", Needs: usable, Run: r.schema},
		Check{Group: r.Name, Name: "pinned source", Needs: append(slices.Clone(usable), r.id("schema trickle"), "source/connect"), Run: r.pin},
		Check{Group: r.Name, Name: "brake", Needs: append(slices.Clone(usable), r.id("schema trickle")), Run: r.brake},
	)
	if r.Policy.Detect.SessionReplicationRole == "replica" {
		checks = append(checks, Check{Group: r.Name, Name: "session_replication_role", Needs: connected, Run: r.roleSetting})
	}
	found := append(slices.Clone(usable), "replica tables/found")
	checks = append(checks,
		Check{Group: "replica tables", Name: "found", Needs: append(slices.Clone(usable), "tables/found"), Run: r.find},
		Check{Group: "replica tables", Name: "rights", Needs: found, Run: r.rights},
		Check{Group: "replica tables", Name: "side effects", Needs: found, Run: r.sideEffects},
		Check{Group: "replica tables", Name: "agreement", Needs: append(slices.Clone(found), "replica tables/rights", "tables/readable"), Run: r.agreement},
		Check{Group: "replica tables", Name: "room", Needs: append(slices.Clone(found), "replica tables/agreement"), Run: r.room},
		Check{Group: "replica tables", Name: "order of text keys", Needs: append(slices.Clone(found), "replica tables/agreement"), Run: r.textKeys},
	)
	checks = append(checks, Lag(r.Policy))
	if r.Policy.Gate.Heartbeat.Enabled {
		checks = append(checks, Check{Group: "gate", Name: "heartbeat", Needs: usable, Run: r.heartbeat})
	}
	return append(checks, Check{Group: "gate", Name: "as last seen", Needs: append(slices.Clone(usable), r.id("schema trickle")), Run: r.lastGate})
}

func (r *Replica) standing(context.Context) ([]Finding, error) {
	if r.identity.Standby {
		return nil, &FaultError{Err: errors.New("a standby, which can't be written"), Fix: "point " + r.Setting + " at a primary that CDC writes to"}
	}
	return []Finding{ok("takes writes, %s by system identifier and database", r.identity)}, nil
}

// schema is where the detector remembers.
func (r *Replica) schema(ctx context.Context) ([]Finding, error) {
	var there, usage, creates, databaseCreates bool
	var lacking []string
	err := r.pool.QueryRow(ctx, `SELECT n.oid IS NOT NULL, coalesce(has_schema_privilege(n.oid, 'USAGE'), false), coalesce(has_schema_privilege(n.oid, 'CREATE'), false),
			has_database_privilege(current_database(), 'CREATE'),
			coalesce((SELECT array_agg(c.relname::text ORDER BY c.relname) FROM pg_class c WHERE c.relnamespace = n.oid AND c.relkind = 'r'
				AND c.relname = ANY ($1)
				AND NOT (has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE'))), '{}')
		FROM (SELECT) one LEFT JOIN pg_namespace n ON n.nspname = 'trickle'`, ledger.Tables()).Scan(&there, &usage, &creates, &databaseCreates, &lacking)
	if err != nil {
		return nil, err
	}
	role := postgres.Quote(r.role)
	switch {
	case !there && databaseCreates:
		return []Finding{ok("is not there yet, and is made when the detector starts")}, nil
	case !there:
		return nil, &FaultError{Err: fmt.Errorf("is not there, and %s may not make it", r.role), Fix: "CREATE SCHEMA trickle AUTHORIZATION " + role}
	case !usage || !creates:
		return nil, &FaultError{Err: fmt.Errorf("%s lacks USAGE or CREATE on it", r.role), Fix: grant("USAGE, CREATE", "SCHEMA trickle", r.role)}
	case len(lacking) > 0:
		return nil, &FaultError{Err: fmt.Errorf("%s may not work with %s in it, which another role made", r.role, strings.Join(lacking, ", ")),
			Fix: grant("SELECT, INSERT, UPDATE, DELETE", "ALL TABLES IN SCHEMA trickle", r.role)}
	}
	if err := r.pool.QueryRow(ctx, `SELECT to_regclass('trickle.pipelines') IS NOT NULL AND to_regclass('trickle.tables') IS NOT NULL`).Scan(&r.ledger); err != nil {
		return nil, err
	}
	return []Finding{ok("is there, and %s may work in it", r.role)}, nil
}

// pin compares the source that the replica is pinned to with the one there is.
func (r *Replica) pin(ctx context.Context) ([]Finding, error) {
	if r.ledger {
		err := r.pool.QueryRow(ctx, `SELECT coalesce((SELECT source FROM trickle.pipelines WHERE pipeline = $1), '')`, r.pipeline).Scan(&r.pinned)
		if err != nil {
			return nil, err
		}
	}
	if r.Source == nil {
		if r.pinned == "" {
			return []Finding{ok("none yet: the first source that is heard is pinned")}, nil
		}
		return []Finding{ok("%s", r.pinned)}, nil
	}
	return []Finding{r.judgeSource(r.Source.identity.String())}, nil
}

// judgeSource says whether this source may correct the replica.
func (r *Replica) judgeSource(source string) Finding {
	switch {
	case source == r.identity.String():
		return fail("point the source's or the replica's DSN at another database", "source and replica are the same database, %s", source)
	case r.pinned == "":
		return ok("none yet; the source is %s, and is pinned when it is first heard", source)
	case r.pinned != source:
		return fail("trickle-consumer pin --source "+source+", if the source was replaced on purpose", "pinned to %s, and the source is %s: nothing is corrected from it", r.pinned, source)
	}
	return ok("%s, as it is", source)
}

func (r *Replica) brake(ctx context.Context) ([]Finding, error) {
	var reason *string
	if r.ledger {
		err := r.pool.QueryRow(ctx, `SELECT (SELECT brake_reason FROM trickle.pipelines WHERE pipeline = $1)`, r.pipeline).Scan(&reason)
		if err != nil {
			return nil, err
		}
	}
	if reason != nil {
		return []Finding{warn("look at the source; if the corrections are right: trickle-consumer brake --release", "on: %s", *reason)}, nil
	}
	return []Finding{ok("off")}, nil
}

// roleSetting is the right to keep triggers and foreign keys from acting.
func (r *Replica) roleSetting(ctx context.Context) ([]Finding, error) {
	if r.super {
		return []Finding{ok("%s may set it", r.role)}, nil
	}
	if r.identity.Version < 150000 {
		return []Finding{fail("ALTER ROLE "+postgres.Quote(r.role)+" SUPERUSER, or detect: {session_replication_role: origin} in the policy", "before Postgres 15 only a superuser may set it, as the policy asks")}, nil
	}
	var may bool
	if err := r.pool.QueryRow(ctx, `SELECT has_parameter_privilege('session_replication_role', 'SET')`).Scan(&may); err != nil {
		return nil, err
	}
	if !may {
		return []Finding{fail("GRANT SET ON PARAMETER session_replication_role TO "+postgres.Quote(r.role), "%s may not set it, as the policy asks", r.role)}, nil
	}
	return []Finding{ok("%s may set it", r.role)}, nil
}

// patience is how long a beat is waited for, at most.
const patience = 6 * time.Second

// heartbeat is what CDC brings of the source's clock.
func (r *Replica) heartbeat(ctx context.Context) ([]Finding, error) {
	beat := r.Policy.Gate.Heartbeat
	t, err := r.lookAtBeat(ctx, beat.Replica, "SELECT")
	if err != nil {
		return nil, err
	}
	bad, usable := r.judgeBeat(t, "SELECT")
	if !usable {
		return []Finding{bad}, nil
	}
	object := t.name.String()
	table := heartbeat.New(r.pool, beat.Replica, r.pipeline)
	first, _, err := table.Beat(ctx)
	if err != nil {
		return nil, err
	}
	carry := "make " + beat.Table + " part of what CDC copies, and run the publisher"
	if first.IsZero() {
		return []Finding{warn(carry, "no beat of pipeline %s has come through CDC yet: the gate is closed", r.pipeline).of(object)}, nil
	}
	// A beat moves once in an interval, and CDC may take a little longer to bring it: two are more than enough to see one.
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(min(2*time.Duration(beat.Interval)+time.Second, patience)); time.Now().Before(end); {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
		now, _, err := table.Beat(ctx)
		if err != nil {
			return nil, err
		}
		if now.After(first) {
			return []Finding{ok("flows through CDC").of(object)}, nil
		}
	}
	age, err := r.beatAge(ctx, t.name)
	if err != nil || age == nil {
		return nil, err
	}
	if limit := time.Duration(beat.Interval) + time.Duration(r.Policy.Gate.MaxLag); *age <= limit {
		return []Finding{ok("%s old by this replica's clock, within gate.max_lag", age.Round(100*time.Millisecond)).of(object)}, nil
	}
	return []Finding{warn("look at CDC (its connector, its slot, its sink) and at the publisher", "stands still, %s old by this replica's clock: the gate is closed above %s",
		age.Round(time.Second), time.Duration(r.Policy.Gate.MaxLag)).of(object)}, nil
}

// lastGate is what a detector saw when it last looked.
func (r *Replica) lastGate(ctx context.Context) ([]Finding, error) {
	if !r.ledger {
		return []Finding{unknown("", "no detector has run here yet")}, nil
	}
	var open bool
	var reason string
	var age *float64
	err := r.pool.QueryRow(ctx, `SELECT gate_open, gate_reason, extract(epoch FROM clock_timestamp() - gate_at)::float8 FROM trickle.pipelines WHERE pipeline = $1`, r.pipeline).Scan(&open, &reason, &age)
	switch {
	case errors.Is(err, pgx.ErrNoRows), err == nil && age == nil:
		return []Finding{unknown("", "no detector of this pipeline has looked yet")}, nil
	case err != nil:
		return nil, err
	case open:
		return []Finding{ok("open, %s ago", seconds(*age))}, nil
	}
	return []Finding{warn("", "closed, %s ago: %s", seconds(*age), reason)}, nil
}
