package server

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/plugboard/plugboard/config"
	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/admin"
	"github.com/plugboard/plugboard/core/command"
	"github.com/plugboard/plugboard/core/delivery"
	"github.com/plugboard/plugboard/core/hub"
	"github.com/plugboard/plugboard/core/identity"
	"github.com/plugboard/plugboard/core/limit"
	"github.com/plugboard/plugboard/core/pipeline"
	"github.com/plugboard/plugboard/core/pluginhost"
	"github.com/plugboard/plugboard/core/pluginhost/sandbox"
	"github.com/plugboard/plugboard/core/router"
	"github.com/plugboard/plugboard/core/store"
	"github.com/plugboard/plugboard/core/telemetry"
	"github.com/plugboard/plugboard/core/transport"
	"github.com/plugboard/plugboard/sdk/wire"
)

const (
	heartbeat    = 30 * time.Second
	maxCalls     = 64 // commands running for one connection
	floodFactor  = 10 // how much larger the bucket of cheap and refused frames is
	envelopeRoom = 1 << 10
)

// Server is one Plugboard server. Two of them fit into one process as long as
// their data directories and addresses differ.
type Server struct {
	cfg     config.Config
	version string
	node    string
	log     zerolog.Logger
	started time.Time

	registry  *prometheus.Registry
	health    *telemetry.Health
	store     core.Store
	identity  *identity.Service
	hub       *hub.Hub
	delivery  *delivery.Delivery
	commands  *command.Dispatcher
	plugins   *pluginhost.Host
	transport *transport.Transport
	admin     *admin.Admin // nil where server.admin_listen is ""
	operators *admin.Operator

	fatal chan error // what no retry mends; holds the first
}

// Open builds a server: directories, store and keys are opened, nothing listens
// and no plugin runs yet. The caller must call [Server.Run], which closes
// everything again.
func Open(ctx context.Context, cfg config.Config, version string, log zerolog.Logger) (*Server, error) {
	s := &Server{
		cfg: cfg, version: version, node: newNode(), log: log, started: time.Now(),
		registry: telemetry.NewRegistry(), health: telemetry.NewHealth(), hub: hub.New(), fatal: make(chan error, 1),
	}
	if err := s.openStore(ctx); err != nil {
		return nil, err
	}
	if err := s.build(ctx); err != nil {
		if closing := s.store.Close(); closing != nil {
			log.Warn().Err(closing).Msg("Store could not be closed")
		}
		return nil, err
	}
	return s, nil
}

func (s *Server) openStore(ctx context.Context) error {
	if err := makePrivate(s.cfg.DataDir, s.log); err != nil {
		return err
	}
	var err error
	s.store, err = store.Open(ctx, store.Options{
		Driver: s.cfg.Storage.Driver, DSN: s.cfg.Storage.DSN.Reveal(), Synchronous: s.cfg.Storage.Synchronous,
		Logger: s.log, Metrics: s.registry, OnFatal: s.fail,
	})
	if err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	s.health.AddLive("store", s.store.Check)
	return nil
}

// fail ends the server for a reason that no retry mends.
func (s *Server) fail(err error) {
	select {
	case s.fatal <- err:
	default: // one reason is enough
	}
}

// build wires the rooms, from those that know nobody to those that know most.
func (s *Server) build(ctx context.Context) error {
	limits := s.cfg.Limits
	messages := limit.NewKeyed(limits.MessagesPerSecond, float64(limits.Burst))
	flood := limit.NewKeyed(limits.MessagesPerSecond*floodFactor, float64(limits.Burst)*floodFactor)
	authLimit := limit.NewKeyed(float64(limits.AuthPerMinute)/60, float64(limits.AuthPerMinute))

	var err error
	s.identity, err = identity.Open(ctx, identity.Options{
		Store: s.store, KeyDir: s.cfg.Auth.Keys, Issuer: s.cfg.Auth.Issuer, Audience: s.cfg.Auth.Audience,
		TokenTTL: s.cfg.Auth.TokenTTL, ChallengeTTL: s.cfg.Auth.ChallengeTTL, RegistrationOpen: s.cfg.Auth.Registration == "open",
		Now: time.Now, Logger: s.log, Registerer: s.registry, OnRevoked: s.closeRevoked,
	})
	if err != nil {
		return fmt.Errorf("open identity: %w", err)
	}
	s.delivery = delivery.New(delivery.Options{Mailboxes: s.store, Live: s.hub, Now: time.Now, Logger: s.log, Registerer: s.registry})
	s.commands, err = command.New(command.Options{
		Access: policies(s.cfg.Plugins.Access), CallTimeout: s.cfg.Plugins.CallTimeout,
		MaxResultBytes: int(limits.MaxFrameBytes) - envelopeRoom, Log: s.store, Logger: s.log, Registerer: s.registry,
		Now: time.Now, OnChange: s.announceCommands,
	})
	if err != nil {
		return fmt.Errorf("read plugins.access: %w", err)
	}
	if err := s.buildPlugins(); err != nil {
		return err
	}
	r := router.New(router.Options{
		Mailboxes: s.store, Bus: s.delivery, Live: s.hub, Commands: s.commands, Acks: s.delivery, Tokens: s.identity,
		MailboxLimit: s.cfg.Messages.MailboxLimit, MaxFrameBytes: int(limits.MaxFrameBytes), Now: time.Now, Logger: s.log, Registerer: s.registry,
	})
	chain := pipeline.New(pipeline.Options{
		Accounts: s.identity, Lookup: s.store, Messages: messages, Flood: flood, RequireEncryption: s.cfg.Messages.RequireEncryption,
		Route: r.Route, Now: time.Now, Logger: s.log, Registerer: s.registry,
	})
	return s.buildTransport(chain, authLimit, messages)
}

