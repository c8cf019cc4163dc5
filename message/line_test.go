package message_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/trickle-verify/trickle/message"
)

func TestLine(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                     "",
		" \n\t":                                "",
		"table t has no key: add one (…)":      "table t has no key: add one (…)",
		"  permission\r\n\tdenied  for t \n":   "permission denied for t",
		"\x1b[2J\x1b[31mall is well\x00\x07":   "[2J [31mall is well",
		"a\u202eb\u2066c\ufeffd":               "abcd",
		"not \xff UTF-8":                       "not UTF-8",
		"fett\u2028gedruckt\u00a0und\u0085neu": "fett gedruckt und neu",
	} {
		if got := message.Line(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
	long := message.Line(strings.Repeat("äß ", 5000))
	if len(long) > 1010 || !strings.HasSuffix(long, "…") || !utf8.ValidString(long) {
		t.Errorf("%d bytes: …%q", len(long), long[len(long)-10:])
	}
}
