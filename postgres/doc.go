// Package postgres is how both sides read a table: catalogue, keys, ranges, row digests, and the fence on refetches; and what makes a table like it in another database.
//
// It decides what a table looks like to the verifier: which columns are compared and as what type, which unique key walks it, how a
// range becomes a WHERE clause, and how a row becomes 64 bits. What always holds: a column goes into the record digest as it is only if
// its hash depends on nothing but its value (else it goes in as text), so equal rows have equal digests in any two databases whose probes
// agree; every read comes with the snapshot, log position and time it was made at; an answer from Refetch or Copy shows every
// transaction that could have been delivered by CDC before the request arrived. A table without a usable key, or one whose shape changed since it
// was described, is an error that names it (NoKeyError, ErrChanged) and nothing is read from it.
//
// All values cross this package in Postgres's own text form under pinned session settings, or, in a stream of columns whose types are one on both sides and
// Postgres's own, in COPY's binary form: so any type travels without being understood.
package postgres
