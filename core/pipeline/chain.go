package pipeline

import (
	"context"
	"errors"
	"runtime/debug"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// Stage lets a request pass, adding what it found out, or refuses it with an
// error that becomes the frame's answer.
type Stage func(ctx context.Context, r *core.Request) error

// Accounts finds users with their keys. Errors are faults: unknown_user.
type Accounts interface {
	Account(ctx context.Context, userID string) (*core.Account, error)
}

// Lookup tells whether a message was stored before.
type Lookup interface {
	FindStored(ctx context.Context, from, id string, digest [32]byte) (core.Stored, error)
}

// Limiter is a token bucket a key.
type Limiter interface {
	// Allow takes one token of key's bucket, or says when there will be one.
	Allow(key string, now time.Time) (ok bool, retryAfter time.Duration)
}

// Options are what the stages need.
type Options struct {
	Accounts Accounts
	Lookup   Lookup
	// Messages limits frames that make work, by user.
	Messages Limiter
	// Flood limits what costs no message token, by user: refused frames, and acks
	// and cancels that change nothing. A client that empties it is closed.
	Flood Limiter
	// RequireEncryption refuses direct messages that are not sealed.
	RequireEncryption bool
	// Route is where frames go that passed.
	Route core.Route
	// Now is the server's clock.
	Now        func() time.Time
	Logger     zerolog.Logger
	Registerer prometheus.Registerer // nil: counted but not shown
}

// Chain is the core.Handler of the server's connections. It is immutable and may
// be used by any number of readers at once.
type Chain struct {
	stages  []Stage
	route   core.Route
	flood   Limiter
	now     func() time.Time
	log     zerolog.Logger
	metrics *metrics
}

// New lines the stages up.
func New(o Options) *Chain {
	m := newMetrics(o.Registerer)
	return &Chain{
		stages: []Stage{
			decode,
			limit(o.Messages, o.Flood, o.Now),
			validate,
			authorize(o.Now),
			verify(o.Accounts, o.Lookup, o.RequireEncryption, o.Now),
			audit(o.Logger, m),
		},
		route: o.Route, flood: o.Flood, now: o.Now, log: o.Logger, metrics: m,
	}
}

// Handle takes one frame through the chain and answers it when a stage or the
// route refuses. It runs on the connection's reader, so a connection's frames are
// handled in its order.
func (c *Chain) Handle(ctx context.Context, s *core.Session, frame []byte) {
	r := &core.Request{Session: s, Raw: frame}
	if err := c.run(ctx, r); err != nil {
		c.refuse(r, err)
	}
}

// run is one of the three doors at which a panic ends: it costs the frame, not
// the server.
func (c *Chain) run(ctx context.Context, r *core.Request) (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.log.Error().Str("conn", r.Session.ConnID).Str("id", r.ID).Interface("panic", p).Bytes("stack", debug.Stack()).Msg("Frame handler panicked")
			err = errPanicked
		}
	}()
	for _, stage := range c.stages {
		if err := stage(ctx, r); err != nil {
			return err
		}
	}
	return c.route(ctx, r)
}

var errPanicked = errors.New("frame handler panicked")

// refuse answers with the error, and closes a connection that keeps being
// refused faster than anybody could mean it.
func (c *Chain) refuse(r *core.Request, err error) {
	reference := uuid.NewString()
	f := fault.From(err, reference)
	c.metrics.refused.WithLabelValues(string(f.Code)).Inc()
	level := zerolog.DebugLevel
	switch f.Code {
	case fault.Internal:
		level = zerolog.ErrorLevel
	case fault.StorageUnavailable:
		level = zerolog.WarnLevel
	}
	c.log.WithLevel(level).Err(err).Str("reference", reference).Str("conn", r.Session.ConnID).Str("user", r.Session.UserID()).
		Str("id", r.ID).Msg("Frame refused")
	r.Session.Outbox.Answer(core.Encode(&wire.ErrorFrame{ID: r.ID, Fault: f}))
	if ok, _ := c.flood.Allow(r.Session.UserID(), c.now()); !ok {
		r.Session.Outbox.Close(wire.ClosePolicy)
	}
}
