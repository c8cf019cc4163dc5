package e2e

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
)

const plainPolicy = `
pipeline: plain
schedule: {cycle: 2s}
quiet: 1s
tables: [{table: public.*}]
gate: {assume_lag: 1s}
detect: {confirm: {delay: 200ms}}
`

// desk is a server with two databases, which hold the same table t, and an operator's policies.
type desk struct {
	t        *testing.T
	server   *testbed.Postgres
	src, dst database
	policy   string
}

func newDesk(t *testing.T, server *testbed.Postgres) *desk {
	t.Helper()
	d := &desk{t: t, server: server, src: connect(t, pgtest.DatabaseOn(t, server)), dst: connect(t, pgtest.DatabaseOn(t, server))}
	for _, side := range []database{d.src, d.dst} {
		side.exec(t, `CREATE TABLE t (id int PRIMARY KEY, v text)`, `INSERT INTO t SELECT i, 'value ' || i FROM generate_series(1, 100) i`)
	}
	d.policy = writeFile(t, "policy.yaml", plainPolicy)
	return d
}

// edited is the plain policy with one line replaced.
func (d *desk) edited(line, by string) string {
	d.t.Helper()
	text := strings.Replace(plainPolicy, line, by, 1)
	if text == plainPolicy {
		d.t.Fatalf("the policy has no %q", line)
	}
	return writeFile(d.t, "policy.yaml", text)
}

// login makes a role of the cluster that may log in with a password only.
func login(t *testing.T, server *testbed.Postgres, name string) {
	t.Helper()
	admin := connect(t, server.DSN("postgres"))
	admin.exec(t, `CREATE ROLE `+name+` LOGIN PASSWORD 'right'`)
	file := value[string](t, admin, `SHOW hba_file`)
	rules, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append([]byte("host all "+name+" 127.0.0.1/32 scram-sha-256\n"), rules...), 0o600); err != nil {
		t.Fatal(err)
	}
	admin.exec(t, `SELECT pg_reload_conf()`)
	await(t, patience, "the server has read pg_hba.conf", func() bool {
		return value[bool](t, admin, `SELECT EXISTS (SELECT FROM pg_hba_file_rules WHERE user_name = ARRAY[$1::text])`, name)
	})
}

// as is a DSN with another user.
func as(t *testing.T, dsn, user, password string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(user, password)
	return u.String()
}

