package cdc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
)

var errShort = errors.New("pgoutput message is cut short")

// lsn is a position in the source's log.
type lsn uint64

func (l lsn) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

// decoder turns pgoutput messages (protocol version 1) into events. It remembers the relations the stream has described.
type decoder struct {
	relations map[uint32]relation
	commit    lsn  // of the transaction being read
	inside    bool // a transaction
}

type relation struct {
	table   string
	columns []column
}

type column struct {
	name  string
	isKey bool
}

// value is one column of a tuple.
type value struct {
	kind byte // 'n' NULL, 'u' unchanged and not sent, 't' text
	text string
}

func newDecoder() *decoder { return &decoder{relations: map[uint32]relation{}} }

// decode reads one message. It returns the events in it (a truncate may have several) and, of a commit, the position behind the
// transaction, else 0.
func (d *decoder) decode(data []byte) (events []Event, end lsn, err error) {
	r := &reader{data: data}
	switch kind := r.byte(); kind {
	case 'B':
		d.commit, d.inside = lsn(r.uint64()), true
		r.bytes(12) // time, transaction id
	case 'C':
		r.byte()
		r.uint64()
		end = lsn(r.uint64())
		r.uint64() // time
		d.inside = false
	case 'R':
		d.relation(r)
	case 'I':
		events, err = d.insert(r)
	case 'U':
		events, err = d.update(r)
	case 'D':
		events, err = d.delete(r)
	case 'T':
		events, err = d.truncate(r)
	case 'M':
		events = d.message(r)
	case 'O', 'Y': // origin, type: nothing to us
	default:
		if !r.short {
			err = fmt.Errorf("pgoutput message of unknown kind %q", kind)
		}
	}
	if r.short {
		return nil, 0, errShort
	}
	return events, end, err
}

func (d *decoder) relation(r *reader) {
	oid := r.uint32()
	rel := relation{table: r.string() + "." + r.string()}
	r.byte() // replica identity
	for range r.uint16() {
		c := column{isKey: r.byte()&1 != 0, name: r.string()}
		r.uint32() // type
		r.uint32() // its modifier
		if r.short {
			return
		}
		rel.columns = append(rel.columns, c)
	}
	d.relations[oid] = rel
}

// known returns a relation described before.
func (d *decoder) known(oid uint32) (relation, error) {
	rel, ok := d.relations[oid]
	if !ok {
		return relation{}, fmt.Errorf("pgoutput change of relation %d, which was not described", oid)
	}
	return rel, nil
}

func (d *decoder) insert(r *reader) ([]Event, error) {
	rel, err := d.known(r.uint32())
	if err != nil {
		return nil, err
	}
	r.byte() // 'N'
	row, partial := rel.row(r.tuple())
	return []Event{{LSN: d.commit.String(), Table: rel.table, Op: Insert, Key: rel.key(row), Columns: row, Partial: partial}}, nil
}

func (d *decoder) update(r *reader) ([]Event, error) {
	rel, err := d.known(r.uint32())
	if err != nil {
		return nil, err
	}
	var before Row
	marker := r.byte()
	if marker == 'K' || marker == 'O' {
		before, _ = rel.row(r.tuple())
		r.byte() // 'N'
	}
	after, partial := rel.row(r.tuple())
	if marker == 'O' && partial { // with the whole row from before nothing is left out
		whole := maps.Clone(before)
		maps.Copy(whole, after)
		after, partial = whole, len(whole) < len(rel.columns)
	}
	e := Event{LSN: d.commit.String(), Table: rel.table, Op: Update, Key: rel.key(after), Columns: after, Partial: partial}
	if old := rel.key(before); before != nil && !equal(old, e.Key) {
		e.OldKey = old
	}
	return []Event{e}, nil
}

func (d *decoder) delete(r *reader) ([]Event, error) {
	rel, err := d.known(r.uint32())
	if err != nil {
		return nil, err
	}
	r.byte() // 'K' or 'O'
	row, _ := rel.row(r.tuple())
	return []Event{{LSN: d.commit.String(), Table: rel.table, Op: Delete, Key: rel.key(row)}}, nil
}

func (d *decoder) truncate(r *reader) ([]Event, error) {
	var events []Event
	n := r.uint32()
	r.byte() // options
	for range n {
		oid := r.uint32()
		if r.short {
			return nil, errShort
		}
		rel, err := d.known(oid)
		if err != nil {
			return nil, err
		}
		events = append(events, Event{LSN: d.commit.String(), Table: rel.table, Op: Truncate})
	}
	return events, nil
}

// message reads what pg_logical_emit_message sent; only Barrier's own are carried on.
func (d *decoder) message(r *reader) []Event {
	r.byte() // flags
	r.uint64()
	prefix := r.string()
	content := string(r.bytes(int(r.uint32())))
	if prefix != markPrefix {
		return nil
	}
	return []Event{{LSN: d.commit.String(), Op: Mark, Mark: content}}
}

// row names a tuple's values and tells whether one was left out.
func (rel relation) row(tuple []value) (row Row, partial bool) {
	row = make(Row, len(tuple))
	for i, v := range tuple {
		if i >= len(rel.columns) {
			break
		}
		name := rel.columns[i].name
		switch v.kind {
		case 'n':
			row[name] = nil
		case 't':
			row[name] = &v.text
		default:
			partial = true
		}
	}
	return row, partial
}

func (rel relation) key(row Row) Row {
	key := Row{}
	for _, c := range rel.columns {
		if v, ok := row[c.name]; ok && c.isKey {
			key[c.name] = v
		}
	}
	return key
}

func equal(a, b Row) bool {
	return maps.EqualFunc(a, b, func(x, y *string) bool {
		return x == y || x != nil && y != nil && *x == *y
	})
}

// reader takes a message apart. After a message turned out too short everything it returns is zero.
type reader struct {
	data  []byte
	short bool
}

func (r *reader) bytes(n int) []byte {
	if n < 0 || n > len(r.data) {
		r.short, r.data = true, nil
		return nil
	}
	head := r.data[:n]
	r.data = r.data[n:]
	return head
}

func (r *reader) byte() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if b := r.bytes(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// string reads up to a zero byte.
func (r *reader) string() string {
	end := bytes.IndexByte(r.data, 0)
	if end < 0 {
		r.short, r.data = true, nil
		return ""
	}
	text := string(r.bytes(end))
	r.bytes(1)
	return text
}

func (r *reader) tuple() []value {
	var tuple []value
	for range r.uint16() {
		v := value{kind: r.byte()}
		if v.kind == 't' {
			v.text = string(r.bytes(int(r.uint32())))
		}
		if r.short {
			return nil
		}
		tuple = append(tuple, v)
	}
	return tuple
}
