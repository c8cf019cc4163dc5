package detector

import (
	"context"
	"errors"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/message/tricklepb"
)

// baseline remembers a set of the base-line view. Nothing is compared here: whoever wants to know asks for it, as it takes reading every table.
func (d *Detector) baseline(ctx context.Context, where string, env *tricklepb.Envelope) error {
	b := env.GetBaseline()
	if b.GetSet() == "" || b.GetTaken().CheckValid() != nil {
		return d.Refuse(ctx, where, errors.New("it tells of a base-line set without a name or a time"))
	}
	if err := d.source.Believe(ctx, env); err != nil {
		var foreign *ForeignError
		if !errors.As(err, &foreign) {
			return err
		}
		return d.Refuse(ctx, where, err)
	}
	set := entry.Baseline{
		Set: b.GetSet(), Source: env.GetSource(), Manifest: b.GetManifest(), Taken: b.GetTaken().AsTime(),
		Position: make([]entry.LogPoint, len(b.GetPosition())), Tables: make([]entry.BaselineTable, len(b.GetTables())),
	}
	for i, p := range b.GetPosition() {
		set.Position[i] = entry.LogPoint{Topic: p.GetTopic(), ID: p.GetId(), Offsets: p.GetOffsets()}
	}
	for i, t := range b.GetTables() {
		set.Tables[i] = entry.BaselineTable{
			Table: t.GetTable(), Schema: t.GetSchema(), Rows: t.GetRows(), Sum: t.GetSum(), Digest: digest.Kind(t.GetDigest()), Probe: t.GetProbe(),
		}
	}
	return d.Ledger.Baseline(ctx, set)
}
