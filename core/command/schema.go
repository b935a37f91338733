package command

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"

	"github.com/plugboard/plugboard/sdk/fault"
)

const (
	draft2020 = "https://json-schema.org/draft/2020-12/schema"
	// schemaURL is the base against which a schema's own references are resolved;
	// no loader knows it, so nothing else can be reached from it.
	schemaURL = "plugboard://schema/command.json"

	maxViolations = 20
)

// anyObject stands in where a plugin gave no params schema.
const anyObject = `{"type":"object"}`

// schema is a compiled JSON Schema with its source.
type schema struct {
	compiled *jsonschema.Schema
	source   []byte
}

// noLoader refuses every reference to the outside: a schema must not make the
// server read a file or fetch a page.
type noLoader struct{}

func (noLoader) Load(url string) (any, error) {
	return nil, fmt.Errorf("reference %q leaves the schema; put what it needs under $defs", url)
}

func compileSchema(source []byte) (*schema, error) {
	if len(source) == 0 {
		source = []byte(anyObject)
	}
	doc, err := decodeValue(source)
	if err != nil {
		return nil, err
	}
	root, ok := doc.(map[string]any)
	if !ok {
		return nil, errors.New("want a JSON object")
	}
	if dialect, ok := root["$schema"]; ok && dialect != draft2020 {
		return nil, fmt.Errorf("$schema is %v, want %q or none", dialect, draft2020)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.UseLoader(noLoader{})
	if err := c.AddResource(schemaURL, doc); err != nil {
		return nil, fmt.Errorf("add schema: %w", err)
	}
	compiled, err := c.Compile(schemaURL)
	if err != nil {
		return nil, fmt.Errorf("compile schema: %w", err)
	}
	return &schema{compiled: compiled, source: bytes.Clone(source)}, nil
}

// normalParams makes {} of what a surface may leave out.
func normalParams(raw []byte) []byte {
	if trimmed := bytes.TrimSpace(raw); len(trimmed) == 0 || string(trimmed) == "null" {
		return []byte("{}")
	}
	return raw
}

// validate holds params against the schema. The error is a *fault.Error with
// invalid_params, whose details name up to 20 places.
func (s *schema) validate(params []byte) error {
	value, err := decodeValue(params)
	if err != nil {
		return invalidParams([]fault.Violation{{Message: err.Error()}})
	}
	if _, ok := value.(map[string]any); !ok {
		return invalidParams([]fault.Violation{{Message: "params must be an object"}})
	}
	err = s.compiled.Validate(value)
	if err == nil {
		return nil
	}
	var broken *jsonschema.ValidationError
	if !errors.As(err, &broken) {
		return fmt.Errorf("validate params: %w", err)
	}
	return invalidParams(violations(broken))
}

func invalidParams(v []fault.Violation) error {
	first := v[0].Message
	if v[0].Pointer != "" {
		first = v[0].Pointer + ": " + first
	}
	text := "The params do not fit the command: " + first + "."
	if len(v) > 1 {
		text = fmt.Sprintf("The params do not fit the command in %d places, first %s.", len(v), first)
	}
	return fault.New(fault.InvalidParams, text).WithDetails(v)
}

// violations flattens the tree of a failed validation to its leaves, in the
// order of their pointers.
func violations(root *jsonschema.ValidationError) []fault.Violation {
	var all []fault.Violation
	english := message.NewPrinter(language.English)
	var walk func(e *jsonschema.ValidationError)
	walk = func(e *jsonschema.ValidationError) {
		// The branches of anyOf and oneOf contradict one another: the node itself
		// says more than its leaves.
		if len(e.Causes) > 0 && !isAlternative(e.ErrorKind) {
			for _, cause := range e.Causes {
				walk(cause)
			}
			return
		}
		all = append(all, leaf(e, english)...)
	}
	walk(root)
	slices.SortStableFunc(all, func(a, b fault.Violation) int { return strings.Compare(a.Pointer, b.Pointer) })
	all = slices.Compact(all)
	return all[:min(len(all), maxViolations)]
}

func isAlternative(k jsonschema.ErrorKind) bool {
	switch k.(type) {
	case *kind.AnyOf, *kind.OneOf:
		return true
	}
	return false
}

// leaf says one broken rule in words for people. A member that is missing or too
// many is pointed to itself, so that a form can mark it.
func leaf(e *jsonschema.ValidationError, p *message.Printer) []fault.Violation {
	at := pointer(e.InstanceLocation)
	one := func(text string) []fault.Violation { return []fault.Violation{{Pointer: at, Message: text}} }
	members := func(names []string, text string) []fault.Violation {
		v := make([]fault.Violation, 0, len(names))
		for _, name := range names {
			v = append(v, fault.Violation{Pointer: at + pointer([]string{name}), Message: text})
		}
		return v
	}
	switch k := e.ErrorKind.(type) {
	case *kind.Required:
		return members(k.Missing, "is missing")
	case *kind.AdditionalProperties:
		return members(k.Properties, "is not a parameter of this command")
	case *kind.Type:
		return one("must be " + strings.Join(k.Want, " or ") + ", not " + k.Got)
	case *kind.MinLength:
		return one(p.Sprintf("must be at least %d characters long, not %d", k.Want, k.Got))
	case *kind.MaxLength:
		return one(p.Sprintf("must be at most %d characters long, not %d", k.Want, k.Got))
	case *kind.MinItems:
		return one(p.Sprintf("must have at least %d items, not %d", k.Want, k.Got))
	case *kind.MaxItems:
		return one(p.Sprintf("must have at most %d items, not %d", k.Want, k.Got))
	case *kind.AnyOf:
		return one("fits none of the forms that are allowed here")
	case *kind.OneOf:
		return one("must fit exactly one of the forms that are allowed here")
	case *kind.FalseSchema:
		return one("is not allowed here")
	}
	return one(clip(e.ErrorKind.LocalizedString(p), 300))
}

// pointer is a JSON Pointer (RFC 6901).
func pointer(parts []string) string {
	var b strings.Builder
	for _, part := range parts {
		b.WriteByte('/')
		b.WriteString(strings.NewReplacer("~", "~0", "/", "~1").Replace(part))
	}
	return clip(b.String(), 500)
}

// clip shortens s to about limit bytes, at a character's border.
func clip(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}

// The shape of a schema, of params and of a result: bounds that keep foreign
// JSON from costing a deep stack or a big table.
const (
	maxDepth   = 64
	maxMembers = 10_000
	// maxExponent bounds a number's decimal exponent: comparing numbers exactly
	// makes 1e999999 a megabyte of digits.
	maxExponent     = 400
	maxNumberLength = 512
)

func checkNumber(literal string) error {
	if len(literal) > maxNumberLength {
		return fmt.Errorf("a number has more than %d characters", maxNumberLength)
	}
	if i := strings.IndexAny(literal, "eE"); i >= 0 {
		exp, err := strconv.Atoi(strings.TrimPrefix(literal[i+1:], "+"))
		if err != nil || exp > maxExponent || exp < -maxExponent {
			return fmt.Errorf("a number's exponent is not between -%d and %d", maxExponent, maxExponent)
		}
	}
	if _, err := strconv.ParseFloat(literal, 64); err != nil {
		return errors.New("a number is beyond the range of a double (IEEE 754)")
	}
	return nil
}

// checkResult holds a plugin's answer against the rules of JSON in this protocol.
func checkResult(raw []byte) error {
	if !jsontext.Value(raw).IsValid() {
		return errors.New("not one JSON value in strict UTF-8 without duplicate names")
	}
	depth, deepest, members, quoted := 0, 0, 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case c == '"':
			quoted = !quoted
		case quoted && c == '\\':
			i++
		case quoted:
		case c == '{' || c == '[':
			depth++
			deepest = max(deepest, depth)
		case c == '}' || c == ']':
			depth--
		case c == ',':
			members++
		}
	}
	if deepest > maxDepth {
		return fmt.Errorf("nested deeper than %d levels", maxDepth)
	}
	if members > maxMembers {
		return fmt.Errorf("more than %d members and items", maxMembers)
	}
	return nil
}
