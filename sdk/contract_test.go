package sdk_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/plugboard/plugboard/sdk"
	"github.com/plugboard/plugboard/sdk/pluginpb"
)

// raw is a session without sdktest, for a server that breaks the contract.
type raw struct {
	t    *testing.T
	down chan *pluginpb.ServerMessage
	up   chan *pluginpb.PluginMessage
	end  chan error
}

func startRaw(t *testing.T, p sdk.Plugin) *raw {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &raw{t: t, down: make(chan *pluginpb.ServerMessage), up: make(chan *pluginpb.PluginMessage), end: make(chan error, 1)}
	go func() { r.end <- sdk.ServeStream(ctx, p, r.down, r.up) }()
	t.Cleanup(func() {
		cancel()
		<-r.end
	})
	return r
}

func configureMessage() *pluginpb.ServerMessage {
	return &pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_Configure{Configure: &pluginpb.Configure{}}}
}

func callMessage(id, command string) *pluginpb.ServerMessage {
	return &pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_Call{Call: &pluginpb.Call{CallId: id, Command: command}}}
}

func (r *raw) ready() {
	r.t.Helper()
	r.down <- configureMessage()
	if m := <-r.up; m.GetReady() == nil {
		r.t.Fatalf("got %v, want Ready", m)
	}
}

// ended drains what the plugin still sends and returns how its session ended.
func (r *raw) ended() error {
	for {
		select {
		case <-r.up:
		case err := <-r.end:
			r.end <- err
			return err
		}
	}
}

func TestAServerThatBreaksTheContractLosesTheSession(t *testing.T) {
	for name, messages := range map[string][]*pluginpb.ServerMessage{
		"configure twice":   {configureMessage()},
		"call without id":   {callMessage("", "probe")},
		"call id too long":  {callMessage(string(bytes.Repeat([]byte("x"), 257)), "probe")},
		"call id in flight": {callMessage("1", "probe"), callMessage("1", "probe")},
	} {
		t.Run(name, func(t *testing.T) {
			r := startRaw(t, waiting(nil))
			r.ready()
			for _, m := range messages {
				r.down <- m
			}
			if err := r.ended(); status.Code(err) != codes.InvalidArgument {
				t.Errorf("got %v, want InvalidArgument", err)
			}
		})
	}
	t.Run("first message", func(t *testing.T) {
		r := startRaw(t, waiting(nil))
		r.down <- callMessage("1", "probe")
		if err := r.ended(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("got %v, want InvalidArgument", err)
		}
	})
}

func TestWhatIsNotKnownIsIgnored(t *testing.T) {
	r := startRaw(t, failing(nil))
	r.ready()
	r.down <- &pluginpb.ServerMessage{}
	r.down <- &pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_Cancel{Cancel: &pluginpb.Cancel{CallId: "gone"}}}
	r.down <- &pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_HostReply{HostReply: &pluginpb.HostReply{RequestId: 99}}}
	r.down <- callMessage("1", "other")
	if m := <-r.up; m.GetFailure().GetCode() != "unknown_command" || m.GetFailure().GetCallId() != "1" {
		t.Errorf("got %v, want unknown_command", m)
	}
	close(r.down) // the server has nothing more to say: as good as Drain
	if err := r.ended(); err != nil {
		t.Errorf("got %v, want a clean end", err)
	}
}

func TestTooManyCallsAreRefused(t *testing.T) {
	r := startRaw(t, waiting(nil))
	r.ready()
	for i := range sdk.MaxCalls {
		r.down <- callMessage(fmt.Sprint(i), "probe")
	}
	r.down <- callMessage("more", "probe")
	if m := <-r.up; m.GetFailure().GetCode() != "overloaded" || m.GetFailure().GetCallId() != "more" {
		t.Errorf("got %v, want overloaded", m)
	}
}

func TestAServerThatDoesNotReadLosesTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startRaw(t, waiting(nil))
		r.ready()
		go func() {
			for {
				select {
				case r.down <- &pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_Ping{Ping: &pluginpb.Ping{}}}:
				case <-t.Context().Done():
					return
				}
			}
		}()
		synctest.Wait() // nothing moves any more
		if err := r.ended(); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("got %v, want ResourceExhausted", err)
		}
	})
}

