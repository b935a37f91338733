package config

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/knadh/koanf/parsers/json"
	"github.com/knadh/koanf/parsers/toml/v2"
	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/posflag"
	"github.com/knadh/koanf/providers/rawbytes"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"
	yamlv3 "go.yaml.in/yaml/v3"
)

// delim separates levels inside koanf. Names of commands hold dots, so it is a
// character that no key can hold.
const delim = "\x00"

func (b *builder) file(path string) {
	text, err := readFile(path)
	if err != nil {
		b.refusef("", Origin{path}, "cannot be read: %v", err)
		return
	}
	b.parse(path, text)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	text, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err == nil && len(text) > maxFileBytes {
		err = fmt.Errorf("it is larger than %v", Size(maxFileBytes))
	}
	return text, err
}

func (b *builder) parse(path string, text []byte) {
	var parser koanf.Parser
	switch strings.ToLower(filepath.Ext(path)) {
	case ".yaml", ".yml":
		parser = yaml.Parser()
	case ".toml":
		parser = toml.Parser()
	case ".json":
		parser = json.Parser()
	default:
		b.refusef("", Origin{path}, "has an ending that is not known; want .yaml, .yml, .toml or .json")
		return
	}
	k := koanf.New(delim)
	if err := k.Load(rawbytes.Provider(text), parser); err != nil {
		b.refusef("", Origin{path}, "cannot be parsed: %s", strings.Join(strings.Fields(err.Error()), " "))
		return
	}
	lines, duplicate := map[string]int{}, ""
	if filepath.Ext(path) != ".toml" {
		lines, duplicate = linesOf(text)
	}
	if duplicate != "" {
		b.refusef(duplicate, Origin{fmt.Sprintf("%s:%d", path, lines[duplicate])}, "is written twice; want it once")
	}
	at := func(key string) Origin {
		if line, ok := lines[key]; ok {
			return Origin{fmt.Sprintf("%s:%d", path, line)}
		}
		return Origin{path}
	}
	b.group(b.settings, reflect.ValueOf(&b.config).Elem(), "", k.Raw(), at)
}

// linesOf maps the keys of a YAML or JSON text to their lines, and names a key
// that is there twice (the JSON parser would take the last silently).
func linesOf(text []byte) (lines map[string]int, duplicate string) {
	lines = map[string]int{}
	var doc yamlv3.Node
	if yamlv3.Unmarshal(text, &doc) != nil {
		return lines, ""
	}
	var walk func(n *yamlv3.Node, parent string)
	walk = func(n *yamlv3.Node, parent string) {
		if n.Kind == yamlv3.DocumentNode {
			for _, c := range n.Content {
				walk(c, parent)
			}
		}
		if n.Kind != yamlv3.MappingNode {
			return
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := joinKey(parent, n.Content[i].Value)
			if _, twice := lines[key]; twice && duplicate == "" {
				duplicate = key
			}
			lines[key] = n.Content[i].Line
			walk(n.Content[i+1], key)
		}
	}
	walk(&doc, "")
	return lines, duplicate
}

// group takes one level of a file.
func (b *builder) group(settings []setting, root reflect.Value, parent string, values map[string]any, at func(string) Origin) {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		key := joinKey(parent, name)
		s, known := find(settings, name)
		switch {
		case !known:
			b.unknown(key, at(key))
		case !s.isGroup() && !s.isNamed():
			b.set(s, root, values[name], at(key), false)
		case values[name] == nil: // a heading with everything under it commented out
		default:
			object, ok := values[name].(map[string]any)
			switch {
			case !ok:
				b.refusef(key, at(key), "is %s; want an object with keys of its own", describe(values[name]))
			case s.isGroup():
				b.group(s.children, root, key, object, at)
			default:
				for _, sub := range slices.Sorted(maps.Keys(object)) {
					b.named(s, sub, object[sub], at)
				}
			}
		}
	}
}

// named takes one entry of plugins.settings, plugins.grants or plugins.access.
func (b *builder) named(s setting, name string, value any, at func(string) Origin) {
	key := joinKey(s.key, name)
	if s.name == "grants" {
		list, err := toList(value, false)
		if err != nil {
			b.refusef(key, at(key), "is %s; want %v", describe(value), err)
			return
		}
		b.config.Plugins.Grants[name] = list
		b.origins[key] = at(key)
		return
	}
	object, ok := value.(map[string]any)
	if !ok {
		b.refusef(key, at(key), "is not an object; want one with keys of its own")
		return
	}
	if s.name == "settings" {
		b.config.Plugins.Settings[name] = object
		b.origins[key] = at(key)
		return
	}
	access := b.config.Plugins.Access[name]
	b.group(settingsOf(reflect.TypeFor[Access](), key, nil), reflect.ValueOf(&access).Elem(), key, object, at)
	b.config.Plugins.Access[name] = access
}

