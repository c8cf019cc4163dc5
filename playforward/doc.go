// Package playforward applies what Debezium wrote to the CDC's topics, from a position on, to a replica.
//
// It decides in which order events are applied and what each does to a row. It goes in rounds: a round takes the ends of all partitions, and applies what is before them in the
// source's order, which is a merge of the partitions by the place in the source's log that each event names. Events are applied in batches; what a batch does to a key is
// worked out first and written once, by a statement for each table and kind. A batch that the replica refuses as a whole is applied event by event. Where a row has
// what another wants for itself alone, rows of that table are deleted and inserted again, with all that the events leave out, in one statement; and a batch takes in more where its events need one another.
//
// What always holds: a batch's rows and the read point behind it are one transaction, so whatever is killed at whatever moment, the next run goes on exactly there. Of one partition
// each event is applied once and in order: what Debezium sends again after a crash lies before the partition's mark and is dropped. No event is passed over in silence: one that can't be
// decoded or that the replica refuses ends the run with an error that names table, key and the next step, and the read point stays before it. An update of a row that is not there and that the
// event does not hold in full is counted as incomplete: the row was deleted later in the log, or a full pass will find it missing. One replica has one applier for a
// pipeline: the session that writes holds a lock. Tables that the policy does not name are not touched.
//
// When Kafka goes away, a run waits for it; when the replica's connection breaks, the run ends with that error, and whoever called opens another.
package playforward
