package policy

import (
	"cmp"
	"encoding"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// decoder fills the structs from the syntax tree, obeying their tags. Unlike a decoder that stops at the first fault it goes on, so that
// all of them are reported at once.
type decoder struct {
	file     string
	problems Errors
	at       map[string]*token.Position // where each key that is written stands, by its path
}

// refuse notes a problem at the place of path, or of the nearest key above it that is written.
func (d *decoder) refuse(path, format string, args ...any) {
	pos := d.place(path)
	d.problems = append(d.problems, Problem{d.file, pos.Line, pos.Column, path, fmt.Sprintf(format, args...)})
}

func (d *decoder) place(path string) token.Position {
	for p := path; ; {
		if pos := d.at[p]; pos != nil {
			return *pos
		}
		i := strings.LastIndexAny(p, ".[")
		if i < 0 {
			return token.Position{Line: 1, Column: 1}
		}
		p = p[:i]
	}
}

// written reports whether the file has the key.
func (d *decoder) written(path string) bool { return d.at[path] != nil }

// sorted returns the problems in the order of the file, nil for none.
func (d *decoder) sorted() error {
	if len(d.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(d.problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return d.problems
}

func (d *decoder) value(node ast.Node, path string, v reflect.Value, tag reflect.StructTag) {
	switch node.(type) {
	case *ast.NullNode:
		d.refuse(path, "has no value: give one, or leave the key out")
		return
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode:
		d.refuse(path, "anchors, aliases and tags are not supported: write the value out")
		return
	}
	if h, ok := v.Addr().Interface().(*Heartbeat); ok {
		d.heartbeat(node, path, h)
		return
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		d.unit(node, path, u)
	} else {
		switch v.Kind() {
		case reflect.Struct:
			d.mapping(node, path, v)
		case reflect.Slice:
			d.list(node, path, v)
		case reflect.Map:
			d.texts(node, path, v)
		case reflect.Int:
			d.number(node, path, v)
		case reflect.Bool:
			if b, ok := node.(*ast.BoolNode); ok {
				v.SetBool(b.Value)
			} else {
				d.refuse(path, "expected true or false, found %s", shown(node))
			}
		default:
			d.text(node, path, v, tag)
		}
	}
	if instead := tag.Get("zero"); instead != "" && v.IsZero() && !d.failed(path) {
		d.refuse(path, "%s is not allowed: %s", shown(node), instead)
	}
}

// failed reports whether path already has a problem.
func (d *decoder) failed(path string) bool {
	return slices.ContainsFunc(d.problems, func(p Problem) bool { return p.Path == path })
}

func (d *decoder) mapping(node ast.Node, path string, v reflect.Value) {
	m, ok := node.(ast.MapNode)
	if !ok {
		d.refuse(path, "expected a mapping with the keys %s, found %s", strings.Join(keysOf(v.Type()), ", "), shown(node))
		return
	}
	for it := m.MapRange(); it.Next(); {
		key := it.Key().GetToken().Value
		child := join(path, key)
		if d.written(child) {
			pos := it.Key().GetToken().Position
			d.problems = append(d.problems, Problem{d.file, pos.Line, pos.Column, child, fmt.Sprintf("is there twice, first on line %d", d.at[child].Line)})
			continue
		}
		d.at[child] = it.Key().GetToken().Position
		if it.Key().IsMergeKey() {
			d.refuse(child, "merge keys are not supported: write the values out")
			continue
		}
		field, ok := fieldOf(v.Type(), key)
		if !ok {
			d.refuse(child, "unknown key %q: %s", key, hint(key, keysOf(v.Type())))
			continue
		}
		d.value(it.Value(), child, v.FieldByIndex(field.Index), field.Tag)
	}
	for field := range fields(v.Type()) {
		if child := join(path, keyOf(field)); field.Tag.Get("required") != "" && !d.written(child) {
			d.refuse(child, "is missing: it is required")
		}
	}
}

func (d *decoder) list(node ast.Node, path string, v reflect.Value) {
	seq, ok := node.(*ast.SequenceNode)
	if !ok {
		d.refuse(path, "expected a list, found %s", shown(node))
		return
	}
	out := reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values))
	for i, n := range seq.Values {
		child := fmt.Sprintf("%s[%d]", path, i)
		d.at[child] = start(n)
		setDefaults(out.Index(i))
		d.value(n, child, out.Index(i), "")
	}
	v.Set(out)
}

// In {amount: numeric(12,2)} YAML sees two entries, since a comma ends one: "numeric(12", and "2)" without a value. Everybody writes it
// so and nothing else can be meant, so texts puts the type together again.
const typeTailPattern = `^[0-9]+\)$`

var (
	typeHead = regexp.MustCompile(`^[^()]+\([0-9]+$`)
	typeTail = regexp.MustCompile(typeTailPattern)
)

func (d *decoder) texts(node ast.Node, path string, v reflect.Value) {
	m, ok := node.(ast.MapNode)
	if !ok {
		d.refuse(path, "expected a mapping, found %s", shown(node))
		return
	}
	out := map[string]string{}
	var before string
	for it := m.MapRange(); it.Next(); {
		key := it.Key().GetToken().Value
		if _, empty := it.Value().(*ast.NullNode); empty && typeTail.MatchString(key) && typeHead.MatchString(out[before]) {
			out[before] += "," + key
			continue
		}
		child := join(path, key)
		if d.written(child) {
			d.refuse(child, "is there twice")
			continue
		}
		d.at[child] = it.Key().GetToken().Position
		if key == "" {
			d.refuse(child, "the key is empty: give the name of a column")
			continue
		}
		var text string
		d.value(it.Value(), child, reflect.ValueOf(&text).Elem(), "")
		out[key], before = text, key
	}
	v.Set(reflect.ValueOf(out))
}

func (d *decoder) text(node ast.Node, path string, v reflect.Value, tag reflect.StructTag) {
	allowed := strings.Split(tag.Get("enum"), "|")
	s, ok := textOf(node)
	switch {
	case !ok && allowed[0] != "":
		d.refuse(path, "%s is not allowed: give %s", shown(node), strings.Join(allowed, " or "))
	case !ok:
		d.refuse(path, "expected text, found %s: put it in quotes if it is meant as text", shown(node))
	case allowed[0] != "" && !slices.Contains(allowed, s):
		d.refuse(path, "%q is not allowed: give %s", s, strings.Join(allowed, " or "))
	case s == "":
		d.refuse(path, "is empty: give a value, or leave the key out")
	default:
		v.SetString(s)
	}
}

func (d *decoder) number(node ast.Node, path string, v reflect.Value) {
	n, ok := node.(*ast.IntegerNode)
	if !ok {
		d.refuse(path, "expected a whole number, found %s", shown(node))
		return
	}
	i, err := strconv.ParseInt(fmt.Sprint(n.Value), 10, 32)
	if err != nil || i < 0 {
		d.refuse(path, "%s is out of range: give a whole number from 0 to %d", shown(node), 1<<31-1)
		return
	}
	v.SetInt(i)
}

// unit decodes a duration, size or percentage: text or, where the unit allows it, a number.
func (d *decoder) unit(node ast.Node, path string, u encoding.TextUnmarshaler) {
	s, ok := textOf(node)
	if !ok {
		switch node.(type) {
		case *ast.IntegerNode, *ast.FloatNode:
			s = node.GetToken().Value
		default:
			s = shown(node)
		}
	}
	if err := u.UnmarshalText([]byte(s)); err != nil {
		d.refuse(path, "%s", err)
	}
}

func (d *decoder) heartbeat(node ast.Node, path string, h *Heartbeat) {
	switch n := node.(type) {
	case *ast.BoolNode:
		*h = Heartbeat{Enabled: n.Value}
	case ast.MapNode:
		*h = Heartbeat{Enabled: true}
	default:
		d.refuse(path, "expected true, false or a mapping with the keys %s, found %s", strings.Join(keysOf(reflect.TypeFor[Heartbeat]()), ", "), shown(node))
		return
	}
	if !h.Enabled {
		return
	}
	v := reflect.ValueOf(h).Elem()
	setDefaults(v)
	if _, ok := node.(ast.MapNode); ok {
		d.mapping(node, path, v)
	}
	if h.Replica == "" {
		h.Replica = h.Table
	}
}

// setDefaults gives each field of a struct its default.
func setDefaults(v reflect.Value) {
	if v.Kind() != reflect.Struct {
		return
	}
	for field := range fields(v.Type()) {
		f := v.FieldByIndex(field.Index)
		if field.Type != reflect.TypeFor[Heartbeat]() {
			setDefaults(f)
		}
		if def := field.Tag.Get("default"); def != "" {
			d := decoder{at: map[string]*token.Position{}}
			tree, err := parser.ParseBytes([]byte(def), 0)
			if err == nil {
				d.value(tree.Docs[0].Body, "", f, "")
				err = d.sorted()
			}
			if err != nil {
				panic(fmt.Sprintf("the default of %s: %v", field.Name, err)) // a mistake in this package, which any test finds
			}
		}
	}
}

// start is where a node begins; the token of a block mapping is its first colon.
func start(node ast.Node) *token.Position {
	if m, ok := node.(ast.MapNode); ok {
		if it := m.MapRange(); it.Next() {
			return it.Key().GetToken().Position
		}
	}
	return node.GetToken().Position
}

func textOf(node ast.Node) (string, bool) {
	switch n := node.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	default:
		return "", false
	}
}

// shown names a value in a message.
func shown(node ast.Node) string {
	switch n := node.(type) {
	case ast.MapNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.NullNode:
		return "nothing"
	case *ast.StringNode:
		return strconv.Quote(n.Value)
	default:
		return node.GetToken().Value
	}
}
