package baseline

import (
	"slices"

	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/postgres"
)

// SchemaOf is the schema of a table as it was laid out at the source.
func SchemaOf(l *postgres.Layout) Schema {
	p := l.Schema
	s := Schema{Key: p.GetKey(), Fingerprint: p.GetFingerprint(), Probe: p.GetProbe(), Where: p.GetWhere(), Exact: p.GetExact(), JSONAsText: p.GetJsonAsText()}
	exported, _ := l.Streamable()
	for _, c := range p.GetColumns() {
		s.Columns = append(s.Columns, Column{Name: c.GetName(), Type: c.GetType(), Declared: c.GetDeclared(), Exported: slices.Contains(exported, c.GetName())})
	}
	return s
}

// Wire is the schema as it travels, by which a replica's table is fitted.
func (s Schema) Wire() *tricklepb.Schema {
	p := &tricklepb.Schema{Key: s.Key, Fingerprint: s.Fingerprint, Probe: s.Probe, Where: s.Where, Exact: s.Exact, JsonAsText: s.JSONAsText}
	for _, c := range s.Columns {
		p.Columns = append(p.Columns, &tricklepb.Column{Name: c.Name, Type: c.Type, Declared: c.Declared})
	}
	return p
}
