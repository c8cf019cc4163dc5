package app

import (
	"testing"

	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }
