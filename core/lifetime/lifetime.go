// Package lifetime starts a group of services in order and stops them in the
// reverse order within one deadline. It owns no service's goroutines: each
// service waits for its own. Its neighbours are core/server, which fills the
// group, and nothing else.
package lifetime

import (
	"context"
	"errors"
	"fmt"

	"github.com/rs/zerolog"
)

// Service is one part of the server with a begin and an end.
type Service struct {
	// Name is how the log and errors call it.
	Name string
	// Start returns when the service serves, or with the reason why it cannot. Nil
	// is a service that needs no start.
	Start func(ctx context.Context) error
	// Stop returns when everything the service started has ended. When ctx ends
	// first it gives up what is left and returns an error that says what. Nil is a
	// service that needs no stop.
	Stop func(ctx context.Context) error
}

// Group is an ordered set of services. It is used by one goroutine.
type Group struct {
	log     zerolog.Logger
	started []Service
}

// New makes an empty group that logs what it gives up.
func New(log zerolog.Logger) *Group { return &Group{log: log} }

// Start starts s and remembers to stop it. A service that fails to start is not
// stopped; those before it are, by [Group.Stop].
func (g *Group) Start(ctx context.Context, s Service) error {
	if s.Start != nil {
		if err := s.Start(ctx); err != nil {
			return fmt.Errorf("start %s: %w", s.Name, err)
		}
	}
	g.started = append(g.started, s)
	return nil
}

// Stop stops what was started, last first. Every service is told to stop even
// when the deadline of ctx has passed, so that none is left running unasked; the
// error joins what each gave up on. A second call does nothing.
func (g *Group) Stop(ctx context.Context) error {
	var errs []error
	for len(g.started) > 0 {
		s := g.started[len(g.started)-1]
		g.started = g.started[:len(g.started)-1]
		if s.Stop == nil {
			continue
		}
		if err := s.Stop(ctx); err != nil {
			g.log.Warn().Err(err).Str("service", s.Name).Msg("Service gave up while stopping")
			errs = append(errs, fmt.Errorf("stop %s: %w", s.Name, err))
		}
	}
	return errors.Join(errs...)
}
