package pluginhost_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/pluginhost"
	"github.com/plugboard/plugboard/sdk/pluginpb"
)

// debugged is a plugin in the test's own process, as a debugger would hold one: it
// stands still whenever the test wants.
type debugged struct {
	pluginpb.UnimplementedPluginServer
	name     string
	standing chan struct{} // closed: it goes on
	asked    chan int64    // the time limit of each call
}

func (d *debugged) Describe(context.Context, *pluginpb.DescribeRequest) (*pluginpb.DescribeResponse, error) {
	return &pluginpb.DescribeResponse{Name: d.name, Version: "0.0.1", Summary: "Stands at a breakpoint",
		Commands: []*pluginpb.CommandDescription{{Name: d.name, Summary: "Stands", ParamsSchema: []byte(`{"type":"object"}`)}}}, nil
}

func (d *debugged) Session(stream pluginpb.Plugin_SessionServer) error {
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		switch m := m.GetMessage().(type) {
		case *pluginpb.ServerMessage_Configure:
			err = stream.Send(&pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_Ready{Ready: &pluginpb.Ready{}}})
		case *pluginpb.ServerMessage_Call:
			d.asked <- m.Call.GetTimeoutMs()
			<-d.standing
			err = stream.Send(&pluginpb.PluginMessage{Message: &pluginpb.PluginMessage_Result{Result: &pluginpb.Result{CallId: m.Call.GetCallId(), Result: []byte(`"attached"`)}}})
		case *pluginpb.ServerMessage_Drain:
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// serve has it listen and returns where, and what ends it.
func (d *debugged) serve(t *testing.T) (at core.PluginAttachment, end func()) {
	t.Helper()
	dir, err := os.MkdirTemp("", "dbg") //nolint:usetesting // short: a socket lies in it
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(pluginpb.ServerOptions()...)
	pluginpb.RegisterPluginServer(server, d)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) }) // it ends with Stop
	end = sync.OnceFunc(func() {
		server.Stop()
		serving.Wait()
		_ = os.RemoveAll(dir)
	})
	t.Cleanup(end)
	return core.PluginAttachment{Network: "unix", Address: l.Addr().String(), PID: os.Getpid()}, end
}

func TestAttachedPluginsAreNotTimed(t *testing.T) {
	w := newWorld(t, "good").start(func(o *pluginhost.Options) { o.HealthInterval = 20 * time.Millisecond })
	d := &debugged{name: "good", standing: make(chan struct{}), asked: make(chan int64, 10)}
	at, end := d.serve(t)
	if err := w.host.Attach(t.Context(), "good", at); err != nil {
		t.Fatal(err)
	}
	w.wantVersion("good", "0.0.1")
	if got := w.detail("good"); !got.Attached || got.SHA256 != "" || got.Commands[0].Untimed != true {
		t.Errorf("got %+v, want it attached and without a time limit", got)
	}
	answered := make(chan error, 1)
	go func() {
		_, err := w.dispatch(context.Background(), "good", "{}")
		answered <- err
	}()
	if limit := <-d.asked; limit != 0 {
		t.Errorf("the call has %d ms, want no limit", limit)
	}
	time.Sleep(150 * time.Millisecond) // many health intervals at the breakpoint: that is the test
	if got := w.detail("good"); got.State != pluginhost.StateReady || got.Crashes != 0 {
		t.Errorf("got %+v, want a standing plugin left alone", got)
	}
	close(d.standing)
	if err := <-answered; err != nil {
		t.Error(err)
	}
	// A change of the file counts when the debugger lets go.
	two := build(t, "2.0.0")
	w.replace("good", two)
	w.reload()
	w.wantVersion("good", "0.0.1")
	if err := w.host.Detach(t.Context(), "good"); err != nil {
		t.Fatal(err)
	}
	w.wantVersion("good", "2.0.0")
	if err := w.host.Detach(t.Context(), "good"); !errors.Is(err, core.ErrNotAttached) {
		t.Errorf("got %v, want that it is not attached", err)
	}
	// When the debugged process ends, the file serves by itself.
	if err := w.host.Attach(t.Context(), "good", at); err != nil {
		t.Fatal(err)
	}
	w.wantVersion("good", "0.0.1")
	end()
	w.wantVersion("good", "2.0.0")
	if got := w.detail("good").Crashes; got != 0 {
		t.Errorf("got %d crashes, want the end of a debugged process to be none", got)
	}
}

func TestAttachWithoutAFile(t *testing.T) {
	w := newWorld(t).start(nil)
	d := &debugged{name: "fresh", standing: make(chan struct{}), asked: make(chan int64, 10)}
	close(d.standing)
	at, _ := d.serve(t)
	for range 3 { // again at once after each detachment
		if err := w.host.Attach(t.Context(), "fresh", at); err != nil {
			t.Fatal(err)
		}
		if got, err := w.dispatch(t.Context(), "fresh", "{}"); err != nil || string(got) != `"attached"` {
			t.Errorf("got %s, %v", got, err)
		}
		if err := w.host.Detach(t.Context(), "fresh"); err != nil {
			t.Fatal(err)
		}
	}
	w.eventually("nothing of it is left", func() bool { return len(w.host.States()) == 0 })
	for _, bad := range []core.PluginAttachment{{Network: "tcp", Address: "127.0.0.1:1"}, {Network: "unix", Address: "/no/such/socket"}} {
		if err := w.host.Attach(t.Context(), "fresh", bad); err == nil {
			t.Errorf("attached to %+v", bad)
		}
	}
	if err := w.host.Attach(t.Context(), "Bad", at); err == nil {
		t.Error("a name that no plugin can have was attached")
	}
	if err := w.host.Attach(t.Context(), "other", at); err == nil {
		t.Error("a plugin was attached under another's name")
	}
	w.eventually("failed attachments leave nothing", func() bool { return len(w.host.States()) == 0 })
}
