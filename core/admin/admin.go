// Package admin is the operator's face of the server: health and metrics over a
// plain listener of its own, read-only, meant for loopback or a private network.
// It owns that listener and its goroutine, which Stop waits for, and imports
// only telemetry.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/rs/zerolog"

	"github.com/plugboard/plugboard/core/telemetry"
)

// Options say what is served where.
type Options struct {
	// Listen is the address; a Host header must name it, or loopback, because a
	// web page can make a browser ask any loopback port (DNS rebinding).
	Listen  string
	Health  *telemetry.Health
	Metrics prometheus.Gatherer
	Logger  zerolog.Logger
}

// Admin is the listener. Start and Stop are called once each.
type Admin struct {
	Options
	http     *http.Server
	listener net.Listener
	serving  sync.WaitGroup
}

// New makes an admin listener that listens once Start is called.
func New(o Options) *Admin {
	a := &Admin{Options: o}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(o.Metrics, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) { write(w, o.Health.Live(r.Context())) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) { write(w, o.Health.Ready(r.Context())) })
	a.http = &http.Server{
		Handler: a.checkHost(mux), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	return a
}

// Start listens and serves.
func (a *Admin) Start(ctx context.Context) error {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", a.Listen)
	if err != nil {
		return fmt.Errorf("listen on %s (server.admin_listen): %w", a.Listen, err)
	}
	a.listener = ln
	a.serving.Go(func() {
		if err := a.http.Serve(ln); err != nil && !errors.Is(err, http.ErrServerClosed) {
			a.Logger.Error().Err(err).Msg("Admin listener failed")
		}
	})
	return nil
}

// Addr is the address that Start listens on.
func (a *Admin) Addr() net.Addr { return a.listener.Addr() }

// Stop closes the listener and waits for requests in flight, until ctx ends.
func (a *Admin) Stop(ctx context.Context) error {
	err := a.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, a.http.Close())
	}
	a.serving.Wait()
	return err
}

func (a *Admin) checkHost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !a.hostAllowed(r.Host) {
			http.Error(w, "The Host header must be a loopback name or the admin listener's address.", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (a *Admin) hostAllowed(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = strings.Trim(host, "[]")
	}
	if ip := net.ParseIP(name); ip != nil {
		return true // rebinding needs a name; an address proves that none was used
	}
	own, _, err := net.SplitHostPort(a.Listen)
	return strings.EqualFold(name, "localhost") || err == nil && name != "" && strings.EqualFold(name, own)
}

func write(w http.ResponseWriter, r telemetry.Report) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !r.OK() {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	data, err := json.Marshal(r)
	if err != nil {
		return // strings always encode
	}
	_, _ = w.Write(data) // the peer may be gone
}
