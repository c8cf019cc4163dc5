package cdc

// Op is what happened to a row, or to a table.
type Op string

// The operations. A mark is no change: it is a message that Barrier sends through the pipeline.
const (
	Insert   Op = "insert"
	Update   Op = "update"
	Delete   Op = "delete"
	Truncate Op = "truncate"
	Mark     Op = "mark"
)

// Row holds column values as Postgres writes them; nil is NULL.
type Row map[string]*string

// Event is one change, as it stands on the topic.
type Event struct {
	LSN     string `json:"lsn"`               // of the commit
	Table   string `json:"table,omitempty"`   // schema.name at the source
	Op      Op     `json:"op"`                //
	Key     Row    `json:"key,omitempty"`     // replica identity of the row after the change; of a delete, before
	OldKey  Row    `json:"old_key,omitempty"` // of an update that changed the key, the key before
	Columns Row    `json:"columns,omitempty"` // of insert and update; large values that an update left alone are not here
	Partial bool   `json:"partial,omitempty"` // Columns lacks such a value
	Mark    string `json:"mark,omitempty"`
}
