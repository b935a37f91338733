package config

import (
	"reflect"
	"slices"
	"strings"
)

// setting is one field of Config, or a group of them.
type setting struct {
	name, key, doc, unit string
	index                []int // of the field, from Config (or Access) down
	kind                 reflect.Type
	children             []setting // of a group
}

func (s setting) isGroup() bool { return s.children != nil }

// isNamed tells settings whose next level is a name chosen by plugins.
func (s setting) isNamed() bool { return s.kind.Kind() == reflect.Map }

// settingsOf reads the tags of a struct type.
func settingsOf(t reflect.Type, parent string, index []int) []setting {
	out := make([]setting, 0, t.NumField())
	for f := range t.Fields() {
		s := setting{
			name: f.Tag.Get("koanf"), doc: f.Tag.Get("doc"), unit: f.Tag.Get("unit"),
			index: append(slices.Clone(index), f.Index...), kind: f.Type,
		}
		s.key = joinKey(parent, s.name)
		if f.Type.Kind() == reflect.Struct {
			s.children = settingsOf(f.Type, s.key, s.index)
		}
		out = append(out, s)
	}
	return out
}

func schema() []setting { return settingsOf(reflect.TypeFor[Config](), "", nil) }

// leaves are the settings themselves, groups opened.
func leaves(in []setting) []setting {
	var out []setting
	for _, s := range in {
		if s.isGroup() {
			out = append(out, leaves(s.children)...)
		} else {
			out = append(out, s)
		}
	}
	return out
}

func joinKey(parent, name string) string {
	if parent == "" {
		return name
	}
	return parent + "." + name
}

func find(in []setting, name string) (setting, bool) {
	i := slices.IndexFunc(in, func(s setting) bool { return s.name == name })
	if i < 0 {
		return setting{}, false
	}
	return in[i], true
}

// nearest is the known key most like key: the same words misspelt, or the right
// last word in the wrong group. It is empty when nothing is close.
func nearest(key string) string {
	best, distance := "", len(key)/3+2
	for _, s := range allKeys(schema()) {
		d := editDistance(key, s)
		if lastWord(s) == lastWord(key) {
			d = min(d, 1)
		}
		if d < distance {
			best, distance = s, d
		}
	}
	return best
}

func allKeys(in []setting) []string {
	var out []string
	for _, s := range in {
		out = append(out, s.key)
		out = append(out, allKeys(s.children)...)
	}
	for _, s := range settingsOf(reflect.TypeFor[Access](), "plugins.access.NAME", nil) {
		if len(in) > 0 && in[0].key == "data_dir" {
			out = append(out, s.key)
		}
	}
	return out
}

func lastWord(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }

// editDistance is Levenshtein's, over bytes; keys longer than any of ours are
// simply far.
func editDistance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return len(a) + len(b)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next := min(row[j]+1, row[j+1]+1, diagonal+cost)
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}
