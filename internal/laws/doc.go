// Package laws holds no code, only the tests of the safety laws: each forces the interleaving, crash or input that one law is
// about, on real Postgres, and fails when the mechanism behind the law is taken out.
package laws
