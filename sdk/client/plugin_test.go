package client_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plugboard/plugboard/sdk/client"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// fromPlugin puts a message of a plugin into alice's mailbox.
func (s *server) fromPlugin(from, id, text string) *wire.Direct {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := &wire.Direct{ID: id, From: from, To: "alice", Seq: uint64(len(s.mailbox) + 1), ServerTime: when, Timestamp: when, Content: text}
	s.mailbox = append(s.mailbox, d)
	return d
}

// A plugin's message comes to a client that insists on sealed ones, marked as what
// it is, once, in its place among the others, and is acknowledged as they are.
func TestMessagesOfPlugins(t *testing.T) {
	s := newServer(t)
	bob := newPeer(t, s, "bob", 1)
	refused := make(chan client.Refused, 16)
	c, _, conn := alice(t, s, func(o *client.Options) { o.OnRefused = func(r client.Refused) { refused <- r } })
	sealed := bob.seal(t, s, "m-1", "sealed")
	frames := []*wire.Direct{sealed, s.fromPlugin("plugin:weather", "p-1", "rain")}
	again := *frames[1]
	again.Seq = 3
	s.mailbox = append(s.mailbox, &again)
	frames = append(frames, &again)
	bad := []*wire.Direct{ // from 4 on
		s.fromPlugin("plugin:weather", "p-1", "another under a used id"),
		s.fromPlugin("plugin:", "p-2", "x"), s.fromPlugin("plugin:Weather", "p-3", "x"), s.fromPlugin("plugin:we ather", "p-4", "x"),
		s.fromPlugin("plugin:"+strings.Repeat("a", 33), "p-5", "x"), s.fromPlugin("plugin:weather:x", "p-6", "x"), s.fromPlugin("xplugin:weather", "p-7", "x"),
		s.fromPlugin("weather", "p-8", "x"), s.fromPlugin("plugin:weather", "no id", "x"),
	}
	pretends := bob.seal(t, s, "p-9", "x")
	pretends.From = "plugin:weather"
	frames = append(append(frames, bad...), pretends, s.fromPlugin("plugin:"+strings.Repeat("a", 32), "p-10", "the end"))
	for _, f := range frames {
		conn.push(f)
	}
	var got []client.Message
	for m, err := range c.Messages(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, *m); len(got) == 3 {
			break
		}
	}
	at, _ := time.Parse(time.RFC3339, when)
	last := "plugin:" + strings.Repeat("a", 32)
	want := []client.Message{
		{From: "bob", ID: "m-1", Seq: 1, Text: []byte("sealed"), SentAt: at, ServerTime: at, Sealed: true},
		{From: "plugin:weather", Plugin: "weather", ID: "p-1", Seq: 2, Text: []byte("rain"), SentAt: at, ServerTime: at},
		{From: last, Plugin: last[len("plugin:"):], ID: "p-10", Seq: uint64(len(frames)), Text: []byte("the end"), SentAt: at, ServerTime: at},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
	for i := range len(bad) + 1 {
		if r := receive(t, refused, "a refusal"); r.Seq != uint64(4+i) {
			t.Errorf("refused: got seq %d (%v), want %d", r.Seq, r.Reason, 4+i)
		}
	}
	for seq := uint64(1); seq <= uint64(len(frames)); seq++ {
		if a := next[*wire.MailboxAck](t, conn); a.Seq != seq {
			t.Errorf("ack: got %d, want %d", a.Seq, seq)
		}
	}
}

func TestBroadcastsOfPlugins(t *testing.T) {
	s := newServer(t)
	c, _, conn := alice(t, s, nil)
	conn.push(&wire.Broadcast{ID: "b-1", From: "plugin:weather", ServerTime: when, Timestamp: when, Content: "storm", Signature: strings.Repeat("A", 88)})
	conn.push(&wire.Broadcast{ID: "b-2", From: "bob", ServerTime: when, Timestamp: when, Content: "hello"})
	at, _ := time.Parse(time.RFC3339, when)
	want := []client.Event{
		&client.Broadcast{From: "plugin:weather", Plugin: "weather", ID: "b-1", Text: "storm", ServerTime: at},
		&client.Broadcast{From: "bob", ID: "b-2", Text: "hello", ServerTime: at},
	}
	for e, err := range c.Events(t.Context()) {
		if diff := cmp.Diff(want[0], e); err != nil || diff != "" {
			t.Errorf("broadcast (-want +got): %v\n%s", err, diff)
		}
		if want = want[1:]; len(want) == 0 {
			break
		}
	}
}

// Nobody can write back to a plugin, and is told what to do instead.
func TestSendingToAPluginIsRefused(t *testing.T) {
	s := newServer(t)
	c, _, _ := alice(t, s, nil)
	_, err := c.Send(t.Context(), "plugin:weather", []byte("thanks"))
	if fault.CodeOf(err) != fault.InvalidRequest || !strings.Contains(err.Error(), `"weather" is a plugin`) {
		t.Errorf("send to a plugin: got %v, want %s that says so", err, fault.InvalidRequest)
	}
	if _, err := c.SafetyNumber(t.Context(), "plugin:weather"); fault.CodeOf(err) != fault.InvalidRequest {
		t.Errorf("safety number of a plugin: got %v, want %s", err, fault.InvalidRequest)
	}
}
