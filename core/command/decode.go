package command

import (
	stdjson "encoding/json"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// value is decoded JSON in the Go types that the schema library validates.
// Numbers keep their digits; duplicate names and broken UTF-8 are refused, so
// that server and plugin cannot read two meanings into the same bytes.
type value struct {
	any     any
	members int
}

// decodeValue reads exactly one JSON value. Its errors are written for the
// sender.
func decodeValue(raw []byte) (any, error) {
	var v value
	if err := json.Unmarshal(raw, &v); err != nil {
		if shape, ok := errors.AsType[*shapeError](err); ok {
			return nil, shape
		}
		if syntax, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
			return nil, fmt.Errorf("not strict JSON at byte %d: %w", syntax.ByteOffset, syntax.Err)
		}
		return nil, errors.New("not one strict JSON value")
	}
	return v.any, nil
}

type shapeError struct{ text string }

func (e *shapeError) Error() string { return e.text }

// UnmarshalJSONFrom borrows the library's pooled decoder.
func (v *value) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	read, err := v.read(d, 0)
	v.any = read
	return err
}

func (v *value) read(d *jsontext.Decoder, depth int) (any, error) {
	if v.members++; v.members > maxMembers {
		return nil, &shapeError{fmt.Sprintf("more than %d members and items", maxMembers)}
	}
	token, err := d.ReadToken()
	if err != nil {
		return nil, err
	}
	switch token.Kind() {
	case '{':
		return v.readObject(d, depth+1)
	case '[':
		return v.readArray(d, depth+1)
	case '"':
		return token.String(), nil
	case '0':
		literal := token.String()
		if err := checkNumber(literal); err != nil {
			return nil, &shapeError{err.Error()}
		}
		return stdjson.Number(literal), nil
	case 't', 'f':
		return token.Bool(), nil
	}
	return nil, nil
}

func (v *value) readObject(d *jsontext.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, tooDeep()
	}
	object := map[string]any{}
	for d.PeekKind() != '}' {
		token, err := d.ReadToken()
		if err != nil {
			return nil, err
		}
		name := token.String()
		if object[name], err = v.read(d, depth); err != nil {
			return nil, err
		}
	}
	_, err := d.ReadToken()
	return object, err
}

func (v *value) readArray(d *jsontext.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, tooDeep()
	}
	array := []any{}
	for d.PeekKind() != ']' {
		item, err := v.read(d, depth)
		if err != nil {
			return nil, err
		}
		array = append(array, item)
	}
	_, err := d.ReadToken()
	return array, err
}

func tooDeep() error {
	return &shapeError{fmt.Sprintf("nested deeper than %d levels", maxDepth)}
}
