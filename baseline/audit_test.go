package baseline_test

import (
	"errors"
	"strings"
	"testing"

	"gocloud.dev/blob/memblob"

	"github.com/trickle-verify/trickle/baseline"
)

const (
	header19 = "PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	one      = "\x00\x02\x00\x00\x00\x03abc\xff\xff\xff\xff" // a value, a NULL
	trailer  = "\xff\xff"
)

// Rows are counted in both formats; what COPY would not write is not counted for it.
func TestAudit(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		data string
		text bool
		says string
	}{
		"two rows":          {header19 + one + one + trailer, false, ""},
		"two lines":         {"1\t\\\\n\n2\t\\N\n", true, ""},
		"one row":           {header19 + one + trailer, false, "holds 1 rows"},
		"three lines":       {"1\n2\n3\n", true, "holds 3 rows"},
		"cut in a value":    {header19 + one + one[:7], false, "ends in the middle"},
		"cut in a line":     {"1\n2\n3", true, "ends in the middle"},
		"without an end":    {header19 + one + one, false, "ends in the middle"},
		"behind its end":    {header19 + one + one + trailer + one, false, "behind its end"},
		"a negative length": {header19 + "\x00\x01\xff\xff\xff\xfe" + trailer, false, "not what COPY writes"},
		"nothing":           {"", false, "ends in the middle"},
	} {
		s := baseline.New(memblob.OpenBucket(nil), baseline.Options{Pipeline: pipeline})
		m := example(0)
		table := &m.Tables[0]
		table.Binary = !c.text
		packed(t, m, table, c.data)
		o, p := packed(t, m, table, c.data) // it says that it has two rows
		if err := s.Put(t.Context(), o.Name, p); err != nil {
			t.Fatal(err)
		}
		err := s.Audit(t.Context(), m, table, o)
		var bad *baseline.CorruptError
		if c.says == "" && err != nil || c.says != "" && (!errors.As(err, &bad) || bad.Name != o.Name || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
