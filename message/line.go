package message

import (
	"strings"
	"unicode"
)

// maxLine bounds a line in bytes: what Postgres says with what mends it, and no page of it.
const maxLine = 1000

// Line makes one line of a text that comes from elsewhere, a reason say: of what can be printed, with single spaces, and not longer than people read.
func Line(text string) string {
	var b strings.Builder
	space := false
	for _, r := range text {
		if !unicode.IsPrint(r) && !unicode.IsSpace(r) && !unicode.IsControl(r) || r == unicode.ReplacementChar {
			continue // a mark of direction, or no character at all
		}
		if !unicode.IsPrint(r) || r == ' ' {
			space = b.Len() > 0
			continue
		}
		if b.Len() > maxLine {
			return b.String() + "…"
		}
		if space {
			b.WriteByte(' ')
		}
		space = false
		b.WriteRune(r)
	}
	return b.String()
}
