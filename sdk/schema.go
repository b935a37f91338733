package sdk

import (
	"encoding"
	stdjson "encoding/json"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/jsonschema-go/jsonschema"
)

// dialect is the $schema of every schema a plugin describes.
const dialect = "https://json-schema.org/draft/2020-12/schema"

// schemaOf derives the schema of a Go type as this package encodes it, which is
// not always as the schema library assumes: types with text or JSON methods of
// their own, times, durations and bytes are told to it.
func schemaOf(t reflect.Type) (*jsonschema.Schema, error) {
	known := make(map[reflect.Type]*jsonschema.Schema)
	collect(t, known, make(map[reflect.Type]bool))
	s, err := jsonschema.ForType(t, &jsonschema.ForOptions{TypeSchemas: known})
	if err != nil {
		return nil, fmt.Errorf("derive a JSON Schema from %s: %w", t, err)
	}
	withoutNullArrays(s)
	s.Schema = dialect
	return s, nil
}

// paramsSchema is schemaOf for params, which are always an object.
func paramsSchema(t reflect.Type) (*jsonschema.Schema, error) {
	s, err := schemaOf(t)
	if err != nil {
		return nil, fmt.Errorf("its params: %w", err)
	}
	switch {
	case s.Type == "object", slices.Contains(s.Types, "object"), s.Type == "" && s.Types == nil:
		s.Type, s.Types = "object", nil
		return s, nil
	}
	return nil, fmt.Errorf("its params are a %s, want a struct, a map with string keys, any or json.RawMessage", t)
}

// collect finds the types below t whose JSON is not what their Go kind suggests.
func collect(t reflect.Type, known map[reflect.Type]*jsonschema.Schema, seen map[reflect.Type]bool) {
	if seen[t] {
		return
	}
	seen[t] = true
	if s := special(t); s != nil {
		known[t] = s
		return
	}
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		collect(t.Elem(), known, seen)
	case reflect.Struct:
		for f := range t.Fields() {
			if f.IsExported() || f.Anonymous {
				collect(f.Type, known, seen)
			}
		}
	default: // holds no other type
	}
}

func special(t reflect.Type) *jsonschema.Schema {
	switch t {
	case reflect.TypeFor[stdjson.RawMessage](), reflect.TypeFor[jsontext.Value]():
		return &jsonschema.Schema{}
	case reflect.TypeFor[time.Time]():
		return &jsonschema.Schema{Type: "string", Format: "date-time"}
	case reflect.TypeFor[time.Duration]():
		// Not format "duration", which is ISO 8601.
		return &jsonschema.Schema{Type: "string", Pattern: `^[-+]?(0|([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+$`}
	}
	if t.Kind() == reflect.Pointer || t.Kind() == reflect.Interface {
		return nil
	}
	p := reflect.PointerTo(t)
	switch {
	case p.Implements(reflect.TypeFor[stdjson.Marshaler]()), p.Implements(reflect.TypeFor[json.MarshalerTo]()):
		return &jsonschema.Schema{}
	case p.Implements(reflect.TypeFor[encoding.TextMarshaler]()), p.Implements(reflect.TypeFor[encoding.TextAppender]()):
		return &jsonschema.Schema{Type: "string"}
	}
	if (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) && t.Elem().Kind() == reflect.Uint8 {
		return &jsonschema.Schema{Type: "string", ContentEncoding: "base64"}
	}
	return nil
}

// withoutNullArrays undoes that the library lets a slice be null: this package
// encodes a nil slice as [].
func withoutNullArrays(s *jsonschema.Schema) {
	if s == nil {
		return
	}
	if slices.Equal(s.Types, []string{"null", "array"}) {
		s.Type, s.Types = "array", nil
	}
	for _, p := range s.Properties {
		withoutNullArrays(p)
	}
	withoutNullArrays(s.Items)
	withoutNullArrays(s.AdditionalProperties)
}

// fits checks raw JSON against a resolved schema.
func fits(schema *jsonschema.Resolved, raw []byte) error {
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		return fmt.Errorf("not valid JSON: %w", err)
	}
	return schema.Validate(v)
}
