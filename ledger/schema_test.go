package ledger

import (
	"strings"
	"testing"
	"unicode"
)

// The schema is sent as a text, which a database in another encoding than UTF-8 has to be able to hold.
func TestSchemaIsASCII(t *testing.T) {
	t.Parallel()
	if i := strings.IndexFunc(schema, func(r rune) bool { return r > unicode.MaxASCII }); i >= 0 {
		t.Errorf("%q", schema[max(0, i-60):i+10])
	}
}
