package debezium

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrMalformed is wrapped by Parse's error for bytes that are no notification.
var ErrMalformed = errors.New("no notification in JSON")

// What happened, as Debezium calls it.
const (
	Started            = "STARTED"
	InProgress         = "IN_PROGRESS"
	Paused             = "PAUSED"
	Resumed            = "RESUMED"
	Aborted            = "ABORTED"
	TableScanCompleted = "TABLE_SCAN_COMPLETED"
	Completed          = "COMPLETED"
)

// How the scan of one table ended, as Debezium calls it.
const (
	scanSucceeded    = "SUCCEEDED"
	scanEmpty        = "EMPTY" // no row met the filter
	scanNoKey        = "NO_PRIMARY_KEY"
	scanUnknownTable = "UNKNOWN_SCHEMA"
	scanSQL          = "SQL_EXCEPTION"
)

// Notification is what a connector says about an incremental snapshot.
type Notification struct {
	ID        string // of the signal that the connector took last
	Type      string
	Connector string // its topic.prefix
	// Collections are the tables that are still in its queue, as one list with commas.
	Collections string
	// Scanned is the table that a TableScanCompleted is about, Status how that ended, Rows what was read of it since the connector was last started.
	Scanned string
	Status  string
	Rows    int64
}

// incremental is what the aggregate of incremental snapshots is called; initial and blocking ones have another.
const incremental = "Incremental Snapshot"

// notification is the record's value without the envelope in which JsonConverter may wrap it.
type notification struct {
	ID        string            `json:"id"`
	Type      string            `json:"type"`
	Aggregate string            `json:"aggregate_type"`
	Data      map[string]string `json:"additional_data"`
}

// Parse reads the value of a record of the notifications topic, with or without JsonConverter's schema around it. ok is false for a notification that is not about an
// incremental snapshot. Its error wraps ErrMalformed.
func Parse(value []byte) (n Notification, ok bool, err error) {
	var raw struct {
		notification
		Payload *notification `json:"payload"`
	}
	if err := json.Unmarshal(value, &raw); err != nil {
		return Notification{}, false, fmt.Errorf("%w (%w)", ErrMalformed, err)
	}
	in := raw.notification
	if raw.Payload != nil {
		in = *raw.Payload
	}
	if in.ID == "" || in.Type == "" {
		return Notification{}, false, fmt.Errorf("%w: it has no id or no type", ErrMalformed)
	}
	n = Notification{
		ID: in.ID, Type: in.Type, Connector: in.Data["connector_name"], Collections: in.Data["data_collections"],
		Scanned: in.Data["scanned_collection"], Status: in.Data["status"],
	}
	if rows, err := strconv.ParseInt(in.Data["total_rows_scanned"], 10, 64); err == nil && rows > 0 {
		n.Rows = rows
	}
	return n, in.Aggregate == incremental, nil
}

// lists tells whether a table is among those in the queue. Debezium joins names with commas and quotes none, so a name may hold one itself.
func (n Notification) lists(name string) bool {
	return strings.Contains(","+n.Collections+",", ","+name+",")
}
