package wire

import (
	"bytes"
	"errors"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/plugboard/plugboard/sdk/fault"
)

// Bounds on the shape of foreign JSON. The parser's own nesting limit of 10,000
// would let a 64 KiB frame cost a deep stack.
const (
	maxDepth   = 64
	maxMembers = 10_000
)

// object is one strict JSON object, its known members kept as the raw bytes they
// came in. The getters note the first thing that is wrong and go on, so that
// reading a frame is a flat list; the caller looks at err once, at the end.
type object struct {
	known  []string
	found  []member
	unfold string // a name that equals a known one only after case folding
	err    *fault.Error
}

type member struct {
	name string
	raw  []byte
}

// parseObject reads data, which must be exactly one object. The raw members
// alias data.
func parseObject(data []byte, known []string) (*object, error) {
	if err := checkShape(data); err != nil {
		return nil, err
	}
	o := &object{known: known, found: make([]member, 0, 12)}
	if err := json.Unmarshal(data, &objectReader{object: o, data: data}); err != nil {
		return nil, badJSON(err)
	}
	if o.unfold != "" {
		o.err = fault.Newf(fault.BadJSON, "Member %q differs from a known member only by case; names are lower case.", o.unfold)
	}
	return o, nil
}

// objectReader borrows the JSON library's pooled decoder through its
// unmarshaller hook.
type objectReader struct {
	object *object
	data   []byte
}

func (r *objectReader) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if d.PeekKind() != '{' {
		if err := d.SkipValue(); err != nil {
			return err
		}
		return errNotObject
	}
	if _, err := d.ReadToken(); err != nil {
		return err
	}
	for d.PeekKind() != '}' {
		name, err := d.ReadValue()
		if err != nil {
			return err
		}
		known, err := r.object.lookUp(name)
		if err != nil {
			return err
		}
		value, err := d.ReadValue()
		if err != nil {
			return err
		}
		if known != "" {
			end := int(d.InputOffset())
			r.object.found = append(r.object.found, member{known, r.data[end-len(value) : end]})
		}
	}
	_, err := d.ReadToken()
	return err
}

var errNotObject = errors.New("not an object")

// lookUp returns the known name that the quoted name is, or "".
func (o *object) lookUp(quoted jsontext.Value) (string, error) {
	name := unquoted(quoted)
	if name == nil {
		var err error
		if name, err = jsontext.AppendUnquote(nil, quoted); err != nil {
			return "", err
		}
	}
	for _, k := range o.known {
		if k == string(name) {
			return k, nil
		}
	}
	if o.unfold == "" && slices.ContainsFunc(o.known, func(k string) bool { return strings.EqualFold(k, string(name)) }) {
		o.unfold = string(name)
	}
	return "", nil
}

// unquoted is the inside of a string without escapes, which the decoder has
// already found to be UTF-8: nearly every string of the protocol. nil means that
// there are escapes to undo.
func unquoted(quoted []byte) []byte {
	if bytes.IndexByte(quoted, '\\') >= 0 {
		return nil
	}
	return quoted[1 : len(quoted)-1]
}

// checkShape bounds nesting and size before the parser allocates anything.
func checkShape(data []byte) error {
	depth, members, quoted, escaped := 0, 0, false, false
	for _, c := range data {
		switch {
		case escaped:
			escaped = false
		case quoted:
			escaped = c == '\\'
			quoted = c != '"'
		case c == '"':
			quoted = true
		case c == '{' || c == '[':
			depth++
			members++
		case c == '}' || c == ']':
			depth--
		case c == ',':
			members++
		}
		if depth > maxDepth {
			return fault.Newf(fault.BadJSON, "The JSON is nested deeper than %d levels.", maxDepth)
		}
		if members > maxMembers {
			return fault.Newf(fault.BadJSON, "The JSON has more than %d members.", maxMembers)
		}
	}
	return nil
}

