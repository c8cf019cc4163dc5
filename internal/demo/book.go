package demo

import (
	"sync"

	"github.com/trickle-verify/trickle/entry"
	"github.com/trickle-verify/trickle/internal/testbed/workload"
	"github.com/trickle-verify/trickle/ledger"
)

// book knows which rows were made wrong, and holds the journal against it.
type book struct {
	mu       sync.Mutex
	injected map[rowID]string // kind
	counts   ledger.Kinds
}

type rowID struct{ table, key string }

func newBook() *book { return &book{injected: make(map[rowID]string)} }

// add enters drift.
func (b *book) add(drift []workload.Injected) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, d := range drift {
		b.injected[rowID{d.Table, d.Key}] = d.Kind
		count(&b.counts, d.Kind)
	}
}

// keys lists what was made wrong in one table.
func (b *book) keys(table string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var keys []string
	for id := range b.injected {
		if id.table == table {
			keys = append(keys, id.key)
		}
	}
	return keys
}

// journalled is one line of the journal, or a suspect.
type journalled struct {
	Table, Key, Kind string
	Outcome          string // of a correction; empty: not closed yet
}

// verdict is the journal held against the book.
type verdict struct {
	Injected, Found, Corrected ledger.Kinds
	False                      []string // entries that no injected drift explains, as "table key kind"
}

// judge explains every entry of the journal by one injected row of that key and kind, and every injected row by one entry at most. What
// remains is false: a row that nobody made wrong, another kind than what was made wrong, or a second correction of one row. The exception
// is an entry that a later one of the same row supersedes, which is part of that one's correction.
func (b *book) judge(journal, suspects []journalled) verdict {
	b.mu.Lock()
	defer b.mu.Unlock()
	v := verdict{Injected: b.counts}
	found, corrected := map[rowID]bool{}, map[rowID]bool{}
	for _, e := range journal {
		id := rowID{e.Table, e.Key}
		kind, injected := b.injected[id]
		switch {
		case !injected || kind != e.Kind || corrected[id]:
			v.False = append(v.False, e.Table+" "+e.Key+" "+e.Kind)
			continue
		case e.Outcome == entry.Confirmed:
			corrected[id] = true
			count(&v.Corrected, kind)
		}
		found[id] = true
	}
	for _, e := range suspects {
		if _, injected := b.injected[rowID{e.Table, e.Key}]; injected {
			found[rowID{e.Table, e.Key}] = true
		}
	}
	for id := range found {
		count(&v.Found, b.injected[id])
	}
	return v
}

func count(k *ledger.Kinds, kind string) {
	switch kind {
	case workload.Missing:
		k.Missing++
	case workload.Mismatched:
		k.Mismatched++
	case workload.Extra:
		k.Extra++
	}
}