// set converts one value into its field. text tells values from the environment
// and flags, which are always texts.
func (b *builder) set(s setting, root reflect.Value, value any, o Origin, text bool) {
	delete(b.bad, s.key)
	converted, err := convert(s.kind, value, text)
	if err != nil {
		shown := describe(value)
		if s.kind == reflect.TypeFor[Secret]() {
			shown = mask
		}
		b.refusef(s.key, o, "is %s; want %v", shown, err)
		return
	}
	root.FieldByIndex(s.index).Set(reflect.ValueOf(converted))
	b.origins[s.key] = o
}

const envPrefix = "PLUGBOARD_"

// environment takes the variables; those of the command line client are not
// settings of the server.
func (b *builder) environment(environ []string) {
	k := koanf.New(delim)
	err := k.Load(env.Provider("", env.Opt{
		Prefix: envPrefix, EnvironFunc: func() []string { return environ },
		TransformFunc: func(name, value string) (string, any) {
			if name == "PLUGBOARD_USER" || name == "PLUGBOARD_SERVER" {
				return "", nil
			}
			return name, value
		},
	}), nil)
	if err != nil {
		b.refusef("", Origin{"environment"}, "cannot be read: %v", err)
		return
	}
	values := k.Raw()
	for _, name := range slices.Sorted(maps.Keys(values)) {
		path := strings.Split(strings.ToLower(strings.TrimPrefix(name, envPrefix)), "__")
		text, _ := values[name].(string) // the provider gives texts only
		b.text(path, text, Origin{"environment " + name})
	}
}

// flags takes those flags of AddFlags that were given.
func (b *builder) flags(set *pflag.FlagSet) {
	known := map[string]bool{}
	for _, s := range leaves(b.settings) {
		known[s.key] = true
	}
	k := koanf.New(delim)
	err := k.Load(posflag.ProviderWithFlag(set, delim, nil, func(f *pflag.Flag) (string, any) {
		if !known[f.Name] {
			return "", nil
		}
		return f.Name, f.Value.String()
	}), nil)
	if err != nil {
		b.refusef("", Origin{"flags"}, "cannot be read: %v", err)
		return
	}
	values := k.Raw()
	for _, name := range slices.Sorted(maps.Keys(values)) {
		text, _ := values[name].(string) // the callback gives texts only
		b.text(strings.Split(name, "."), text, Origin{"flag --" + name})
	}
}

// text takes one value given as text under the path of its key.
func (b *builder) text(path []string, value string, o Origin) {
	key := strings.Join(path, ".")
	settings := b.settings
	for i, name := range path {
		s, known := find(settings, name)
		rest := path[i+1:]
		switch {
		case !known:
			b.unknown(key, o)
			return
		case s.isNamed() && len(rest) > 0 && rest[0] != "":
			b.namedText(s, rest, value, o)
			return
		case !s.isGroup() && !s.isNamed() && len(rest) == 0:
			b.set(s, reflect.ValueOf(&b.config).Elem(), value, o, true)
			return
		case !s.isGroup():
			b.unknown(key, o)
			return
		}
		settings = s.children
	}
	b.refusef(key, o, "is a group of keys; want one of them, such as %s", settings[0].key)
}

func (b *builder) namedText(s setting, path []string, value string, o Origin) {
	name := path[0]
	key := joinKey(s.key, name)
	switch {
	case s.name == "grants" && len(path) == 1:
		list, _ := toList(value, true) // every text is a list
		b.config.Plugins.Grants[name] = list
		b.origins[key] = o
	case s.name == "settings" && len(path) > 1:
		if err := setNested(&b.config, name, path[1:], value); err != nil {
			b.refusef(joinKey(s.key, strings.Join(path, ".")), o, "%v", err)
			return
		}
		b.origins[key] = o
	case s.name == "access" && len(path) == 2:
		field, known := find(settingsOf(reflect.TypeFor[Access](), key, nil), path[1])
		if !known {
			b.unknown(joinKey(key, path[1]), o)
			return
		}
		access := b.config.Plugins.Access[name]
		b.set(field, reflect.ValueOf(&access).Elem(), value, o, true)
		b.config.Plugins.Access[name] = access
	default:
		b.unknown(joinKey(s.key, strings.Join(path, ".")), o)
	}
}

var errNotObject = errors.New("lies under a key that already has a value; want an object there")

func setNested(c *Config, name string, path []string, value string) error {
	at := c.Plugins.Settings[name]
	if at == nil {
		at = map[string]any{}
		c.Plugins.Settings[name] = at
	}
	for _, level := range path[:len(path)-1] {
		next, exists := at[level]
		if !exists {
			next = map[string]any{}
			at[level] = next
		}
		object, ok := next.(map[string]any)
		if !ok {
			return errNotObject
		}
		at = object
	}
	at[path[len(path)-1]] = scalar(value)
	return nil
}
