package postgres

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"
)

// session pins what the text form of a value depends on, on both sides alike.
var session = map[string]string{ //nolint:gochecknoglobals // a constant that Go has no syntax for
	"datestyle":          "ISO, YMD",
	"intervalstyle":      "postgres",
	"timezone":           "UTC",
	"bytea_output":       "hex",
	"extra_float_digits": "1",
	"lc_monetary":        "C",
	"xmloption":          "content",
	"client_encoding":    "UTF8",
	"search_path":        "public",
	// A range's plan must follow its bounds, never an average of earlier ones.
	"plan_cache_mode": "force_custom_plan",
	// JIT costs more than it saves on ranges of some thousand rows.
	"jit": "off",
	// Rows that a policy hides would look deleted: better an error.
	"row_security": "off",
	// Whoever rewrites or truncates a table makes readers wait; not for ever.
	"lock_timeout": "10s",
}

// cancelBound is how long a server may take to stop a query before its connection is dropped.
const cancelBound = 3 * time.Second

// Options tell Open which side this is.
type Options struct {
	// Role names the side in errors: "source" or "replica".
	Role string
	// Setting is where the DSN came from, for the next step in errors: "--source".
	Setting string
	// MaxConns bounds the pool; 0 for 8.
	MaxConns int32
	// Failover lets later connections lead to a standby where the first led to a primary, and the other way: whoever uses the pool asks each which it is. Without
	// it they are refused.
	Failover bool
}

// Open connects, with the session settings that the text form of values depends on. Its errors are one line and say what to change.
func Open(ctx context.Context, dsn string, o Options) (*pgxpool.Pool, error) {
	cfg, err := ParseDSN(dsn, o)
	if err != nil {
		return nil, err
	}
	cfg.MaxConns = o.MaxConns
	if cfg.MaxConns == 0 {
		cfg.MaxConns = 8
	}
	for k, v := range session {
		cfg.ConnConfig.RuntimeParams[k] = v
	}
	if cfg.ConnConfig.RuntimeParams["application_name"] == "" {
		cfg.ConnConfig.RuntimeParams["application_name"] = "trickle " + o.Role
	}
	cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	if cfg.ConnConfig.ConnectTimeout == 0 {
		cfg.ConnConfig.ConnectTimeout = 10 * time.Second
	}
	// A context that ends stops the query on the server too, at once; what the server answers to that is waited for a little.
	cfg.ConnConfig.BuildContextWatcherHandler = func(c *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: c, DeadlineDelay: cancelBound}
	}
	same := sameServer(o)
	cfg.AfterConnect = func(ctx context.Context, c *pgx.Conn) error {
		if err := same(ctx, c); err != nil {
			return err
		}
		return seeExtensions(ctx, c)
	}
	cfg.ConnConfig.Tracer = &absences{back: map[*pgx.Conn]func(){}}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connecting to the %s: %w", o.Role, err)
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, explainConnect(err, cfg.ConnConfig, o)
	}
	return pool, nil
}

// ParseDSN reads a DSN and connects to nothing. Its error says where the DSN came from and holds no password.
func ParseDSN(dsn string, o Options) (*pgxpool.Config, error) {
	if dsn == "" {
		return nil, fmt.Errorf("no %s database given: set %s, to service=NAME at the least, or to dbname=NAME with PGHOST and the like", o.Role, o.Setting)
	}
	cfg, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("the %s DSN can't be read (%s): %w; give postgres://USER@HOST:PORT/DATABASE, or host=HOST port=PORT dbname=DATABASE user=USER", o.Role, o.Setting, unwrapParse(err))
	}
	return cfg, nil
}

// sameServer refuses connections that lead to another server than the pool's first one did: behind a name or a list of hosts there may be several, and
// what was found out about one (whose it is, that it is the primary) need not hold for the next.
func sameServer(o Options) func(context.Context, *pgx.Conn) error {
	var mu sync.Mutex
	var first *Identity
	return func(ctx context.Context, c *pgx.Conn) error {
		var id Identity
		err := c.QueryRow(ctx, identitySQL).Scan(&id.System, &id.Database, &id.Version, &id.Standby)
		if err != nil {
			return fmt.Errorf("asking the server for its system identifier: %w", err)
		}
		mu.Lock()
		defer mu.Unlock()
		if first == nil {
			first = &id
		}
		switch {
		case id.String() != first.String():
			return fmt.Errorf("the connection leads to %s and not to %s as before: check %s, and restart if the %s was replaced on purpose", id, first, o.Setting, o.Role)
		case id.Standby != first.Standby && !o.Failover:
			return fmt.Errorf("the connection leads to %s (standby: %t) and not to %s (standby: %t) as before: restart once the failover is over", id, id.Standby, first, first.Standby)
		}
		return nil
	}
}

// seeExtensions has the operators of extensions found, wherever these were installed: without that of ltree no two of it could be compared, and
// citext would be compared as text. An extension that is installed later is seen by later connections.
func seeExtensions(ctx context.Context, c *pgx.Conn) error {
	_, err := c.Exec(ctx, `SELECT pg_catalog.set_config('search_path', pg_catalog.concat_ws(', ', 'public'::text, (
			SELECT pg_catalog.string_agg(DISTINCT pg_catalog.quote_ident(n.nspname), ', ')
			FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE n.nspname NOT IN ('pg_catalog', 'public'))), false)`)
	if err != nil {
		return fmt.Errorf("putting the schemas of extensions on the search path: %w", err)
	}
	return nil
}

const identitySQL = `SELECT system_identifier::text, current_database()::text, current_setting('server_version_num')::int, pg_is_in_recovery()
		FROM pg_control_system()`

// Oldest is the first version of Postgres that is supported, as server_version_num.
const Oldest = 140000

// Identity says which database this is.
type Identity struct {
	System   string // pg_control_system's identifier: the same for a server and its physical standbys
	Database string
	Version  int // server_version_num
	Standby  bool
}

// String is the form that travels and that replicas pin: "<system identifier>/<database>".
func (i Identity) String() string { return i.System + "/" + i.Database }

// Identify asks a server who it is.
func Identify(ctx context.Context, pool *pgxpool.Pool) (Identity, error) {
	var id Identity
	err := pool.QueryRow(ctx, identitySQL).Scan(&id.System, &id.Database, &id.Version, &id.Standby)
	if err != nil {
		return Identity{}, fmt.Errorf("asking the server for its system identifier: %w", err)
	}
	if id.Version < Oldest {
		return id, fmt.Errorf("database %q runs Postgres %d; trickle needs %d or later", id.Database, id.Version/10000, Oldest/10000)
	}
	return id, nil
}
