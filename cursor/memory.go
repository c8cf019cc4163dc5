package cursor

import (
	"context"
	"sync"
)

// Memory keeps the state until the process ends. Its zero value is empty and ready.
type Memory struct {
	mu   sync.Mutex
	book book
}

// Load returns what was saved so far.
func (m *Memory) Load(context.Context) (State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.book.state(), nil
}

// Save applies the change.
func (m *Memory) Save(_ context.Context, c Change) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.book.apply(c)
	return nil
}

// Close does nothing: the state can still be loaded.
func (m *Memory) Close() error { return nil }
