// Package telemetry is how the server shows its state: the metrics registry that
// every room's metrics.go is given, and the health that /healthz and /readyz
// answer. It starts no goroutine. Its neighbours are core/server, which fills it,
// and core/transport and core/admin, which serve it.
package telemetry

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// NewRegistry makes a metrics registry with the collectors of the process and of
// the Go runtime. Two servers in one process have one each.
func NewRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// checkTimeout bounds one health check.
const checkTimeout = 2 * time.Second

// Check is one condition of health. The error is for operators and is logged by
// the check's owner; strangers see only the check's name and "failing".
type Check func(ctx context.Context) error

// Health collects what /healthz and /readyz answer. Its methods may be called
// from any goroutine.
type Health struct {
	mu     sync.Mutex
	live   map[string]Check
	ready  map[string]Check
	serves bool
}

// NewHealth is alive and not yet ready.
func NewHealth() *Health {
	return &Health{live: make(map[string]Check), ready: make(map[string]Check)}
}

// AddLive adds a check that both reports include: without it the process cannot
// do its work.
func (h *Health) AddLive(name string, c Check) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.live[name] = c
}

// AddReady adds a check that only readiness includes.
func (h *Health) AddReady(name string, c Check) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ready[name] = c
}

// SetServing says whether the server takes new work: true after the start, false
// as the first step of a stop.
func (h *Health) SetServing(serves bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.serves = serves
}

// Report is the body of /healthz and /readyz.
type Report struct {
	Status string            `json:"status"` // ok or failing
	Checks map[string]string `json:"checks"` // name → ok or failing
}

// OK reports whether every check passed.
func (r Report) OK() bool { return r.Status == statusOK }

const (
	statusOK      = "ok"
	statusFailing = "failing"
)

// Live runs the checks of liveness.
func (h *Health) Live(ctx context.Context) Report { return run(ctx, h.checks(false)) }

// Ready runs every check, and fails while the server is starting or draining.
func (h *Health) Ready(ctx context.Context) Report {
	r := run(ctx, h.checks(true))
	h.mu.Lock()
	serves := h.serves
	h.mu.Unlock()
	r.Checks["serving"] = statusOK
	if !serves {
		r.Status, r.Checks["serving"] = statusFailing, statusFailing
	}
	return r
}

func (h *Health) checks(ready bool) map[string]Check {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make(map[string]Check, len(h.live)+len(h.ready))
	maps.Copy(all, h.live)
	if ready {
		maps.Copy(all, h.ready)
	}
	return all
}

// run asks one check after the other: there are few, and each is quick or late.
func run(ctx context.Context, checks map[string]Check) Report {
	r := Report{Status: statusOK, Checks: make(map[string]string, len(checks)+1)}
	for name, check := range checks {
		bounded, cancel := context.WithTimeout(ctx, checkTimeout)
		err := check(bounded)
		cancel()
		r.Checks[name] = statusOK
		if err != nil {
			r.Checks[name], r.Status = statusFailing, statusFailing
		}
	}
	return r
}
