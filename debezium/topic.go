package debezium

import (
	"strings"
	"unicode/utf16"

	"github.com/trickle-verify/trickle/postgres"
)

// longestTopic is as long as Kafka lets a topic's name be.
const longestTopic = 249

// Topic is where a connector writes what happens to a table: its topic.prefix and the table's name, in which Debezium puts an underscore for each sign (of UTF-16, as Java
// counts) that no topic may have. A connector that names or routes its topics otherwise has others.
func Topic(prefix string, table postgres.Name) string {
	parts := make([]string, 0, 3)
	for _, p := range []string{prefix, table.Schema, table.Table} {
		if strings.TrimFunc(p, space) != "" {
			parts = append(parts, p)
		}
	}
	var b strings.Builder
	for _, unit := range utf16.Encode([]rune(strings.Join(parts, "."))) {
		if c := rune(unit); c < 128 && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("._-", c)) {
			b.WriteRune(c)
		} else {
			b.WriteByte('_')
		}
	}
	name := b.String()
	return name[:min(len(name), longestTopic)]
}
