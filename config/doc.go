// Package config owns the server's settings: their types, defaults, sources and
// rules.
//
// Sources, the later ones winning: [Default], one file (YAML, TOML or JSON), the
// environment (PLUGBOARD_, two underscores between levels) and flags. The result
// is checked whole: [Load] returns every problem it found, each a sentence that
// names key, source, value and what is allowed, or a configuration in which
// every value is known to be usable.
//
// It refuses unknown keys, values of another type, values out of range, and
// combinations that cannot work or are not safe: an address that others can
// reach without TLS, unless that was said; a path that the server writes to
// beside the programs it runs. What is refused is never replaced by a default.
//
// Every setting is a field of [Config]; its key, explanation and unit are the
// tags of that field, and the example file and the flags are made from them. To
// add one: add the field, its default in [Default] and its range in validate.go,
// then run the tests with -update for the example file.
//
// It has no goroutines and keeps nothing. Neighbours: cmd/plugboard loads,
// core/server hands plain values to the rooms, which never import this package.
package config
