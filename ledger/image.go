package ledger

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// Image is a row as the journal has it: each column's value as JSON.
type Image map[string]json.RawMessage

// ImageOf reads one.
func ImageOf(text string) (Image, error) {
	var i Image
	if err := json.Unmarshal([]byte(text), &i); err != nil {
		return nil, fmt.Errorf("reading a row of the journal: %w", err)
	}
	return i, nil
}

// Differing names the columns of both that are not the same, in order.
func (i Image) Differing(other Image) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(i)) {
		if v, ok := other[name]; ok && !bytes.Equal(v, i[name]) {
			names = append(names, name)
		}
	}
	return names
}

// In tells whether a row has every column of the image, with the same value. What was added to the table since does not count.
func (i Image) In(row Image) bool {
	for name, v := range i {
		if now, ok := row[name]; !ok || !bytes.Equal(v, now) {
			return false
		}
	}
	return true
}

// Text is a column's value as Postgres writes it; ok is false for NULL.
func (i Image) Text(column string) (text string, ok bool) {
	raw := i[column]
	if len(raw) == 0 || string(raw) == "null" {
		return "", false
	}
	if raw[0] != '"' {
		return string(raw), true
	}
	if err := json.Unmarshal(raw, &text); err != nil {
		return string(raw), true
	}
	return text, true
}
