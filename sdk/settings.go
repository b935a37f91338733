package sdk

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/jsonschema-go/jsonschema"

	"github.com/plugboard/plugboard/sdk/fault"
)

// settings is where an operator's settings go: the author's struct, its presets
// and its schema.
type settings struct {
	target     reflect.Value // the struct, addressable
	preset     reflect.Value // a copy from before the first session
	schema     *jsonschema.Resolved
	schemaJSON []byte
}

func newSettings(v any) (*settings, error) {
	if v == nil {
		return nil, nil
	}
	pointer := reflect.ValueOf(v)
	if pointer.Kind() != reflect.Pointer || pointer.IsNil() || pointer.Elem().Kind() != reflect.Struct {
		return nil, fmt.Errorf("settings are a %T, want a pointer to a struct", v)
	}
	s := &settings{target: pointer.Elem()}
	s.preset = reflect.New(s.target.Type()).Elem()
	s.preset.Set(s.target)
	schema, err := paramsSchema(s.target.Type())
	if err != nil {
		return nil, fmt.Errorf("settings: %w", err)
	}
	if err := s.addPresets(schema); err != nil {
		return nil, fmt.Errorf("settings: %w", err)
	}
	if s.schema, err = schema.Resolve(nil); err != nil {
		return nil, fmt.Errorf("resolve the settings schema: %w", err)
	}
	if s.schemaJSON, err = schema.MarshalJSON(); err != nil {
		return nil, fmt.Errorf("encode the settings schema: %w", err)
	}
	return s, nil
}

// addPresets makes every member optional that the author has given a value, and
// shows it as the default.
func (s *settings) addPresets(schema *jsonschema.Schema) error {
	members := func(v reflect.Value) (map[string]jsontext.Value, error) {
		raw, err := encode(v.Interface())
		if err != nil {
			return nil, err
		}
		var m map[string]jsontext.Value
		return m, json.Unmarshal(raw, &m)
	}
	zero, err := members(reflect.Zero(s.target.Type()))
	if err != nil {
		return err
	}
	preset, err := members(s.preset)
	if err != nil {
		return err
	}
	for name, value := range preset {
		if property := schema.Properties[name]; property != nil && !bytes.Equal(value, zero[name]) {
			property.Default = []byte(value)
			schema.Required = slices.DeleteFunc(schema.Required, func(r string) bool { return r == name })
		}
	}
	return nil
}

// apply decodes and validates what the operator set. A fault it returns is for the
// operator to read. It must not run beside a call.
func (s *settings) apply(raw []byte) *fault.Error {
	if len(raw) == 0 {
		raw = []byte("{}")
	}
	if s == nil {
		var m map[string]jsontext.Value
		if err := json.Unmarshal(raw, &m); err != nil || len(m) > 0 {
			return fault.New(fault.InvalidParams, "Settings refused: this plugin takes none.")
		}
		return nil
	}
	s.target.Set(s.preset)
	if err := json.Unmarshal(raw, s.target.Addr().Interface(), decodeOptions); err != nil {
		pointer, message := explain(err)
		where := pointer
		if where == "" {
			where = "the whole"
		}
		return fault.New(fault.InvalidParams, "Settings refused: "+where+" "+message+".").
			WithDetails([]fault.Violation{{Pointer: pointer, Message: message}})
	}
	if err := fits(s.schema, raw); err != nil {
		return fault.New(fault.InvalidParams, "Settings refused: "+err.Error())
	}
	if v, ok := reflect.TypeAssert[interface{ Validate() error }](s.target.Addr()); ok {
		if err := v.Validate(); err != nil {
			return fault.New(fault.InvalidParams, "Settings refused: "+err.Error())
		}
	}
	return nil
}
