// Package compose holds what deploy/compose gives to users and the tests use as well: the connectors' settings.
//
// It decides nothing. The tests of the real pipeline run these very files, with addresses and names of their own.
package compose

import _ "embed" // the settings

// Source is the settings of Debezium's Postgres connector, a JSON object.
//
//go:embed connectors/source.json
var Source []byte

// Sink is the settings of Debezium's JDBC sink, a JSON object.
//
//go:embed connectors/sink.json
var Sink []byte
