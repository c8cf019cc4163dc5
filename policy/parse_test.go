package policy

import (
	"errors"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

const minimal = "pipeline: orders\ntables: [{table: public.orders}]\n"

// complete is the example of the design.
const complete = `
pipeline: orders
schedule:
  cycle: 24h                                   # verify everything once in this time; the rate follows from it
  windows: [{start: "0 22 * * *", for: 8h, time_zone: Europe/Berlin}]      # none: always
rate: {rows_per_second: 5000, bytes_per_second: 1MiB, source_share: 2%}    # ceilings; whichever bites first
backoff: {source_latency: 50ms, replication_lag: 30s, active_sessions: 40} # slow down when the source is busy
quiet: 10m
max_staleness: 7d
tables:
  - table: public.orders                       # globs allowed: public.*
    mode: thumbprints                          # or rows
    columns: {exclude: [search_vector], compare: {amount: numeric(12,2)}}
    where: "region = 'eu'"
    replica: cache.orders                      # if it is called something else over there
gate: {max_lag: 30s, heartbeat: true, slot: debezium, group: orders-sink}
detect:
  action: correct                              # or report
  confirm: {delay: 5s, attempts: 3}
  window: 10m
  brake: {deletes: 1000, corrections: 10000}
resync:
  partial: {discrepancies: 20}                 # in one range's neighbourhood, within the window
  full: {discrepancies: 500, ratio: 1%}
  approval: auto                               # or manual
  cooldown: 1h
  via: side-channel                            # or debezium
baseline: {url: "file:///var/lib/trickle", refresh: 6h}
privacy: {keys: hash, values: omit}            # what traces, logs and the page may show
`

func TestDesignExample(t *testing.T) {
	t.Parallel()
	p, warnings, err := Parse("policy.yaml", []byte(complete))
	if err != nil {
		t.Fatal(err)
	}
	if p.Rate != (Rate{5000, 1 << 20, 0.02}) {
		t.Errorf("rate: %+v", p.Rate)
	}
	want := Table{Table: "public.orders", Mode: ModeThumbprints, Compare: "type", JSONB: "hash", Where: "region = 'eu'", Replica: "cache.orders",
		Columns: Columns{Exclude: []string{"search_vector"}, Compare: map[string]string{"amount": "numeric(12,2)"}}}
	if len(p.Tables) != 1 || !reflect.DeepEqual(p.Tables[0], want) {
		t.Errorf("tables: %+v", p.Tables)
	}
	var about []string
	for _, w := range warnings {
		about = append(about, w.Path)
	}
	if want := []string{"schedule.windows[0].time_zone", "baseline"}; !slices.Equal(about, want) {
		t.Errorf("warnings about %q, want %q", about, want)
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	p, _, err := Parse("policy.yaml", []byte(minimal))
	if err != nil {
		t.Fatal(err)
	}
	p.source = [32]byte{}
	threshold := Threshold{500, 0.01, 1000}
	d := func(d time.Duration) Duration { return Duration(d) }
	want := &Policy{
		Pipeline: "orders", Schedule: Schedule{Cycle: d(24 * time.Hour)}, Quiet: d(10 * time.Minute), MaxStaleness: d(7 * 24 * time.Hour), RangeRows: 5000,
		Tables:   []Table{{Table: "public.orders", Mode: ModeThumbprints, Compare: "type", JSONB: "hash"}},
		Gate:     Gate{MaxLag: d(30 * time.Second)},
		Detect:   Detect{ActionCorrect, Confirm{d(5 * time.Second), 3}, d(10 * time.Minute), Brake{1000, 10000}, Retention(d(90 * 24 * time.Hour)), "origin"},
		Resync:   Resync{Threshold{Discrepancies: 20, MinRows: 1000}, threshold, ApprovalAuto, d(time.Hour), ViaSideChannel, 4, Debezium{SignalGroup: "kafka-signal", StartedWithin: d(2 * time.Minute), ProgressWithin: d(15 * time.Minute), Attempts: 5}},
		Baseline: Baseline{Refresh: d(6 * time.Hour), Keep: 2, Object: 32 << 20},
		Privacy:  Privacy{"hash", "omit"},
	}
	if !reflect.DeepEqual(p, want) {
		t.Errorf("got  %+v\nwant %+v", p, want)
	}
	p, _, err = Parse("policy.yaml", []byte(minimal+"gate: {heartbeat: true}\nresync: {full: {discrepancies: 7}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if h := (Heartbeat{true, "trickle.heartbeat", "trickle.heartbeat", false, d(2 * time.Second)}); p.Gate.Heartbeat != h {
		t.Errorf("heartbeat: %+v", p.Gate.Heartbeat)
	}
	if threshold.Discrepancies = 7; p.Resync.Full != threshold {
		t.Errorf("a threshold that is written in part: %+v", p.Resync.Full)
	}
	for src, want := range map[string]string{
		"schedule: {cycle: 60d}\n": "120d", "detect: {window: 100d}\n": "100d", "resync: {cooldown: 101d}\n": "101d", "detect: {journal: 400d}\n": "400d",
		"detect: {journal: forever}\n": "forever", "schedule: {cycle: 60d}\ndetect: {journal: 30d}\n": "30d",
	} {
		if p, _, err := Parse("policy.yaml", []byte(minimal+src)); err != nil || p.Detect.Journal.String() != want {
			t.Errorf("%s: the journal is kept %v, want %s: %v", src, p.Detect.Journal, want, err)
		}
	}
	p, _, err = Parse("policy.yaml", []byte(minimal+"resync: {via: debezium, debezium: {topic_prefix: cdc}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if z := p.Resync.Debezium; z.SignalTopic != "cdc-signal" || z.NotificationTopic != "cdc-notifications" {
		t.Errorf("debezium's topics: %+v", z)
	}
	p, _, err = Parse("policy.yaml", []byte(minimal+"gate: {heartbeat: {table: a.b, interval: 5s, in_commit_order: true}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if h := (Heartbeat{true, "a.b", "a.b", true, d(5 * time.Second)}); p.Gate.Heartbeat != h {
		t.Errorf("heartbeat as a mapping: %+v", p.Gate.Heartbeat)
	}
}

// Names swap and take that of an excluded column: that is no clash.
func TestRenamed(t *testing.T) {
	t.Parallel()
	p, warnings, err := Parse("f", []byte(`
pipeline: orders
tables:
  - table: public.orders
    columns: {exclude: [note], compare: {a: text}, rename: {a: b, b: a, "my col": note}}
    jsonb: text
    where: "a > 0"
    replica_where: "b > 0"
gate: {heartbeat: {in_commit_order: true}}
`))
	if err != nil || len(warnings) > 0 {
		t.Fatalf("%v, warnings %v", err, warnings)
	}
	want := Table{Table: "public.orders", Mode: ModeThumbprints, Compare: "type", JSONB: "text", Where: "a > 0", ReplicaWhere: "b > 0", Columns: Columns{
		Exclude: []string{"note"}, Compare: map[string]string{"a": "text"}, Rename: map[string]string{"a": "b", "b": "a", "my col": "note"},
	}}
	if !reflect.DeepEqual(p.Tables[0], want) {
		t.Errorf("got  %+v\nwant %+v", p.Tables[0], want)
	}
}

// Every key is in the reference, so that it cannot fall behind.
func TestReference(t *testing.T) {
	t.Parallel()
	const path = "../docs/reference-policy.yaml"
	if _, _, err := Load(path); err != nil {
		t.Fatal(err)
	}
	src, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		for f := range fields(typ) {
			if !strings.Contains(string(src), keyOf(f)+":") {
				t.Errorf("%s lacks the key %s", path, keyOf(f))
			}
			inner := f.Type
			if inner.Kind() == reflect.Slice {
				inner = inner.Elem()
			}
			if inner.Kind() == reflect.Struct {
				walk(inner)
			}
		}
	}
	walk(reflect.TypeFor[Policy]())
}

func TestRefused(t *testing.T) {
	t.Parallel()
	tables := "pipeline: orders\ntables: "
	for _, c := range []struct{ name, src, want string }{
		{"empty", "", "f:1:1: holds no policy: give pipeline and tables"},
		{"a comment alone", "# pipeline: orders\n", "f:1:1: holds no policy"},
		{"no YAML", "a: b: c", "f:1:4: is no valid YAML"},
		{"not a mapping", "[1]", "expected a mapping with the keys pipeline"},
		{"two documents", minimal + "---\n" + minimal, "f:4:1: a second document"},
		{"unknown key", minimal + "quite: 5m", `f:3:1: quite: unknown key "quite": did you mean "quiet"?`},
		{"unknown key, nothing near", minimal + "rate: {zzzzzzzzzzz: 1}", "known here are rows_per_second, bytes_per_second, source_share"},
		{"a journal shorter than the window", minimal + "detect: {window: 2d, journal: 1d}", "f:3:22: detect.journal: 24h is shorter than detect.window (2d)"},
		{"a journal shorter than the cooldown", minimal + "resync: {cooldown: 2d}\ndetect: {journal: 25h}", "detect.journal: 25h is shorter than resync.cooldown (2d)"},
		{"a journal of no time", minimal + "detect: {journal: never}", `detect.journal: "never" is no time: give a time such as 500ms, 10m, 1h30m, 24h or 7d (units ms, s, m, h, d, w), or forever`},
		{"key twice", minimal + "quiet: 5m\nquiet: 6m", "f:4:1: quiet: is there twice, first on line 3"},
		{"no value", minimal + "quiet:", "quiet: has no value"},
		{"anchor", minimal + "quiet: &q 5m", "anchors, aliases and tags are not supported"},
		{"alias", "pipeline: &x orders\ntables: *x", "anchors, aliases and tags are not supported"},
		{"pipeline not for a topic", "pipeline: a/b\ntables: [{table: a.b}]", `f:1:1: pipeline: "a/b" can't be part of a topic's name`},
		{"pipeline too long", "pipeline: " + strings.Repeat("a", 101) + "\ntables: [{table: a.b}]", "give 1 to 100"},
		{"no tables", tables + "[]", "tables: is empty: name at least one table"},
		{"table without a schema", tables + "[{table: orders}]", `f:2:11: tables[0].table: "orders" is no table: give schema.name`},
		{"table without a name", tables + "[{mode: rows}]", "f:2:11: tables[0].table: is missing"},
		{"table twice", tables + `[{table: a.b}, {table: '"a".b'}]`, "tables[1].table: \"a\".b is there twice, first as tables[0]"},
		{"glob without a star in the replica", tables + "[{table: a.*, replica: c.d}]", "give as many"},
		{"one place for two tables", tables + "[{table: a.b, replica: c.d}, {table: c.d}]", "tables[0] goes to c.d in the replica as well"},
		{"mode", tables + "[{table: a.b, mode: fast}]", `"fast" is not allowed: give thumbprints or rows`},
		{"jsonb", tables + "[{table: a.b, jsonb: bytes}]", `tables[0].jsonb: "bytes" is not allowed: give hash or text`},
		{"comma that is no type's", tables + "[{table: a.b, columns: {compare: {c: text, 2)}}}]", "tables[0].columns.compare.2): has no value"},
		{"excluded and compared", tables + "[{table: a.b, columns: {exclude: [c], compare: {c: text}}}]", "keep one of the two"},
		{"excluded and renamed", tables + "\n  - table: a.b\n    columns:\n      exclude: [c]\n      rename: {x: y, c: d}", `f:6:22: tables[0].columns.rename.c: the column is excluded as well, so its name in the replica is not looked at: keep one of the two`},
		{"two columns under one name", tables + "[{table: a.b, columns: {rename: {c: x, d: y, e: x}}}]", `f:2:54: tables[0].columns.rename.e: column "c" is called "x" in the replica as well: give each column a name of its own`},
		{"renamed to nothing", tables + "[{table: a.b, columns: {rename: {c: ''}}}]", "f:2:42: tables[0].columns.rename.c: is empty: give a value"},
		{"a column without a name", tables + "[{table: a.b, columns: {rename: {'': c}}}]", "the key is empty: give the name of a column"},
		{"renamed twice", tables + "[{table: a.b, columns: {rename: {c: d, c: e}}}]", "tables[0].columns.rename.c: is there twice"},
		{"renames as a list", tables + "[{table: a.b, columns: {rename: [c, d]}}]", "tables[0].columns.rename: expected a mapping, found a list"},
		{"replica_where alone", tables + "[{table: a.b, replica_where: c = 1}]", "f:2:23: tables[0].replica_where: says where in the replica's words, and where is missing: give it for the source, or leave both out"},
		{"replica_where empty", tables + "[{table: a.b, where: c = 1, replica_where: ''}]", "tables[0].replica_where: is empty"},
		{"zero rate", minimal + "rate: {rows_per_second: 0}", "0 is not allowed: leave the key out for no ceiling"},
		{"zero bytes", minimal + "rate: {bytes_per_second: 0B}", `"0B" is not allowed: leave the key out for no ceiling`},
		{"zero share", minimal + "rate: {source_share: 0}", "0 is not allowed: leave the key out for no ceiling"},
		{"negative rate", minimal + "rate: {rows_per_second: -1}", "-1 is out of range"},
		{"rate as text", minimal + "rate: {rows_per_second: fast}", `expected a whole number, found "fast"`},
		{"share above all", minimal + "rate: {source_share: 101%}", `"101%" is out of range`},
		{"share as a number above 1", minimal + "rate: {source_share: 2}", `"2" is out of range`},
		{"share that is no number", minimal + "rate: {source_share: .nan}", "is out of range"},
		{"ratio zero", minimal + "resync: {full: {ratio: 0%}}", "leave the key out"},
		{"time without a unit", minimal + "quiet: 10", `"10" is no time: give a time such as`},
		{"negative time", minimal + "quiet: -10m", `"-10m" is no time`},
		{"endless time", minimal + "quiet: 99999999999999999w", "give at most 100 years"},
		{"size", minimal + "rate: {bytes_per_second: 1 MiBit}", "is no size"},
		{"size too large", minimal + "rate: {bytes_per_second: 99999999PB}", "is no size"},
		{"cron with 4 fields", minimal + `schedule: {windows: [{start: "0 22 * *", for: 1h}]}`, "f:3:23: schedule.windows[0].start"},
		{"cron that panics", minimal + `schedule: {windows: [{start: "TZ=0", for: 1h}]}`, "put it in time_zone"},
		{"cron with a zone", minimal + `schedule: {windows: [{start: "CRON_TZ=UTC 0 22 * * *", for: 1h}]}`, "put it in time_zone"},
		{"cron empty", minimal + `schedule: {windows: [{start: "", for: 1h}]}`, "is empty"},
		{"cron blank", minimal + `schedule: {windows: [{start: "  ", for: 1h}]}`, "is empty"},
		{"cron interval", minimal + `schedule: {windows: [{start: "@every 1h", for: 1h}]}`, "is no cron expression"},
		{"cron that never comes", minimal + `schedule: {windows: [{start: "0 0 30 2 *", for: 1h}]}`, "a day that never comes"},
		{"window for no time", minimal + `schedule: {windows: [{start: "0 22 * * *", for: 0s}]}`, "a window stays open for some time"},
		{"window without a length", minimal + `schedule: {windows: [{start: "0 22 * * *"}]}`, "schedule.windows[0].for: is missing"},
		{"time zone", minimal + `schedule: {windows: [{start: "0 22 * * *", for: 1h, time_zone: Mars/Olympus}]}`, `"Mars/Olympus" is no time zone`},
		{"the machine's time zone", minimal + `schedule: {windows: [{start: "0 22 * * *", for: 1h, time_zone: Local}]}`, `"Local" is no time zone`},
		{"no name of a slot", minimal + "gate: {slot: my-slot}", "lower-case letters, digits and underscores"},
		{"measured and assumed", minimal + "gate: {slot: s, group: g, assume_lag: 1m}", "keep one of the two"},
		{"two kinds of lag", minimal + "gate: {heartbeat: true, assume_lag: 1m}", "keep one of the two"},
		{"heartbeat", minimal + "gate: {heartbeat: often}", "expected true, false or a mapping"},
		{"heartbeat's order", minimal + "gate: {heartbeat: {in_commit_order: often}}", "expected true or false"},
		{"heartbeat table", minimal + "gate: {heartbeat: {table: a.*}}", "a.* is a glob: name one table"},
		{"attempts", minimal + "detect: {confirm: {attempts: 0}}", "a correction needs at least one attempt"},
		{"debezium", minimal + "resync: {via: debezium}", "f:3:1: resync.debezium.topic_prefix: is missing: with resync.via: debezium give the topic.prefix of the connector"},
		{"debezium's topic", minimal + "resync: {via: debezium, debezium: {topic_prefix: a/b}}", `f:3:36: resync.debezium.topic_prefix: "a/b" can't be part of a topic's name: give 1 to 200 of a-z, A-Z, 0-9, dot, underscore and hyphen`},
		{"debezium's topics", minimal + "resync: {debezium: {topic_prefix: a, signal_topic: b, notification_topic: b}}", "f:3:55: resync.debezium.notification_topic: is the topic of the signals as well: the connector would read its own notifications as signals"},
		{"no attempt", minimal + "resync: {debezium: {attempts: 0}}", "f:3:21: resync.debezium.attempts: 0 is not allowed: a snapshot needs at least one signal"},
		{"baseline", minimal + "baseline: {url: here}", `"here" is no URL`},
		{"a baseline without a place", minimal + "baseline: {}", "baseline.url: is missing"},
		{"a baseline with a rate alone", minimal + "baseline: {refresh: 1h}", "say where the view is kept"},
		{"a baseline elsewhere", minimal + "baseline: {url: 'ftp://x/y'}", `"ftp://x/y" is of no kind that is known`},
		{"baseline's folder", minimal + "baseline: {url: 'file://var/lib'}", `names the host "var": a folder has three slashes`},
		{"text wanted", minimal + "detect: {action: true}", "true is not allowed: give correct or report"},
		{"where as a number", tables + "[{table: a.b, where: 1}]", "expected text, found 1"},
		{"huge", strings.Repeat("#", maxBytes+1), "a policy has at most"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p, _, err := Parse("f", []byte(c.src))
			var problems Errors
			if !errors.As(err, &problems) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v\nwant an error with %q", err, c.want)
			}
			if p != nil {
				t.Error("a policy came with the error")
			}
		})
	}
}

func TestAllFaultsAtOnce(t *testing.T) {
	t.Parallel()
	_, _, err := Parse("f", []byte("pipelin: orders\nquiet: soon\ntables:\n  - table: orders\n    mod: rows\nresync: {via: debezium}\n"))
	var problems Errors
	if !errors.As(err, &problems) {
		t.Fatal(err)
	}
	var paths []string
	for _, p := range problems {
		paths = append(paths, p.Path)
	}
	want := []string{"pipelin", "pipeline", "quiet", "tables[0].table", "tables[0].mod", "resync.debezium.topic_prefix"}
	if !slices.Equal(paths, want) {
		t.Errorf("problems at %q, want %q", paths, want)
	}
	if n := strings.Count(err.Error(), "\n") + 1; n != len(want) {
		t.Errorf("%d lines for %d problems", n, len(want))
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, src, path string }{
		{"no lag", "", "gate"},
		{"staleness", "gate: {assume_lag: 1m}\nschedule: {cycle: 30d}", "max_staleness"},
		{"a slot alone", "gate: {slot: debezium}", "gate"},
		{"a group alone", "gate: {group: sink}", "gate"},
		{"slot and group", "gate: {slot: debezium, group: sink}\nschedule: {windows: [{start: '0 2 * * *', for: 1h}]}", ""},
		{"a slot beside the heartbeat", "gate: {slot: debezium, heartbeat: {in_commit_order: true}}\nschedule: {windows: [{start: '0 2 * * *', for: 1h}]}", ""},
		{"a heartbeat alone beside Debezium", "gate: {heartbeat: {in_commit_order: true}}\nschedule: {windows: [{start: '0 2 * * *', for: 1h}]}\nresync: {via: debezium, debezium: {topic_prefix: shop}}", "gate.heartbeat"},
		{"more than a heartbeat beside Debezium", "gate: {heartbeat: true, slot: debezium, group: sink}\nschedule: {windows: [{start: '0 2 * * *', for: 1h}]}\nresync: {via: debezium, debezium: {topic_prefix: shop}}", ""},
		{"a heartbeat that nobody vouches for", "gate: {heartbeat: true}", "gate.heartbeat"},
		{"a heartbeat beside slot and group", "gate: {heartbeat: true, slot: debezium, group: sink}", ""},
		{"a journal shorter than two cycles", "gate: {assume_lag: 1m}\ndetect: {journal: 30h}", "detect.journal"},
		{"a journal without an end", "gate: {assume_lag: 1m}\nschedule: {cycle: 7d}\ndetect: {journal: forever}", ""},
		{"slow heart", "gate: {heartbeat: {interval: 1m, in_commit_order: true}}", "gate.heartbeat.interval"},
		{"nothing odd", "gate: {heartbeat: {in_commit_order: true}}\nschedule: {windows: [{start: '0 2 * * *', for: 1h}]}", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, warnings, err := Parse("f", []byte(minimal+c.src))
			switch {
			case err != nil:
				t.Fatal(err)
			case c.path == "" && len(warnings) > 0, c.path != "" && (len(warnings) != 1 || warnings[0].Path != c.path):
				t.Errorf("warnings: %v", warnings)
			}
		})
	}
}

func TestLoadMissing(t *testing.T) {
	t.Parallel()
	if _, _, err := Load(t.TempDir() + "/none.yaml"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(complete))
	f.Add([]byte(minimal))
	f.Add([]byte("pipeline: a\ntables: [{table: '\"a\".*', replica: b.*}]\nschedule: {windows: [{start: 'TZ=0', for: 1m}]}"))
	f.Add([]byte("? a\n: - !!x b\n<<: *c\n"))
	f.Fuzz(func(t *testing.T, src []byte) {
		p, _, err := Parse("f", src)
		if (p == nil) == (err == nil) {
			t.Fatalf("policy %v with error %v", p, err)
		}
		if err != nil {
			return
		}
		for _, table := range p.Tables {
			if _, err := ParsePattern(table.Table); err != nil {
				t.Fatal(err)
			}
		}
		for _, w := range p.Schedule.Windows {
			if _, err := w.Opens(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
