// Package policy is what the user decides: one YAML file that both sides read.
//
// It decides what a file means, fills in defaults and refuses what makes no sense. What always holds: a Policy that Parse returned is
// complete and consistent, so no other package checks it again; every fault is reported with file, line, column, the value found and what is
// allowed, all faults at once where possible. Secrets have no place in it. When a file can't be read or is invalid nothing changes: the
// caller keeps the policy it had.
package policy

import "time"

// Policy is the whole file. The yaml tags are the file's keys.
type Policy struct {
	Pipeline     string   `yaml:"pipeline"`
	Schedule     Schedule `yaml:"schedule"`
	Rate         Rate     `yaml:"rate"`
	Backoff      Backoff  `yaml:"backoff"`
	Quiet        Duration `yaml:"quiet"`
	MaxStaleness Duration `yaml:"max_staleness"`
	RangeRows    int      `yaml:"range_rows"` // target size of a range, rows
	Tables       []Table  `yaml:"tables"`
	Gate         Gate     `yaml:"gate"`
	Detect       Detect   `yaml:"detect"`
	Resync       Resync   `yaml:"resync"`
	Baseline     Baseline `yaml:"baseline"`
	Privacy      Privacy  `yaml:"privacy"`
}

// Schedule says when to verify and how long one pass over everything may take.
type Schedule struct {
	Cycle   Duration `yaml:"cycle"`
	Windows []Window `yaml:"windows"` // none: always
}

// Window opens at each time that Start (a cron expression of five fields) names and stays open for For.
type Window struct {
	Start    string   `yaml:"start"`
	For      Duration `yaml:"for"`
	TimeZone string   `yaml:"time_zone"` // IANA name; default UTC
}

// Rate holds ceilings; whichever bites first. Zero means the key is absent: no ceiling (a written 0 is refused).
type Rate struct {
	RowsPerSecond  int     `yaml:"rows_per_second"`
	BytesPerSecond Size    `yaml:"bytes_per_second"`
	SourceShare    Percent `yaml:"source_share"` // of wall time that a query of ours may be running on the source
}

// Backoff slows scanning down when the source is busy; zero means not looked at.
type Backoff struct {
	SourceLatency  Duration `yaml:"source_latency"`
	ReplicationLag Duration `yaml:"replication_lag"`
	ActiveSessions int      `yaml:"active_sessions"`
}

// Modes of a table.
const (
	ModeThumbprints = "thumbprints"
	ModeRows        = "rows"
)

// Table is a table or a glob of tables. An exact name beats a glob; among globs the first in the file wins.
type Table struct {
	Table       string  `yaml:"table"`
	Mode        string  `yaml:"mode"`
	Columns     Columns `yaml:"columns"`
	Compare     string  `yaml:"compare"` // type (default) or bytes
	Where       string  `yaml:"where"`
	QuietColumn string  `yaml:"quiet_column"` // a timestamp column to tell quiet rows by, instead of xmin
	Replica     string  `yaml:"replica"`      // the replica's name for it; a * stands for what the glob's * matched
}

// Columns narrows what is compared.
type Columns struct {
	Exclude []string          `yaml:"exclude"`
	Compare map[string]string `yaml:"compare"` // column: looser type
}

// Gate tells how far behind the replica may be.
type Gate struct {
	MaxLag    Duration  `yaml:"max_lag"`
	Heartbeat Heartbeat `yaml:"heartbeat"`
	AssumeLag Duration  `yaml:"assume_lag"` // the operator vouches that CDC is never further behind
	Slot      string    `yaml:"slot"`
	Group     string    `yaml:"group"`
}

// Heartbeat is true, false or a mapping of its own in the file.
type Heartbeat struct {
	Enabled  bool     `yaml:"-"`
	Table    string   `yaml:"table"`    // on the source, schema.name
	Replica  string   `yaml:"replica"`  // in the replica; default the same name
	Interval Duration `yaml:"interval"` // between beats
}

// Actions of the detector.
const (
	ActionCorrect = "correct"
	ActionReport  = "report"
)

// Detect says what a replica does with drift.
type Detect struct {
	Action                 string   `yaml:"action"`
	Confirm                Confirm  `yaml:"confirm"`
	Window                 Duration `yaml:"window"`
	Brake                  Brake    `yaml:"brake"`
	SessionReplicationRole string   `yaml:"session_replication_role"` // origin (default) or replica: whether triggers and foreign keys act on corrections
}

// Confirm is how long a suspect waits before it is looked at again, and how many rounds of correction it gets.
type Confirm struct {
	Delay    Duration `yaml:"delay"`
	Attempts int      `yaml:"attempts"`
}

// Brake stops corrections until a person releases it; counts within Detect.Window.
type Brake struct {
	Deletes     int `yaml:"deletes"`
	Corrections int `yaml:"corrections"`
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
	Partial  Threshold `yaml:"partial"`
	Full     Threshold `yaml:"full"`
	Approval string    `yaml:"approval"`
	Cooldown Duration  `yaml:"cooldown"`
	Via      string    `yaml:"via"`
	InFlight int       `yaml:"in_flight"` // ranges asked for at the same time
}

// Threshold is passed when either limit is reached within Detect.Window; zero means that limit is absent. The ratio is discrepancies
// over rows verified and counts only once MinRows rows were verified.
type Threshold struct {
	Discrepancies int     `yaml:"discrepancies"`
	Ratio         Percent `yaml:"ratio"`
	MinRows       int     `yaml:"min_rows"`
}

// Baseline is where the base-line view is kept; an empty URL means none.
type Baseline struct {
	URL     string   `yaml:"url"`
	Refresh Duration `yaml:"refresh"`
}

// Privacy says what traces, logs and the page may show: show, hash or omit.
type Privacy struct {
	Keys   string `yaml:"keys"`
	Values string `yaml:"values"`
}

// Duration is written "10m", "24h" or "7d" in the file.
type Duration time.Duration

// Size is a number of bytes, written "1MiB" or "500kB" in the file.
type Size int64

// Percent is a fraction of one, written "2%" or 0.02 in the file.
type Percent float64
