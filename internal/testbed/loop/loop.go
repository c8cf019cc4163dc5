// Package loop runs a part's loop for a test and ends it with the test.
//
// What always holds: the loop has returned when stop, or the test, has; one that ends with anything but its own cancellation fails the test.
package loop

import (
	"context"
	"errors"
	"sync"
	"testing"
)

// Start runs a loop, and returns what ends it and waits for it. The context is one within the test's.
func Start(ctx context.Context, t testing.TB, run func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the loop ended with %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}
