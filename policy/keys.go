package policy

import (
	"iter"
	"reflect"
	"slices"
	"strings"
)

// fields yields the fields of a struct that are keys of the file.
func fields(t reflect.Type) iter.Seq[reflect.StructField] {
	return func(yield func(reflect.StructField) bool) {
		for f := range t.Fields() {
			if key := keyOf(f); key != "" && key != "-" && !yield(f) {
				return
			}
		}
	}
}

func keyOf(f reflect.StructField) string { return f.Tag.Get("yaml") }

func keysOf(t reflect.Type) []string {
	var keys []string
	for f := range fields(t) {
		keys = append(keys, keyOf(f))
	}
	return keys
}

func fieldOf(t reflect.Type, key string) (reflect.StructField, bool) {
	for f := range fields(t) {
		if keyOf(f) == key {
			return f, true
		}
	}
	return reflect.StructField{}, false
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// hint names the known key that is nearest to what was written, or all of them when none is near.
func hint(key string, known []string) string {
	nearest := slices.MinFunc(known, func(a, b string) int { return distance(key, a) - distance(key, b) })
	if distance(key, nearest) <= max(2, len(nearest)/3) {
		return "did you mean \"" + nearest + "\"?"
	}
	return "known here are " + strings.Join(known, ", ")
}

// distance is Levenshtein's: how many bytes to insert, delete or replace. Texts beyond any key's length are simply far.
func distance(a, b string) int {
	const far = 100
	if len(a) > far {
		return far
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
