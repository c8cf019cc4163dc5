package debezium

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/trickle-verify/trickle/postgres"
)

// Signal asks a connector for an incremental snapshot of one table.
type Signal struct {
	// ID comes back in the notifications.
	ID string
	// Table as the source calls it, in the form that travels: public."Orders".
	Table string
	// Filter is the SQL condition that rows have to meet, empty for the whole table; see Filter.
	Filter string
}

// SignalID names the signal of a resync's attempt.
func SignalID(resyncID string, attempt int) string { return ours(resyncID) + strconv.Itoa(attempt) }

// ours begins the id of each signal of a resync.
func ours(resyncID string) string { return "trickle-" + resyncID + "-" }

// Collection is what Debezium calls a table of Postgres: both parts as the catalogue has them, unquoted. It can't take every name apart again, and a signal about one that it
// can't starts a snapshot of nothing: such a table is refused here.
func Collection(table string) (string, error) {
	name := postgres.ParseName(table)
	for _, part := range []string{name.Schema, name.Table} {
		if part == "" || strings.ContainsAny(part, ".\"'`") || strings.ContainsFunc(part, space) {
			return "", fmt.Errorf("table %s can't be snapshot by Debezium: a name with a dot, a quote or a space is beyond its signals; use resync.via: side-channel", table)
		}
	}
	return name.Schema + "." + name.Table, nil
}

// space is what Java takes for white space.
func space(r rune) bool {
	return r <= ' ' || strings.ContainsRune("\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2008\u2009\u200a\u2028\u2029\u205f\u3000", r)
}

// pattern matches the table's name and no other. Debezium takes names for regular expressions of Java, in which a backslash makes any sign but a letter stand for itself.
func pattern(collection string) string { return regexp.QuoteMeta(collection) }

// Encode returns the value of the signal's record. Its key has to be the connector's topic.prefix.
func (s Signal) Encode() ([]byte, error) {
	collection, err := Collection(s.Table)
	if err != nil {
		return nil, err
	}
	type condition struct {
		Collection string `json:"data-collection"`
		Filter     string `json:"filter"`
	}
	var out struct {
		ID   string `json:"id"`
		Type string `json:"type"`
		Data struct {
			Type        string      `json:"type"`
			Collections []string    `json:"data-collections"`
			Conditions  []condition `json:"additional-conditions,omitempty"`
		} `json:"data"`
	}
	out.ID, out.Type, out.Data.Type = s.ID, "execute-snapshot", "INCREMENTAL"
	out.Data.Collections = []string{pattern(collection)}
	if s.Filter != "" {
		out.Data.Conditions = []condition{{pattern(collection), s.Filter}}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // people read these topics
	if err := enc.Encode(out); err != nil {
		return nil, fmt.Errorf("encoding a signal about %s: %w", s.Table, err)
	}
	return bytes.TrimSpace(b.Bytes()), nil
}
