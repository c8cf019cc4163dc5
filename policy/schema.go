package policy

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/invopop/jsonschema"
)

// JSONSchema returns the JSON Schema of a policy file, for editors. It knows the structure: keys, types, forms and allowed values. What
// depends on more than one key, only Parse tells.
func JSONSchema() ([]byte, error) {
	t := reflect.TypeFor[Policy]()
	r := jsonschema.Reflector{Anonymous: true, DoNotReference: true, FieldNameTag: "yaml", RequiredFromJSONSchemaTags: true, Mapper: unitSchema}
	s := r.ReflectFromType(t)
	s.Title = "trickle policy"
	if err := annotate(s, t, ""); err != nil {
		return nil, err
	}
	out, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing the schema: %w", err)
	}
	return append(out, '\n'), nil
}

// unitSchema describes the types that the file writes in a form of their own.
func unitSchema(t reflect.Type) *jsonschema.Schema {
	switch t {
	case reflect.TypeFor[Duration]():
		return &jsonschema.Schema{Type: "string", Pattern: durationPattern}
	case reflect.TypeFor[Retention]():
		return &jsonschema.Schema{Type: "string", Pattern: keepPattern}
	case reflect.TypeFor[Size]():
		return &jsonschema.Schema{OneOf: []*jsonschema.Schema{{Type: "string", Pattern: sizePattern}, {Type: "integer", Minimum: "0"}}}
	case reflect.TypeFor[Percent]():
		return &jsonschema.Schema{OneOf: []*jsonschema.Schema{{Type: "string", Pattern: percentPattern}, {Type: "number", Minimum: "0", Maximum: "1"}}}
	case reflect.TypeFor[Heartbeat]():
		type mapping Heartbeat // a type that this function doesn't know, to be described as the struct that it is
		r := jsonschema.Reflector{Anonymous: true, DoNotReference: true, FieldNameTag: "yaml", RequiredFromJSONSchemaTags: true, Mapper: unitSchema}
		m := r.ReflectFromType(reflect.TypeFor[mapping]())
		m.Version = ""
		return &jsonschema.Schema{OneOf: []*jsonschema.Schema{{Type: "boolean"}, m}}
	default:
		return nil
	}
}

// patternOf returns the pattern of a text, by its path.
func patternOf(path string) string {
	switch path {
	case "pipeline":
		return pipelinePattern
	case "tables[].table", "tables[].replica", "gate.heartbeat.table", "gate.heartbeat.replica":
		return namePattern
	case "tracing.link":
		return linkPattern
	case "gate.slot":
		return slotPattern
	default:
		return ""
	}
}

// annotate adds to a struct's schema what its fields' tags say.
func annotate(s *jsonschema.Schema, t reflect.Type, path string) error {
	for field := range fields(t) {
		key := keyOf(field)
		f, ok := s.Properties.Get(key)
		if !ok {
			return fmt.Errorf("the schema lacks the key %s: it was made for another version of the structs", join(path, key))
		}
		f.Description = field.Tag.Get("doc")
		if field.Tag.Get("required") != "" {
			s.Required = append(s.Required, key)
		}
		if enum := field.Tag.Get("enum"); enum != "" {
			for v := range strings.SplitSeq(enum, "|") {
				f.Enum = append(f.Enum, v)
			}
		}
		if def := field.Tag.Get("default"); def != "" {
			if err := yaml.Unmarshal([]byte(def), &f.Default); err != nil {
				return fmt.Errorf("the default of %s: %w", join(path, key), err)
			}
		}
		if err := describe(f, field, join(path, key)); err != nil {
			return err
		}
	}
	return nil
}

// zeroPattern is that of a unit's text that is none at all.
func zeroPattern(t reflect.Type) string {
	if t == reflect.TypeFor[Retention]() {
		return `^[^1-9f]*$`
	}
	return `^[^1-9]*$`
}

// describe adds to a field's schema what follows from its type.
func describe(f *jsonschema.Schema, field reflect.StructField, path string) error {
	one := uint64(1)
	switch t := field.Type; {
	case t == reflect.TypeFor[Heartbeat]():
		return annotate(f.OneOf[1], t, path)
	case f.Pattern != "" || f.OneOf != nil: // a unit: text and perhaps a number
		if field.Tag.Get("zero") != "" {
			f.Not = &jsonschema.Schema{OneOf: []*jsonschema.Schema{{Type: "string", Pattern: zeroPattern(t)}, {Const: 0}}}
		}
	case t.Kind() == reflect.Int:
		f.Minimum, f.Maximum = "0", "2147483647"
		if field.Tag.Get("zero") != "" {
			f.Minimum = "1"
		}
	case t.Kind() == reflect.String:
		f.MinLength = &one
		f.Pattern = patternOf(path)
	case t.Kind() == reflect.Struct:
		return annotate(f, t, path)
	case t.Kind() == reflect.Map:
		f.PropertyNames = &jsonschema.Schema{MinLength: &one}
		f.AdditionalProperties.MinLength = &one
		f.PatternProperties = map[string]*jsonschema.Schema{typeTailPattern: {Type: "null"}}
	case t.Kind() == reflect.Slice:
		if field.Tag.Get("required") != "" {
			f.MinItems = &one
		}
		if t.Elem().Kind() == reflect.Struct {
			return annotate(f.Items, t.Elem(), path+"[]")
		}
		f.Items.MinLength = &one
	}
	return nil
}
