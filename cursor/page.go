package cursor

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/trickle-verify/trickle/transport"
)

// Keys of the topic's records: one for each thing that changes by itself.
const (
	keySource  = "source"
	keySamples = "samples"
	keyTable   = "table/"
	keyRange   = "range/"  // then the id, a slash and the table
	keyPlan    = "plan/"   // then the table
	keyReport  = "report/" // then the span's number, a slash and the table
	keyClaim   = "claim/"  // then its id
	keyBuild   = "build"
)

// claimHeader names the claim under which a record was written.
const claimHeader = "trickle-claim"

// Claim is how a share is taken over: a record that whoever reads the partition comes by in its place among all others. It holds where the claim
// that it follows is the one in force there, so that of two that follow the same one, only the first holds; every reader comes to the same
// result. From there on only what its owner writes counts.
//
// That is what keeps out an owner of earlier, who was cut off or stopped and doesn't know yet that the group has given his share to another.
// What he wrote in vain may yet make compaction drop what was there under the same keys: then that is missing, as after any loss.
type Claim struct {
	ID    string    `json:"id"`
	After string    `json:"after"` // id of the claim that it follows; empty for the first
	Owner string    `json:"owner"` // for people
	At    time.Time `json:"at"`
}

// page is what a reader of one partition knows of it.
type page struct {
	book    book
	inForce string           // id of a claim; empty before the first
	claims  map[string]Claim // those that the partition holds, with those that never held
	line    []string         // those that held, oldest first
	next    int64            // offset to read on from
}

// read takes the next record of the partition in. It returns an error for one that is unreadable, which is then left out.
func (p *page) read(r transport.Record) error {
	key := string(r.Key)
	if id, ok := strings.CutPrefix(key, keyClaim); ok {
		return p.claim(id, r.Value)
	}
	// Reports are anybody's, and what has no claim was written before there were any.
	if by := r.Headers[claimHeader]; by != "" && p.inForce != "" && by != p.inForce {
		return nil
	}
	err := p.book.read(key, r.Value)
	if err != nil && r.Value != nil {
		_ = p.book.read(key, nil) // what was there before isn't true any more; an unknown key has been told
	}
	return err
}

func (p *page) claim(id string, value []byte) error {
	if value == nil {
		delete(p.claims, id)
		return nil
	}
	c, err := decode(keyClaim+id, value, func(c Claim) string { return keyClaim + c.ID })
	if err != nil {
		return err
	}
	if p.claims == nil {
		p.claims = map[string]Claim{}
	}
	p.claims[id] = c
	// What the first one that is left follows was compacted away.
	if p.inForce == "" || c.After == p.inForce {
		p.inForce, p.line = id, append(p.line, id)
	}
	return nil
}

// past returns the claims that may be removed now that another one is in force: those that never held first, as any of them would be taken for
// the first if it came before all that did; then the others, oldest first.
func (p *page) past() []string {
	held := map[string]bool{}
	for _, id := range p.line {
		held[id] = true
	}
	var out []string
	for _, id := range slices.Sorted(maps.Keys(p.claims)) {
		if !held[id] {
			out = append(out, id)
		}
	}
	for _, id := range p.line {
		if _, there := p.claims[id]; there && id != p.inForce {
			out = append(out, id)
		}
	}
	return out
}

// read takes a record in, of which no value is what was removed.
func (b *book) read(key string, value []byte) error {
	switch {
	case key == keySource:
		return b.readSource(value)
	case key == keySamples:
		if value == nil {
			b.samples = nil
			return nil
		}
		samples, err := decode(key, value, func([]Sample) string { return keySamples })
		if err == nil {
			b.samples = samples
		}
		return err
	case key == keyBuild:
		b.board.Build = Build{}
		if value == nil {
			return nil
		}
		return json.Unmarshal(value, &b.board.Build)
	case strings.HasPrefix(key, keyTable):
		if value == nil {
			delete(b.tables, strings.TrimPrefix(key, keyTable))
			return nil
		}
		t, err := decode(key, value, func(t Table) string { return keyTable + t.Name })
		if err == nil {
			b.apply(Change{Tables: []Table{t}})
		}
		return err
	case strings.HasPrefix(key, keyRange):
		if value == nil {
			id, table, err := numbered(key, keyRange)
			b.apply(Change{Removed: []Range{{ID: id, Table: table}}})
			return err
		}
		r, err := decode(key, value, func(r Range) string { return rangeKey(r.Table, r.ID) })
		if err == nil {
			b.apply(Change{Ranges: []Range{r}})
		}
		return err
	case strings.HasPrefix(key, keyPlan):
		if value == nil {
			delete(b.board.Plans, strings.TrimPrefix(key, keyPlan))
			return nil
		}
		p, err := decode(key, value, func(p Plan) string { return keyPlan + p.Table })
		if err == nil {
			b.board.Put(p)
		}
		return err
	case strings.HasPrefix(key, keyReport):
		if value == nil {
			span, table, err := numbered(key, keyReport)
			delete(b.board.Reports[table], int(span))
			return err
		}
		r, err := decode(key, value, func(r Report) string { return reportKey(r.Table, r.Span) })
		if err == nil {
			b.board.report(r)
		}
		return err
	default:
		return errors.New("unknown key")
	}
}

func (b *book) readSource(value []byte) error {
	if value == nil {
		b.source = ""
		return nil
	}
	return json.Unmarshal(value, &b.source)
}

// decode reads a value and makes sure that it belongs to its key.
func decode[T any](key string, value []byte, keyOf func(T) string) (v T, err error) {
	if err := json.Unmarshal(value, &v); err != nil {
		return v, err
	}
	if belongs := keyOf(v); belongs != key {
		return v, fmt.Errorf("the value belongs to %q", belongs)
	}
	return v, nil
}

func rangeKey(table string, id uint64) string {
	return keyRange + strconv.FormatUint(id, 10) + "/" + table
}

func reportKey(table string, span int) string { return keyReport + strconv.Itoa(span) + "/" + table }

// numbered takes a key of a number and a table apart.
func numbered(key, prefix string) (n uint64, table string, err error) {
	number, table, ok := strings.Cut(strings.TrimPrefix(key, prefix), "/")
	if !ok {
		return 0, "", errors.New("no table in the key")
	}
	n, err = strconv.ParseUint(number, 10, 64)
	return n, table, err
}
