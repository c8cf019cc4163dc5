// Package policy is what the user decides: one YAML file that both sides read.
//
// It decides what a file means, fills in defaults and refuses what makes no sense. What always holds: a Policy that Parse returned is
// complete and consistent, so no other package checks it again; every fault is reported with file, line, column, the value found and what is
// allowed, all faults at once where possible. Secrets have no place in it. When a file can't be read or is invalid nothing changes: the
// caller keeps the policy it had.
//
// The structs below are the one place that says what the file may hold. Besides its key (yaml), a field's tags give its default, the values
// allowed (enum), what to do instead of writing a zero (zero), whether it must be there (required) and what it means (doc). Parse obeys
// them, and JSONSchema tells editors the same.
package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"math"
	"regexp"
	"strings"
	"time"
)

// Policy is the whole file. The yaml tags are the file's keys.
type Policy struct {
	Pipeline     string   `yaml:"pipeline" required:"yes" doc:"Names this pipeline; topics, consumers and cursors carry it. Letters, digits, dot, underscore and hyphen."`
	Schedule     Schedule `yaml:"schedule" doc:"When to verify, and how long one pass over everything may take."`
	Rate         Rate     `yaml:"rate" doc:"Ceilings on what a scan may cost; whichever bites first."`
	Backoff      Backoff  `yaml:"backoff" doc:"Slow down when the source is busier than this. A key left out is not looked at."`
	Quiet        Duration `yaml:"quiet" default:"10m" doc:"A row is compared by thumbprint once its last writer is older than this."`
	MaxStaleness Duration `yaml:"max_staleness" default:"7d" zero:"give the time within which rows that are never quiet are verified too" doc:"A range is sent with nothing left out at least once in this time, so that rows which are never quiet are verified too."`
	RangeRows    int      `yaml:"range_rows" default:"5000" zero:"a range holds at least one row" doc:"Rows a range should hold: one thumbprint, one message, one query."` // target size of a range, rows
	Tables       []Table  `yaml:"tables" required:"yes" doc:"What is verified. An exact name beats a glob; among globs the first in the file wins."`
	Gate         Gate     `yaml:"gate" doc:"How the replica's lag is known. While it is unknown or too great, drift is reported and not corrected."`
	Detect       Detect   `yaml:"detect" doc:"What a replica does with drift."`
	Resync       Resync   `yaml:"resync" doc:"When a replica asks for a whole neighbourhood, or for everything."`
	Baseline     Baseline `yaml:"baseline" doc:"Where the base-line view is kept, from which a lost replica is restored. Without url there is none."`
	Privacy      Privacy  `yaml:"privacy" doc:"What logs, traces, status and lists of differences may show."`
	Tracing      Tracing  `yaml:"tracing" doc:"What is traced besides corrections and resyncs, and where a trace is looked at. Traces are sent where an OTEL_* variable asks for it."`

	source [sha256.Size]byte // of the bytes it was parsed from, so that Watch can tell a change
}

// Schedule says when to verify and how long one pass over everything may take.
type Schedule struct {
	Cycle   Duration `yaml:"cycle" default:"24h" zero:"give the time one pass over everything may take" doc:"Verify everything once in this time; the pace follows from it."`
	Windows []Window `yaml:"windows" doc:"Times in which scanning is allowed; none means always."` // none: always
}

// Window opens at each time that Start (a cron expression of five fields) names and stays open for For.
type Window struct {
	Start    string   `yaml:"start" required:"yes" doc:"When it opens: a cron expression of five fields (minute hour day month weekday)."`
	For      Duration `yaml:"for" required:"yes" zero:"a window stays open for some time" doc:"How long it stays open."`
	TimeZone string   `yaml:"time_zone" default:"UTC" doc:"IANA name of the zone that start is written in."` // IANA name; default UTC
}

// Rate holds ceilings; whichever bites first. Zero means the key is absent: no ceiling (a written 0 is refused).
type Rate struct {
	RowsPerSecond  int     `yaml:"rows_per_second" zero:"leave the key out for no ceiling" doc:"Rows read from the source in a second."`
	BytesPerSecond Size    `yaml:"bytes_per_second" zero:"leave the key out for no ceiling" doc:"Bytes sent in a second."`
	SourceShare    Percent `yaml:"source_share" zero:"leave the key out for no ceiling" doc:"Share of wall time in which a scanning query may be running on the source."` // of wall time that a query of ours may be running on the source
}