func TestLogRecordsAreDroppedAndCountedNotWaitedFor(t *testing.T) {
	logged := make(chan struct{})
	r := startRaw(t, probe(sdk.Handle("probe", "Logs much", func(_ context.Context, c sdk.Call, _ struct{}) (struct{}, error) {
		for range 3 * sdk.QueueLength {
			c.Log.Info("Much")
		}
		close(logged)
		return struct{}{}, nil
	})))
	r.ready()
	r.down <- callMessage("1", "probe")
	<-logged // although nobody has read a single record
	var kept, dropped int
	answered := false
	for !answered || dropped == 0 {
		m := <-r.up
		switch {
		case m.GetResult() != nil:
			answered = true
		case m.GetLog().GetMessage() == "Much":
			kept++
		case m.GetLog() != nil:
			if _, err := fmt.Sscanf(string(m.GetLog().GetAttrs()), `{"dropped":%d}`, &dropped); err != nil {
				t.Fatalf("got %s: %v", m.GetLog().GetAttrs(), err)
			}
		}
	}
	if kept+dropped != 3*sdk.QueueLength {
		t.Errorf("got %d records and %d counted as dropped, want %d together", kept, dropped, 3*sdk.QueueLength)
	}
}

func TestTheReplyMayBeOfTheWrongKind(t *testing.T) {
	p := probe(sdk.Handle("probe", "Asks", func(ctx context.Context, c sdk.Call, _ struct{}) (sdk.UserCount, error) {
		return c.Host.CountUsers(ctx)
	}))
	p.Needs = []sdk.Capability{sdk.CapabilityUsers}
	r := startRaw(t, p)
	r.down <- &pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_Configure{Configure: &pluginpb.Configure{Grants: []string{"users", "unheard-of"}}}}
	<-r.up
	r.down <- callMessage("1", "probe")
	request := (<-r.up).GetHostRequest()
	r.down <- &pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_HostReply{HostReply: &pluginpb.HostReply{
		RequestId: request.GetRequestId(), Reply: &pluginpb.HostReply_ServerInfo{},
	}}}
	for {
		m := <-r.up
		if f := m.GetFailure(); f != nil {
			if f.GetCode() != "internal" {
				t.Errorf("got %v, want internal", f)
			}
			return
		}
	}
}

func TestTheTimeLimitIsExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := startRaw(t, waiting(nil))
		r.ready()
		start := time.Now()
		m := callMessage("1", "probe")
		m.GetCall().TimeoutMs = 5000
		r.down <- m
		f := (<-r.up).GetFailure()
		if took := time.Since(start); f.GetCode() != "command_timeout" || took != 5*time.Second {
			t.Errorf("got %v after %s, want command_timeout after 5s", f, took)
		}
	})
}

func TestASilentServerFailsTheRequestAfterHalfAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := probe(sdk.Handle("probe", "Asks", func(ctx context.Context, c sdk.Call, _ struct{}) (struct{}, error) {
			_, err := c.Host.KV().Get(ctx, "a")
			if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
				return struct{}{}, err
			}
			return struct{}{}, sdk.Failf("silent", "The server does not answer.")
		}))
		p.Needs = []sdk.Capability{sdk.CapabilityKV}
		r := startRaw(t, p)
		r.down <- &pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_Configure{Configure: &pluginpb.Configure{Grants: []string{"kv"}}}}
		<-r.up
		start := time.Now()
		r.down <- callMessage("1", "probe")
		if (<-r.up).GetHostRequest() == nil {
			t.Fatal("want a HostRequest")
		}
		f := (<-r.up).GetFailure()
		if took := time.Since(start); f.GetCode() != "command_failed" || took != 30*time.Second {
			t.Errorf("got %v after %s, want the failure after 30s", f, took)
		}
	})
}

func TestThereIsOneSessionAtATime(t *testing.T) {
	server, err := sdk.NewServer(waiting(nil))
	if err != nil {
		t.Fatal(err)
	}
	listener := bufconn.Listen(1 << 16)
	g := grpc.NewServer()
	pluginpb.RegisterPluginServer(g, server)
	served := make(chan error, 1)
	go func() { served <- g.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///plugin", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	open := func() (pluginpb.Plugin_SessionClient, error) {
		s, err := pluginpb.NewPluginClient(conn).Session(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(configureMessage()); err != nil {
			t.Fatal(err)
		}
		_, err = s.Recv()
		return s, err
	}
	first, err := open()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a second: got %v, want FailedPrecondition", err)
	}
	if err := first.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("end of the first: got %v, want clean", err)
	}
	server.Wait()
	if _, err := open(); err != nil {
		t.Errorf("after the first: got %v, want another session", err)
	}
	_ = conn.Close() // the end of the last session is the point
	g.Stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
	server.Wait()
}

