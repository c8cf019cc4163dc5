package transport

import (
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
)

// A record that is too large for the broker travels as parts: records of the same key, one after the other, each with a header that
// names its producer, the message's number, the part's index and the count. A producer sends the parts of one message to a
// partition without another divided message of its own between them; other producers' records may come between them.
const partHeader = "trickle-part"

const (
	maxWhole    = 256 << 20 // bytes of the largest message, and of all unfinished ones that a reader holds
	maxParts    = 1 << 20
	maxDistance = 10_000 // records that may pass in the partition after a first part before the message is given up
)

var errBadPart = errors.New("malformed part header")

// part says which piece of which message a record is.
type part struct {
	producer string // 32 hexadecimal digits
	message  uint64
	index    uint32
	count    uint32
}

func (p part) String() string {
	return fmt.Sprintf("%s/%d/%d/%d", p.producer, p.message, p.index, p.count)
}

func parsePart(s string) (part, error) {
	f := strings.Split(s, "/")
	if len(f) != 4 || len(f[0]) != 32 || strings.Trim(f[0], "0123456789abcdef") != "" {
		return part{}, errBadPart
	}
	message, err := strconv.ParseUint(f[1], 10, 64)
	if err != nil {
		return part{}, errBadPart
	}
	index, err := strconv.ParseUint(f[2], 10, 32)
	if err != nil {
		return part{}, errBadPart
	}
	count, err := strconv.ParseUint(f[3], 10, 32)
	if err != nil || count < 2 || count > maxParts || index >= count {
		return part{}, errBadPart
	}
	return part{producer: f[0], message: message, index: uint32(index), count: uint32(count)}, nil
}

// cut returns the parts of a record whose value is longer than size bytes.
func cut(r Record, size int, producer string, message uint64) []Record {
	count := (len(r.Value) + size - 1) / size
	out := make([]Record, count)
	for i := range out {
		p := part{producer: producer, message: message, index: uint32(i), count: uint32(count)}
		headers := map[string]string{}
		if i == 0 {
			maps.Copy(headers, r.Headers)
		}
		headers[partHeader] = p.String()
		out[i] = Record{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Headers: headers, Value: r.Value[i*size : min((i+1)*size, len(r.Value))]}
	}
	return out
}

type partition struct {
	topic string
	id    int32
}

// fragment is a message of which some parts have come.
type fragment struct {
	message uint64
	count   uint32
	next    uint32 // index of the part that must come next
	first   int64  // offset of its first part
	headers map[string]string
	value   []byte
}

// assembler puts parts together again. A message is given up when its producer begins another one in the partition, when
// maxDistance records have passed since its first part, or when unfinished messages exceed maxWhole bytes together.
type assembler struct {
	open  map[partition]map[string]*fragment // by producer
	bytes int
}

// add takes the next record of a partition. It returns a whole record, or false while parts are missing. A record whose part header
// is malformed is returned as it is, for its reader to refuse.
func (a *assembler) add(r Record) (Record, bool) {
	at := partition{r.Topic, r.Partition}
	for producer, f := range a.open[at] {
		if r.Offset-f.first > maxDistance {
			a.drop(at, producer)
		}
	}
	header, divided := r.Headers[partHeader]
	if !divided {
		return r, true
	}
	p, err := parsePart(header)
	if err != nil {
		return r, true
	}
	f := a.open[at][p.producer]
	if p.index == 0 {
		a.drop(at, p.producer)
		f = a.begin(at, p, r)
	}
	if f == nil || f.message != p.message || f.count != p.count || f.next != p.index {
		return Record{}, false // the middle of a message whose beginning was not seen, or a part that came twice
	}
	f.value = append(f.value, r.Value...)
	f.next++
	a.bytes += len(r.Value)
	if f.next == f.count {
		r.Value, r.Headers = f.value, f.headers
		a.drop(at, p.producer)
		return r, true
	}
	for a.bytes > maxWhole {
		a.dropOldest()
	}
	return Record{}, false
}

func (a *assembler) begin(at partition, p part, r Record) *fragment {
	f := &fragment{message: p.message, count: p.count, first: r.Offset, headers: maps.Clone(r.Headers)}
	delete(f.headers, partHeader)
	if a.open == nil {
		a.open = map[partition]map[string]*fragment{}
	}
	if a.open[at] == nil {
		a.open[at] = map[string]*fragment{}
	}
	a.open[at][p.producer] = f
	return f
}

func (a *assembler) drop(at partition, producer string) {
	if f := a.open[at][producer]; f != nil {
		a.bytes -= len(f.value)
		delete(a.open[at], producer)
	}
}

func (a *assembler) dropOldest() {
	var (
		at       partition
		producer string
		distance = int64(-1)
	)
	for p, byProducer := range a.open {
		for name, f := range byProducer {
			if distance < 0 || f.first < distance {
				at, producer, distance = p, name, f.first
			}
		}
	}
	a.drop(at, producer)
}

// forget drops what is unfinished in a partition that is somebody else's now.
func (a *assembler) forget(at partition) {
	for producer := range a.open[at] {
		a.drop(at, producer)
	}
	delete(a.open, at)
}

// floor returns the offset that a commit must not pass: that of the earliest first part of an unfinished message, or else next.
func (a *assembler) floor(at partition, next int64) int64 {
	for _, f := range a.open[at] {
		next = min(next, f.first)
	}
	return next
}
