package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/rs/zerolog"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/pluginhost/sandbox"
)

// Inspect asks a file what it is: it runs a private copy of it, in the sandbox, as a
// host would, up to its description, and ends it. SHA256 in the answer is of the
// copy that said so. The name is the one that the plugin is to have. It belongs to
// nobody's server and leaves nothing behind.
func Inspect(ctx context.Context, file, name string, mode sandbox.Mode) (d core.PluginDetail, err error) {
	if !pluginName.MatchString(name) {
		return d, fmt.Errorf("inspect plugin: name %q does not match %s", name, pluginName)
	}
	f, err := os.Open(file)
	if err != nil {
		return d, fmt.Errorf("inspect plugin: %w", err)
	}
	defer func() { _ = f.Close() }() // read-only: nothing is lost
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return d, fmt.Errorf("inspect plugin: %s is not a regular, executable file", file)
	}
	temp, err := os.MkdirTemp("", "pb-") // short: sockets lie in it
	if err != nil {
		return d, fmt.Errorf("inspect plugin: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	run, err := openRunDir(temp)
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, run.close()) }()
	m, err := newMetrics(nil)
	if err != nil {
		return d, err
	}
	h := &house{runDir: run, binaries: newBinaries(run.binaries()), mode: mode, support: sandbox.Detect(), metrics: m}
	l := launch{plugin: name, maxConcurrent: 1, timeout: inspectTimeout, log: zerolog.Nop(), metrics: m, only: true}
	if l.binary, err = h.binaries.keep(f); err != nil {
		return d, err
	}
	if err := h.ready(&l, policy{}); err != nil {
		return d, err
	}
	g, err := startGeneration(ctx, l)
	if err != nil {
		return d, fmt.Errorf("inspect plugin %q: %w", name, err)
	}
	d.Name = name
	g.tell(&d)
	d.PID, d.File = 0, file
	g.close(errGivenUp)
	return d, nil
}

// inspectTimeout is the default of plugins.start_timeout.
const inspectTimeout = 10 * time.Second
