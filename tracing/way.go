package tracing

import (
	"encoding/json"
	"time"
)

// Way is what is remembered of the way to a correction: with a suspect, and with the correction until it is closed, so that whoever closes it can tell the whole
// story. It is a few hundred bytes, and only there where spans are made.
type Way struct {
	Scanned  Scanned       `json:"scanned,omitzero"`
	Receive  Stretch       `json:"receive,omitzero"`
	Mismatch Stretch       `json:"mismatch,omitzero"`
	Observe  Stretch       `json:"observe,omitzero"`
	Refetch  Stretch       `json:"refetch,omitzero"`
	Message  string        `json:"message,omitempty"`  // topic, partition and offset
	Picked   string        `json:"picked,omitempty"`   // the traceparent of the range's own trace
	Suspects int           `json:"suspects,omitempty"` // that were found in the range
	Lag      time.Duration `json:"lag,omitempty"`      // of the replica, when it was proven; negative: unknown
	Attempts int           `json:"attempts,omitempty"` // rounds that the key has had
	LSN      uint64        `json:"lsn,omitempty"`      // of the source's row that was written
}

// MarshalText writes microseconds: when it began, and how long it took.
func (s Stretch) MarshalText() ([]byte, error) {
	return []byte(number(s.Begin.UnixMicro()) + " " + number(s.End.Sub(s.Begin).Microseconds())), nil
}

// UnmarshalText reads what MarshalText wrote; what is no sensible time is not known.
func (s *Stretch) UnmarshalText(text []byte) error {
	if n, ok := numbers(string(text), 2); ok {
		*s = stretch(n[0], n[1])
	}
	return nil
}

// Text is how it is kept.
func (w Way) Text() string {
	text, err := json.Marshal(w)
	if err != nil {
		return "" // it holds nothing that could not be written
	}
	return string(text)
}

// ParseWay reads what Text wrote; ok is false where that is nothing, or another version's.
func ParseWay(text string) (w Way, ok bool) {
	if text == "" || json.Unmarshal([]byte(text), &w) != nil {
		return Way{}, false
	}
	return w, true
}
