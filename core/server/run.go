package server

import (
	"context"
	"errors"
	"time"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/lifetime"
)

// Run starts the server, serves until ctx ends or something fails that no retry
// mends, and stops in reverse order within server.shutdown_grace. serving, which
// may be nil, is called once when the listener accepts.
func (s *Server) Run(ctx context.Context, serving func(*Server)) error {
	group := lifetime.New(s.log)
	err := s.start(ctx, group)
	if err == nil {
		s.health.SetServing(true)
		s.log.Info().Str("addr", s.transport.Addr().String()).Str("version", s.version).Msg("Server listens")
		if serving != nil {
			serving(s)
		}
		select {
		case <-ctx.Done():
			s.log.Info().Dur("grace_ms", s.cfg.Server.ShutdownGrace).Msg("Server stops")
		case err = <-s.fatal:
			s.log.Error().Err(err).Msg("Server cannot go on")
		}
	}
	s.health.SetServing(false)
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Server.ShutdownGrace)
	defer cancel()
	stopped := group.Stop(stopping)
	if err == nil && stopped == nil {
		s.log.Info().Msg("Server stopped")
	}
	return errors.Join(err, stopped)
}

// start goes down the house: what others need comes first.
func (s *Server) start(ctx context.Context, g *lifetime.Group) error {
	services := []lifetime.Service{
		{Name: "store", Stop: func(context.Context) error { return s.store.Close() }},
		{Name: "identity", Start: s.identity.Start, Stop: s.identity.Stop},
	}
	if s.admin != nil {
		services = append(services, lifetime.Service{Name: "admin", Start: s.admin.Start, Stop: s.admin.Stop})
	}
	services = append(services,
		lifetime.Service{Name: "command log", Start: s.commands.Start, Stop: s.commands.Stop},
		s.retention(),
		lifetime.Service{Name: "plugins", Start: s.plugins.Start, Stop: s.plugins.Stop},
		lifetime.Service{Name: "operators", Start: s.operators.Start, Stop: s.operators.Stop},
		lifetime.Service{Name: "delivery", Start: s.delivery.Start, Stop: s.delivery.Stop},
		lifetime.Service{Name: "transport", Start: s.transport.Start, Stop: s.transport.Stop},
	)
	for _, service := range services {
		if err := g.Start(ctx, service); err != nil {
			return err
		}
	}
	return nil
}

// Addr is the address of the public listener, once Run has called serving.
func (s *Server) Addr() string { return s.transport.Addr().String() }

// AdminAddr is the address of the admin listener, "" where there is none.
func (s *Server) AdminAddr() string {
	if s.admin == nil {
		return ""
	}
	return s.admin.Addr().String()
}

// Ready is closed once every plugin is ready or has failed once.
func (s *Server) Ready() <-chan struct{} { return s.plugins.Ready() }

// Plugins is what operators may do with the plugins, once Run has called serving.
func (s *Server) Plugins() core.PluginOperator { return s.plugins }

// How often old rows are looked for, and how long one sweep may take.
const (
	retentionInterval = 10 * time.Minute
	retentionTimeout  = 5 * time.Minute
)

// retention removes what nobody needs any more, now and then.
func (s *Server) retention() lifetime.Service {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	return lifetime.Service{
		Name:  "retention",
		Start: func(context.Context) error { go func() { defer close(done); s.prune(ctx) }(); return nil },
		Stop:  func(context.Context) error { cancel(); <-done; return nil },
	}
}

func (s *Server) prune(ctx context.Context) {
	tick := time.NewTicker(retentionInterval)
	defer tick.Stop()
	for {
		now := time.Now()
		sweep, cancel := context.WithTimeout(ctx, retentionTimeout)
		n, err := s.store.Prune(sweep, now, now.Add(-s.cfg.Messages.Retention))
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.log.Warn().Err(err).Msg("Old messages could not be removed")
		case n > 0:
			s.log.Info().Int("messages", n).Msg("Old messages removed")
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

var errPluginsStarting = errors.New("plugins are starting")

// pluginsSettled is the readiness check: every plugin is ready, or has failed once
// and is the operator's to look at.
func (s *Server) pluginsSettled(context.Context) error {
	select {
	case <-s.plugins.Ready():
		return nil
	default:
		return errPluginsStarting
	}
}
