package compose_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/jackc/pgx/v5"

	"github.com/trickle-verify/trickle/deploy/compose"
	"github.com/trickle-verify/trickle/heartbeat"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
	"github.com/trickle-verify/trickle/policy"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func project(t *testing.T) *types.Project {
	t.Helper()
	const file = "docker-compose.yaml"
	p, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{WorkingDir: ".", ConfigFiles: []types.ConfigFile{{Filename: file, Content: []byte(read(t, file))}}, Environment: types.Mapping{}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var pinned = regexp.MustCompile(`^[a-z0-9./-]+:[0-9]+(\.[0-9]+)+(\.Final)?$`)

// What the reference implementation of the format takes: versions pinned, files there, nothing open to other machines, and no name of a service mistyped.
func TestComposeFile(t *testing.T) {
	t.Parallel()
	p := project(t)
	if len(p.Services) != 9 {
		t.Errorf("services: %v", p.ServiceNames())
	}
	for name, s := range p.Services {
		if s.Build == nil && !pinned.MatchString(s.Image) {
			t.Errorf("%s: the image %s is not pinned", name, s.Image)
		}
		if s.Build != nil {
			if _, err := os.Stat(filepath.Join(s.Build.Context, s.Build.Dockerfile)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, v := range s.Volumes {
			if v.Type != types.VolumeTypeBind {
				continue
			}
			if _, err := os.Stat(v.Source); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, port := range s.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s: port %s is open to others", name, port.Published)
			}
		}
		for key, v := range s.Environment {
			host := regexp.MustCompile(`(?:@|^|//)([a-z]+):[0-9]+`)
			for _, m := range host.FindAllStringSubmatch(*v, -1) {
				if _, ok := p.Services[m[1]]; !ok {
					t.Errorf("%s: %s names %s, which is no service", name, key, m[1])
				}
			}
		}
	}
}

func settings(t *testing.T, text []byte) map[string]string {
	t.Helper()
	var all map[string]string
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// The files fit together: the policy names the connectors' slot and group, the connectors carry the heartbeat and leave trickle's own topics alone.
func TestFilesFitTogether(t *testing.T) {
	t.Parallel()
	p, warnings, err := policy.Parse("policy.yaml", []byte(read(t, "policy.yaml")))
	if err != nil || len(warnings) > 0 {
		t.Fatalf("%v; %v", err, warnings)
	}
	source, sink := settings(t, compose.Source), settings(t, compose.Sink)
	if p.Gate.Slot != source["slot.name"] {
		t.Errorf("the policy's slot is %s, Debezium's %s", p.Gate.Slot, source["slot.name"])
	}
	command := strings.Join(project(t).Services["connectors"].Command, " ")
	if sink, ok := strings.CutPrefix(p.Gate.Group, "connect-"); !ok || !strings.Contains(command, "source "+sink+";") {
		t.Errorf("the policy's group is %s, the connectors are registered by %s", p.Gate.Group, command)
	}
	if copied := strings.Join(project(t).Services["copied"].Command, " "); !strings.Contains(copied, "'"+source["slot.name"]+"'") {
		t.Errorf("it is the slot %s that has to be active: %s", source["slot.name"], copied)
	}
	tables := regexp.MustCompile("^(?:" + strings.ReplaceAll(source["table.include.list"], ",", "|") + ")$")
	topics := regexp.MustCompile("^(?:" + sink["topics.regex"] + ")$")
	for name, carried := range map[string]bool{"public.orders": true, "public.customers": true, p.Gate.Heartbeat.Table: true, "trickle.corrections": false} {
		if got := tables.MatchString(name); got != carried {
			t.Errorf("%s is carried: %t", name, got)
		}
		if topic := source["topic.prefix"] + "." + name; carried && !topics.MatchString(topic) {
			t.Errorf("the sink leaves out %s", topic)
		}
	}
	for _, topic := range []string{p.Pipeline + ".verify", p.Pipeline + ".replies.replica", source["signal.kafka.topic"], source["notification.sink.topic.name"], "__debezium-heartbeat.shop", "connect.offsets"} {
		if topics.MatchString(topic) {
			t.Errorf("the sink takes %s for a table", topic)
		}
	}
	services := project(t).Services
	for key, address := range map[string]string{
		source["database.hostname"] + ":" + source["database.port"]: "source:5432", source["signal.kafka.bootstrap.servers"]: *services["publisher"].Environment["TRICKLE_BROKERS"],
		sink["connection.url"]: "jdbc:postgresql://replica:5432/shop?stringtype=unspecified",
	} {
		if key != address {
			t.Errorf("%s, and elsewhere %s", key, address)
		}
	}
}

// Both sides' tables, and what is written into them, on a real Postgres.
func TestStatements(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	conn, err := pgx.Connect(ctx, pgtest.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatal(err)
		}
	}
	exec(read(t, "schema.sql"))
	for range 30 {
		exec(read(t, "shoppers.sql"))
	}
	var customers, orders int
	if err := conn.QueryRow(ctx, `SELECT (SELECT count(*) FROM customers), (SELECT count(*) FROM orders)`).Scan(&customers, &orders); err != nil {
		t.Fatal(err)
	}
	if customers != 60 || orders < 100 {
		t.Errorf("%d customers, %d orders", customers, orders)
	}
	for _, statement := range strings.Split(heartbeat.New(nil, "trickle.heartbeat", "trial").DDL(), "; ") {
		if !strings.Contains(strings.ReplaceAll(read(t, "schema.sql"), "CREATE SCHEMA IF NOT EXISTS trickle", `CREATE SCHEMA IF NOT EXISTS "trickle"`), statement) &&
			!strings.Contains(read(t, "schema.sql"), strings.ReplaceAll(statement, `"`, "")) {
			t.Errorf("schema.sql lacks: %s", statement)
		}
	}
}
