// Package debezium asks a Debezium connector for an incremental snapshot and tells from its notifications how that goes, and reads the events that it writes.
//
// # Events
//
// A Decoder decides what an event says: which table, what happened, where in the source's log that stands, and what each column holds, in the form in which Postgres reads it. What a
// value means it takes from the event's schema or, where JsonConverter wrote none, from the type of the column that it goes to and the connector's settings. What always holds: a value is
// what the source's column held as far as Debezium wrote it, or an error that names the column; where it may be read in two ways and nothing decides, that is an error too. A large value
// that an update left alone is told from NULL where Debezium tells it; see docs/baseline.md for the types in which it does not. What is no event is recognised and left out (a tombstone, a
// heartbeat, a mark of a transaction) or refused with what to do (ErrNoJSON, ErrFlattened).
//
// # Snapshots
//
// It decides what a signal says, what a notification means, and from both where a snapshot stands. Debezium reads signals from a Kafka topic, key by key: one
// whose key is the connector's topic.prefix is its own. It then reads the table, or what a filter leaves of it, chunk by chunk into the very topics that carry
// the changes, and sees to it by itself that no chunk overtakes a change. trickle only asks: it opens no window and writes no mark.
//
// What a connector tells is less than one would wish, and Follow rests on what was seen of a real one:
//
//   - A connector has one queue of tables and one id, that of the signal it took last: a signal that comes while another's snapshot runs is answered by no
//     STARTED, and from then on whatever ends is told under the newer id. So an id proves only that the signal was taken. From there on the connector's
//     next COMPLETED, whoever's id it bears, says that its queue is empty, hence the table read.
//   - How the table fared stands in its TABLE_SCAN_COMPLETED alone. A table that is unknown, has no key or whose filter is no SQL ends in COMPLETED too.
//   - A connector that is restarted, kill -9 included, goes on with its chunk under the same id and says nothing about it. One that was down when the signal
//     was sent reads it once it is back, from its group's committed offset.
//   - A signal is lost where the connector had read it and died before its own offsets were stored, or where the topic expired meanwhile. Nothing tells that but silence.
//
// What always holds: a snapshot counts as read only if its table's scan succeeded and the queue was drained after the signal was taken; a notification that comes twice, late, or about
// somebody else's snapshot changes nothing; what can't be read is refused with ErrMalformed and changes nothing either. When Kafka is away, calls wait for it until their context ends.
package debezium