// Backoff slows scanning down when the source is busy; zero means not looked at.
type Backoff struct {
	SourceLatency  Duration `yaml:"source_latency" zero:"leave the key out to not look at it" doc:"Time that a trivial query takes on the source."`
	ReplicationLag Duration `yaml:"replication_lag" zero:"leave the key out to not look at it" doc:"Lag of the source's own standbys."`
	ActiveSessions int      `yaml:"active_sessions" zero:"leave the key out to not look at it" doc:"Sessions that are running a query on the source."`
}

// Modes of a table.
const (
	ModeThumbprints = "thumbprints"
	ModeRows        = "rows"
)

// Table is a table or a glob of tables. An exact name beats a glob; among globs the first in the file wins.
type Table struct {
	Table        string  `yaml:"table" required:"yes" doc:"schema.name as the catalogue has it, a * for any run of characters; quote a part that holds a dot, a star or a quote."`
	Mode         string  `yaml:"mode" default:"thumbprints" enum:"thumbprints|rows" doc:"Send sums of ranges, or the rows themselves."`
	Columns      Columns `yaml:"columns" doc:"Which columns are compared, and as what."`
	Compare      string  `yaml:"compare" default:"type" enum:"type|bytes" doc:"Compare by type (1.0 equals 1.00) or byte for byte."` // type (default) or bytes
	JSONB        string  `yaml:"jsonb" default:"hash" enum:"hash|text" doc:"Compare jsonb by Postgres's hash of it, or by its text, which sees more and costs more."`
	Where        string  `yaml:"where" doc:"SQL condition, the same on both sides: only rows that meet it are verified."`
	ReplicaWhere string  `yaml:"replica_where" doc:"The condition of where in the replica's words, if its columns are called otherwise there."`
	QuietColumn  string  `yaml:"quiet_column" doc:"A timestamp column to tell quiet rows by, instead of xmin."`                                             // a timestamp column to tell quiet rows by, instead of xmin
	Replica      string  `yaml:"replica" doc:"What the replica calls it, schema.name; a * stands for what the * of table matched. Default: the same name."` // the replica's name for it; a * stands for what the glob's * matched
}

// Columns says what is compared, and as what. Columns go by the source's names.
type Columns struct {
	Exclude []string          `yaml:"exclude" doc:"Columns that are not compared."`
	Compare map[string]string `yaml:"compare" doc:"Column: the looser type that both sides cast it to."`                        // column: looser type
	Rename  map[string]string `yaml:"rename" doc:"Column: what the replica calls it. The other keys go by the source's names."` // column: the replica's name for it
}

// Gate tells how far behind the replica may be.
type Gate struct {
	MaxLag    Duration  `yaml:"max_lag" default:"30s" zero:"give the lag beyond which nothing is corrected" doc:"Beyond this lag nothing is corrected."`
	Heartbeat Heartbeat `yaml:"heartbeat" default:"false" doc:"Write a heartbeat table on the source and measure how late it comes through: true, false, or a mapping."`
	AssumeLag Duration  `yaml:"assume_lag" zero:"leave the key out to assume nothing" doc:"You vouch that CDC is never further behind than this. Not together with heartbeat, nor with slot and group."` // the operator vouches that CDC is never further behind
	Slot      string    `yaml:"slot" doc:"Replication slot of the CDC on the source: how far it has been confirmed, so what is in Kafka."`
	Group     string    `yaml:"group" doc:"Consumer group of the CDC's sink: how far it has got in its topics. With slot it proves what has been applied."`
}

// Whole reports that slot and group are both named: together they prove what has been applied, and neither does by itself.
func (g Gate) Whole() bool { return g.Slot != "" && g.Group != "" }

// Vouched reports that a beat proves what has been applied, by the operator's word for the order in which CDC applies.
func (g Gate) Vouched() bool { return g.Heartbeat.Enabled && g.Heartbeat.InCommitOrder }

// Known reports that there is a way to know the replica's lag. Without one nothing is ever corrected.
func (g Gate) Known() bool { return g.Whole() || g.Vouched() || g.AssumeLag > 0 }

// OnOrder reports that nothing but that word stands behind what is taken as applied. Where Debezium is seen, the word is doubted.
func (g Gate) OnOrder() bool { return g.Vouched() && !g.Whole() }