// closedPort is an address where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Every mistake gets one line that names the thing and the next step, nothing on standard output, and its exit status.
func TestBadInput(t *testing.T) {
	t.Parallel()
	server := pgtest.Server(t, testbed.Options{})
	login(t, server, "locked")
	d := newDesk(t, server)
	d.src.exec(t, `CREATE SCHEMA other`, `CREATE TABLE other.keyless (v text)`, `CREATE TABLE other.secret (id int PRIMARY KEY)`, `CREATE TABLE secret (id int PRIMARY KEY)`, `CREATE ROLE reader LOGIN`)
	nowhere := closedPort(t)
	broker, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { busy.Close() })

	single := func(policy string, args ...string) command {
		return trickle(append([]string{"run", "--policy", policy, "--source", d.src.dsn, "--replica", d.dst.dsn, "--listen", ""}, args...)...)
	}
	consumer := func(verb string, args ...string) command {
		return trickleConsumer(append([]string{verb, "--policy", d.policy, "--replica", d.dst.dsn}, args...)...)
	}
	only := func(table string) string { return d.edited("public.*", table) }
	moved := strings.Replace(d.src.dsn, server.Address(), nowhere, 1)
	typo := d.edited("quiet: 1s", "qiuet: 1s")

	for name, c := range map[string]struct {
		command
		code  int
		words []string
	}{
		"policy with a typo":                   {single(typo), 2, []string{typo + ":4:1", `"qiuet"`, `did you mean "quiet"`}},
		"policy with a typo, validate":         {trickle("policy", "validate", typo), 1, []string{typo + ":4:1", `did you mean "quiet"`}},
		"policy with a typo, consumer":         {trickleConsumer("policy", "validate", typo), 1, []string{typo + ":4:1", `did you mean "quiet"`}},
		"policy that isn't there":              {single("/nonexistent/policy.yaml"), 2, []string{"/nonexistent/policy.yaml", "no such file", "--policy or TRICKLE_POLICY"}},
		"policy that isn't there, validate":    {trickle("policy", "validate", "/nonexistent/policy.yaml"), 2, []string{"/nonexistent/policy.yaml"}},
		"policy that is a folder":              {single(t.TempDir()), 2, []string{"is a folder", "reading the policy"}},
		"policy that is empty":                 {consumer("status", "--policy", writeFile(t, "policy.yaml", "")), 2, []string{"policy.yaml:1:1", "pipeline and tables"}},
		"no policy to validate":                {trickle("policy", "validate"), 2, []string{"policy validate", "FILE"}},
		"without Kafka and with brokers":       {trickle("run", "--policy", d.policy, "--source", d.src.dsn, "--without-kafka", "--brokers", nowhere), 2, []string{"--without-kafka", "--brokers"}},
		"without Kafka and a replica":          {trickle("run", "--policy", d.policy, "--source", d.src.dsn, "--without-kafka"), 2, []string{"TRICKLE_REPLICA_DSN"}},
		"a wait of less than nothing":          {single(d.policy, "--wait", "-1s"), 2, []string{"--wait -1s"}},
		"a shell without completion":           {trickle("completion", "tcsh"), 2, []string{`"tcsh"`, "trickle completion --help"}},
		"a range of no table":                  {consumer("resync", "--approve", "x", "--range", "1..2"), 2, []string{"--range", "--table"}},
		"a page at no address":                 {trickle("demo", "--listen", "nonsense"), 2, []string{`--listen "nonsense"`, "HOST:PORT"}},
		"jobs of diff":                         {trickle("diff", "--jobs", "0"), 2, []string{"--jobs 0", "1 to"}},
		"a cursor file that is none":           {trickle("status", "--cursor-file", d.policy), 2, []string{"no cursor file", "--cursor-file"}},
		"policy that isn't YAML":               {single(writeFile(t, "policy.yaml", "pipeline: [x\n")), 2, []string{"policy.yaml:", "1:"}},
		"no policy":                            {trickle("run"), 2, []string{"--policy"}},
		"no policy, consumer":                  {trickleConsumer("status"), 2, []string{"--policy"}},
		"a cron spec that panics the parser":   {single(d.edited("cycle: 2s", `cycle: 2s, windows: [{start: "TZ=0", for: 1h}]`)), 2, []string{"policy.yaml:3:", `"TZ=0"`, "time_zone"}},
		"a cron spec that panics, validate":    {trickle("policy", "validate", d.edited("cycle: 2s", `cycle: 2s, windows: [{start: "TZ=0", for: 1h}]`)), 1, []string{`"TZ=0"`}},
		"a rate of 0":                          {single(d.edited("quiet: 1s", "rate: {rows_per_second: 0}")), 2, []string{"policy.yaml:4:", "rate.rows_per_second", "leave the key out"}},
		"a group without Kafka":                {single(d.edited("gate: {assume_lag: 1s}", "gate: {slot: s, group: g}")), 2, []string{"gate.group", "consumer group g", "--brokers"}},
		"unknown flag":                         {trickle("run", "--plicy", "x"), 2, []string{"--plicy", "trickle run --help"}},
		"unknown subcommand":                   {trickle("rnu"), 2, []string{`"rnu"`, "run"}},
		"unknown subcommand of a subcommand":   {trickleConsumer("policy", "valdate"), 2, []string{`"valdate"`, "validate"}},
		"an argument too many":                 {single(d.policy, "more"), 2, []string{`"more"`}},
		"unknown format":                       {consumer("status", "--format", "xml"), 2, []string{`"xml"`, "text or json"}},
		"unknown log level":                    {consumer("status", "--log-level", "loud"), 2, []string{`"loud"`, "debug"}},
		"unknown form of the log":              {consumer("status", "--log-format", "xml"), 2, []string{`"xml"`, "text, json or auto"}},
		"no source":                            {trickle("run", "--policy", d.policy, "--brokers", nowhere), 2, []string{"source", "--source", "TRICKLE_SOURCE_DSN"}},
		"an empty replica":                     {trickle("run", "--policy", d.policy, "--source", d.src.dsn, "--replica", ""), 2, []string{"--replica"}},
		"no replica":                           {trickleConsumer("run", "--policy", d.policy, "--brokers", nowhere), 2, []string{"replica", "--replica", "TRICKLE_REPLICA_DSN"}},
		"no brokers":                           {trickle("run", "--policy", d.policy, "--source", d.src.dsn), 2, []string{"--brokers", "TRICKLE_BROKERS"}},
		"a DSN that can't be read":             {trickle("run", "--policy", d.policy, "--source", "postgres://u:secret@h:notaport/db"), 2, []string{"source", "--source", "postgres://USER@HOST"}},
		"a table that matches nothing":         {single(only("public.nothing")), 2, []string{"public.nothing", "matches no table"}},
		"a table without a key":                {single(only("other.keyless")), 2, []string{"other.keyless", "key"}},
		"no permission on the schema":          {single(only("other.secret"), "--source", as(t, d.src.dsn, "reader", "")), 2, []string{"other.secret", "GRANT USAGE ON SCHEMA"}},
		"no permission on the table":           {single(only("public.secret"), "--source", as(t, d.src.dsn, "reader", "")), 2, []string{"public.secret", "GRANT SELECT ON"}},
		"both sides are one database":          {single(d.policy, "--replica", d.src.dsn), 2, []string{"same database", "--source", "--replica"}},
		"a primary of something else":          {single(d.policy, "--primary", d.dst.dsn), 2, []string{"no standby of it", "--primary", "TRICKLE_PRIMARY_DSN"}},
		"wrong port of the primary":            {single(d.policy, "--primary", moved), 2, []string{"primary", nowhere, "can't be reached", "--primary"}},
		"wrong port":                           {single(d.policy, "--source", moved), 2, []string{"source", nowhere, "can't be reached", "--source"}},
		"wrong database":                       {single(d.policy, "--replica", server.DSN("missing")), 2, []string{"replica", `"missing"`, "--replica"}},
		"wrong password":                       {single(d.policy, "--source", as(t, d.src.dsn, "locked", "wrong")), 2, []string{"source", `"locked"`, "password", "--source"}},
		"wrong password of the replica":        {consumer("status", "--replica", as(t, d.dst.dsn, "locked", "wrong")), 2, []string{"replica", `"locked"`, "--replica"}},
		"the broker is down":                   {trickle("run", "--policy", d.policy, "--source", d.src.dsn, "--brokers", nowhere), 2, []string{"Kafka", nowhere, "--brokers"}},
		"the broker is down, consumer":         {consumer("run", "--brokers", nowhere), 2, []string{"Kafka", nowhere, "--brokers"}},
		"the status port is taken":             {single(d.policy, "--listen", busy.Addr().String()), 2, []string{busy.Addr().String(), "--listen"}},
		"a consumer's name that is none":       {consumer("run", "--consumer", "a b", "--brokers", broker.ListenAddrs()[0]), 2, []string{"consumer", `"a b"`}},
		"status where no detector ever ran":    {consumer("status", "--replica", d.src.dsn), 2, []string{"trickle-consumer run"}},
		"resync where no detector ever ran":    {consumer("resync", "--replica", d.src.dsn, "--table", "public.t"), 2, []string{"trickle-consumer run"}},
		"resync of an unknown table":           {consumer("resync", "--table", "elsewhere.t"), 2, []string{"elsewhere.t", "policy"}},
		"resync of nothing":                    {consumer("resync"), 2, []string{"--table", "--approve"}},
		"resync with a bad range":              {consumer("resync", "--table", "public.t", "--range", "12"), 2, []string{`"12"`, "A..B"}},
		"resync with ends that don't match":    {consumer("resync", "--table", "public.t", "--range", "1,2..3"), 2, []string{`"1,2..3"`, "key columns"}},
		"pin without a source":                 {consumer("pin"), 2, []string{"--source"}},
		"a topic that isn't there":             {trickle("tap", "--policy", d.policy, "--brokers", broker.ListenAddrs()[0], "--topic", "nonsense"), 2, []string{"plain.nonsense", "does not exist"}},
		"a resync to approve that isn't there": {consumer("resync", "--approve", "nonsense"), 2, []string{"nonsense", "trickle-consumer"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if command := &c.command; command.args[0] == "run" && name != "no policy" && name != "the status port is taken" { // somebody else's may be at the port
				command.args = append(command.args, "--listen", "")
			}
			code, stdout, stderr := run(t, c.command)
			if code != c.code {
				t.Errorf("exit status %d, want %d", code, c.code)
			}
			if stdout != "" {
				t.Errorf("standard output holds %q", stdout)
			}
			lines := said(stderr)
			if len(lines) != 1 {
				t.Errorf("%d lines: %q", len(lines), lines)
			}
			for _, word := range c.words {
				if !strings.Contains(strings.Join(lines, "\n"), word) {
					t.Errorf("%q does not say %q", lines, word)
				}
			}
			if strings.Contains(stderr, "secret@") || strings.Contains(stderr, "wrong@") {
				t.Errorf("a password is shown: %s", stderr)
			}
		})
	}
}

