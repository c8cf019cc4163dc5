package measure

import "sync"

// MostTables have series of their own; all others share one.
const MostTables = 200

// Other stands for every table beyond them.
const Other = "other"

// Tables names tables in labels. Its zero value is ready.
type Tables struct {
	mu    sync.Mutex
	known map[string]bool
}

// Label is the table's own name, or Other where there are too many. Who was named once stays so.
func (t *Tables) Label(table string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known[table] {
		return table
	}
	if len(t.known) >= MostTables {
		return Other
	}
	if t.known == nil {
		t.known = map[string]bool{}
	}
	t.known[table] = true
	return table
}
