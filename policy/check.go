package policy

import (
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// pipelinePattern leaves room in Kafka's 249 characters for the suffixes of topics.
const pipelinePattern = `^[a-zA-Z0-9._-]{1,100}$`

var (
	pipelineText = regexp.MustCompile(pipelinePattern)
	topicText    = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,200}$`)
)

// slotPattern is Postgres's own rule.
const slotPattern = `^[a-z0-9_]{1,63}$`

var slotText = regexp.MustCompile(slotPattern)

// check looks at what the tags can't say: forms of names, and keys that depend on each other.
type check struct {
	*decoder
	policy   *Policy
	warnings []Warning
}

func (c *check) warn(path, format string, args ...any) {
	pos := c.place(path)
	c.warnings = append(c.warnings, Warning{c.file, pos.Line, pos.Column, path, fmt.Sprintf(format, args...)})
}

func (c *check) all() {
	p := c.policy
	if p.Pipeline != "" && !pipelineText.MatchString(p.Pipeline) {
		c.refuse("pipeline", "%q can't be part of a topic's name: give 1 to 100 of a-z, A-Z, 0-9, dot, underscore and hyphen", p.Pipeline)
	}
	if p.MaxStaleness < p.Schedule.Cycle {
		c.warn("max_staleness", "%s is shorter than schedule.cycle (%s): a row is looked at once a cycle at most", p.MaxStaleness, p.Schedule.Cycle)
	}
	for i, w := range p.Schedule.Windows {
		c.window(fmt.Sprintf("schedule.windows[%d]", i), w)
	}
	c.tables()
	c.gate()
	c.journal()
	c.debezium()
	c.baseline()
	c.tracing()
}

func (c *check) window(path string, w Window) {
	loc, err := w.location()
	if err != nil {
		c.refuse(path+".time_zone", "%s", err)
		loc = time.UTC
	} else if clocksChange(loc, time.Now()) {
		c.warn(path+".time_zone", "clocks change in %s: a start within the hour that is skipped in spring does not open the window that day", w.TimeZone)
	}
	if c.failed(path+".start") || w.Start == "" {
		return
	}
	if _, err := parseCron(w.Start, loc); err != nil {
		c.refuse(path+".start", "%s", err)
	}
}

func (c *check) tables() {
	if len(c.policy.Tables) == 0 && !c.failed("tables") {
		c.refuse("tables", "is empty: name at least one table")
	}
	first := map[string]int{}
	replicas := map[Name]int{}
	for i, t := range c.policy.Tables {
		path := fmt.Sprintf("tables[%d]", i)
		pattern, ok := c.name(path+".table", t.Table)
		if !ok {
			continue
		}
		id := pattern.String()
		if j, twice := first[id]; twice {
			c.refuse(path+".table", "%s is there twice, first as tables[%d]", t.Table, j)
			continue
		}
		first[id] = i
		c.replica(i, pattern, replicas)
		c.columns(path+".columns", t.Columns)
		if t.ReplicaWhere != "" && !c.written(path+".where") {
			c.refuse(path+".replica_where", "says where in the replica's words, and where is missing: give it for the source, or leave both out")
		}
	}
}

// columns refuses keys that contradict each other. What a name that is not renamed clashes with, only the catalogue tells.
func (c *check) columns(path string, columns Columns) {
	for _, column := range columns.Exclude {
		if _, both := columns.Compare[column]; both {
			c.refuse(path+".compare."+column, "the column is excluded as well: keep one of the two")
		}
		if _, both := columns.Rename[column]; both {
			c.refuse(path+".rename."+column, "the column is excluded as well, so its name in the replica is not looked at: keep one of the two")
		}
	}
	taken := map[string]string{}
	for _, column := range slices.Sorted(maps.Keys(columns.Rename)) {
		there := columns.Rename[column]
		if first, twice := taken[there]; twice && there != "" { // an empty one was refused already
			c.refuse(path+".rename."+column, "column %q is called %q in the replica as well: give each column a name of its own", first, there)
		}
		taken[there] = column
	}
}

// replica makes sure that no two tables have the same place in the replica, as far as the file shows.
func (c *check) replica(i int, pattern Pattern, taken map[Name]int) {
	path, t := fmt.Sprintf("tables[%d]", i), c.policy.Tables[i]
	exact, isExact := pattern.Exact()
	replica := exact
	if t.Replica != "" {
		r, ok := c.name(path+".replica", t.Replica)
		if !ok {
			return
		}
		if r.stars() != pattern.stars() {
			c.refuse(path+".replica", "%s has %d stars and the table %s has %d: give as many, so that every table has a place of its own", t.Replica, r.stars(), t.Table, pattern.stars())
			return
		}
		replica, _ = r.Exact()
	}
	if !isExact {
		return
	}
	if j, twice := taken[replica]; twice {
		c.refuse(path, "tables[%d] goes to %s in the replica as well: give each table a place of its own", j, replica)
		return
	}
	taken[replica] = i
}

// name checks a name or glob, unless it is absent or was refused already.
func (c *check) name(path, s string) (Pattern, bool) {
	if s == "" || c.failed(path) {
		return Pattern{}, false
	}
	p, err := ParsePattern(s)
	if err != nil {
		c.refuse(path, "%s", err)
		return Pattern{}, false
	}
	return p, true
}

func (c *check) gate() {
	g := c.policy.Gate
	h := g.Heartbeat
	if h.Enabled {
		for path, s := range map[string]string{"gate.heartbeat.table": h.Table, "gate.heartbeat.replica": h.Replica} {
			if p, ok := c.name(path, s); ok && p.stars() > 0 {
				c.refuse(path, "%s is a glob: name one table", s)
			}
		}
		if h.Interval >= g.MaxLag {
			c.warn("gate.heartbeat.interval", "%s is not shorter than gate.max_lag (%s): the gate will close between beats", h.Interval, g.MaxLag)
		}
	}
	if g.Slot != "" && !slotText.MatchString(g.Slot) {
		c.refuse("gate.slot", "%q can't be a replication slot: names are of lower-case letters, digits and underscores, at most 63", g.Slot)
	}
	assumed := c.written("gate.assume_lag")
	switch {
	case h.Enabled && assumed:
		c.refuse("gate.assume_lag", "%s is given and so is heartbeat: a lag is measured or assumed, keep one of the two", g.AssumeLag)
	case g.Whole() && assumed:
		c.refuse("gate.assume_lag", "%s is given and so are slot and group: a lag is measured or assumed, keep one of the two", g.AssumeLag)
	case g.Known() || assumed || c.policy.Detect.Action != ActionCorrect:
	case h.Enabled:
		c.warn("gate.heartbeat", "a beat proves what has been applied only where CDC keeps commit order across tables: vouch for it with in_commit_order: true (one subscription of Postgres's own replication does; Debezium's JDBC sink does not), "+
			"or name slot and group too; until then drift is reported and nothing is corrected")
	case g.Slot != "" || g.Group != "":
		c.warn("gate", "slot and group prove what has been applied only together: lag is unknown, so drift is reported and nothing is corrected")
	default:
		c.warn("gate", "none of heartbeat, slot with group, and assume_lag is given: lag is unknown, so drift is reported and nothing is corrected")
	}
	if g.OnOrder() && c.policy.Resync.Via == ViaDebezium {
		c.warn("gate.heartbeat", "stands alone beside Debezium, where it overtakes rows that were committed before it, unless one topic carries all tables and the sink writes rows one by one: name gate.slot and gate.group too, or changes in flight are taken for drift")
	}
}

// journal keeps what is still counted: by the brake over the window, and by the estimate of what may be drifted over two cycles.
func (c *check) journal() {
	const path = "detect.journal"
	d, r := &c.policy.Detect, c.policy.Resync
	if c.failed(path) {
		return
	}
	cycles := Retention(2 * c.policy.Schedule.Cycle)
	if !c.written(path) {
		d.Journal = max(d.Journal, cycles, Retention(d.Window), Retention(r.Cooldown))
	}
	switch {
	case d.Journal < Retention(d.Window):
		c.refuse(path, "%s is shorter than detect.window (%s), over which the brake counts what is in the journal: give at least that", d.Journal, d.Window)
	case d.Journal < Retention(r.Cooldown):
		c.refuse(path, "%s is shorter than resync.cooldown (%s), for which the last resync has to be known: give at least that", d.Journal, r.Cooldown)
	case d.Journal < cycles:
		c.warn(path, "%s is shorter than two cycles (schedule.cycle is %s): ranges verified longer ago count as never verified where status says how many rows may be drifted", d.Journal, c.policy.Schedule.Cycle)
	}
}

// debezium fills in what follows from the connector's prefix.
func (c *check) debezium() {
	d := &c.policy.Resync.Debezium
	if d.TopicPrefix == "" {
		if c.policy.Resync.Via == ViaDebezium && !c.failed("resync.debezium.topic_prefix") {
			c.refuse("resync.debezium.topic_prefix", "is missing: with resync.via: %s give the topic.prefix of the connector", ViaDebezium)
		}
		return
	}
	for path, topic := range map[string]string{"topic_prefix": d.TopicPrefix, "signal_topic": d.SignalTopic, "notification_topic": d.NotificationTopic} {
		if topic != "" && !topicText.MatchString(topic) {
			c.refuse("resync.debezium."+path, "%q can't be part of a topic's name: give 1 to 200 of a-z, A-Z, 0-9, dot, underscore and hyphen", topic)
		}
	}
	d.SignalTopic = cmp.Or(d.SignalTopic, d.TopicPrefix+"-signal")
	d.NotificationTopic = cmp.Or(d.NotificationTopic, d.TopicPrefix+"-notifications")
	if d.SignalTopic == d.NotificationTopic {
		c.refuse("resync.debezium.notification_topic", "is the topic of the signals as well: the connector would read its own notifications as signals")
	}
}

func (c *check) baseline() {
	b := c.policy.Baseline
	if c.failed("baseline") {
		return
	}
	if b.URL == "" {
		if c.written("baseline") {
			c.refuse("baseline.url", "is missing: say where the view is kept, such as file:///var/lib/trickle, or leave baseline out")
		}
		return
	}
	switch u, err := url.Parse(b.URL); {
	case err != nil || u.Scheme == "":
		c.refuse("baseline.url", "%q is no URL: give one such as file:///var/lib/trickle", b.URL)
	case u.Scheme == "file" && u.Host != "" && u.Host != ".":
		c.refuse("baseline.url", "%q names the host %q: a folder has three slashes, as in file:///var/lib/trickle", b.URL, u.Host)
	case !slices.Contains([]string{"file", "s3", "gs", "azblob", "mem"}, u.Scheme):
		c.refuse("baseline.url", "%q is of no kind that is known: give file:///folder, s3://bucket, gs://bucket or azblob://container", b.URL)
	}
	if len(b.Topics) == 0 && c.policy.Resync.Debezium.TopicPrefix == "" {
		c.warn("baseline", "no set is built until it is known which topics hold the CDC's log: name them in baseline.topics, or the connector's prefix in resync.debezium.topic_prefix")
	}
}

// linkPattern is what a link looks like, for the schema.
const linkPattern = `^https?://[^\s]*\{trace_id\}[^\s]*$`

func (c *check) tracing() {
	link := c.policy.Tracing.Link
	if link == "" || c.failed("tracing.link") {
		return
	}
	u, err := url.Parse(strings.ReplaceAll(link, traceID, "0"))
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.ContainsAny(link, " \t\r\n") || !strings.Contains(link, traceID) {
		c.refuse("tracing.link", "%q is no link to a trace: give one such as https://jaeger.example/trace/%s", link, traceID)
	}
}