var logLine = regexp.MustCompile(`^\{"time":.*"level":"(DEBUG|INFO)"`)

// said is what a person is told: standard error without what only reports progress.
func said(stderr string) []string {
	var lines []string
	for _, line := range strings.Split(strings.TrimSpace(stderr), "\n") {
		if !logLine.MatchString(line) {
			lines = append(lines, line)
		}
	}
	return lines
}

// Where a detector has run, what it doesn't know of is refused as well.
func TestBadInputAfterARun(t *testing.T) {
	t.Parallel()
	d := newDesk(t, pgtest.Server(t, testbed.Options{}))
	d.single().says(t, "verifying")
	for name, c := range map[string]struct {
		args  []string
		words []string
	}{
		"resync to approve":       {[]string{"resync", "--approve", "nonsense"}, []string{"nonsense", "trickle-consumer status"}},
		"another pipeline":        {[]string{"status", "--policy", d.edited("pipeline: plain", "pipeline: fancy")}, []string{`"fancy"`, "plain"}},
		"a brake that isn't on":   {[]string{"brake", "--release"}, []string{"not on"}},
		"resync of an odd range":  {[]string{"resync", "--table", "public.t", "--range", ".."}, []string{`".."`, "A..B"}},
		"resync of a stray table": {[]string{"resync", "--table", "nowhere.t"}, []string{"nowhere.t", "policy"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := append([]string{c.args[0], "--policy", d.policy, "--replica", d.dst.dsn}, c.args[1:]...)
			code, stdout, stderr := run(t, trickleConsumer(args...))
			if code != 2 || stdout != "" || len(said(stderr)) != 1 {
				t.Errorf("exit status %d, output %q, %q", code, stdout, stderr)
			}
			for _, word := range c.words {
				if !strings.Contains(stderr, word) {
					t.Errorf("%q does not say %q", stderr, word)
				}
			}
		})
	}
}

// single runs both sides in one process.
func (d *desk) single(args ...string) *process {
	d.t.Helper()
	cursors := fmt.Sprintf("%s/cursors.json", d.t.TempDir())
	return start(d.t, trickle(append([]string{"run", "--policy", d.policy, "--source", d.src.dsn, "--replica", d.dst.dsn, "--listen", "", "--cursor-file", cursors}, args...)...))
}
