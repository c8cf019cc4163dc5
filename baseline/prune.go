package baseline

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"gocloud.dev/blob"
)

// Retention says what is left in the store.
type Retention struct {
	Keep int // complete sets, the newest; at least one
	Now  time.Time
}

// GivenUp is how long a build's checkpoint has not been stored again when it counts as given up: a day, so that no clock is that wrong.
const GivenUp = 24 * time.Hour

// Pruned is what was removed.
type Pruned struct{ Sets, Objects int }

// Prune removes what no set that is kept needs: old manifests first, so that none ever names what is gone, then objects. Whatever a build has under way stays,
// also another process's: its checkpoint was there before its first object and goes after its manifest has come, and names the sets of which it may use
// objects again (Manifest.Bases). A manifest or a checkpoint that can't be read stops it: what it names is not known.
func (s *Store) Prune(ctx context.Context, r Retention) (Pruned, error) {
	p, err := s.pruning(ctx, r)
	if err != nil {
		return Pruned{}, err
	}
	return p.remove(ctx)
}

// pruning decides what goes.
func (s *Store) pruning(ctx context.Context, r Retention) (*pruning, error) {
	p := &pruning{Store: s, known: make(map[Listed]bool), named: make(map[string]bool), writing: make(map[string]bool), based: make(map[string]bool)}
	// Objects are listed first: one that is written from now on is not among them, and what names one of these is there by now.
	err := s.list(ctx, "objects/", func(name string, o *blob.ListObject) {
		if strings.HasSuffix(name, ".zst") || r.Now.Sub(o.ModTime) > GivenUp { // else a file that is being written
			p.objects = append(p.objects, name)
		}
	})
	if err != nil {
		return nil, err
	}
	sets, err := s.Sets(ctx)
	if err != nil {
		return nil, err
	}
	if err := p.keep(ctx, sets, r); err != nil {
		return nil, err
	}
	return p, nil
}

// remove removes it. Once the manifests are gone it looks whether a build has begun, or a set has come, that was not there when this was decided: that may name objects of theirs, as they were there when it
// began, and then no object goes this time. One that begins from then on finds the manifests gone (see export), and names nothing of theirs.
func (p *pruning) remove(ctx context.Context) (out Pruned, err error) {
	for _, name := range p.gone {
		if err := p.Store.remove(ctx, name); err != nil {
			return out, err
		}
		out.Sets++
	}
	sets, err := p.Sets(ctx)
	if err != nil {
		return out, err
	}
	for _, l := range sets {
		if !p.known[l.as()] {
			return out, nil
		}
	}
	for _, name := range p.objects {
		if p.named[name] || p.writing[writer(name)] {
			continue
		}
		if err := p.Store.remove(ctx, name); err != nil {
			return out, err
		}
		out.Objects++
	}
	return out, nil
}

// as is what it is, whenever it was written.
func (l Listed) as() Listed { return Listed{Set: l.Set, Partial: l.Partial} }

// writer is the set that wrote an object.
func writer(object string) string {
	name := object[strings.LastIndexByte(object, '/')+1:]
	if i := strings.LastIndexByte(name, '-'); i > 0 {
		return name[:i]
	}
	return ""
}

// pruning finds out what stays.
type pruning struct {
	*Store
	objects []string
	known   map[Listed]bool // what was there when it was decided, without the time
	named   map[string]bool // objects
	writing map[string]bool // sets that are being built
	based   map[string]bool // sets whose objects these may use
	gone    []string        // manifests and checkpoints
}

func (p *pruning) keep(ctx context.Context, sets []Listed, r Retention) error {
	for _, l := range sets {
		p.known[l.as()] = true
		if !l.Partial || r.Now.Sub(l.Written) > GivenUp {
			continue
		}
		m, err := p.Partial(ctx, l.Set)
		if errors.Is(err, ErrNoSet) {
			continue // it is complete by now: then its manifest came first, and is read below
		}
		if err != nil {
			return fmt.Errorf("nothing is removed: %w", err)
		}
		p.writing[l.Set], p.known[Listed{Set: l.Set}] = true, true // it may be completed meanwhile: what it uses is known
		p.name(m)
		for _, b := range m.Bases {
			p.based[b] = true
		}
	}
	// Listed anew: what was a checkpoint may be a manifest by now.
	sets, err := p.Sets(ctx)
	if err != nil {
		return err
	}
	kept := 0
	for _, l := range sets {
		var m *Manifest
		var err error
		switch {
		case !l.Partial && (kept < max(r.Keep, 1) || p.based[l.Set]):
			m, err = p.Load(ctx, l.Set)
			kept++
		case !l.Partial:
			p.gone = append(p.gone, setsFolder+l.Set+manifested)
			continue
		case p.writing[l.Set]:
			continue
		case r.Now.Sub(l.Written) <= GivenUp || p.based[l.Set]: // begun since, or taken over
			m, err = p.Partial(ctx, l.Set)
			p.writing[l.Set] = true
			if errors.Is(err, ErrNoSet) {
				continue // it is complete by now, and unknown
			}
		default:
			p.gone = append(p.gone, setsFolder+l.Set+underWay)
			continue
		}
		if err != nil {
			return fmt.Errorf("nothing is removed: %w", err)
		}
		p.name(m)
	}
	if kept == 0 && len(p.gone) == 0 && len(p.writing) == 0 {
		return fmt.Errorf("nothing is removed: %w: %s shows no set at all", ErrNoSet, p.where)
	}
	return nil
}

// name notes what a manifest names.
func (p *pruning) name(m *Manifest) {
	for _, t := range m.Tables {
		for _, o := range t.Objects {
			p.named[o.Name] = true
		}
	}
}
