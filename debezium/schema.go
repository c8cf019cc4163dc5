package debezium

import (
	"encoding/json"
	"fmt"
	"strconv"
)

// schema is one of Kafka Connect's, as JsonConverter writes it.
type schema struct {
	Type       string            `json:"type"`
	Name       string            `json:"name"`
	Field      string            `json:"field"`
	Fields     []*schema         `json:"fields"`
	Items      *schema           `json:"items"`
	Keys       *schema           `json:"keys"`
	Values     *schema           `json:"values"`
	Parameters map[string]string `json:"parameters"`

	byName map[string]*schema
}

// manySchemas is how many are kept: each event brings its own, a few kilobytes that are the same for all events of a table.
const manySchemas = 1000

func (d *Decoder) schema(raw json.RawMessage) (*schema, error) {
	if s, ok := d.schemas[string(raw)]; ok {
		return s, nil
	}
	var s schema
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("%w: its schema can't be read (%w)", ErrBroken, err)
	}
	s.index()
	if len(d.schemas) >= manySchemas {
		clear(d.schemas)
	}
	d.schemas[string(raw)] = &s
	return &s, nil
}

func (s *schema) index() {
	s.byName = make(map[string]*schema, len(s.Fields))
	for _, f := range s.Fields {
		if f != nil {
			f.index()
			s.byName[f.Field] = f
		}
	}
}

// field finds a struct's field, nil where there is none.
func (s *schema) field(name string) *schema {
	if s == nil {
		return nil
	}
	return s.byName[name]
}

// parameter reads a whole number, fallback where there is none.
func (s *schema) parameter(name string, fallback int) int {
	if n, err := strconv.Atoi(s.Parameters[name]); err == nil {
		return n
	}
	return fallback
}
