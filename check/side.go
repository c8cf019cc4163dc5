package check

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
)

// Side is one of the two databases.
type Side struct {
	// Name is the group its checks stand in: "source" or "replica".
	Name string
	// Setting is where its DSN comes from, for the next step.
	Setting string
	// Open connects; whoever made it closes the pool.
	Open func(ctx context.Context) (*pgxpool.Pool, error)

	pipeline string

	// Found out by the check "connect".
	pool     *pgxpool.Pool
	identity postgres.Identity
	role     string // whom trickle is logged in as
	super    bool
	server   string // version and encoding, for people
}

// Identity is whom the side was found to be; the zero value before it was.
func (s *Side) Identity() postgres.Identity { return s.identity }

func (s *Side) id(check string) string { return s.Name + "/" + check }

// common are the checks of either side.
func (s *Side) common() []Check {
	connected := []string{s.id("connect")}
	return []Check{
		{Group: s.Name, Name: "connect", Run: s.connect},
		{Group: s.Name, Name: "version", Needs: connected, Run: s.version},
		{Group: s.Name, Name: "settings", Needs: connected, Run: s.settings},
		{Group: s.Name, Name: "clock", Needs: connected, Run: s.clock},
		{Group: s.Name, Name: "collations", Needs: connected, Run: s.collations},
	}
}

func (s *Side) connect(ctx context.Context) ([]Finding, error) {
	pool, err := s.Open(ctx)
	if err != nil {
		fix := "check host, port, user, password and database in " + s.Setting + ", and pg_hba.conf on the server"
		return nil, unconnected(err, fix)
	}
	s.pool = pool
	var tls, local bool
	err = pool.QueryRow(ctx, `SELECT c.system_identifier::text, current_database()::text, current_setting('server_version_num')::int, pg_is_in_recovery(), current_user::text,
			(SELECT rolsuper FROM pg_roles WHERE rolname = current_user), split_part(current_setting('server_version'), ' ', 1) || ', ' || getdatabaseencoding()::text,
			coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false), coalesce(inet_client_addr() <<= '127.0.0.0/8' OR inet_client_addr() = '::1', true)
		FROM pg_control_system() c`).Scan(&s.identity.System, &s.identity.Database, &s.identity.Version, &s.identity.Standby, &s.role, &s.super, &s.server, &tls, &local)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Name, err)
	}
	found := ok("database %s as %s", s.identity.Database, s.role)
	if s.super {
		found.Detail += "; the role is a superuser, which trickle does not need"
	}
	switch {
	case tls:
		found.Detail += "; encrypted"
	case !local:
		found.Verdict, found.Fix = Warning, "sslmode=verify-full and sslrootcert=… in "+s.Setting
		found.Detail += "; the connection is not encrypted"
	}
	return []Finding{found}, nil
}

func (s *Side) version(context.Context) ([]Finding, error) {
	if s.identity.Version < postgres.Oldest {
		return nil, &FaultError{Err: fmt.Errorf("the server runs Postgres %d", s.identity.Version/10000), Fix: fmt.Sprintf("upgrade to Postgres %d or later", postgres.Oldest/10000)}
	}
	return []Finding{ok("Postgres %s", s.server)}, nil
}