func badJSON(err error) error {
	var syntactic *jsontext.SyntacticError
	switch {
	case errors.Is(err, errNotObject):
		return fault.New(fault.BadJSON, "The JSON must be one object.")
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return fault.New(fault.BadJSON, "The JSON ends too early.")
	case errors.Is(err, jsontext.ErrDuplicateName):
		return fault.New(fault.BadJSON, "The JSON has a member name twice.")
	case errors.As(err, &syntactic):
		return fault.Newf(fault.BadJSON, "The JSON is not valid at byte %d.", syntactic.ByteOffset)
	}
	return fault.New(fault.BadJSON, "The JSON is not valid.")
}

func (o *object) fail(name, rule string) {
	if o.err == nil {
		o.err = fault.Newf(fault.InvalidRequest, "Member %q %s.", name, rule)
	}
}

func (o *object) raw(name string) ([]byte, bool) {
	for _, m := range o.found {
		if m.name == name {
			return m.raw, true
		}
	}
	return nil, false
}

func kindOf(raw []byte) jsontext.Kind { return jsontext.Value(raw).Kind() }

// text reads an optional string.
func (o *object) text(name string) string {
	raw, ok := o.raw(name)
	if !ok {
		return ""
	}
	if kindOf(raw) != '"' {
		o.fail(name, "must be a string")
		return ""
	}
	if plain := unquoted(raw); plain != nil {
		return string(plain)
	}
	s, err := jsontext.AppendUnquote(nil, raw)
	if err != nil {
		o.fail(name, "must be a string")
	}
	return string(s)
}

// required is text that must be there.
func (o *object) required(name string) string {
	if _, ok := o.raw(name); !ok {
		o.fail(name, "is missing")
		return ""
	}
	return o.text(name)
}

// integer reads an optional whole number, 0 … 2^53 − 1, without fraction,
// exponent or sign.
func (o *object) integer(name string) uint64 {
	raw, ok := o.raw(name)
	if !ok {
		return 0
	}
	const rule = "must be a whole number from 0 to 9007199254740991 without fraction or exponent"
	n, err := strconv.ParseUint(string(raw), 10, 64)
	if err != nil || n > MaxInteger {
		o.fail(name, rule)
		return 0
	}
	return n
}

func (o *object) requiredInteger(name string) uint64 {
	if _, ok := o.raw(name); !ok {
		o.fail(name, "is missing")
	}
	return o.integer(name)
}

// number reads an optional number.
func (o *object) number(name string) *float64 {
	raw, ok := o.raw(name)
	if !ok || kindOf(raw) == 'n' {
		return nil
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if kindOf(raw) != '0' || err != nil {
		o.fail(name, "must be a number")
		return nil
	}
	return &f
}

// milliseconds reads an optional wait; one too long for a Duration is cut to the
// longest, so that no foreign number turns negative.
func (o *object) milliseconds(name string) time.Duration {
	return time.Duration(min(o.integer(name), uint64(math.MaxInt64/time.Millisecond))) * time.Millisecond // bounded here
}

// binary reads a required base64 value of exactly size bytes; size < 0 is any.
func (o *object) binary(name string, size int) []byte {
	s := o.required(name)
	if o.err != nil {
		return nil
	}
	b, err := DecodeBase64(s)
	if err != nil {
		o.fail(name, ruleBase64)
		return nil
	}
	if size >= 0 && len(b) != size {
		o.fail(name, "must be "+strconv.Itoa(size)+" bytes in base64")
		return nil
	}
	return b
}

// list reads an optional array of objects with the known members.
func (o *object) list(name string, known []string, each func(*object)) {
	raw, ok := o.raw(name)
	if !ok {
		return
	}
	var items []jsontext.Value
	if kindOf(raw) != '[' || json.Unmarshal(raw, &items) != nil {
		o.fail(name, "must be a list")
		return
	}
	for i, item := range items {
		sub, err := parseObject(item, known)
		if err != nil {
			o.fail(name, "must be a list of objects; entry "+strconv.Itoa(i)+" is none")
			return
		}
		each(sub)
		if sub.err != nil && o.err == nil {
			o.err = fault.Newf(sub.err.Code, "In %q, entry %d: %s", name, i, sub.err.Message)
			return
		}
	}
}

// result is the first thing that was wrong, as an error that compares to nil.
func (o *object) result() error {
	if o.err != nil {
		return o.err
	}
	return nil
}
