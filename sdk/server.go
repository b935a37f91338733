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

	active sync.WaitGroup // sessions and their receivers

	mu   sync.Mutex
	busy bool // a session is open
}

// NewServer checks a plugin and makes its service. The error names everything that
// is wrong with it, one problem to a line.
func NewServer(p Plugin) (*Server, error) {
	o, err := newOffer(p)
	if err != nil {
		return nil, fmt.Errorf("plugin %q: %w", p.Name, err)
	}
	return &Server{offer: o}, nil
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
	s.mu.Lock()
	if s.busy {
		s.mu.Unlock()
		return status.Error(codes.FailedPrecondition, "This plugin has a session already.")
	}
	s.busy = true
	s.active.Add(1)
	s.mu.Unlock()
	defer func() {
		defer s.active.Done()
		s.mu.Lock()
		s.busy = false
		s.mu.Unlock()
	}()
	return newSession(s.offer, stream, &s.active).run()
}
