package postgres

import "github.com/trickle-verify/trickle/message/tricklepb"

// JSONness tells what the record digest takes of a jsonb value, and of a json one, which is compared as jsonb. Portable digests take its text
// in any case.
type JSONness int

const (
	// JSONByHash takes Postgres's own hash, which does not see the sign of a number, where a nested container ends, and more.
	JSONByHash JSONness = iota
	// JSONAsText takes the text of the jsonb, which sees all of it, the scale of a number too (1.0, 1.00), and costs more.
	JSONAsText
)

// document tells jsonb, and arrays and ranges of it.
func (l *Layout) document(typ string) bool {
	return typ == jsonbType || l.leaf(l.named(typ)) == jsonbType
}

// spellsOut tells whether a column is made jsonb and then text.
func (l *Layout) spellsOut(wire *tricklepb.Column) bool {
	return l.rules.JSON == JSONAsText && l.document(l.madeInto(wire))
}

// HashedJSON are the columns whose record digest takes Postgres's hash of jsonb, by the source's names.
func (l *Layout) HashedJSON() []string {
	var out []string
	for _, wire := range l.Schema.GetColumns() {
		if l.document(l.hashedAs(wire)) {
			out = append(out, wire.GetName())
		}
	}
	return out
}
