package sdk

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/plugboard/plugboard/sdk/pluginpb"
)

// Server is the gRPC service of a plugin (docs/plugin.md §2). [Serve] runs one in a
// plugin's process; package sdktest runs one inside a test. Authors need neither.
type Server struct {
	pluginpb.UnimplementedPluginServer
	offer *offer

	// patient lets a second session wait for the end of the first, and settings, where
	// it is not nil, stands in for what the server configures: both for a plugin under a
	// debugger. Fixed before it serves.
	patient  bool
	settings []byte

	active sync.WaitGroup // sessions and their receivers
	turn   chan struct{}  // holds one token while a session is open
}

// NewServer checks a plugin and makes its service. The error names everything that
// is wrong with it, one problem to a line.
func NewServer(p Plugin) (*Server, error) {
	o, err := newOffer(p)
	if err != nil {
		return nil, fmt.Errorf("plugin %q: %w", p.Name, err)
	}
	return &Server{offer: o, turn: make(chan struct{}, 1)}, nil
}

// Describe tells what the plugin offers.
func (s *Server) Describe(context.Context, *pluginpb.DescribeRequest) (*pluginpb.DescribeResponse, error) {
	return proto.CloneOf(s.offer.describe), nil
}

// Session serves calls until the server drains the plugin or leaves. There is one
// at a time; a second is refused with FailedPrecondition.
func (s *Server) Session(stream pluginpb.Plugin_SessionServer) error {
	return s.session(stream)
}

// Wait returns when no session runs any more, nor anything a session started. Call
// it after the gRPC server has stopped.
func (s *Server) Wait() { s.active.Wait() }

// messageStream is the part of the gRPC stream that a session uses, so that a plugin
// run by hand can have a session without gRPC.
type messageStream interface {
	Context() context.Context
	Send(*pluginpb.PluginMessage) error
	Recv() (*pluginpb.ServerMessage, error)
}

func (s *Server) session(stream messageStream) error {
	s.active.Add(1)
	defer s.active.Done()
	if err := s.takeTurn(stream.Context()); err != nil {
		return err
	}
	defer func() { <-s.turn }()
	session := newSession(s.offer, stream, &s.active)
	session.settings = s.settings
	return session.run()
}

func (s *Server) takeTurn(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	default:
	}
	if !s.patient {
		return status.Error(codes.FailedPrecondition, "This plugin has a session already.")
	}
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
