package baseline

import (
	"errors"
	"io"
	"testing"
)

// What is decompressed to more than the manifest says is not given out to its end.
func TestObjectThatHoldsTooMuch(t *testing.T) {
	t.Parallel()
	p, err := NewPacker()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Write(make([]byte, 64<<20)); err != nil {
		t.Fatal(err)
	}
	m, table := new(Manifest), new(Table)
	packed, err := p.Finish(Header{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := unpack(packed.Bytes, m, table, &Object{Bytes: int64(len(packed.Bytes)), SHA256: packed.SHA256, Raw: 1000})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	n, err := io.Copy(io.Discard, c)
	var bad *CorruptError
	if !errors.As(err, &bad) || n > 1<<20 {
		t.Errorf("%d bytes, %v", n, err)
	}
}
