package detector

import (
	"context"
	"errors"
	"log/slog"

	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
)

// unscanned remembers that the publisher does not scan a table, and why, or that it does again. It is for people: nothing is done otherwise for it.
func (d *Detector) unscanned(ctx context.Context, where string, env *tricklepb.Envelope) error {
	p, table := env.GetPaused(), env.GetTable()
	if table == "" || p.GetAt().CheckValid() != nil {
		return d.Refuse(ctx, where, errors.New("it tells of a table that is not scanned, without its name or a time"))
	}
	u := entry.Unscanned{Table: table, Reason: message.Line(p.GetReason()), At: p.GetAt().AsTime()}
	var ours bool
	if u.Replica, ours = d.Replica.Name(table); !ours && u.Reason != "" { // the end is noted all the same: the policy may have named the table before
		return nil
	}
	if err := d.source.Believe(ctx, env); err != nil {
		var foreign *ForeignError
		if !errors.As(err, &foreign) {
			return err
		}
		return d.Refuse(ctx, where, err)
	}
	if u.Reason != "" {
		d.logOnce("the publisher does not scan a table", slog.String("table", table), errors.New(u.Reason))
	}
	return d.Ledger.Unscanned(ctx, u)
}
