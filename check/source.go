package check

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
)

// Source is what the publisher's side is checked against.
type Source struct {
	Side
	Policy *policy.Policy
	// Rules are a policy entry's, as package postgres takes them.
	Rules func(policy.Table) postgres.Rules
	// Primary is the server that the source is a standby of; nil where none is named.
	Primary *Side

	// Each is found out by one check, and read by those that need it.
	tables    []sourceTable      // "found"
	forbidden []bool             // "rights": which of the tables
	layouts   []*postgres.Layout // "readable": of each table; nil where it can't be read
	carried   carried            // "publications"
}

// NewSource makes the checks of a source.
func NewSource(side Side, p *policy.Policy, rules func(policy.Table) postgres.Rules) *Source {
	side.pipeline = p.Pipeline
	return &Source{Side: side, Policy: p, Rules: rules}
}

// Checks lists them.
func (s *Source) Checks() []Check {
	connected, usable := []string{s.id("connect")}, []string{s.id("connect"), s.id("version")}
	found, writable := append(slices.Clone(usable), "tables/found"), append(slices.Clone(usable), s.id("standing"))
	checks := append(s.common(),
		Check{Group: s.Name, Name: "standing", Needs: connected, Run: s.standing},
		Check{Group: s.Name, Name: "activity", Needs: connected, Run: s.activity},
		Check{Group: s.Name, Name: "transactions", Needs: connected, Run: s.transactions},
		Check{Group: s.Name, Name: "publications", Needs: usable, Run: s.publications},
	)
	if s.Policy.Gate.Slot != "" {
		checks = append(checks, Check{Group: s.Name, Name: "slot", Needs: writable, Run: s.slot})
	}
	if s.Policy.Gate.Heartbeat.Enabled {
		checks = append(checks, Check{Group: s.Name, Name: "heartbeat", Needs: append(slices.Clone(writable), s.id("publications")), Run: s.heartbeat})
	}
	if s.Policy.Gate.OnOrder() {
		checks = append(checks, Check{Group: s.Name, Name: "order", Needs: writable, Run: s.order})
	}
	carried := append(slices.Clone(found), s.id("publications"))
	return append(checks,
		Check{Group: "tables", Name: "found", Needs: usable, Run: s.find},
		Check{Group: "tables", Name: "rights", Needs: found, Run: s.rights},
		Check{Group: "tables", Name: "key", Needs: found, Run: s.keys},
		Check{Group: "tables", Name: "replica identity", Needs: carried, Run: s.replicaIdentity},
		Check{Group: "tables", Name: "carried", Needs: carried, Run: s.carriage},
		Check{Group: "tables", Name: "readable", Needs: append(slices.Clone(found), "tables/rights", "tables/key"), Run: s.readable},
	)
}

// writable is the server that takes writes, and so has the slot, the heartbeat and whoever reads them: the primary, where the source is a standby and one is named. It is
// connected to once "standing" has run.
func (s *Source) writable() *Side {
	if !s.identity.Standby || s.Primary == nil || s.Primary.pool == nil {
		return &s.Side
	}
	w := *s.Primary
	w.pipeline = s.pipeline
	return &w
}

// standing tells a primary from a standby, and whether the primary that is named is its own.
func (s *Source) standing(ctx context.Context) ([]Finding, error) {
	if s.Primary != nil {
		if _, err := s.Primary.connect(ctx); err != nil {
			return nil, err
		}
		switch p := s.Primary.identity; {
		case p.System != s.identity.System || p.Database != s.identity.Database:
			return []Finding{fail("point "+s.Primary.Setting+" at the primary of the source", "the primary that is named is %s, and the source is %s", p, s.identity)}, nil
		case p.Standby:
			return []Finding{fail("point "+s.Primary.Setting+" at the primary itself", "the primary that is named is a standby")}, nil
		}
	}
	switch {
	case !s.identity.Standby:
		return []Finding{ok("a primary, %s by system identifier and database", s.identity)}, nil
	case s.Primary != nil:
		return []Finding{ok("a standby, of %s by system identifier and database, with its primary", s.identity)}, nil
	case s.Policy.Gate.Heartbeat.Enabled:
		return []Finding{fail("name the primary with --primary or TRICKLE_PRIMARY_DSN, point "+s.Setting+" at it, or know the lag otherwise than by gate.heartbeat", "a standby, on which the heartbeat can't be written")}, nil
	default:
		return []Finding{warn("name the primary with --primary or TRICKLE_PRIMARY_DSN, or point "+s.Setting+" at it", "a standby, which may be behind what CDC has delivered: drift is reported, and nothing is corrected")}, nil
	}
}

// activity is whether the sessions of others may be seen, on which the fence of refetches rests.
func (s *Source) activity(ctx context.Context) ([]Finding, error) {
	var sees bool
	if err := s.pool.QueryRow(ctx, `SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')`).Scan(&sees); err != nil {
		return nil, err
	}
	if !sees {
		return []Finding{warn("GRANT pg_read_all_stats TO "+postgres.Quote(s.role),
			"%s may not see what other sessions do: each writing transaction that is open makes answers unstable, and suspects wait until it has ended", s.role)}, nil
	}
	return []Finding{ok("%s may see what other sessions do", s.role)}, nil
}

// stale is how long a transaction must have been open to be worth a word.
const stale = 15 * time.Minute

// transactions that stay open hold answers up, and rows that never become quiet.
func (s *Source) transactions(ctx context.Context) ([]Finding, error) {
	var found []Finding
	rows, err := s.pool.Query(ctx, `SELECT gid::text, extract(epoch FROM clock_timestamp() - prepared)::float8 FROM pg_prepared_xacts
		WHERE database = current_database() ORDER BY prepared LIMIT 10`)
	if err != nil {
		return nil, err
	}
	var gid string
	var age float64
	_, err = pgx.ForEachRow(rows, []any{&gid, &age}, func() error {
		q := "'" + strings.ReplaceAll(gid, "'", "''") + "'"
		found = append(found, warn("ROLLBACK PREPARED "+q+", or COMMIT PREPARED "+q, "prepared for two-phase commit for %s: every answer is unstable, and nothing is corrected, until it ends",
			seconds(age)).of("transaction "+gid))
		return nil
	})
	if err != nil {
		return nil, err
	}
	rows, err = s.pool.Query(ctx, `SELECT pid, usename::text, extract(epoch FROM clock_timestamp() - xact_start)::float8 FROM pg_stat_activity
		WHERE backend_xid IS NOT NULL AND datname = current_database() AND xact_start < clock_timestamp() - make_interval(secs => $1) ORDER BY xact_start LIMIT 10`, stale.Seconds())
	if err != nil {
		return nil, err
	}
	var pid int32
	var user *string
	_, err = pgx.ForEachRow(rows, []any{&pid, &user, &age}, func() error {
		found = append(found, warn(fmt.Sprintf("SELECT pg_terminate_backend(%d), if it was forgotten", pid), "has been writing for %s: rows that were written since do not count as quiet", seconds(age)).
			of(fmt.Sprintf("session %d", pid)))
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		found = []Finding{ok("none is prepared, and none that may be seen has been writing for more than %s", stale)}
	}
	return found, nil
}

func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second)).Round(time.Second)
}