// Heartbeat is true, false or a mapping of its own in the file.
type Heartbeat struct {
	Enabled bool   `yaml:"-"`
	Table   string `yaml:"table" default:"trickle.heartbeat" doc:"Heartbeat table on the source, schema.name."` // on the source, schema.name
	Replica string `yaml:"replica" doc:"What the replica calls it. Default: the same name."`                    // in the replica; default the same name
	// InCommitOrder is the operator's word that a beat which has arrived proves what was committed before it.
	InCommitOrder bool     `yaml:"in_commit_order" default:"false" doc:"You vouch that CDC applies in commit order across tables, as one subscription of Postgres's own replication does and Debezium's JDBC sink does not. Without it, or slot and group, the heartbeat proves nothing and nothing is corrected."`
	Interval      Duration `yaml:"interval" default:"2s" zero:"give the time between two beats" doc:"Time between two beats."` // between beats
}

// Actions of the detector.
const (
	ActionCorrect = "correct"
	ActionReport  = "report"
)

// Detect says what a replica does with drift.
type Detect struct {
	Action                 string    `yaml:"action" default:"correct" enum:"correct|report" doc:"Correct drift, or only report it."`
	Confirm                Confirm   `yaml:"confirm" doc:"How a suspect is confirmed."`
	Window                 Duration  `yaml:"window" default:"10m" zero:"give the time over which discrepancies are counted" doc:"Discrepancies are counted over this time, for the brake and for resyncs."`
	Brake                  Brake     `yaml:"brake" doc:"Within the window, more than this stops corrections until a person releases them."`
	Journal                Retention `yaml:"journal" default:"90d" zero:"give the time for which corrections can be undone, or forever" doc:"How long closed corrections are kept, whole rows and all, and can be undone: a time, or forever. If left out and two of schedule.cycle are longer than the default, these."`
	SessionReplicationRole string    `yaml:"session_replication_role" default:"origin" enum:"origin|replica" doc:"Whether triggers and foreign keys act on corrections (origin) or not (replica)."` // origin (default) or replica: whether triggers and foreign keys act on corrections
}

// Confirm is how long a suspect waits before it is looked at again, and how many rounds of correction it gets.
type Confirm struct {
	Delay    Duration `yaml:"delay" default:"5s" doc:"How long a suspect waits before it is looked at again."`
	Attempts int      `yaml:"attempts" default:"3" zero:"a correction needs at least one attempt" doc:"Rounds of correction that a key gets."`
}

// Brake stops corrections until a person releases it; counts within Detect.Window.
type Brake struct {
	Deletes     int `yaml:"deletes" default:"1000" doc:"Rows deleted in the replica; 0 lets none go without a person."`
	Corrections int `yaml:"corrections" default:"10000" doc:"Corrections of any kind; 0 lets none go without a person."`
}

// Approvals of a resync.
const (
	ApprovalAuto   = "auto"
	ApprovalManual = "manual"
)

// Ways of a resync.
const (
	ViaSideChannel = "side-channel"
	ViaDebezium    = "debezium"
)

// Resync says when a replica asks for more than single rows.
type Resync struct {
	Partial  Threshold `yaml:"partial" default:"{discrepancies: 20, min_rows: 1000}" doc:"Discrepancies in one range's neighbourhood that ask for a partial resync."`
	Full     Threshold `yaml:"full" default:"{discrepancies: 500, ratio: 1%, min_rows: 1000}" doc:"Discrepancies in the window that ask for a full resync."`
	Approval string    `yaml:"approval" default:"auto" enum:"auto|manual" doc:"Start a resync at once, or wait for a person."`
	Cooldown Duration  `yaml:"cooldown" default:"1h" doc:"Time between two resyncs of the same scope."`
	Via      string    `yaml:"via" default:"side-channel" enum:"side-channel|debezium" doc:"How a resync travels: past the CDC, or as an incremental snapshot that Debezium makes."`
	InFlight int       `yaml:"in_flight" default:"4" zero:"a resync asks for at least one range at a time" doc:"Ranges asked for at the same time."` // ranges asked for at the same time
	Debezium Debezium  `yaml:"debezium" doc:"The connector that resyncs go through where via is debezium."`
}

