package cursor

import "context"

// Sole makes a store of one share, which is its owner's for good, of a store that only one publisher uses.
type Sole struct {
	Single interface {
		Load(ctx context.Context) (State, error)
		Save(ctx context.Context, c Change) error
	}
}

// Shares is one, and it is ours.
func (s Sole) Shares() (Shares, error) { return Shares{Of: 1, Mine: map[int]uint64{0: 1}}, nil }

// Load returns what was saved so far.
func (s Sole) Load(ctx context.Context, _ int) (State, error) { return s.Single.Load(ctx) }

// Save applies the change.
func (s Sole) Save(ctx context.Context, _ int, c Change) error { return s.Single.Save(ctx, c) }

// Follow returns an empty board: there is nobody to hear from.
func (s Sole) Follow(context.Context) (Board, error) { return Board{}, nil }

// Report does nothing: there is nobody to tell.
func (s Sole) Report(context.Context, ...Report) error { return nil }
