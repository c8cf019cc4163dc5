package debezium

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/transport"
)

// What is wrapped by errors about records that are no events.
var (
	// ErrNoJSON is about a value in another format: Avro, Protobuf.
	ErrNoJSON = errors.New("it is no JSON: only events that JsonConverter wrote can be played (the connector's value.converter=org.apache.kafka.connect.json.JsonConverter); " +
		"have your own sink play the log instead: trickle-consumer restore --reset-group GROUP")
	// ErrFlattened is about a value without Debezium's envelope.
	ErrFlattened = errors.New("it has no envelope of before, after and op: a transformation such as ExtractNewRecordState flattened it, and with it went the order of changes; " +
		"take that off the connector and give it to the sink, or have your own sink play the log instead: trickle-consumer restore --reset-group GROUP")
	// ErrForeign is about an event of another database: two connectors write to one topic.
	ErrForeign = errors.New("it is an event of another database: another connector writes to this topic too, and its rows are none of this source's; " +
		"give each connector a topic.prefix of its own, and build a new set of the base-line view")
	// ErrBroken is about an envelope with something missing or amiss.
	ErrBroken = errors.New("it is no event that Debezium's Postgres connector writes")
)

// Op is what happened.
type Op byte

// The operations, as Debezium writes them.
const (
	Create   Op = 'c'
	Update   Op = 'u'
	Delete   Op = 'd'
	Read     Op = 'r' // by a snapshot: the row as it was when it was read
	Truncate Op = 't'
)

// Place is where in the source's log a change stands: changes are in the order of these.
type Place struct {
	Commit uint64 // where the last transaction before this one's ended
	LSN    uint64
}

// Compare orders two.
func (p Place) Compare(o Place) int {
	return cmp.Or(cmp.Compare(p.Commit, o.Commit), cmp.Compare(p.LSN, o.LSN))
}

// Change is one event.
type Change struct {
	Table postgres.Name // as the source calls it
	Op    Op
	At    Place     // zero: the event does not say
	Time  time.Time // when it was committed, the source's clock; of a Read when it was read
	TxID  uint64

	Key    Row // of the record
	Before Row // of updates and deletes: the key, or with REPLICA IDENTITY FULL all of it
	After  Row

	// NewKey is the key that the row goes on under, of a Delete that is the first half of a change of the key; OldKey the one that it had, of a Create that is
	// the second half. Both are empty where the connector's header.converter leaves them out or writes them in another way than Debezium's default.
	NewKey, OldKey Row
}

// Snapshot tells that the change is no change but a row as a snapshot read it.
func (c *Change) Snapshot() bool { return c.Op == Read }

// Decoder reads events. It belongs to one goroutine.
type Decoder struct {
	options Options
	schemas map[string]*schema
	// preambles are those of the newest events, by topic.
	preambles map[string]preamble
	decimal   string // how numerics are written, once a value has shown it
}

// NewDecoder makes one.
func NewDecoder(o Options) *Decoder {
	o.Placeholder = cmp.Or(o.Placeholder, defaultPlaceholder)
	o.Time = cmp.Or(o.Time, "adaptive")
	return &Decoder{options: o, schemas: map[string]*schema{}, preambles: map[string]preamble{}, decimal: o.Decimal}
}

type envelope struct {
	Op     string          `json:"op"`
	Before json.RawMessage `json:"before"`
	After  json.RawMessage `json:"after"`
	Source *struct {
		Schema   *string         `json:"schema"`
		Table    *string         `json:"table"`
		Database string          `json:"db"`
		LSN      *uint64         `json:"lsn"`
		TxID     *uint64         `json:"txId"`
		Millis   int64           `json:"ts_ms"`
		Micros   int64           `json:"ts_us"`
		Sequence json.RawMessage `json:"sequence"`
		Kind     string          `json:"connector"`
	} `json:"source"`
	Timestamp *json.RawMessage `json:"ts_ms"`
	ID        *json.RawMessage `json:"id"`
	Status    *json.RawMessage `json:"status"`
}

