package postgres

import (
	"context"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
)

// Types are a database's types, read once for many tables that are described one after the other or at the same time. Whoever keeps one for long does not
// see a type that was renamed meanwhile; the zero value has read none.
type Types struct {
	mu   sync.Mutex
	read map[uint32]typeInfo // never written once it is here
}

// Describe is the function Describe with these types; types that a table has and these lack are read for it alone.
func (k *Types) Describe(ctx context.Context, c *pgconn.PgConn, name Name) (*Table, error) {
	return k.describe(ctx, c, name, func(t *Table) error {
		if len(t.keys) == 0 {
			return &NoKeyError{Table: name}
		}
		return nil
	})
}

// describe lets keyed see to the key.
func (k *Types) describe(ctx context.Context, c *pgconn.PgConn, name Name, keyed func(*Table) error) (*Table, error) {
	t, err := describe(ctx, c, name)
	if err == nil {
		err = keyed(t)
	}
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if t.types = k.read; t.typed() {
		return t, nil
	}
	if err := t.loadTypes(ctx, c); err != nil {
		return nil, fmt.Errorf("describing the types of %s: %w", name, err)
	}
	if k.read == nil {
		k.read = t.types
	}
	return t, nil
}

// typed tells whether the types of all columns are known, with what they are made of.
func (t *Table) typed() bool {
	for _, c := range t.Columns {
		if !t.knows(c.oid) {
			return false
		}
	}
	return true
}

func (t *Table) knows(oid uint32) bool {
	info, ok := t.types[oid]
	if !ok {
		return false
	}
	for _, part := range []uint32{info.elem, info.base, info.subtype} {
		if part != 0 && !t.knows(part) {
			return false
		}
	}
	return true
}
