package replica

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// differing names the columns in which two images of a row differ, in order.
func differing(before, after string) []string {
	var was, is map[string]json.RawMessage
	if json.Unmarshal([]byte(before), &was) != nil || json.Unmarshal([]byte(after), &is) != nil {
		return nil
	}
	var out []string
	for _, column := range slices.Sorted(maps.Keys(is)) {
		if value(was[column]) != value(is[column]) {
			out = append(out, column)
		}
	}
	return out
}

// value is a column of an image as it is compared: 1.0 is 1.00.
func value(raw json.RawMessage) string {
	v := string(raw)
	if v == "" || v[0] == '"' || !strings.Contains(v, ".") {
		return v
	}
	return strings.TrimSuffix(strings.TrimRight(v, "0"), ".")
}
