package postgres

import (
	"encoding/binary"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/trickle-verify/trickle/digest"
)

// However the server's bytes are cut, the splitter takes the same rows apart.
func TestSplitter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		inBinary := rapid.Bool().Draw(t, "binary")
		rows := rapid.IntRange(0, 20).Draw(t, "rows")
		mostRows, mostBytes := rapid.IntRange(1, 25).Draw(t, "most rows"), rapid.IntRange(1, 400).Draw(t, "most bytes")
		var in, want []byte
		var settled, all digest.Thumbprint
		if inBinary {
			in, want = append(in, copyHeader...), append(want, copyHeader...)
		}
		bytes, full := 0, false
		for range rows {
			quiet := rapid.Bool().Draw(t, "settled")
			d := rapid.Uint64().Draw(t, "digest")
			a, b := rapid.StringMatching(`[a-z\\]{0,20}`).Draw(t, "a"), rapid.StringMatching(`[a-z]{0,20}`).Draw(t, "b")
			var row []byte
			if inBinary {
				flag := byte(0)
				if quiet {
					flag = 1
				}
				in = binary.BigEndian.AppendUint16(in, 4)
				in = append(in, 0, 0, 0, 1, flag, 0, 0, 0, 8)
				in = binary.BigEndian.AppendUint64(in, d)
				row = binary.BigEndian.AppendUint32(row, uint32(len(a)))
				row = append(row, a...)
				if b == "" {
					row = append(row, 0xff, 0xff, 0xff, 0xff)
				} else {
					row = append(binary.BigEndian.AppendUint32(row, uint32(len(b))), b...)
				}
				in = append(in, row...)
			} else {
				row = fmt.Appendf(nil, "%s\t%s\n", a, b)
				in = fmt.Appendf(in, "%c\t%d\t", "ft"[btoi(quiet)], int64(d))
				in = append(in, row...)
			}
			if full = full || all.Rows > 0 && (all.Rows >= uint64(mostRows) || bytes+len(row) > mostBytes); full {
				continue
			}
			bytes, all = bytes+len(row), all.Row(d)
			if quiet {
				settled = settled.Row(d)
				if inBinary {
					want = append(want, 0, 2)
				}
				want = append(want, row...)
			}
		}
		if inBinary {
			in, want = append(in, copyTrailer...), append(want, copyTrailer...)
		}
		s := &splitter{binary: inBinary, columns: 2, mostRows: mostRows, mostBytes: mostBytes}
		for len(in) > 0 {
			n := rapid.IntRange(1, len(in)).Draw(t, "cut")
			if _, err := s.Write(in[:n]); err != nil {
				t.Fatal(err)
			}
			in = in[n:]
		}
		got, err := s.end()
		if err != nil || string(got) != string(want) || s.all != all || s.settled != settled || s.full != full {
			t.Fatalf("%v\ngot  %q %+v %+v %t\nwant %q %+v %+v %t", err, got, s.all, s.settled, s.full, want, all, settled, full)
		}
	})
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Bytes that are no rows are an error, and nothing worse.
func FuzzSplitter(f *testing.F) {
	f.Add([]byte("t\t1\ta\tb\n"), false)
	f.Add([]byte(copyHeader+"\x00\x04\x00\x00\x00\x01\x01\x00\x00\x00\x0800000000\xff\xff\xff\xff\xff\xff\xff\xff"+copyTrailer), true)
	f.Add([]byte(copyHeader+"\x00\x04\x7f\xff\xff\xff"), true)
	f.Fuzz(func(t *testing.T, b []byte, inBinary bool) {
		s := &splitter{binary: inBinary, columns: 2, mostRows: 10, mostBytes: 1000}
		for i := range b {
			if _, err := s.Write(b[i : i+1]); err != nil {
				t.Fatal(err)
			}
		}
		if out, err := s.end(); err == nil && len(out) > 2000 {
			t.Errorf("%d bytes out of %d", len(out), len(b))
		}
	})
}

// What comes behind a row that can't be read is not kept.
func TestSplitterGivesUp(t *testing.T) {
	t.Parallel()
	s := &splitter{columns: 1, mostRows: 1000, mostBytes: 1000}
	for range 100 {
		if _, err := s.Write([]byte("t\t\\N\tvalue\n")); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.rest) > 20 {
		t.Errorf("%d bytes are kept", len(s.rest))
	}
	if _, err := s.end(); err == nil {
		t.Error("a row without a digest was taken")
	}
}
