package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/trickle-verify/trickle/debezium"
	"github.com/trickle-verify/trickle/detector"
	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/ledger"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/policy"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/replica"
	"github.com/trickle-verify/trickle/scanner"
	"github.com/trickle-verify/trickle/transport"
)

// Verdicts on a table that is held against a set of the base-line view.
const (
	Identical = "identical" // to the set
	Drifted   = "drifted"   // it differs, and nothing was written to it since
	Changed   = "changed"   // it differs, and so may the source by now: thumbprints alone can't tell
	Untold    = "unknown"   // with the reason
)

// Standing is how a replica compares with a set that it heard of.
type Standing struct {
	Set       string          `json:"set"`
	Taken     time.Time       `json:"taken"`
	Identical int             `json:"identical"`
	Drifted   int             `json:"drifted"`
	Changed   int             `json:"changed"`
	Unknown   int             `json:"unknown"`
	Tables    []TableStanding `json:"tables"`
}

// TableStanding is one table's.
type TableStanding struct {
	Table   string `json:"table"`
	Replica string `json:"replica"`
	Verdict string `json:"verdict"`
	Rows    uint64 `json:"rows"`         // of the set
	There   uint64 `json:"replica_rows"` // as they were read
	Events  *int64 `json:"events"`       // that the logs hold of it since; null: not known, or of no matter
	Reason  string `json:"reason"`
}

// pieceBytes is how much of a table one statement reads: no more than some seconds' work.
const pieceBytes = 32 << 20

// Heard holds a replica's tables against the newest set of the base-line view that it heard of, or the one that is named. No store is needed: the set's thumbprints came with the
// verification messages.
func Heard(ctx context.Context, s Settings, set string) (Standing, error) {
	p, err := s.LoadPolicy()
	if err != nil {
		return Standing{}, err
	}
	h := &hearing{preflight: preflight{settings: s, policy: p}}
	defer h.close()
	var id postgres.Identity
	pool, id, err := s.openReplica(ctx, &h.st)
	if err != nil {
		return Standing{}, err
	}
	book := ledger.New(pool, p.Pipeline)
	if h.set, err = chosenSet(ctx, book, set); err != nil {
		return Standing{}, err
	}
	name, err := s.consumer(id)
	if err != nil {
		return Standing{}, err
	}
	h.asks = &inquiry{preflight: &h.preflight, consumer: func() (string, error) { return name, nil }}
	h.replica = replica.New(pool, book, replica.Options{Map: h.mapping})
	report, err := book.Report(ctx)
	if err != nil {
		return Standing{}, err
	}
	h.behind = behind(report.Gate, h.set.Taken)
	bus, err := h.kafka(ctx)
	if err != nil {
		return Standing{}, err
	}
	return h.compare(ctx, bus)
}

// chosenSet is the set of a name, or the newest.
func chosenSet(ctx context.Context, book *ledger.Ledger, name string) (entry.Baseline, error) {
	sets, err := book.Baselines(ctx)
	if err != nil {
		return entry.Baseline{}, err
	}
	if len(sets) == 0 {
		return entry.Baseline{}, errors.New("this replica has heard of no set of the base-line view: one is told of when trickle run, with baseline.url in its policy, has built it, and trickle-consumer run hears it")
	}
	if name == "" {
		return sets[0], nil
	}
	i := slices.IndexFunc(sets, func(b entry.Baseline) bool { return b.Set == name })
	if i < 0 {
		known := make([]string, len(sets))
		for n, b := range sets {
			known[n] = b.Set
		}
		return entry.Baseline{}, fmt.Errorf("--set %s: this replica knows of %s", name, strings.Join(known, ", "))
	}
	return sets[i], nil
}

// behind is why the replica is not known to have applied all that came before a position; empty: it has.
func behind(g ledger.GateReport, taken time.Time) string {
	switch {
	case g.LagSeconds == nil && g.Reason != "":
		return g.Reason
	case g.LagSeconds == nil:
		return "how far it lags behind is not known"
	}
	if applied := g.At.Add(-time.Duration(*g.LagSeconds * float64(time.Second))); !applied.After(taken) {
		return fmt.Sprintf("it had got as far as %s, and the set's position was read at %s", applied.UTC().Format(time.RFC3339), taken.UTC().Format(time.RFC3339))
	}
	return ""
}

// asker tells what a table looks like at the source, and which source that is.
type asker interface {
	Hello(ctx context.Context, table string) (*tricklepb.Schema, string, error)
}

// hearing is one comparison.
type hearing struct {
	preflight

	set     entry.Baseline
	replica *replica.Replica
	asks    asker
	behind  string
}

func (h *hearing) mapping(table string) (replica.Mapping, bool) {
	n := postgres.ParseName(table)
	m, ok := h.policy.For(n.Schema, n.Table)
	return replica.Mapping{Name: postgres.Name{Schema: m.Replica.Schema, Table: m.Replica.Name}, Rules: scanner.Rules(m.Table)}, ok
}

func (h *hearing) compare(ctx context.Context, bus logReader) (Standing, error) {
	out := Standing{Set: h.set.Set, Taken: h.set.Taken, Tables: []TableStanding{}}
	read := 0
	for _, t := range h.set.Tables {
		one, err := h.table(ctx, t)
		if err != nil {
			return out, err
		}
		if one.Verdict != Untold {
			read++
		}
		out.Tables = append(out.Tables, one)
	}
	if read == 0 {
		return out, fmt.Errorf("no table could be compared with set %s: %s", h.set.Set, reasons(out.Tables))
	}
	// Asked for last: what was written while tables were read is among it.
	var topics []string
	for _, p := range h.set.Position {
		topics = append(topics, p.Topic)
	}
	logs, err := bus.Logs(ctx, topics)
	if err != nil {
		return out, err
	}
	for i := range out.Tables {
		h.settle(&out.Tables[i], logs)
		switch out.Tables[i].Verdict {
		case Identical:
			out.Identical++
		case Drifted:
			out.Drifted++
		case Changed:
			out.Changed++
		default:
			out.Unknown++
		}
	}
	return out, nil
}

