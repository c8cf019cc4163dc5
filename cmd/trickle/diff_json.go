package main

import (
	"encoding/json"
	"io"

	"github.com/trickle-verify/trickle/diff"
	"github.com/trickle-verify/trickle/drift"
	"github.com/trickle-verify/trickle/internal/app"
)

// jsonPrinter writes one object and holds none of it: a list of differences may be long.
type jsonPrinter struct {
	out    io.Writer
	tables int
	listed int // differences of the table that is being compared
	failed int
	differ bool
}

func newJSONPrinter(out io.Writer) *jsonPrinter { return &jsonPrinter{out: out} }

type jsonTable struct {
	Table      string           `json:"table"`
	Replica    string           `json:"replica,omitempty"`
	Rows       int64            `json:"rows"`
	Missing    int64            `json:"missing"`
	Mismatched int64            `json:"mismatched"`
	Extra      int64            `json:"extra"`
	Fixed      int64            `json:"fixed"`
	Unfixed    map[string]int64 `json:"unfixed,omitempty"`
	Unsettled  int64            `json:"unsettled,omitempty"`
	Seconds    float64          `json:"seconds"`
	Digest     string           `json:"digest,omitempty"`
	Read       string           `json:"read,omitempty"`
	Notes      []string         `json:"notes,omitempty"`
	Error      string           `json:"error,omitempty"`
}

type jsonDifference struct {
	Kind    drift.Kind        `json:"kind"`
	Key     map[string]string `json:"key"`
	Columns []jsonColumn      `json:"columns,omitempty"`
}

type jsonColumn struct {
	Column  string  `json:"column"`
	Source  *string `json:"source"`
	Replica *string `json:"replica"`
}

// open begins the next table's object up to its differences.
func (p *jsonPrinter) open(lead string) error {
	if p.tables == 0 {
		lead = "{\"tables\": [\n  " + lead
	} else {
		lead = ",\n  " + lead
	}
	p.tables++
	_, err := io.WriteString(p.out, lead)
	return err
}

func (p *jsonPrinter) Found(_ diff.Table, d diff.Difference) error {
	lead := ",\n    "
	if p.listed == 0 {
		if err := p.open(`{"differences": [`); err != nil {
			return err
		}
		lead = "\n    "
	}
	p.listed++
	j := jsonDifference{Kind: d.Kind, Key: make(map[string]string, len(d.Key))}
	for _, k := range d.Key {
		j.Key[k.Name] = k.Value
	}
	for _, c := range d.Columns {
		j.Columns = append(j.Columns, jsonColumn{c.Name, textOf(c.Source), textOf(c.Replica)})
	}
	b, err := json.Marshal(j)
	if err != nil {
		return err
	}
	_, err = p.out.Write(append([]byte(lead), b...))
	return err
}

func textOf(v []byte) *string {
	if v == nil {
		return nil
	}
	s := string(v)
	return &s
}

func (p *jsonPrinter) Compared(r diff.Result, failed error) error {
	j := jsonTable{
		Table: r.Table.Source.String(), Rows: r.Rows, Missing: r.Missing, Mismatched: r.Mismatched, Extra: r.Extra, Fixed: r.Fixed, Unfixed: r.Unfixed,
		Unsettled: r.Unsettled, Seconds: r.Took.Seconds(), Notes: r.Notes,
	}
	if r.Table.Replica != r.Table.Source {
		j.Replica = r.Table.Replica.String()
	}
	p.differ = p.differ || r.Differences() > 0
	if r.Digest != 0 {
		j.Digest, j.Read = r.Digest.String(), r.Way.String()
	}
	if failed != nil {
		p.failed++
		j.Error = failed.Error()
	}
	return p.table(j)
}

func (p *jsonPrinter) Missed(asked string, failed error) error {
	p.failed++
	return p.table(jsonTable{Table: asked, Error: failed.Error()})
}

// table writes a table's object, or the rest of it.
func (p *jsonPrinter) table(j jsonTable) error {
	b, err := json.Marshal(j)
	if err != nil {
		return err
	}
	if p.listed > 0 {
		_, err = io.WriteString(p.out, "],\n   "+string(b[1:]))
	} else {
		err = p.open(string(b))
	}
	p.listed = 0
	return err
}

func (p *jsonPrinter) end(o app.Outcome) error {
	rest, err := json.Marshal(struct {
		OnlySource  []string `json:"only_source,omitempty"`
		OnlyReplica []string `json:"only_replica,omitempty"`
		// Identical only where everything that was asked for was compared and no row was left unjudged.
		Identical bool `json:"identical"`
	}{o.OnlySource, o.OnlyReplica, !p.differ && p.failed == 0 && o.Unsettled == 0})
	if err != nil {
		return err
	}
	_, err = io.WriteString(p.out, "\n], "+string(rest[1:])+"\n")
	return err
}