func (s *Server) buildPlugins() error {
	runDir, err := runDir(s.cfg.DataDir)
	if err != nil {
		return err
	}
	p := s.cfg.Plugins
	settings, err := pluginSettings(p.Settings)
	if err != nil {
		return err
	}
	s.plugins, err = pluginhost.New(pluginhost.Options{
		Dir: p.Dir, Trust: p.Trust, Sandbox: sandbox.Mode(p.Sandbox), RunDir: runDir, StartTimeout: p.StartTimeout, DrainTimeout: p.DrainTimeout, MaxConcurrent: p.MaxConcurrent,
		Settings: settings, Grants: p.Grants, Host: hostServices{s}, Catalogue: s.commands.Catalogue(), Logger: s.log, Registerer: s.registry,
	})
	if err != nil {
		return fmt.Errorf("open plugin host: %w", err)
	}
	s.operators = admin.NewOperator(admin.OperatorOptions{DataDir: s.cfg.DataDir, Plugins: s.plugins, Logger: s.log})
	s.health.AddReady("plugins", s.pluginsSettled)
	return nil
}

func (s *Server) buildTransport(chain core.Handler, authLimit, messages *limit.Keyed) error {
	c := s.cfg.Server
	tlsConfig, err := s.tlsConfig()
	if err != nil {
		return err
	}
	l := s.cfg.Limits
	s.transport = transport.New(transport.Options{
		Listen: c.Listen, TLS: tlsConfig, HostAllowed: c.Hosts.Allowed, AllowedOrigins: c.AllowedOrigins,
		QueryToken: queryToken(c), TrustedProxies: c.TrustedProxies,
		MaxFrameBytes: int(l.MaxFrameBytes), SendQueue: l.SendQueue, MaxCalls: maxCalls, Connections: l.Connections,
		PerUser: l.ConnectionsPerUser, PerAddress: l.ConnectionsPerAddress, Heartbeat: heartbeat,
		Rate: l.MessagesPerSecond, Burst: float64(l.Burst),
		SignIns: s.identity, Tokens: s.identity, Keys: s.identity, Mailboxes: s.store, Sessions: s.store, Commands: s.commands,
		Hub: s.hub, Delivery: s.delivery, Handler: chain, Health: s.health, AuthLimit: authLimit, MessageLimit: messages,
		OnFatal: s.fail, Version: s.version, Node: s.node, Now: time.Now, Logger: s.log, Registerer: s.registry,
	})
	if c.AdminListen != "" {
		s.admin = admin.New(admin.Options{Listen: c.AdminListen, Health: s.health, Metrics: s.registry, Logger: s.log})
	}
	return nil
}

// closeRevoked ends the live connections of a revoked session.
func (s *Server) closeRevoked(userID, sessionID string) {
	for _, session := range s.hub.Of(userID) {
		if session.SessionID() == sessionID {
			session.Outbox.Close(wire.CloseTokenRevoked)
		}
	}
}

// announceCommands tells everybody that GET /commands answers anew.
func (s *Server) announceCommands() {
	notice := core.EncodeShared(&wire.Notice{Code: wire.NoticeCommandsChanged, Message: "The list of commands has changed."})
	s.hub.Each(func(session *core.Session) { session.Outbox.Offer(notice) }) // at most once, as all news
}

func newNode() string {
	id := make([]byte, 4)
	_, _ = rand.Read(id) // never fails (crypto/rand)
	return hex.EncodeToString(id)
}

// goVersion is what serverinfo answers.
func goVersion() string { return runtime.Version() }
