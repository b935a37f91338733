package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"

	"github.com/spf13/pflag"
)

// Options is where [Load] looks.
type Options struct {
	// File is the configuration file; empty tries plugboard.yaml in the working
	// directory, then /etc/plugboard/plugboard.yaml, and does without.
	File string
	// Flags holds the flags of [AddFlags], parsed; nil is none.
	Flags *pflag.FlagSet
	// Environ is the environment as os.Environ gives it; nil is empty.
	Environ []string
}

// Loaded is a configuration that was found good, and where it came from.
type Loaded struct {
	// Config is complete: derived values are filled in.
	Config  Config
	origins map[string]Origin
}

// Value is one setting in force.
type Value struct {
	Key, Value string // a secret value is masked
	Origin     Origin
	Doc        string
}

// maxFileBytes bounds a configuration file.
const maxFileBytes = 1 << 20

// Load reads all sources and checks the result. A wrong configuration is an
// *[Error] with every problem; a missing file is one only when it was named.
func Load(o Options) (*Loaded, error) {
	b := newBuilder()
	if path := filePath(o.File); path != "" {
		b.file(path)
	}
	b.environment(o.Environ)
	if o.Flags != nil {
		b.flags(o.Flags)
	}
	return b.finish()
}

// CheckFile reads and checks one file alone, over the defaults. Its error is as
// [Load]'s.
func CheckFile(path string) error {
	b := newBuilder()
	b.file(path)
	_, err := b.finish()
	return err
}

func filePath(named string) string {
	if named != "" {
		return named
	}
	for _, path := range []string{"plugboard.yaml", "/etc/plugboard/plugboard.yaml"} {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			return path
		}
	}
	return ""
}

// builder lays source over source and collects what is wrong.
type builder struct {
	config   Config
	settings []setting
	origins  map[string]Origin
	problems []Problem
	bad      map[string]bool // keys with a problem: not checked again
}

func newBuilder() *builder {
	return &builder{config: Default(), settings: schema(), origins: map[string]Origin{}, bad: map[string]bool{}}
}

func (b *builder) refusef(key string, o Origin, format string, args ...any) {
	b.problems = append(b.problems, Problem{Key: key, Origin: o, Text: fmt.Sprintf(format, args...)})
	b.bad[key] = true
}

func (b *builder) unknown(key string, o Origin) {
	hint := "plugboard config example shows all keys"
	if near := nearest(key); near != "" {
		hint = "did you mean " + near + "?"
	}
	b.refusef(key, o, "is no known key; %s", hint)
}

// finish derives what is left empty, checks everything and gives the result out.
func (b *builder) finish() (*Loaded, error) {
	b.derive()
	b.validate()
	if len(b.problems) > 0 {
		return nil, &Error{Problems: b.problems}
	}
	return &Loaded{Config: b.config, origins: b.origins}, nil
}

// derive fills values that follow from others or from the machine.
func (b *builder) derive() {
	c := &b.config
	if c.Auth.Keys == "" {
		c.Auth.Keys = filepath.Join(c.DataDir, "keys")
	}
	if c.Storage.DSN == "" {
		c.Storage.DSN = Secret(filepath.Join(c.DataDir, "plugboard.db"))
	}
	if len(c.Server.Hosts) == 0 {
		c.Server.Hosts = defaultHosts(c.Server.Listen)
	}
	if c.Plugins.Dir == "" {
		exe, err := os.Executable()
		if err != nil {
			b.refusef("plugins.dir", Origin{}, "has no default here, because the executable's own path is not known; set it")
			return
		}
		c.Plugins.Dir = filepath.Join(filepath.Dir(exe), "plugins")
	}
}

// Values lists every setting in force in the order of the struct; settings per
// plugin or command have an entry for each name.
func (l *Loaded) Values() []Value {
	var out []Value
	root := reflect.ValueOf(l.Config)
	for _, s := range leaves(schema()) {
		v := root.FieldByIndex(s.index)
		if !s.isNamed() {
			out = append(out, Value{Key: s.key, Value: show(v), Origin: l.origins[s.key], Doc: s.doc})
			continue
		}
		names := v.MapKeys()
		slices.SortFunc(names, func(a, b reflect.Value) int { return compare(a.String(), b.String()) })
		for _, name := range names {
			out = append(out, l.named(s, name.String(), v.MapIndex(name))...)
		}
	}
	return out
}

func (l *Loaded) named(s setting, name string, v reflect.Value) []Value {
	key := joinKey(s.key, name)
	if v.Kind() != reflect.Struct {
		value := Value{Key: key, Value: show(v), Origin: l.origins[key], Doc: s.doc}
		if s.name == "settings" {
			value.Value = mask // a plugin's settings may hold anything, passwords too
		}
		return []Value{value}
	}
	var out []Value
	for _, field := range settingsOf(v.Type(), key, nil) {
		out = append(out, Value{Key: field.key, Value: show(v.FieldByIndex(field.index)), Origin: l.origins[field.key], Doc: field.doc})
	}
	return out
}
