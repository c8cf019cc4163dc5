package baseline

import (
	"context"
	"crypto/sha256"
)

// Hash is the SHA-256 of a complete set's manifest as it is stored: what travels in the data, so that replicas can tell whether it is still the same.
func (s *Store) Hash(ctx context.Context, set string) ([]byte, error) {
	name := setsFolder + set + manifested
	b, err := s.bucket.ReadAll(ctx, s.key(name))
	if err != nil {
		return nil, storeError("reading "+name+" in "+s.where, err)
	}
	sum := sha256.Sum256(b)
	return sum[:], nil
}
