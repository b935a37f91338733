package pluginhost

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/pluginhost/hostsvc"
)

// house is what all supervisors share. It is fixed once the host has started.
type house struct {
	dir           string // the plugins directory
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
func (h *house) ready(l *launch, _ policy) (err error) {
	l.granted = slices.Clone(l.granted)
	l.dir, err = h.runDir.generation(l.plugin, h.generations.Add(1))
	return err
}
