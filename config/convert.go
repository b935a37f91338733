package config

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"
)

func compare(a, b string) int { return cmp.Compare(a, b) }

// convert gives value the type of a field. Its error says what is wanted.
func convert(t reflect.Type, value any, text bool) (any, error) {
	switch t {
	case reflect.TypeFor[time.Duration]():
		s, _ := value.(string)
		d, err := time.ParseDuration(s)
		return d, want(err, "a duration such as 30s or 720h")
	case reflect.TypeFor[Size]():
		size, err := toSize(value)
		return size, want(err, "a size such as 64KiB")
	case reflect.TypeFor[Secret]():
		s, ok := value.(string)
		return Secret(s), wantIf(ok, "a text")
	case reflect.TypeFor[Hosts]():
		list, err := toList(value, text)
		for i := range list {
			list[i] = strings.ToLower(list[i])
		}
		return Hosts(list), err
	case reflect.TypeFor[[]string]():
		return toList(value, text)
	case reflect.TypeFor[[]netip.Prefix]():
		return toPrefixes(value, text)
	case reflect.TypeFor[*bool]():
		v, err := toBool(value, text)
		return &v, err
	}
	switch t.Kind() { //nolint:exhaustive // the kinds that Config has; a test holds every field against this
	case reflect.String:
		s, ok := value.(string)
		return s, wantIf(ok, "a text")
	case reflect.Bool:
		return toBool(value, text)
	case reflect.Int:
		return toInt(value, text)
	case reflect.Float64:
		return toFloat(value, text)
	}
	return nil, errors.New("a value of type " + t.String())
}

func want(err error, what string) error { return wantIf(err == nil, what) }

func wantIf(ok bool, what string) error {
	if ok {
		return nil
	}
	return errors.New(what)
}

func toSize(value any) (Size, error) {
	if s, ok := value.(string); ok {
		return ParseSize(s)
	}
	n, err := toInt(value, false)
	return Size(n), err
}

func toBool(value any, text bool) (bool, error) {
	if s, ok := value.(string); ok && text && (s == "true" || s == "false") {
		return s == "true", nil
	}
	v, ok := value.(bool)
	return v, wantIf(ok, "true or false")
}

func toInt(value any, text bool) (int, error) {
	errWant := errors.New("a whole number")
	switch v := value.(type) {
	case int:
		return v, nil
	case int64:
		return int(v), nil
	case float64: // what JSON gives
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			return int(v), nil
		}
	case string:
		if n, err := strconv.Atoi(v); text && err == nil {
			return n, nil
		}
	}
	return 0, errWant
}

func toFloat(value any, text bool) (float64, error) {
	if v, ok := value.(float64); ok {
		return v, nil
	}
	if s, ok := value.(string); ok && text {
		v, err := strconv.ParseFloat(s, 64)
		return v, want(err, "a number")
	}
	n, err := toInt(value, false)
	return float64(n), want(err, "a number")
}

// toList takes a list of texts; as text, one that is separated by commas.
func toList(value any, text bool) ([]string, error) {
	if s, ok := value.(string); ok && text {
		if strings.TrimSpace(s) == "" {
			return []string{}, nil
		}
		list := strings.Split(s, ",")
		for i := range list {
			list[i] = strings.TrimSpace(list[i])
		}
		return list, nil
	}
	values, ok := value.([]any)
	list := make([]string, 0, len(values))
	for _, v := range values {
		s, isText := v.(string)
		ok = ok && isText
		list = append(list, s)
	}
	return list, wantIf(ok, "a list of texts")
}

func toPrefixes(value any, text bool) ([]netip.Prefix, error) {
	const what = "a list of networks such as 10.0.0.0/8"
	list, err := toList(value, text)
	if err != nil {
		return nil, want(err, what)
	}
	out := make([]netip.Prefix, 0, len(list))
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, want(err, what)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// scalar reads a plugin's setting from the environment: JSON where it is JSON,
// else the text itself.
func scalar(s string) any {
	var v any
	if json.Unmarshal([]byte(s), &v) == nil {
		return v
	}
	return s
}

// describe shows a value from a source in a sentence.
func describe(v any) string {
	switch v := v.(type) {
	case nil:
		return "empty"
	case string:
		return strconv.Quote(shorten(v))
	case map[string]any:
		return "an object"
	}
	return shorten(fmt.Sprint(v))
}

func shorten(s string) string {
	const most = 80
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// show writes a setting as the file would say it.
func show(v reflect.Value) string {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return "true"
		}
		v = v.Elem()
	}
	switch value := v.Interface().(type) {
	case string:
		return value
	case time.Duration:
		return showDuration(value)
	case fmt.Stringer:
		return value.String()
	}
	if v.Kind() == reflect.Slice {
		items := make([]string, v.Len())
		for i := range items {
			items[i] = fmt.Sprint(v.Index(i).Interface())
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
	return fmt.Sprint(v.Interface())
}

// showDuration drops the zero parts: 720h, not 720h0m0s.
func showDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
