package policy

import (
	"fmt"
	"regexp"
	"strings"
)

// Name is a table's name as the catalogue has it: nothing is folded to lower case.
type Name struct {
	Schema, Name string
}

// String is the form that ParsePattern reads back: schema.name, each part quoted where it must be.
func (n Name) String() string { return quotePart(n.Schema) + "." + quotePart(n.Name) }

func quotePart(s string) string {
	if s == "" || strings.ContainsAny(s, `".*`) {
		return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
	}
	return s
}

// namePattern is what a name or glob looks like; Parse and the JSON Schema go by it.
const namePattern = `^("([^"]|"")+"|[^".]+)\.("([^"]|"")+"|[^".]+)$`

var nameText = regexp.MustCompile(namePattern)

// Pattern is a table's name, or a glob of them.
//
// It is written schema.name. A part without quotes is taken literally, upper and lower case as the catalogue has it, except that each *
// stands for any run of characters, none included; a * never reaches across the dot. A part in double quotes has no globs and may
// hold anything; a quote in it is doubled: "My Schema"."a.b".
type Pattern struct {
	schema, name part
}

type part struct {
	literals []string // the text between the stars: one more than there are stars
}

// ParsePattern reads a table's name or glob.
func ParsePattern(s string) (Pattern, error) {
	m := nameText.FindStringSubmatch(s)
	if m == nil {
		return Pattern{}, fmt.Errorf(`%q is no table: give schema.name, where a * stands for any run of characters; quote a part that holds a dot, a star or a quote, as in "my.schema".orders`, s)
	}
	return Pattern{schema: partOf(m[1]), name: partOf(m[3])}, nil
}

func partOf(s string) part {
	if strings.HasPrefix(s, `"`) {
		return part{[]string{strings.ReplaceAll(s[1:len(s)-1], `""`, `"`)}}
	}
	return part{strings.Split(s, "*")}
}

// Exact returns the name when the pattern has no star.
func (p Pattern) Exact() (Name, bool) {
	if p.stars() > 0 {
		return Name{}, false
	}
	return Name{p.schema.literals[0], p.name.literals[0]}, true
}

// Match reports whether the pattern means this table.
func (p Pattern) Match(schema, name string) bool {
	_, ok := p.captures(schema, name)
	return ok
}

// String is a form that ParsePattern reads back as the same pattern.
func (p Pattern) String() string { return p.schema.String() + "." + p.name.String() }

func (p part) String() string {
	if len(p.literals) == 1 {
		return quotePart(p.literals[0])
	}
	return strings.Join(p.literals, "*")
}

func (p Pattern) stars() int { return len(p.schema.literals) + len(p.name.literals) - 2 }

// captures returns what each star matched, in order.
func (p Pattern) captures(schema, name string) ([]string, bool) {
	a, ok := p.schema.captures(schema)
	if !ok {
		return nil, false
	}
	b, ok := p.name.captures(name)
	return append(a, b...), ok
}

// captures lets each star but the last take as little as it can. That finds a match whenever there is one.
func (p part) captures(s string) ([]string, bool) {
	rest, ok := strings.CutPrefix(s, p.literals[0])
	if !ok {
		return nil, false
	}
	between := p.literals[1:]
	if len(between) == 0 {
		return nil, rest == ""
	}
	var got []string
	for _, literal := range between[:len(between)-1] {
		i := strings.Index(rest, literal)
		if i < 0 {
			return nil, false
		}
		got = append(got, rest[:i])
		rest = rest[i+len(literal):]
	}
	last, ok := strings.CutSuffix(rest, between[len(between)-1])
	return append(got, last), ok
}

// fill puts the captures in the place of the stars.
func (p Pattern) fill(captures []string) Name {
	n := len(p.schema.literals) - 1
	return Name{p.schema.fill(captures[:n]), p.name.fill(captures[n:])}
}

func (p part) fill(captures []string) string {
	var b strings.Builder
	b.WriteString(p.literals[0])
	for i, c := range captures {
		b.WriteString(c)
		b.WriteString(p.literals[i+1])
	}
	return b.String()
}

// Match is what the policy says about one table.
type Match struct {
	Table   Table // its entry in the file
	Replica Name  // what the replica calls it
}

// Chosen reports that the entry is a glob, which happens to match the table, and does not name it.
func (m Match) Chosen() bool {
	pattern, err := ParsePattern(m.Table.Table)
	return err == nil && pattern.stars() > 0
}

// For finds the entry for a table: an exact name beats a glob, and among globs the first in the file wins. It returns false for
// a table that the policy doesn't name.
func (p *Policy) For(schema, name string) (Match, bool) {
	var found Match
	var ok bool
	for _, t := range p.Tables {
		pattern, err := ParsePattern(t.Table)
		if err != nil {
			continue // only in a policy that Parse did not make
		}
		captures, matches := pattern.captures(schema, name)
		if !matches {
			continue
		}
		_, exact := pattern.Exact()
		if ok && !exact {
			continue
		}
		found, ok = Match{Table: t, Replica: Name{schema, name}}, true
		if replica, err := ParsePattern(t.Replica); err == nil && replica.stars() == len(captures) {
			found.Replica = replica.fill(captures)
		}
		if exact {
			break
		}
	}
	return found, ok
}
