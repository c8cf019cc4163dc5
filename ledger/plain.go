package ledger

import (
	"strconv"
	"strings"
	"unicode"
)

// plain is a free text as the database can hold it: one in another encoding than UTF-8 refuses, with the whole statement, what it has no character for.
func (l *Ledger) plain(text string) string {
	if !l.narrow.Load() || strings.IndexFunc(text, beyondASCII) < 0 {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		switch {
		case r == '…':
			b.WriteString("...")
		case beyondASCII(r):
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

func beyondASCII(r rune) bool { return r > unicode.MaxASCII }