// Debezium is how a connector is told to make a snapshot, and how it tells that it has.
type Debezium struct {
	TopicPrefix       string   `yaml:"topic_prefix" doc:"The connector's topic.prefix."`
	SignalTopic       string   `yaml:"signal_topic" doc:"The connector's signal.kafka.topic. Default: topic_prefix with -signal behind it."`
	SignalGroup       string   `yaml:"signal_group" default:"kafka-signal" doc:"The connector's signal.kafka.groupId: how far it has read its signals tells a lost one from one not read yet."`
	NotificationTopic string   `yaml:"notification_topic" doc:"The connector's notification.sink.topic.name. Default: topic_prefix with -notifications behind it."`
	StartedWithin     Duration `yaml:"started_within" default:"2m" zero:"give the time after which a signal without an answer counts as lost" doc:"A signal that was read and not answered for this long is sent again."`
	ProgressWithin    Duration `yaml:"progress_within" default:"15m" zero:"give the time after which a snapshot that is silent counts as lost" doc:"A snapshot of which nothing was heard for this long is signalled again."`
	Attempts          int      `yaml:"attempts" default:"5" zero:"a snapshot needs at least one signal" doc:"Signals that are sent for one resync; then it fails with the reason."`
}

// Threshold is passed when either limit is reached within Detect.Window; zero means that limit is absent. The ratio is discrepancies
// over rows verified and counts only once MinRows rows were verified.
type Threshold struct {
	Discrepancies int     `yaml:"discrepancies" zero:"leave the key out for the default" doc:"Confirmed discrepancies."`
	Ratio         Percent `yaml:"ratio" zero:"leave the key out for the default" doc:"Discrepancies over rows verified."`
	MinRows       int     `yaml:"min_rows" zero:"leave the key out for the default" doc:"The ratio counts once this many rows were verified."`
}

// Baseline is where the base-line view is kept; an empty URL means none.
type Baseline struct {
	URL     string   `yaml:"url" doc:"Where: file:///var/lib/trickle, s3://bucket?region=eu-central-1, gs://bucket or azblob://container, with prefix=folder/ in the query if need be. Credentials come from the environment."`
	Refresh Duration `yaml:"refresh" default:"6h" zero:"give the time between two sets" doc:"Time between two sets, at most. It is half of what the CDC's topics keep where that is less."`
	Keep    int      `yaml:"keep" default:"2" zero:"keep at least one set" doc:"Complete sets that are kept."`
	Topics  []string `yaml:"topics" doc:"The CDC's topics, a * for any run of characters. Default: those that the connector of resync.debezium.topic_prefix has for the tables and the heartbeat."`
	Object  Size     `yaml:"object" default:"32MiB" zero:"give the size of an object" doc:"About how much of a table one object holds, uncompressed."`
}

// Privacy says what logs, traces, status and lists of differences may show: show, hash or omit.
type Privacy struct {
	Keys   string `yaml:"keys" default:"hash" enum:"show|hash|omit" doc:"What is shown of a key."`
	Values string `yaml:"values" default:"omit" enum:"show|hash|omit" doc:"What is shown of a value."`
}

// Tracing is about traces, which leave a process only where one of OpenTelemetry's variables asks for it.
type Tracing struct {
	Sample Percent `yaml:"sample" default:"0%" doc:"Share of the ranges that get a trace although nothing has to be corrected in them."`
	Link   string  `yaml:"link" doc:"Where a trace is looked at, for links from pages and lists: a URL with {trace_id} in it."`
}

// traceID stands in a link for the trace's id.
const traceID = "{trace_id}"

var traceIDText = regexp.MustCompile(`^[0-9a-f]{32}$`)

// LinkTo is where a trace is looked at; empty where the policy doesn't say, or there is no such trace.
func (t Tracing) LinkTo(id string) string {
	if t.Link == "" || !traceIDText.MatchString(id) {
		return ""
	}
	return strings.ReplaceAll(t.Link, traceID, id)
}

// Duration is written "10m", "24h" or "7d" in the file.
type Duration time.Duration

// Retention is for how long something is kept, written "90d", or "forever".
type Retention Duration

// Forever is a retention without an end.
const Forever Retention = math.MaxInt64

// Size is a number of bytes, written "1MiB" or "500kB" in the file.
type Size int64

// Percent is a fraction of one, written "2%" or 0.02 in the file.
type Percent float64

// Key is a key as logs, status and lists of differences may show it: as it is, as a hash that can be compared, or not at all.
func (p Privacy) Key(key string) string { return veiled(cmp.Or(p.Keys, "hash"), key) }

// Value is a column's value as a list of differences may show it: as it is, as a hash that can be compared, or not at all.
func (p Privacy) Value(v string) string { return veiled(cmp.Or(p.Values, "omit"), v) }

func veiled(how, text string) string {
	switch how {
	case "show":
		return text
	case "hash":
		sum := sha256.Sum256([]byte(text))
		return "#" + hex.EncodeToString(sum[:6])
	default:
		return "…"
	}
}