func reasons(tables []TableStanding) string {
	var all []string
	for _, t := range tables {
		all = append(all, t.Table+": "+t.Reason)
	}
	if len(all) == 0 {
		return "it has none"
	}
	return strings.Join(all, "; ")
}

// table reads one table and says whether it is the set's.
func (h *hearing) table(ctx context.Context, t entry.BaselineTable) (TableStanding, error) {
	out := TableStanding{Table: t.Table, Verdict: Untold, Rows: t.Rows}
	var mapped bool
	if out.Replica, mapped = h.replica.Name(t.Table); !mapped {
		out.Reason = "it is in no entry of this side's policy"
		return out, nil
	}
	schema, source, err := h.asks.Hello(ctx, t.Table)
	switch refused := detector.Refusal(nil); {
	case errors.As(err, &refused):
		out.Reason = err.Error()
		return out, nil
	case err != nil:
		return out, fmt.Errorf("asking the publisher what table %s looks like: %w", t.Table, err)
	case source != h.set.Source:
		return out, fmt.Errorf("the publisher reads source %s, and set %s is of %s: check --brokers and the policy's pipeline", source, h.set.Set, h.set.Source)
	case schema.GetFingerprint() != t.Schema:
		out.Reason = "its schema, or how the policy compares it, has changed since"
		return out, nil
	}
	probe, err := h.replica.Fit(ctx, t.Table, schema)
	if h.replica.Incomparable(err) {
		out.Reason = err.Error()
		return out, nil
	}
	if err != nil {
		return out, err
	}
	if t.Digest != digest.Portable && probe != t.Probe { // portable ones are the same everywhere
		out.Reason = fmt.Sprintf("the set's %s digests are computed otherwise here (another version, encoding or locale of the server): compare by the rows themselves, trickle baseline verify --against replica", t.Digest)
		return out, nil
	}
	print, err := h.read(ctx, t)
	if err != nil {
		return out, fmt.Errorf("reading %s: %w", out.Replica, err)
	}
	out.There, out.Verdict = print.Rows, Changed
	if print == (digest.Thumbprint{Rows: t.Rows, Sum: t.Sum}) {
		out.Verdict = Identical
	}
	return out, nil
}

// read sums a table up range by range.
func (h *hearing) read(ctx context.Context, t entry.BaselineTable) (print digest.Thumbprint, err error) {
	ranges, err := h.replica.Cut(ctx, t.Table, pieceBytes)
	if err != nil {
		return print, err
	}
	for _, r := range ranges {
		one, err := h.replica.Thumbprint(ctx, t.Table, r, nil, t.Digest)
		if err != nil {
			return print, err
		}
		print = print.Add(one)
	}
	return print, nil
}

// settle says what a difference means.
func (h *hearing) settle(t *TableStanding, logs []transport.Log) {
	if t.Verdict != Changed {
		return
	}
	if h.behind != "" {
		t.Verdict, t.Reason = Untold, "it differs, and the replica is not known to have applied all that came before the set: "+h.behind
		return
	}
	events, err := since(h.set, tableTopics(h.policy, h.set, t.Table), logs)
	switch {
	case err != nil:
		t.Verdict, t.Reason = Untold, "it differs, and what was written to it since can't be told: "+err.Error()
	case events == 0:
		t.Verdict, t.Events, t.Reason = Drifted, &events, "it differs, and the CDC's logs hold nothing of it since the set: trickle-consumer resync --table "+t.Table
	default:
		t.Events, t.Reason = &events, "it differs, and was written to since the set: trickle baseline verify --against replica compares the rows"
	}
}

// tableTopics are the topics in which a table's changes may be.
func tableTopics(p *policy.Policy, set entry.Baseline, table string) []entry.LogPoint {
	prefix := p.Resync.Debezium.TopicPrefix
	heart := debezium.Topic(prefix, postgres.ParseName(p.Gate.Heartbeat.Table))
	own := debezium.Topic(prefix, postgres.ParseName(table))
	var all []entry.LogPoint
	for _, at := range set.Position {
		if prefix != "" && at.Topic == own {
			return []entry.LogPoint{at}
		}
		if prefix == "" || at.Topic != heart {
			all = append(all, at)
		}
	}
	return all
}

// since counts what topics hold from a set's position on.
func since(set entry.Baseline, topics []entry.LogPoint, logs []transport.Log) (int64, error) {
	if len(topics) == 0 {
		return 0, fmt.Errorf("set %s names no topic", set.Set)
	}
	var events int64
	for _, at := range topics {
		i := slices.IndexFunc(logs, func(l transport.Log) bool { return l.Topic == at.Topic })
		if i < 0 || len(logs[i].Partitions) == 0 {
			if len(at.Offsets) == 0 {
				continue
			}
			return 0, fmt.Errorf("topic %s is gone", at.Topic)
		}
		l := logs[i]
		if at.ID != "" && l.ID != "" && at.ID != l.ID || len(at.Offsets) > len(l.Partitions) {
			return 0, fmt.Errorf("topic %s was made anew", at.Topic)
		}
		for n, have := range l.Partitions {
			var from int64
			if n < len(at.Offsets) {
				from = at.Offsets[n]
			}
			if have.End < from {
				return 0, fmt.Errorf("topic %s ends before the set's position", at.Topic)
			}
			events += have.End - from
		}
	}
	return events, nil
}