// FuzzSession feeds a session with whatever a server may send, as length-prefixed
// messages, and wants one answer to each call, a clean end, and nothing left.
func FuzzSession(f *testing.F) {
	seed := func(messages ...*pluginpb.ServerMessage) {
		var b []byte
		for _, m := range messages {
			raw, err := proto.Marshal(m)
			if err != nil {
				f.Fatal(err)
			}
			b = append(binary.AppendUvarint(b, uint64(len(raw))), raw...)
		}
		f.Add(b)
	}
	drain := &pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_Drain{Drain: &pluginpb.Drain{}}}
	seed()
	seed(configureMessage())
	seed(configureMessage(), callMessage("1", "probe"), callMessage("2", "probe.other"), drain, callMessage("3", "probe"))
	seed(configureMessage(), &pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_Call{Call: &pluginpb.Call{
		CallId: "1", Command: "probe", Params: []byte(`{"text":"a"}`), TimeoutMs: -1, Caller: &pluginpb.Caller{UserId: "a"},
	}}}, &pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_Cancel{Cancel: &pluginpb.Cancel{CallId: "1"}}})
	seed(&pluginpb.ServerMessage{Message: &pluginpb.ServerMessage_Configure{Configure: &pluginpb.Configure{Settings: []byte(`{"a":`), Grants: []string{"kv"}}}})
	f.Fuzz(func(t *testing.T, data []byte) {
		p := probe(sdk.Stream("probe", "Echoes", func(ctx context.Context, c sdk.Call, p text, progress sdk.ProgressFunc) (text, error) {
			c.Log.Info("Called", "text", p.Text)
			_, err := c.Host.KV().Get(ctx, p.Text)
			return p, errors.Join(progress(1, p), err)
		}))
		p.Needs = []sdk.Capability{sdk.CapabilityKV}
		down, up := make(chan *pluginpb.ServerMessage, len(data)+1), make(chan *pluginpb.PluginMessage)
		for _, m := range messagesOf(data) {
			down <- m
		}
		close(down)
		end := make(chan error, 1)
		go func() { end <- sdk.ServeStream(t.Context(), p, down, up) }()
		answers := 0
		for {
			select {
			case m := <-up:
				if _, err := proto.Marshal(m); err != nil {
					t.Fatalf("a message that cannot be sent: %v", err)
				}
				if m.GetResult() != nil || m.GetFailure().GetCallId() != "" {
					answers++
				}
				continue
			case err := <-end:
				if err != nil && status.Code(err) == codes.Unknown && !errors.Is(err, io.EOF) {
					t.Fatalf("got the end %v, want a status", err)
				}
				if least, most := callsIn(data); err == nil && (answers < least || answers > most) {
					t.Fatalf("got %d answers, want %d to %d", answers, least, most)
				}
			}
			return
		}
	})
}

// callsIn counts the calls that must have an answer in a session that ended well,
// and those that may have one: what follows Drain is refused or not read any more,
// and a session whose settings were refused answers nothing.
func callsIn(data []byte) (least, most int) {
	must := true
	for i, m := range messagesOf(data) {
		if i == 0 && len(m.GetConfigure().GetSettings()) > 0 || m.GetDrain() != nil {
			must = false
		}
		if m.GetCall() != nil {
			most++
			if must {
				least++
			}
		}
	}
	return least, most
}

func messagesOf(data []byte) (messages []*pluginpb.ServerMessage) {
	for len(data) > 0 {
		n, used := binary.Uvarint(data)
		if used <= 0 || n > uint64(len(data)-used) {
			return messages
		}
		m := new(pluginpb.ServerMessage)
		if proto.Unmarshal(data[used:used+int(n)], m) == nil {
			messages = append(messages, m)
		}
		data = data[used+int(n):]
	}
	return messages
}
