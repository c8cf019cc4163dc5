package postgres

import (
	"bytes"
	"testing"
)

// Whatever comes as COPY's binary format, in whatever pieces, is told to be wrong, or is handed on as it came.
func FuzzExportSplitter(f *testing.F) {
	row := "\x00\x04\x00\x00\x00\x04\x00\x00\x00\x01\x00\x00\x00\x02ab\xff\xff\xff\xff\x00\x00\x00\x0a\x01{\"a\": [1]}"
	f.Add([]byte(copyHeader+row+row+copyTrailer), 7)
	f.Add([]byte(copyHeader+copyTrailer), 1)
	f.Add([]byte(copyHeader+row), 100)
	f.Fuzz(func(t *testing.T, data []byte, piece int) {
		columns := []columnHash{{field: 0, kind: hashInteger}, {field: 1, kind: hashText}, {field: 2, kind: hashNumeric}}
		var out bytes.Buffer
		s := &exportSplitter{to: &out, binary: true, columns: 4, hash: &rowHash{links: columns, rest: []columnHash{{field: 3, kind: hashJSON}}}}
		for rest := data; len(rest) > 0; {
			n := min(max(piece, 1), len(rest))
			if m, err := s.Write(rest[:n]); m != n || err != nil {
				t.Fatalf("%d of %d, %v", m, n, err)
			}
			rest = rest[n:]
		}
		if err := s.end(); err == nil && !bytes.Equal(out.Bytes(), data) {
			t.Errorf("%q came out as %q", data, out.Bytes())
		}
	})
}
