package docs

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/trickle-verify/trickle/policy"
)

var update = flag.Bool("update", false, "write again what is generated")

// generated holds a document against what it is made of, or writes it again with -update, as make generate does.
func generated(t *testing.T, name string, want []byte) {
	t.Helper()
	file := filepath.Join(root, name)
	if *update {
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	have, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, want) {
		t.Errorf("%s is not what it is made of any more: run make generate", name)
	}
}

const policyPreface = `# The policy

<!-- Made from the policy's schema by make generate: edit the texts in policy/policy.go and the examples in docs/reference-policy.yaml. -->

One file, read by both sides. A change is read again by itself within ten seconds, also where Kubernetes mounts it; an invalid one is refused with its line and column, the old policy stays in force, and log, ` + "`status`" + `, the page and a metric say so. Two things take a restart: ` + "`pipeline`" + `, and what is under ` + "`gate.heartbeat`" + `.

    trickle policy validate orders.yaml
    trickle policy schema > policy.schema.json      # for editors

Only ` + "`pipeline` and `tables`" + ` are required. Secrets never stand in a policy: they come from the [environment](security.md#secrets). A file with every key, to copy from, is [reference-policy.yaml](reference-policy.yaml).
What the keys do to the cost, and how to choose them, is under [tuning](tuning.md).

| form | written |
|---|---|
| time | ` + "`500ms`, `10m`, `1h30m`, `24h`, `7d`" + ` |
| size | ` + "`500kB`, `1MiB`" + `, or a number of bytes |
| share | ` + "`2%` or `0.02`" + ` |
| name | ` + "`schema.name`" + ` as the catalogue has it; nothing is folded to lower case, and a part that holds a dot, a star or a quote is quoted: ` + "`'\"my.schema\".orders'`" + ` |

`

