package transport

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func producerName(n int) string { return fmt.Sprintf("%032x", n) }

// Whatever several producers send, divided or not, comes out whole and in each one's order, however their records lie between each other.
func TestPartsComeOutWhole(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var queues [][]Record
		var want [][]string
		for p := range rapid.IntRange(1, 4).Draw(t, "producers") {
			var queue []Record
			var values []string
			for m := range rapid.IntRange(0, 4).Draw(t, "messages") {
				value := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "value")
				r := Record{Topic: "a", Key: fmt.Append(nil, p), Value: value, Headers: map[string]string{"h": fmt.Sprint(m)}}
				values = append(values, fmt.Sprintf("%x h=%d", value, m))
				if len(value) > 8 {
					queue = append(queue, cut(r, 8, producerName(p), uint64(m))...)
				} else {
					queue = append(queue, r)
				}
			}
			queues, want = append(queues, queue), append(want, values)
		}
		var a assembler
		got := make([][]string, len(queues))
		for offset := int64(0); ; offset++ {
			var left []int
			for p := range queues {
				if len(queues[p]) > 0 {
					left = append(left, p)
				}
			}
			if len(left) == 0 {
				break
			}
			p := rapid.SampledFrom(left).Draw(t, "next")
			r := queues[p][0]
			queues[p] = queues[p][1:]
			r.Offset = offset
			if whole, ok := a.add(r); ok {
				got[p] = append(got[p], fmt.Sprintf("%x h=%s", whole.Value, whole.Headers["h"]))
			}
			if floor := a.floor(partition{"a", 0}, offset+1); floor > offset+1 || a.bytes == 0 && floor < offset+1 && len(a.open[partition{"a", 0}]) == 0 {
				t.Fatalf("floor %d behind offset %d", floor, offset)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("got %v, want %v", got, want)
		}
		if a.bytes != 0 || a.floor(partition{"a", 0}, 99) != 99 {
			t.Fatalf("%d bytes are held for nothing", a.bytes)
		}
	})
}

func TestAMessageThatNeverCompletesIsGivenUp(t *testing.T) {
	t.Parallel()
	at := partition{"a", 0}
	message := func(n uint64, size int) []Record {
		return cut(Record{Topic: "a", Value: bytes.Repeat([]byte("x"), size)}, 8, producerName(1), n)
	}
	t.Run("when its producer begins another", func(t *testing.T) {
		t.Parallel()
		var a assembler
		one, two := message(1, 20), message(2, 16)
		two[0].Offset, two[1].Offset = 1, 2
		a.add(one[0])
		a.add(two[0])
		if got := a.floor(at, 9); got != 1 {
			t.Errorf("floor %d, want 1", got)
		}
		if whole, ok := a.add(two[1]); !ok || len(whole.Value) != 16 {
			t.Errorf("got %v, %v", whole, ok)
		}
		if _, ok := a.add(one[1]); ok || a.bytes != 0 {
			t.Error("a part of the first message was taken")
		}
	})
	t.Run("when too many records have passed", func(t *testing.T) {
		t.Parallel()
		var a assembler
		a.add(message(1, 20)[0])
		a.add(Record{Topic: "a", Offset: maxDistance})
		if got := a.floor(at, maxDistance+1); got != 0 {
			t.Errorf("floor %d, want 0", got)
		}
		a.add(Record{Topic: "a", Offset: maxDistance + 1})
		if got := a.floor(at, maxDistance+2); got != maxDistance+2 || a.bytes != 0 {
			t.Errorf("floor %d, %d bytes held", got, a.bytes)
		}
	})
	t.Run("when its partition goes to somebody else", func(t *testing.T) {
		t.Parallel()
		var a assembler
		a.add(message(1, 20)[0])
		a.forget(at)
		if got := a.floor(at, 9); got != 9 || a.bytes != 0 {
			t.Errorf("floor %d, %d bytes held", got, a.bytes)
		}
	})
	t.Run("when memory runs out, the oldest first", func(t *testing.T) {
		t.Parallel()
		var a assembler
		piece := bytes.Repeat([]byte("x"), maxWhole/4)
		for n := range 6 {
			header := part{producer: producerName(n), message: 1, count: 2}.String()
			a.add(Record{Topic: "a", Offset: int64(n), Value: piece, Headers: map[string]string{partHeader: header}})
		}
		if got := a.floor(at, 9); got != 2 || a.bytes != maxWhole {
			t.Errorf("floor %d, %d bytes held", got, a.bytes)
		}
	})
	t.Run("but a part that comes twice does no harm", func(t *testing.T) {
		t.Parallel()
		var a assembler
		parts := message(1, 20)
		a.add(parts[0])
		a.add(parts[1])
		a.add(parts[1])
		if whole, ok := a.add(parts[2]); !ok || len(whole.Value) != 20 {
			t.Errorf("got %d bytes, %v", len(whole.Value), ok)
		}
	})
}

func FuzzParsePart(f *testing.F) {
	id := producerName(7)
	for _, s := range []string{"", id + "/1/0/2", id + "/18446744073709551615/5/6", id + "/1/2/2", id + "/1/0/1", strings.ToUpper(id) + "a/1/0/2", "x/1/0/2", id + "/+1/0/2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePart(s)
		if err != nil {
			return
		}
		if p.index >= p.count || p.count < 2 || p.count > maxParts || len(p.producer) != 32 {
			t.Errorf("%q was taken as %+v", s, p)
		}
		if again, err := parsePart(p.String()); err != nil || again != p {
			t.Errorf("%q: %+v became %+v, %v", s, p, again, err)
		}
		var a assembler
		a.add(Record{Topic: "a", Value: []byte("v"), Headers: map[string]string{partHeader: s}})
	})
}
