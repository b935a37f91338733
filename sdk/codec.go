package sdk

import (
	stdjson "encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// The options of every value an author's code sends or receives. They are never
// changed.
var (
	encodeOptions = json.JoinOptions(json.WithMarshalers(json.JoinMarshalers(
		json.MarshalToFunc(func(e *jsontext.Encoder, t time.Time) error {
			return e.WriteToken(jsontext.String(t.UTC().Format(wire.TimeFormat)))
		}),
		json.MarshalToFunc(func(e *jsontext.Encoder, d time.Duration) error {
			return e.WriteToken(jsontext.String(d.String()))
		}),
	)))
	decodeOptions = json.JoinOptions(
		json.RejectUnknownMembers(true),
		json.WithUnmarshalers(json.UnmarshalFromFunc(decodeDuration)),
	)
)

var errDuration = errors.New(`must be a duration such as "1m30s" or "250ms"`)

func decodeDuration(d *jsontext.Decoder, out *time.Duration) error {
	token, err := d.ReadToken()
	if err != nil {
		return err
	}
	if token.Kind() != '"' {
		return errDuration
	}
	v, err := time.ParseDuration(token.String())
	if err != nil {
		return errDuration
	}
	*out = v
	return nil
}

// encode is the one way an author's value becomes JSON. Raw JSON passes as it is
// once it has been checked.
func encode(v any) ([]byte, error) {
	var raw []byte
	switch v := v.(type) {
	case stdjson.RawMessage:
		raw = v
	case jsontext.Value:
		raw = v
	default:
		b, err := json.Marshal(v, encodeOptions)
		if err != nil {
			return nil, fmt.Errorf("encode %T: %w", v, err)
		}
		return b, nil
	}
	if raw == nil {
		return []byte("null"), nil
	}
	if !jsontext.Value(raw).IsValid() {
		return nil, fmt.Errorf("encode %T: not valid JSON", v)
	}
	return raw, nil
}

// decodeParams fills out from a call's params; none are an empty object. What does
// not fit is a fault that says where.
func decodeParams(raw []byte, out any) error {
	if len(raw) == 0 {
		raw = []byte("{}")
	}
	value := jsontext.Value(raw)
	if value.Kind() != '{' {
		return violation("", "must be a JSON object")
	}
	switch out := out.(type) {
	case *stdjson.RawMessage:
		return takeWhole(value, out)
	case *jsontext.Value:
		return takeWhole(value, out)
	}
	if err := json.Unmarshal(raw, out, decodeOptions); err != nil {
		pointer, message := explain(err)
		return violation(pointer, message)
	}
	return nil
}

// takeWhole gives an author who asked for raw JSON the params as they came.
func takeWhole[T ~[]byte](value jsontext.Value, out *T) error {
	if !value.IsValid() {
		return violation("", "must be one valid JSON object without duplicate names")
	}
	*out = T(value)
	return nil
}

func violation(pointer, message string) error {
	where := pointer
	if where == "" {
		where = "the params"
	}
	return fault.New(fault.InvalidParams, "Invalid params: "+where+" "+message+".").
		WithDetails([]fault.Violation{{Pointer: pointer, Message: message}})
}

// explain turns a decoding error into a place and a sentence for a stranger. The
// error's own text names Go types, and may quote an author's internals, so none of
// it is used.
func explain(err error) (pointer, message string) {
	if syntactic, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return string(syntactic.JSONPointer), "is not valid JSON (duplicate names and invalid UTF-8 included)"
	}
	var semantic *json.SemanticError
	if !errors.As(err, &semantic) {
		return "", "does not fit the command's schema"
	}
	pointer = string(semantic.JSONPointer)
	switch {
	case errors.Is(semantic.Err, json.ErrUnknownName):
		return pointer, "is not a known member"
	case errors.Is(semantic.Err, strconv.ErrRange):
		return pointer, "is out of range"
	case errors.Is(semantic.Err, errDuration):
		return pointer, errDuration.Error()
	}
	if kind := kindName(semantic.JSONKind); kind != "" {
		return pointer, "does not fit the schema (it is " + kind + ")"
	}
	return pointer, "does not fit the schema"
}

func kindName(k jsontext.Kind) string {
	switch k {
	case 'n':
		return "null"
	case 't', 'f':
		return "a boolean"
	case '"':
		return "a string"
	case '0':
		return "a number"
	case '{', '}':
		return "an object"
	case '[', ']':
		return "an array"
	default:
		return ""
	}
}