// settings that end what trickle does before it is done.
func (s *Side) settings(ctx context.Context) ([]Finding, error) {
	rows, err := s.pool.Query(ctx, `SELECT name::text, setting::bigint FROM pg_settings
		WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout', 'idle_session_timeout') AND setting <> '0' ORDER BY name`)
	if err != nil {
		return nil, err
	}
	var found []Finding
	var name string
	var ms int64
	_, err = pgx.ForEachRow(rows, []any{&name, &ms}, func() error {
		bound := time.Duration(ms) * time.Millisecond
		if bound < shortest {
			found = append(found, warn(fmt.Sprintf("ALTER ROLE %s SET %s = 0", postgres.Quote(s.role), name),
				"%s is %s: reading a range of a large table may take longer, and is then given up and tried again", name, bound).of(name))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		found = []Finding{ok("no timeout of sessions, transactions or statements is short")}
	}
	return found, nil
}

// shortest is how long a statement should be let run.
const shortest = time.Minute

// apart is how far clocks may be apart before it is worth a word.
const apart = time.Second

// clock compares the server's with this machine's. The answer was made somewhere within the round trip, so that much is not known.
func (s *Side) clock(ctx context.Context) ([]Finding, error) {
	best := time.Hour
	var ahead time.Duration
	for range 3 {
		var at time.Time
		began := time.Now()
		if err := s.pool.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&at); err != nil {
			return nil, err
		}
		if took := time.Since(began); took < best {
			best, ahead = took, at.Sub(began.Add(took/2))
		}
	}
	return []Finding{judgeClock(ahead, best)}, nil
}

func judgeClock(ahead, trip time.Duration) Finding {
	if min(ahead.Abs()-trip/2, ahead.Abs()) <= apart {
		return ok("within %s of this machine's", max(ahead.Abs(), time.Millisecond).Round(time.Millisecond))
	}
	way := "ahead of"
	if ahead < 0 {
		way = "behind"
	}
	return warn("let NTP or chrony set both clocks", "%s %s this machine's. Nothing that is corrected depends on it: lag is measured by the source's clock alone; schedules and what logs say go by this machine's",
		ahead.Abs().Round(100*time.Millisecond), way)
}

// collations of another version than the one that indexes were built with: their order may be wrong, and unlike the other side's.
func (s *Side) collations(ctx context.Context) ([]Finding, error) {
	var found []Finding
	// As JSON, since Postgres 14 knows no version of a database's collation.
	var recorded, actual *string
	err := s.pool.QueryRow(ctx, `SELECT to_jsonb(d)->>'datcollversion' FROM pg_database d WHERE datname = current_database()`).Scan(&recorded)
	if err == nil && recorded != nil {
		err = s.pool.QueryRow(ctx, `SELECT pg_database_collation_actual_version(oid) FROM pg_database WHERE datname = current_database()`).Scan(&actual)
	}
	if err != nil {
		return nil, err
	}
	db := postgres.Quote(s.identity.Database)
	if recorded != nil && actual != nil && *recorded != *actual {
		found = append(found, warn("REINDEX DATABASE "+db+"; ALTER DATABASE "+db+" REFRESH COLLATION VERSION",
			"made with collation version %s, and the system now has %s: indexes over text may be in the wrong order", *recorded, *actual).of("database "+s.identity.Database))
	}
	rows, err := s.pool.Query(ctx, `SELECT n.nspname::text, l.collname::text, l.collversion, pg_collation_actual_version(l.oid)
		FROM pg_collation l JOIN pg_namespace n ON n.oid = l.collnamespace
		WHERE l.collversion <> pg_collation_actual_version(l.oid) AND EXISTS (SELECT FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p')
			WHERE a.attcollation = l.oid AND a.attnum > 0 AND NOT a.attisdropped) ORDER BY 1, 2`)
	if err != nil {
		return nil, err
	}
	var schema, name, was, is string
	_, err = pgx.ForEachRow(rows, []any{&schema, &name, &was, &is}, func() error {
		n := postgres.Name{Schema: schema, Table: name}
		found = append(found, warn("REINDEX DATABASE "+db+"; ALTER COLLATION "+n.SQL()+" REFRESH VERSION",
			"made with version %s, and the system now has %s: indexes over its columns may be in the wrong order", was, is).of("collation "+n.String()))
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		found = []Finding{ok("the system has the versions that indexes were built with")}
	}
	return found, nil
}

// matches finds what a policy says about the tables of a database, and its entries that match none of them.
func matches(p *policy.Policy, names []postgres.Name) (matched map[postgres.Name]policy.Match, idle []policy.Table) {
	matched = make(map[postgres.Name]policy.Match)
	for _, n := range names {
		if p.Gate.Heartbeat.Enabled && n.String() == p.Gate.Heartbeat.Table {
			continue // it is no table of the user's
		}
		if m, found := p.For(n.Schema, n.Table); found {
			matched[n] = m
		}
	}
	for _, t := range p.Tables {
		pattern, err := policy.ParsePattern(t.Table)
		met := false
		for _, n := range names {
			met = met || err == nil && pattern.Match(n.Schema, n.Table)
		}
		if !met {
			idle = append(idle, t)
		}
	}
	return matched, idle
}

func grant(rights, what, role string) string {
	return "GRANT " + rights + " ON " + what + " TO " + postgres.Quote(role)
}

// statements joins what mends one thing.
func statements(parts ...string) string { return strings.Join(parts, "; ") }
