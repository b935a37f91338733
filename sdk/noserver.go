package sdk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/plugboard/plugboard/sdk/pluginpb"
)

// memoryStream is a session's stream without gRPC: two channels.
type memoryStream struct {
	ctx  context.Context
	down chan *pluginpb.ServerMessage
	up   chan *pluginpb.PluginMessage
}

func (m *memoryStream) Context() context.Context { return m.ctx }

func (m *memoryStream) Send(message *pluginpb.PluginMessage) error {
	select {
	case m.up <- message:
		return nil
	case <-m.ctx.Done():
		return m.ctx.Err()
	}
}

func (m *memoryStream) Recv() (*pluginpb.ServerMessage, error) {
	select {
	case message, open := <-m.down:
		if !open {
			return nil, io.EOF
		}
		return message, nil
	case <-m.ctx.Done():
		return nil, m.ctx.Err()
	}
}

// runWithoutServer runs one call in a real session whose server is this function:
// it answers every request to the server with no_server. ctx cancels the call; the
// plugin is then given the chance to answer.
func runWithoutServer(ctx context.Context, s *Server, run handRun, stderr io.Writer) ([]byte, error) {
	sessionCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	stream := &memoryStream{
		ctx:  sessionCtx,
		down: make(chan *pluginpb.ServerMessage, 8),
		up:   make(chan *pluginpb.PluginMessage),
	}
	ended := make(chan error, 1)
	go func() { ended <- s.session(stream) }()
	defer func() {
		stop()
		<-ended //nolint:errcheck // that it was stopped is no news
		s.Wait()
	}()
	stream.down <- &pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_Configure{Configure: &pluginpb.Configure{
		Settings: run.settings, Grants: s.offer.describe.GetCapabilities(),
	}}}
	stream.down <- &pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_Call{Call: &pluginpb.Call{
		CallId: "by-hand", Command: run.command, Params: run.params, TimeoutMs: run.timeout.Milliseconds(),
		Caller: &pluginpb.Caller{UserId: run.user, Username: run.user, Surface: "hand"},
	}}}
	cancelled := ctx.Done()
	for {
		select {
		case m := <-stream.up:
			if result, done, err := takeByHand(stream, m, stderr); done {
				return result, err
			}
		case <-cancelled:
			cancelled = nil
			_ = stream.tell(&pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_Cancel{
				Cancel: &pluginpb.Cancel{CallId: "by-hand"},
			}})
		case err := <-ended:
			ended <- err
			return nil, fmt.Errorf("the plugin ended its session: %w", err)
		}
	}
}

// takeByHand handles one message of the plugin; done means the call has its answer.
func takeByHand(stream *memoryStream, m *pluginpb.PluginMessage, stderr io.Writer) (result []byte, done bool, err error) {
	switch m := m.GetMessage().(type) {
	case *pluginpb.PluginMessage_Result:
		return m.Result.GetResult(), true, nil
	case *pluginpb.PluginMessage_Failure:
		text := m.Failure.GetCode() + ": " + m.Failure.GetMessage()
		if details := m.Failure.GetDetails(); len(details) > 0 {
			text += " " + string(details)
		}
		return nil, true, errors.New(text)
	case *pluginpb.PluginMessage_Progress:
		if m.Progress.Percent != nil {
			_, _ = fmt.Fprintf(stderr, "progress %g%% %s\n", m.Progress.GetPercent(), m.Progress.GetData())
		} else {
			_, _ = fmt.Fprintf(stderr, "progress %s\n", m.Progress.GetData())
		}
	case *pluginpb.PluginMessage_Log:
		level := strings.TrimPrefix(m.Log.GetLevel().String(), "LEVEL_")
		_, _ = fmt.Fprintf(stderr, "%s %s %s\n", level, m.Log.GetMessage(), m.Log.GetAttrs())
	case *pluginpb.PluginMessage_HostRequest:
		return nil, false, stream.tell(&pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_HostReply{HostReply: &pluginpb.HostReply{
			RequestId: m.HostRequest.GetRequestId(),
			Reply: &pluginpb.HostReply_Error{Error: &pluginpb.HostError{
				Code: "no_server", Message: "there is no server: the plugin was started by hand",
			}},
		}}})
	}
	return nil, false, nil
}

// tell hands the session a message.
func (m *memoryStream) tell(message *pluginpb.ServerMessage) error {
	select {
	case m.down <- message:
		return nil
	case <-m.ctx.Done():
		return m.ctx.Err()
	}
}
