package pluginhost

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/pluginhost/hostsvc"
	"github.com/plugboard/plugboard/core/pluginhost/lockfile"
	"github.com/plugboard/plugboard/core/pluginhost/sandbox"
)

// house is what all supervisors share. It is fixed once the host has started.
type house struct {
	dir           string // the plugins directory
	locked        bool   // only what stands in plugins.lock runs
	mode          sandbox.Mode
	support       sandbox.Support
	runDir        *runDir
	binaries      *binaries
	catalogue     core.Catalogue
	host          core.HostServices
	maxConcurrent int
	startTimeout  time.Duration
	interval      time.Duration // of health checks
	drainTime     time.Duration
	metrics       *metrics
	asked         *hostsvc.Metrics
	generations   atomic.Uint64 // numbers given

	mu     sync.Mutex
	usages map[string]*hostsvc.Usage // by plugin, for as long as the host lives
}

// usage is what a plugin has used of what the server offers. It outlives the
// plugin's processes and its file, so that neither a restart nor a replacement is a
// way to a fresh allowance.
func (h *house) usage(plugin string) *hostsvc.Usage {
	h.mu.Lock()
	defer h.mu.Unlock()
	u := h.usages[plugin]
	if u == nil {
		u = hostsvc.NewUsage(hostsvc.UsageOptions{Plugin: plugin, Metrics: h.asked})
		h.usages[plugin] = u
	}
	return u
}

// launchOf is a start of a plugin, but for its binary and what follows from that.
func (h *house) launchOf(plugin string, p policy, log zerolog.Logger) launch {
	return launch{
		plugin: plugin, settings: p.settings, granted: p.grants, host: h.host, usage: h.usage(plugin),
		maxConcurrent: h.maxConcurrent, timeout: h.startTimeout, log: log, metrics: h.metrics,
	}
}

// ready completes a start: whether this binary may run at all, what it may do, and
// where it runs. Its errors are refusals.
func (h *house) ready(l *launch, p policy) (err error) {
	if l.granted, l.version, err = h.granted(l, p); err != nil {
		return err
	}
	if l.dir, err = h.runDir.generation(l.plugin, h.generations.Add(1)); err != nil {
		return err
	}
	return h.confine(l)
}

// confine decides how the process is started: in a sandbox, as far as the machine has
// one and the operator wants it.
func (h *house) confine(l *launch) error {
	policy, err := sandbox.PolicyFor(l.binary.Path, l.dir, l.granted)
	if err != nil {
		return err
	}
	l.sandbox = h.support
	switch {
	case h.mode == sandbox.Off:
		l.sandbox = sandbox.Support{Level: sandbox.None, Missing: []string{"everything: plugins.sandbox is off"}}
		l.how = sandbox.Plain(l.binary.Path, l.plugin)
		return nil
	case h.mode == sandbox.Require && h.support.Level != sandbox.Full:
		return fmt.Errorf("plugins.sandbox is require, but this machine cannot confine %s", strings.Join(h.support.Missing, ", "))
	case h.support.Level == sandbox.None:
		l.how = sandbox.Plain(l.binary.Path, l.plugin)
		return nil
	}
	l.how, err = sandbox.Launch(policy, l.plugin)
	return err
}

// granted is what an operator grants to a binary. With locked trust that is what
// stands in plugins.lock; where the configuration names the plugin, no more than that
// either. version is the one that the lock names, or empty.
func (h *house) granted(l *launch, p policy) (grants []string, version string, err error) {
	if !h.locked {
		return p.grants, "", nil
	}
	lock, err := lockfile.Load(h.dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = errors.New("there is no " + lockfile.Name)
	}
	if err != nil {
		return nil, "", fmt.Errorf("plugins.trust is locked: %w (plugboard plugins lock writes it)", err)
	}
	e, ok := lock.Find(l.plugin)
	switch {
	case !ok:
		return nil, "", fmt.Errorf("plugins.trust is locked, and %s does not name %q (plugboard plugins lock adds it)", lockfile.Name, l.plugin)
	case subtle.ConstantTimeCompare([]byte(e.SHA256), []byte(l.binary.SHA256)) != 1:
		return nil, "", fmt.Errorf("plugins.trust is locked, and %s wants sha256 %s, but the file has %s", lockfile.Name, e.SHA256, l.binary.SHA256)
	}
	for _, g := range e.Grants {
		if !p.named || slices.Contains(p.grants, g) {
			grants = append(grants, g)
		}
	}
	return grants, e.Version, nil
}
