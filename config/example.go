package config

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// AddFlags adds one flag per setting, named by its key, such as --server.listen;
// lists are separated by commas. Settings per plugin and command have none.
func AddFlags(set *pflag.FlagSet) {
	defaults := reflect.ValueOf(Default())
	for _, s := range leaves(schema()) {
		if s.isNamed() {
			continue
		}
		usage := s.doc
		if shown := show(defaults.FieldByIndex(s.index)); shown != "" {
			usage += " (default " + shown + ")"
		}
		set.String(s.key, "", usage)
		if s.kind.Kind() == reflect.Bool {
			set.Lookup(s.key).NoOptDefVal = "true"
		}
	}
}

// Example is a YAML file with every setting at its default, commented out and
// explained.
func Example() []byte {
	var out bytes.Buffer
	out.WriteString("# Every setting of Plugboard with its default. Remove the # before a line to change it.\n")
	out.WriteString("# Made by: plugboard config example\n")
	writeExample(&out, schema(), reflect.ValueOf(Default()), 0)
	return out.Bytes()
}

func writeExample(out *bytes.Buffer, settings []setting, root reflect.Value, depth int) {
	pad := strings.Repeat("  ", depth)
	for _, s := range settings {
		fmt.Fprintf(out, "\n%s# %s\n", pad, s.doc)
		if s.isGroup() {
			fmt.Fprintf(out, "%s%s:\n", pad, s.name)
			writeExample(out, s.children, root, depth+1)
			continue
		}
		if s.unit != "" {
			fmt.Fprintf(out, "%s# Unit: %s.\n", pad, s.unit)
		}
		v := root.FieldByIndex(s.index)
		if s.isNamed() {
			writeNamed(out, s, v, pad)
			continue
		}
		fmt.Fprintf(out, "%s# %s: %s\n", pad, s.name, yamlScalar(v))
	}
}

func writeNamed(out *bytes.Buffer, s setting, v reflect.Value, pad string) {
	if v.Len() == 0 {
		fmt.Fprintf(out, "%s# %s: {}\n", pad, s.name)
	} else {
		fmt.Fprintf(out, "%s# %s:\n", pad, s.name)
	}
	names := v.MapKeys()
	slices.SortFunc(names, func(a, b reflect.Value) int { return compare(a.String(), b.String()) })
	for _, name := range names {
		fmt.Fprintf(out, "%s#   %s: %s\n", pad, name, show(v.MapIndex(name)))
	}
	if v.Type().Elem() != reflect.TypeFor[Access]() {
		return
	}
	fmt.Fprintf(out, "%s# The keys of an entry:\n", pad)
	for _, field := range settingsOf(v.Type().Elem(), "", nil) {
		fmt.Fprintf(out, "%s#   %s: %s (%s)\n", pad, field.name, field.doc, field.unit)
	}
}

func yamlScalar(v reflect.Value) string {
	text := show(v)
	if v.Kind() == reflect.String && (text == "" || text == "off" || text == "on") {
		return strconv.Quote(text)
	}
	return text
}
