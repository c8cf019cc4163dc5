// Package e2e holds no code, only the tests of the built commands: processes against real Postgres servers and a broker, with the faults
// of every day. What they print, how they end and what they leave in the databases is all that these tests look at.
package e2e
