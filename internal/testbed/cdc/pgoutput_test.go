package cdc

import (
	"encoding/binary"
	"errors"
	"testing"
)

// message builds pgoutput bytes: strings are zero-terminated, []byte goes in as it is.
func message(parts ...any) []byte {
	var b []byte
	for _, part := range parts {
		switch v := part.(type) {
		case string:
			b = append(append(b, v...), 0)
		case []byte:
			b = append(b, v...)
		default:
			b, _ = binary.Append(b, binary.BigEndian, v)
		}
	}
	return b
}

func cell(text string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{'t'}, uint32(len(text))), text...)
}

func describe() []byte {
	return message(byte('R'), uint32(7), "public", "t", byte('d'), uint16(2),
		byte(1), "id", uint32(23), int32(-1), byte(0), "v", uint32(25), int32(-1))
}

func TestDecodeMarksWhatWasLeftOut(t *testing.T) {
	t.Parallel()
	d := newDecoder()
	for _, m := range [][]byte{message(byte('B'), uint64(0x1_0000_00AB), uint64(0), uint32(1)), describe()} {
		if _, _, err := d.decode(m); err != nil {
			t.Fatal(err)
		}
	}
	events, _, err := d.decode(message(byte('U'), uint32(7), byte('K'), uint16(2), cell("1"), byte('n'), byte('N'), uint16(2), cell("2"), byte('u')))
	if err != nil {
		t.Fatal(err)
	}
	e := events[0]
	if _, sent := e.Columns["v"]; sent || !e.Partial || *e.Key["id"] != "2" || *e.OldKey["id"] != "1" || e.LSN != "1/AB" || e.Table != "public.t" {
		t.Errorf("%+v", e)
	}
	if !d.inside {
		t.Error("the transaction is not open")
	}
	if _, end, err := d.decode(message(byte('C'), byte(0), uint64(1), uint64(99), uint64(0))); err != nil || end != 99 || d.inside {
		t.Errorf("end %v, inside %v: %v", end, d.inside, err)
	}
}

func TestDecodeRefusesEveryCutMessage(t *testing.T) {
	t.Parallel()
	for _, whole := range [][]byte{
		message(byte('B'), uint64(1), uint64(0), uint32(1)),
		describe(),
		message(byte('I'), uint32(7), byte('N'), uint16(2), cell("1"), cell("xyz")),
		message(byte('T'), uint32(1), byte(0), uint32(7)),
		message(byte('M'), byte(1), uint64(1), markPrefix, uint32(2), []byte("ab")),
	} {
		for n := range whole {
			d := newDecoder()
			if whole[0] != 'R' {
				if _, _, err := d.decode(describe()); err != nil {
					t.Fatal(err)
				}
			}
			if _, _, err := d.decode(whole[:n]); err == nil {
				t.Errorf("%q passes when cut to %d of %d bytes", whole, n, len(whole))
			}
		}
	}
}

func TestDecodeRefusesUnknownRelationAndKind(t *testing.T) {
	t.Parallel()
	for _, m := range [][]byte{message(byte('D'), uint32(9), byte('K'), uint16(0)), message(byte('?'))} {
		if _, _, err := newDecoder().decode(m); err == nil || errors.Is(err, errShort) {
			t.Errorf("%q: %v", m, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(describe())
	f.Add(message(byte('U'), uint32(7), byte('O'), uint16(2), cell("1"), byte('n'), byte('N'), uint16(2), cell("2"), byte('u')))
	f.Add(message(byte('T'), uint32(1<<31), byte(0), uint32(7)))
	f.Fuzz(func(t *testing.T, data []byte) {
		d := newDecoder()
		if _, _, err := d.decode(describe()); err != nil {
			t.Fatal(err)
		}
		events, _, err := d.decode(data)
		if err != nil && events != nil {
			t.Error("events along with an error")
		}
	})
}
