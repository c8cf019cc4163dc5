package ledger

import "testing"

func TestAPageHoldsNoMoreThanItMay(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ lines, bytes, want int }{
		{100, 100, 200}, {1000, 1000, mostLines}, {100, 100 * mostBytes, 1}, {100, 2 * mostBytes, 50}, {1, 0, 2}, {1, mostBytes, 1},
	} {
		if got := fitting(c.lines, c.bytes); got != c.want {
			t.Errorf("after %d lines of %d bytes: %d, want %d", c.lines, c.bytes, got, c.want)
		}
	}
}
