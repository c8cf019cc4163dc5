package testbed_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/trickle-verify/trickle/internal/testbed"
	"github.com/trickle-verify/trickle/internal/testbed/pgtest"
)

// parentRole makes the test binary a program that starts a server and never stops it.
const parentRole = "TRICKLE_TESTBED_PARENT"

func TestMain(m *testing.M) {
	if os.Getenv(parentRole) != "" {
		server, err := testbed.StartPostgres(context.Background(), testbed.Options{})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Printf("%s %s\n", server.DSN("postgres"), server.LogFile())
		select {}
	}
	pgtest.Main(m)
}