// Decode reads a record. ok is false for one that is no change of a row: a tombstone, a heartbeat, a mark of a transaction, a logical message.
func (d *Decoder) Decode(r transport.Record) (c Change, ok bool, err error) {
	if len(r.Value) == 0 {
		return Change{}, false, nil
	}
	shape, payload, err := d.open("value "+r.Topic, r.Value)
	if err != nil {
		return Change{}, false, err
	}
	if null(payload) {
		return Change{}, false, nil
	}
	var e envelope
	if payload[0] != '{' {
		return Change{}, false, ErrFlattened
	}
	if err := json.Unmarshal(payload, &e); err != nil {
		return Change{}, false, fmt.Errorf("%w (%w)", ErrBroken, err)
	}
	switch {
	case beside(shape, &e, payload), e.Op == "m":
		return Change{}, false, nil
	case e.Op == "" || e.Source == nil:
		return Change{}, false, ErrFlattened
	case !slices.Contains([]string{"c", "u", "d", "r", "t"}, e.Op):
		return Change{}, false, fmt.Errorf("%w: op is %q", ErrBroken, e.Op)
	case e.Source.Kind != "" && e.Source.Kind != "postgresql":
		return Change{}, false, fmt.Errorf("%w: it comes from connector %q", ErrBroken, e.Source.Kind)
	case d.options.Database != "" && e.Source.Database != "" && e.Source.Database != d.options.Database:
		return Change{}, false, fmt.Errorf("%w (it is of %q, the source is %q)", ErrForeign, e.Source.Database, d.options.Database)
	case e.Source.Schema == nil || e.Source.Table == nil || *e.Source.Table == "":
		return Change{}, false, fmt.Errorf("%w: source names no schema and table", ErrBroken)
	}
	c = Change{Table: postgres.Name{Schema: *e.Source.Schema, Table: *e.Source.Table}, Op: Op(e.Op[0]), Time: moment(e.Source.Micros, e.Source.Millis)}
	if e.Source.TxID != nil {
		c.TxID = *e.Source.TxID
	}
	c.At = place(e.Source.Sequence, e.Source.LSN)
	if c.Before, err = d.row(e.Before, shape.field("before")); err != nil {
		return Change{}, false, err
	}
	if c.After, err = d.row(e.After, shape.field("after")); err != nil {
		return Change{}, false, err
	}
	if (c.Op == Create || c.Op == Update || c.Op == Read) && !c.After.Present() {
		return Change{}, false, fmt.Errorf("%w: op %s without after", ErrBroken, e.Op)
	}
	if err := d.keys(&c, r); err != nil {
		return Change{}, false, err
	}
	return c, true, nil
}

// keys reads the record's key, and where there is one the other key of a change of the key.
func (d *Decoder) keys(c *Change, r transport.Record) error {
	if len(r.Key) == 0 {
		return nil
	}
	shape, payload, err := d.open("key "+r.Topic, r.Key)
	if err != nil {
		return fmt.Errorf("its key: %w", err)
	}
	if !null(payload) {
		if payload[0] != '{' {
			return nil // somebody's own key, such as one field of it
		}
		if c.Key, err = d.row(payload, shape); err != nil {
			return fmt.Errorf("its key: %w", err)
		}
	}
	other := func(header string) Row {
		text, ok := r.Headers[header]
		if !ok {
			return Row{}
		}
		shape, payload, err := d.open("header "+r.Topic, []byte(text))
		if err != nil || null(payload) || payload[0] != '{' {
			return Row{}
		}
		row, err := d.row(payload, shape)
		if err != nil {
			return Row{}
		}
		if shape == nil {
			row.shape, row.converted = c.Key.shape, true
		}
		return row
	}
	switch c.Op {
	case Delete:
		c.NewKey = other("__debezium.newkey")
	case Create:
		c.OldKey = other("__debezium.oldkey")
	}
	return nil
}

