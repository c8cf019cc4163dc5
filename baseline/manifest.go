package baseline

import (
	"time"

	"github.com/trickle-verify/trickle/digest"
	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/postgres"
	"github.com/trickle-verify/trickle/transport"
)

// Manifest is a set: everything that a replica is restored from.
type Manifest struct {
	Set      string `json:"set"` // its name: the time it was begun, so that names sort by age, and something that no other has
	Pipeline string `json:"pipeline"`
	Source   string `json:"source"` // system identifier and database, as messages have it
	Timeline uint32 `json:"timeline"`

	Begun     time.Time `json:"begun"`     // this machine's clock
	Completed time.Time `json:"completed"` // zero: it is not complete, and nothing but the next build uses it

	// Positions are points in the CDC's logs, oldest first. Each was read before the snapshots of the objects that name it, which show all that was before it.
	Positions []Point `json:"positions"`
	Tables    []Table `json:"tables"`

	// Bases are what a build under way may name objects of again: sets, complete or not, that stay until it is done.
	Bases []string `json:"bases,omitempty"`
}

// Point is a position and when it was read, by this machine's clock before it was asked for.
type Point struct {
	Taken    time.Time          `json:"taken"`
	Position transport.Position `json:"position"`
}

// Table is one table of a set.
type Table struct {
	Table string `json:"table"` // as the source calls it
	// Schema is what was exported: the compared columns, in the order in which objects hold them, and the key.
	Schema Schema `json:"schema"`
	// Definition makes the table, its types, indexes and constraints.
	Definition postgres.Definition `json:"definition"`
	Binary     bool                `json:"binary"` // objects are in COPY's binary format; otherwise its text format
	Digest     digest.Kind         `json:"digest"`
	Rows       uint64              `json:"rows"`
	Sum        uint64              `json:"sum,string"`
	Objects    []Object            `json:"objects"` // in key order; they cover every key once
}

// Schema is a table's compared shape, as it travels.
type Schema struct {
	Columns     []Column `json:"columns"`
	Key         []string `json:"key"`
	Fingerprint uint64   `json:"fingerprint,string"`
	Probe       uint64   `json:"probe,string"` // of the digest kind
	Where       string   `json:"where,omitempty"`
	Exact       bool     `json:"exact,omitempty"` // compared byte for byte
	JSONAsText  bool     `json:"json_as_text,omitempty"`
}

// Column is one of them.
type Column struct {
	Name     string `json:"name"`
	Type     string `json:"type"`     // what it is compared as
	Declared string `json:"declared"` // what the source has it as, without domains
	Exported bool   `json:"exported"` // objects hold it; a generated column is compared and not exported
}

// Object is one range of a table.
type Object struct {
	Name   string        `json:"name"` // in the pipeline's folder: objects/<table>/<set>-<n>.zst, of the set that wrote it
	Range  message.Range `json:"range"`
	Rows   uint64        `json:"rows"`
	Sum    uint64        `json:"sum,string"`
	SHA256 string        `json:"sha256"` // of its bytes as they are stored, hex
	Bytes  int64         `json:"bytes"`  // as they are stored
	Raw    int64         `json:"raw"`    // uncompressed

	Snapshot string    `json:"snapshot"` // pg_current_snapshot() of the reading that its rows are those of, or of the newest that found them unchanged
	Xmin     uint64    `json:"xmin"`
	LSN      uint64    `json:"lsn"`
	Timeline uint32    `json:"timeline"`
	ReadAt   time.Time `json:"read_at"` // the source's clock
	Point    int       `json:"point"`   // of Manifest.Positions
}
