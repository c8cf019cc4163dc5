package entry

import (
	"time"

	"github.com/trickle-verify/trickle/digest"
)

// Baseline is a set of the base-line view that the replica heard of: what the source's tables summed up to at a point in the CDC's logs.
type Baseline struct {
	Set      string
	Source   string
	Manifest []byte    // SHA-256 of it, as it is stored
	Taken    time.Time // when its position was read, by the publisher's clock
	Heard    time.Time // by the replica's
	Position []LogPoint
	Tables   []BaselineTable
}

// LogPoint is a point in a topic: by partition, the offset of the next record to read. One that did not exist has none.
type LogPoint struct {
	Topic   string  `json:"topic"`
	ID      string  `json:"id,omitempty"`
	Offsets []int64 `json:"offsets,omitempty"`
}

// BaselineTable is a table's thumbprint in a set.
type BaselineTable struct {
	Table  string      `json:"table"`
	Schema uint64      `json:"schema,string"` // fingerprint
	Rows   uint64      `json:"rows"`
	Sum    uint64      `json:"sum,string"`
	Digest digest.Kind `json:"digest"`
	Probe  uint64      `json:"probe,string"`
}