// The policy's reference is made from its schema, with examples from the reference policy.
func TestGeneratedPolicyReference(t *testing.T) {
	t.Parallel()
	src, err := policy.JSONSchema()
	if err != nil {
		t.Fatal(err)
	}
	var schema yaml.MapSlice // JSON is YAML, and this keeps the order
	if err := yaml.UnmarshalWithOptions(src, &schema, yaml.UseOrderedMap()); err != nil {
		t.Fatal(err)
	}
	reference, err := os.ReadFile(filepath.Join(root, "docs", "reference-policy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString(policyPreface)
	r := keyTable{out: &b, forms: forms(schema)}
	r.section("Top level", "", leaves(schema))
	for _, item := range properties(schema) {
		node := item.Value.(yaml.MapSlice)
		nested := properties(node)
		if items, ok := get(node, "items").(yaml.MapSlice); ok {
			nested = properties(items)
		}
		if len(nested) == 0 {
			continue
		}
		key := item.Key.(string)
		fmt.Fprintf(&b, "## %s\n\n%s\n\n", key, get(node, "description"))
		if example := exampleOf(string(reference), key); example != "" {
			fmt.Fprintf(&b, "```yaml\n%s```\n\n", example)
		}
		r.table(key, nested)
	}
	generated(t, "docs/policy.md", []byte(strings.TrimRight(b.String(), "\n")+"\n"))
}

func get(m yaml.MapSlice, key string) any {
	for _, item := range m {
		if item.Key == key {
			return item.Value
		}
	}
	return nil
}

// properties are the keys of a mapping; of one that may also be true or false, those of the mapping.
func properties(node yaml.MapSlice) yaml.MapSlice {
	if p, ok := get(node, "properties").(yaml.MapSlice); ok {
		return p
	}
	if alternatives, ok := get(node, "oneOf").([]any); ok {
		for _, a := range alternatives {
			if p, ok := get(a.(yaml.MapSlice), "properties").(yaml.MapSlice); ok {
				return p
			}
		}
	}
	return nil
}

// leaves are the keys that have none below them.
func leaves(node yaml.MapSlice) yaml.MapSlice {
	var out yaml.MapSlice
	for _, item := range properties(node) {
		value := item.Value.(yaml.MapSlice)
		if len(properties(value)) == 0 && get(value, "items") == nil {
			out = append(out, item)
		}
	}
	return out
}

// exampleOf cuts a key with what is below it out of the reference policy.
func exampleOf(reference, key string) string {
	m := regexp.MustCompile(`(?m)^` + key + `:.*\n((  .*)?\n)*`).FindString(reference)
	var lines []string
	for line := range strings.Lines(m) {
		if strings.TrimSpace(line) == "" {
			break
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "")
}

// keyTable writes tables of keys.
type keyTable struct {
	out   *strings.Builder
	forms map[string]string // by pattern
}

// forms are those of units, known by what they are for.
func forms(schema yaml.MapSlice) map[string]string {
	pattern := func(path ...string) string {
		node := schema
		for _, key := range path {
			node = get(properties(node), key).(yaml.MapSlice)
		}
		if alternatives, ok := get(node, "oneOf").([]any); ok {
			node = alternatives[0].(yaml.MapSlice)
		}
		return get(node, "pattern").(string)
	}
	return map[string]string{
		pattern("schedule", "cycle"): "time", pattern("rate", "bytes_per_second"): "size", pattern("rate", "source_share"): "share",
		pattern("detect", "journal"):          "time or `forever`",
		pattern("gate", "heartbeat", "table"): "name",
	}
}

func (r keyTable) section(title, path string, keys yaml.MapSlice) {
	fmt.Fprintf(r.out, "## %s\n\n", title)
	r.table(path, keys)
}

func (r keyTable) table(path string, keys yaml.MapSlice) {
	r.out.WriteString("| key | form | default | |\n|---|---|---|---|\n")
	r.rows(path, keys, nil)
	r.out.WriteString("\n")
}

// rows writes keys with what is below them; defaults are those that the mapping above has as a whole.
func (r keyTable) rows(path string, keys yaml.MapSlice, defaults map[any]any) {
	for _, item := range keys {
		node := item.Value.(yaml.MapSlice)
		name := strings.TrimPrefix(path+"."+item.Key.(string), ".")
		nested := properties(node)
		def := ""
		d := get(node, "default")
		if of, ok := defaults[item.Key]; ok {
			d = of
		}
		if d != nil && len(nested) == 0 || d == false {
			def = fmt.Sprintf("`%v`", d)
		}
		fmt.Fprintf(r.out, "| `%s` | %s | %s | %s |\n", name, r.form(node), def, strings.ReplaceAll(fmt.Sprint(get(node, "description")), "|", "\\|"))
		if items, ok := get(node, "items").(yaml.MapSlice); ok {
			nested = properties(items)
		}
		of, _ := d.(yaml.MapSlice)
		r.rows(name, nested, of.ToMap())
	}
}

// form says how a value is written.
func (r keyTable) form(node yaml.MapSlice) string {
	if enum, ok := get(node, "enum").([]any); ok {
		texts := make([]string, len(enum))
		for i, e := range enum {
			texts[i] = fmt.Sprintf("`%v`", e)
		}
		return strings.Join(texts, ", ")
	}
	if alternatives, ok := get(node, "oneOf").([]any); ok {
		if first := r.form(alternatives[0].(yaml.MapSlice)); first != "true or false" {
			return first
		}
		return "true, false or a mapping"
	}
	pattern, _ := get(node, "pattern").(string)
	if f := r.forms[pattern]; f != "" {
		return f
	}
	switch get(node, "type") {
	case "array":
		if items, ok := get(node, "items").(yaml.MapSlice); ok && len(properties(items)) == 0 {
			return "list of texts"
		}
		return "list"
	case "object":
		if len(properties(node)) == 0 {
			return "mapping"
		}
		return ""
	case "integer":
		return "number"
	case "boolean":
		return "true or false"
	default:
		return "text"
	}
}
