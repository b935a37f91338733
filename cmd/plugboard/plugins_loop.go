package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/plugboard/plugboard/core"
)

// editLoop builds a plugin when its sources change and has a scratch server run it.
// One goroutine uses it; beside it run the server, the watcher and the prompt, which
// all end before [editLoop.run] returns.
type editLoop struct {
	// Fixed.
	o        runOptions
	source   source
	dir      string // the scratch directory
	settings map[string]any
	console  *console
	in       io.Reader

	tree    *treeWatch
	server  *scratchServer
	name    string // of the plugin, as its first build told
	serves  string // the version that does, "" while there is none
	placed  string // the hash of what was put in place last
	greeted bool
}

func (l *editLoop) run(ctx context.Context) (err error) {
	for _, part := range []string{l.buildDir(), l.pluginsDir()} {
		if err := os.Mkdir(part, 0o700); err != nil {
			return fmt.Errorf("make scratch directory: %w", err)
		}
	}
	if l.tree, err = watchTree(l.source, l.dir); err != nil {
		return err
	}
	defer l.tree.close()
	first, err := l.first(ctx)
	if first == nil {
		return err
	}
	l.name = first.name
	if l.server, err = startScratch(ctx, l, first); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.server.close()) }()
	l.place(ctx, first)
	l.tree.addAll(l.source.packages(ctx))
	return l.follow(ctx)
}

func (l *editLoop) buildDir() string   { return filepath.Join(l.dir, "build") }
func (l *editLoop) pluginsDir() string { return filepath.Join(l.dir, "plugins") }

// first builds until there is something to run. At a terminal somebody mends what
// does not build; a script is told at once. Without an error and without a result
// ctx has ended.
func (l *editLoop) first(ctx context.Context) (*artifact, error) {
	for {
		made, err := l.build(ctx)
		switch {
		case err == nil:
			return made, nil
		case ctx.Err() != nil:
			return nil, nil //nolint:nilerr // the person's wish
		case !isTerminalInput(l.in):
			return nil, err
		}
		l.console.say("%v; waiting for a change", err)
		select {
		case <-ctx.Done():
			return nil, nil
		case <-l.tree.changed:
		}
	}
}

// build makes the plugin, saying how long it took; what the compiler has to say goes
// to the console.
func (l *editLoop) build(ctx context.Context) (*artifact, error) {
	began := time.Now()
	made, err := l.source.make(ctx, filepath.Join(l.buildDir(), "plugin"), l.o.name, l.console)
	took := time.Since(began).Seconds()
	if err != nil {
		return nil, fmt.Errorf("not built, after %.1f s: %w", took, err)
	}
	l.console.say("built in %.1f s", took)
	return made, nil
}

// follow takes changes and what is typed until the input or ctx ends, or the server
// does.
func (l *editLoop) follow(ctx context.Context) error {
	asking, stop := context.WithCancel(ctx)
	typed := make(chan error, 1)
	var typing sync.WaitGroup
	typing.Go(func() { typed <- prompt(asking, l.in, l.console, l.server.client) })
	defer typing.Wait()
	defer stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-typed:
			return err
		case <-l.server.ended:
			return errors.New("the scratch server ended by itself")
		case <-l.tree.changed:
			l.again(ctx)
		}
	}
}

// again builds and puts the result in the place of what serves.
func (l *editLoop) again(ctx context.Context) {
	made, err := l.build(ctx)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		l.console.say("%v; %s", err, l.goesOn())
	case made.name != l.name:
		l.console.say("the plugin calls itself %s now: end this and run it again; %s", made.name, l.goesOn())
	case made.sum == l.placed:
		l.console.say("nothing changed by that")
	default:
		l.place(ctx, made)
	}
	l.tree.addAll(l.source.packages(ctx))
}

func (l *editLoop) goesOn() string {
	if l.serves == "" {
		return "nothing serves so far"
	}
	return "version " + l.serves + " goes on"
}

// placeTimeout bounds a start and a swap; the server's own limit, which it tells
// about, comes first.
const placeTimeout = time.Minute

// place moves what was built into the plugins directory and tells what the server
// made of it.
func (l *editLoop) place(ctx context.Context, made *artifact) {
	ctx, cancel := context.WithTimeout(ctx, placeTimeout)
	defer cancel()
	err := os.Rename(made.path, filepath.Join(l.pluginsDir(), l.name))
	if err == nil {
		l.placed = made.sum
		err = l.server.plugins.Reload(ctx)
	}
	var d core.PluginDetail
	if err == nil {
		d, err = l.server.plugins.Plugin(l.name)
	}
	switch {
	case errors.Is(err, context.Canceled):
	case err != nil:
		l.console.say("not in place: %v; %s", err, l.goesOn())
	case d.SHA256 != made.sum || d.PID == 0:
		l.console.say("refused by the server: %s", refusalOf(d))
	default:
		l.serving(d)
	}
}

// refusalOf is why a plugin does not run as its file would have it.
func refusalOf(d core.PluginDetail) string {
	switch {
	case d.Error != "":
		return d.Error
	case d.RolledBack != "":
		return d.RolledBack
	}
	return "it is " + d.State
}

// serving tells of a new version, and at the first time how to call it.
func (l *editLoop) serving(d core.PluginDetail) {
	how := "swapped"
	if l.serves == "" {
		how = "started"
	}
	l.serves = d.Version
	n := len(d.Commands)
	l.console.say("version %s serves (%s, %d %s)", d.Version, how, n, plural(uint64(n), "command"))
	var missing []string
	for _, need := range d.Needs {
		if !slices.Contains(d.Grants, need) {
			missing = append(missing, need)
		}
	}
	if len(missing) > 0 {
		l.console.say("it asks for %s, which --grant does not name", strings.Join(missing, ", "))
	}
	if l.greeted {
		return
	}
	l.greeted = true
	command, params := exampleOf(d.Commands)
	l.console.say("call it from another shell:\n  %s call --server %s --as %s %s %s", shellQuote(ownCommand()),
		l.server.url, l.server.as, command, shellQuote(params))
	l.console.say("or here, a line each: %s %s", command, params)
}

// exampleOf is a call of the plugin that its author documented, or of its first
// command without params.
func exampleOf(commands []core.Command) (command, params string) {
	for _, c := range commands {
		if len(c.Examples) > 0 {
			return c.Name, string(c.Examples[0].Params)
		}
	}
	return commands[0].Name, "{}"
}
