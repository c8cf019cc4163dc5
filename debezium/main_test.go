package debezium_test

import (
	"flag"
	"testing"

	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
)

func TestMain(m *testing.M) {
	// A check is a handful of statements, for each of some forty tables.
	if err := flag.Set("rapid.checks", "25"); err != nil {
		panic(err)
	}
	pgtest.Main(m)
}
