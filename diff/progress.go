package diff

import "sync"

// Progress is how far the comparison of the current table is. It is safe for concurrent use.
type Progress struct {
	mu    sync.Mutex
	state State
}

// State is one look at Progress. Rows are of both sides together; Total is an estimate.
type State struct {
	Table       string
	Rows, Total int64
	Differences int64
	// Waiting rows differed and are looked at again when their time has come.
	Waiting int64
}

// Now returns the state.
func (p *Progress) Now() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

func (p *Progress) begin(table string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state = State{Table: table}
}

func (p *Progress) expect(rows int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state.Total = rows
}

func (p *Progress) read(rows uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state.Rows += int64(rows)
}

func (p *Progress) differ(rows int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state.Differences += rows
}

func (p *Progress) wait(rows int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state.Waiting += int64(rows)
}
