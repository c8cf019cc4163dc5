// Package baseline is the base-line view: a copy of the source's tables outside both databases, from which a lost replica is restored.
//
// It decides what a set looks like in the store (its manifest, its objects), which set counts, and whether one can still be restored from: whether the logs
// that CDC wrote since hold all that happened after it. What always holds: a set that Latest or Load returns is complete, since its manifest is written last
// and whole, and names its pipeline and source; an object that Open returns has the bytes, by SHA-256, that its manifest names; each object was read from
// a snapshot that shows all that was in the logs before its position: whoever applies what the logs hold from there on has missed nothing. An object, a manifest or a log that
// is not what it should be is an error that names it (CorruptError, ForeignError, ExpiredError), and nothing of it is given out.
package baseline