// open takes JsonConverter's schema off, nil where there is none. kind tells apart what has one shape each: a topic's keys, its values.
func (d *Decoder) open(kind string, value []byte) (*schema, []byte, error) {
	// Events of a table begin with the same kilobytes, which are read once.
	if seen, ok := d.preambles[kind]; ok && bytes.HasPrefix(value, seen.bytes) && value[len(value)-1] == '}' {
		if payload := value[len(seen.bytes) : len(value)-1]; json.Valid(payload) {
			return seen.shape, payload, nil
		}
	}
	value = bytes.TrimSpace(value)
	var both map[string]json.RawMessage
	if len(value) == 0 || value[0] != '{' || json.Unmarshal(value, &both) != nil {
		if !json.Valid(value) {
			return nil, nil, ErrNoJSON
		}
		return nil, value, nil
	}
	shape, hasShape := both["schema"]
	payload, hasPayload := both["payload"]
	if len(both) != 2 || !hasShape || !hasPayload {
		return nil, value, nil
	}
	if null(shape) {
		return nil, payload, nil
	}
	s, err := d.schema(shape)
	if err != nil {
		return nil, nil, err
	}
	if before, ok := bytes.CutSuffix(value, append(slices.Clone(payload), '}')); ok && bytes.HasSuffix(before, []byte(`"payload":`)) && len(d.preambles) < manySchemas {
		d.preambles[kind] = preamble{slices.Clone(before), s}
	}
	return s, payload, nil
}

// preamble is what stands before the payload of an event, and the schema that it holds.
type preamble struct {
	bytes []byte
	shape *schema
}

// beside tells records that Debezium writes beside changes: heartbeats and the metadata of transactions.
func beside(shape *schema, e *envelope, payload []byte) bool {
	if shape != nil {
		switch shape.Name {
		case "io.debezium.connector.common.Heartbeat", "io.debezium.connector.common.TransactionMetadataKey", "io.debezium.connector.common.TransactionMetadataValue":
			return true
		}
	}
	if e.Op != "" || e.Source != nil {
		return false
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(payload, &fields) != nil {
		return false
	}
	_, events := fields["event_count"]
	return len(fields) == 1 && e.Timestamp != nil || events && e.ID != nil && e.Status != nil
}

func null(raw []byte) bool { return len(raw) == 0 || string(raw) == "null" }

func moment(micros, millis int64) time.Time {
	switch {
	case micros != 0:
		return time.UnixMicro(micros).UTC()
	case millis != 0:
		return time.UnixMilli(millis).UTC()
	default:
		return time.Time{}
	}
}

// place reads source.sequence, a JSON array of two strings in a string: the end of the last transaction that was committed, which is missing before a connector
// has seen one, and the event's own LSN.
func place(sequence json.RawMessage, lsn *uint64) Place {
	var p Place
	if lsn != nil {
		p.LSN = *lsn
	}
	var text string
	var parts []*string
	if json.Unmarshal(sequence, &text) == nil && json.Unmarshal([]byte(text), &parts) == nil && len(parts) == 2 {
		if parts[1] != nil {
			if n, err := strconv.ParseUint(*parts[1], 10, 64); err == nil {
				p.LSN = n
			}
		}
		if parts[0] != nil {
			if n, err := strconv.ParseUint(*parts[0], 10, 64); err == nil {
				p.Commit = n
			}
		}
	}
	if p.Commit == 0 {
		p.Commit = p.LSN // what was committed before is behind it, and the end of its own transaction lies ahead
	}
	return p
}

// Row is a row's columns, or some of them. The zero value is no row.
type Row struct {
	fields    map[string]json.RawMessage
	shape     *schema // nil: without schemas
	converted bool    // written by a header's converter, which spells some values otherwise than the shape says
	decoder   *Decoder
}

func (d *Decoder) row(raw json.RawMessage, shape *schema) (Row, error) {
	if null(raw) {
		return Row{}, nil
	}
	r := Row{shape: shape, decoder: d}
	if err := json.Unmarshal(raw, &r.fields); err != nil {
		return Row{}, fmt.Errorf("%w: a row that is no object", ErrBroken)
	}
	return r, nil
}

// Present tells whether there is a row.
func (r Row) Present() bool { return r.decoder != nil }

// Has tells whether a column is in it, whatever its value.
func (r Row) Has(column string) bool {
	_, ok := r.fields[column]
	return ok
}

// Columns are the names of those that it holds, sorted.
func (r Row) Columns() []string {
	names := make([]string, 0, len(r.fields))
	for name := range r.fields {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Size is about how many bytes it takes.
func (r Row) Size() int {
	n := 0
	for name, raw := range r.fields {
		n += len(name) + len(raw)
	}
	return n
}
