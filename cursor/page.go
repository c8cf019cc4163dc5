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
	var c Claim
	if err := json.Unmarshal(value, &c); err != nil {
		return err
	}
	if c.ID != id {
		return fmt.Errorf("the value belongs to claim %q", c.ID)
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
		var samples []Sample
		if value == nil {
			b.samples = nil
			return nil
		}
		return into(value, &samples, func() string { return key }, key, func() { b.samples = samples })
	case strings.HasPrefix(key, keyTable):
		var t Table
		if value == nil {
			delete(b.tables, strings.TrimPrefix(key, keyTable))
			return nil
		}
		return into(value, &t, func() string { return keyTable + t.Name }, key, func() { b.apply(Change{Tables: []Table{t}}) })
	case strings.HasPrefix(key, keyRange):
		var r Range
		if value == nil {
			id, table, err := numbered(key, keyRange)
			b.apply(Change{Removed: []Range{{ID: id, Table: table}}})
			return err
		}
		return into(value, &r, func() string { return rangeKey(r.Table, r.ID) }, key, func() { b.apply(Change{Ranges: []Range{r}}) })
	case strings.HasPrefix(key, keyPlan):
		var p Plan
		if value == nil {
			delete(b.board.Plans, strings.TrimPrefix(key, keyPlan))
			return nil
		}
		return into(value, &p, func() string { return keyPlan + p.Table }, key, func() { b.board.Put(p) })
	case strings.HasPrefix(key, keyReport):
		var r Report
		if value == nil {
			span, table, err := numbered(key, keyReport)
			delete(b.board.Reports[table], int(span))
			return err
		}
		return into(value, &r, func() string { return reportKey(r.Table, r.Span) }, key, func() { b.board.report(r) })
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

// into decodes a value, makes sure that it belongs to its key, and has it taken in.
func into(value []byte, v any, belongs func() string, key string, take func()) error {
	if err := json.Unmarshal(value, v); err != nil {
		return err
	}
	if got := belongs(); got != key {
		return fmt.Errorf("the value belongs to %q", got)
	}
	take()
	return nil
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
