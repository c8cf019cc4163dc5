package replica

import (
	"slices"
	"testing"
)

func TestDiffering(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		before, after string
		want          []string
	}{
		{`{"id": 1, "a": "x", "b": null}`, `{"id": 1, "a": "y", "b": null}`, []string{"a"}},
		{`{"id": 1, "b": null, "a": 1.0}`, `{"id": 1, "b": "", "a": 1.00}`, []string{"b"}},
		{`{"a": 10, "b": 100}`, `{"a": 1.0, "b": 100.0}`, []string{"a"}},
		{`{"a": "1.0", "b": true}`, `{"a": "1.00", "b": false}`, []string{"a", "b"}},
		{`{"a": -0.50}`, `{"a": -0.5}`, nil},
		{`no image`, `{"a": 1}`, nil},
	} {
		if got := differing(c.before, c.after); !slices.Equal(got, c.want) {
			t.Errorf("%s and %s differ in %v, want %v", c.before, c.after, got, c.want)
		}
	}
}
