package resync

import (
	"context"

	"github.com/trickle-verify/trickle/drift"
)

// mostSuspects bounds the list of suspects: where a snapshot was not applied at all, the thumbprints say so soon enough.
const mostSuspects = 20_000

// sweep looks at a piece after Debezium's snapshot of it was applied. A row that only the replica has is the resync's own to remove, the ordinary way. Any other that still
// differs is what a snapshot should have mended and is drift like any other: a suspect that no resync found, counted in the window, and corrected or reported as
// detect.action says.
func (w *walk) sweep(ctx context.Context) error {
	return w.lookThrough(ctx, w.piece.Range, w.keep)
}

// keep makes suspects of sightings that differ.
func (w *walk) keep(ctx context.Context, sightings []drift.Sighting) error {
	if len(sightings) == 0 {
		return nil
	}
	waiting, err := w.Ledger.Suspects(ctx, "")
	if err != nil {
		return err
	}
	var wait []drift.Suspect
	remaining := 0
	for _, look := range sightings {
		found := w.suspect(look)
		if look.Kind() != drift.Extra {
			if found.ResyncID = ""; drift.Judge(nil, look) == drift.Proven {
				remaining++
			}
			if waiting++; waiting > mostSuspects {
				continue
			}
		}
		wait = append(wait, found)
	}
	if remaining > 0 {
		w.Log.Warn("rows differ although Debezium's snapshot was applied: look at the sink's log", "resync", w.resync.ID, "table", w.resync.Table, "rows", remaining)
		if err := w.Snapshots.Remained(ctx, w.resync.ID, remaining); err != nil {
			return err
		}
	}
	return w.wait(ctx, wait)
}
