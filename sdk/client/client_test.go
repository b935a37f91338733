package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/plugboard/plugboard/sdk/client"
	"github.com/plugboard/plugboard/sdk/e2ee"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

const when = "2026-01-31T12:00:00.000Z"

func stored(id string, seq uint64) *wire.Ack {
	return &wire.Ack{ID: id, Status: wire.StatusStored, Seq: seq, Timestamp: when}
}

func TestSendSealsAndSealsAnewUnderTheSameID(t *testing.T) {
	s := newServer(t)
	bob := newPeer(t, s, "bob", 1)
	c, identity, conn := alice(t, s, nil)
	done := sending(t.Context(), c, "bob", "hello")
	first := next[*wire.Direct](t, conn)
	bob.rotate(t, s, 2)
	conn.push(&wire.ErrorFrame{ID: first.ID, Fault: fault.New(fault.KeyVersion, "Too old.")})
	second := next[*wire.Direct](t, conn)
	if second.ID != first.ID || second.KeyVersion != 2 {
		t.Errorf("sealed anew: got id %s version %d, want id %s version 2", second.ID, second.KeyVersion, first.ID)
	}
	if got := bob.open(t, identity.PublicKey(), "alice", second); got != "hello" {
		t.Errorf("text: got %q", got)
	}
	conn.push(stored(second.ID, 7))
	if r := receive(t, done, "the ack"); r.err != nil || r.value.Seq != 7 {
		t.Errorf("Send: got %+v, %v, want seq 7", r.value, r.err)
	}
}

func TestSendComesAgainAfterReconnect(t *testing.T) {
	s := newServer(t)
	newPeer(t, s, "bob", 1)
	c, _, conn := alice(t, s, nil)
	done := sending(t.Context(), c, "bob", "hello")
	first := next[*wire.Direct](t, conn)
	conn.close(1012)
	conn = receive(t, s.conns, "the second connection")
	again := next[*wire.Direct](t, conn)
	if string(again.Append(nil)) != string(first.Append(nil)) {
		t.Errorf("frame after reconnect: got %s, want %s", again.Append(nil), first.Append(nil))
	}
	conn.push(stored(again.ID, 1))
	if r := receive(t, done, "the ack"); r.err != nil {
		t.Error(r.err)
	}
}

func TestChangedIdentityBlocksSending(t *testing.T) {
	s := newServer(t)
	newPeer(t, s, "bob", 1)
	c, _, _ := alice(t, s, nil)
	if _, err := c.Keys(t.Context(), "bob"); err != nil {
		t.Fatal(err)
	}
	newPeer(t, s, "bob", 1)
	if _, err := c.Send(t.Context(), "bob", []byte("x")); !errors.Is(err, e2ee.ErrIdentityChanged) {
		t.Errorf("Send: got %v, want %v", err, e2ee.ErrIdentityChanged)
	}
	if err := c.AcceptIdentity(t.Context(), "bob"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Keys(t.Context(), "bob"); err != nil {
		t.Errorf("Keys after AcceptIdentity: %v", err)
	}
}

// The other process raises the pin; this one must not take the older key again.
func TestRollbackIsRefusedAcrossProcesses(t *testing.T) {
	s := newServer(t)
	bob := newPeer(t, s, "bob", 1)
	c, identity, _ := alice(t, s, nil)
	if _, err := c.Keys(t.Context(), "bob"); err != nil {
		t.Fatal(err)
	}
	old := bob.bundle()
	bob.rotate(t, s, 2)
	second, err := client.OpenIdentity(identity.Path())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newClient(t, client.Options{Server: s.URL, Identity: second}).Keys(t.Context(), "bob"); err != nil {
		t.Fatal(err)
	}
	s.put(old)
	if _, err := c.Keys(t.Context(), "bob"); !errors.Is(err, e2ee.ErrRollback) {
		t.Errorf("Keys: got %v, want %v", err, e2ee.ErrRollback)
	}
}

// A broken frame between two good ones is put aside and acknowledged; a repeated
// one is dropped; a forged one does not keep the real one out.
func TestMessagesInOrderDespiteBadOnes(t *testing.T) {
	s := newServer(t)
	bob := newPeer(t, s, "bob", 1)
	refused := make(chan client.Refused, 8)
	c, _, conn := alice(t, s, func(o *client.Options) { o.OnRefused = func(r client.Refused) { refused <- r } })
	one := bob.seal(t, s, "m-1", "one")
	forged := bob.seal(t, s, "m-2", "two")
	forged.Signature = one.Signature
	two := bob.seal(t, s, "m-2", "two")
	repeated := *one
	repeated.Seq = 4
	plain := &wire.Direct{ID: "p", From: "bob", To: "alice", Seq: 5, Content: "plain", Timestamp: when}
	other := bob.seal(t, s, "m-1", "another under a used id")
	other.Seq = 6
	three := bob.seal(t, s, "m-3", "three")
	three.Seq = 7
	for _, d := range []*wire.Direct{one, forged, two, &repeated, plain, other, three} {
		conn.push(d)
	}
	var got []string
	for m, err := range c.Messages(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, string(m.Text)); len(got) == 3 {
			break
		}
	}
	if fmt.Sprint(got) != "[one two three]" {
		t.Errorf("messages: got %v, want [one two three]", got)
	}
	for _, want := range []uint64{2, 5, 6} {
		if r := receive(t, refused, "a refusal"); r.Seq != want {
			t.Errorf("refused: got seq %d (%v), want %d", r.Seq, r.Reason, want)
		}
	}
	for want := uint64(1); want <= 7; want++ {
		if a := next[*wire.MailboxAck](t, conn); a.Seq != want {
			t.Errorf("ack: got %d, want %d", a.Seq, want)
		}
	}
}

func TestSeenMessagesAreKnownAfterRestart(t *testing.T) {
	s := newServer(t)
	bob := newPeer(t, s, "bob", 1)
	c, identity, conn := alice(t, s, nil)
	conn.push(bob.seal(t, s, "m-1", "one"))
	for range c.Messages(t.Context()) {
		break
	}
	next[*wire.MailboxAck](t, conn)
	_ = c.Close()

	again, err := client.OpenIdentity(identity.Path())
	if err != nil {
		t.Fatal(err)
	}
	c = newClient(t, client.Options{Server: s.URL, Identity: again})
	if err := c.Connect(t.Context()); err != nil { // the server knows of no ack
		t.Fatal(err)
	}
	conn = receive(t, s.conns, "a connection")
	conn.push(s.mailbox[0])
	conn.push(bob.seal(t, s, "m-2", "two"))
	for m, err := range c.Messages(t.Context()) {
		if err != nil || string(m.Text) != "two" {
			t.Errorf("message after restart: got %v, %v, want two", m, err)
		}
		break
	}
}

// More arrives than the queue holds: the rest is fetched, in order.
func TestSlowApplicationLosesNothing(t *testing.T) {
	s := newServer(t)
	bob := newPeer(t, s, "bob", 1)
	c, _, conn := alice(t, s, func(o *client.Options) { o.Queue = 1 })
	for i := range 9 {
		conn.push(bob.seal(t, s, fmt.Sprintf("m-%d", i), fmt.Sprint(i)))
	}
	want := 0
	for m, err := range c.Messages(t.Context()) {
		if err != nil || string(m.Text) != fmt.Sprint(want) {
			t.Fatalf("message: got %v, %v, want %d", m, err, want)
		}
		if want++; want == 9 {
			break
		}
	}
}

func TestCallSignedAndCancelled(t *testing.T) {
	s := newServer(t)
	c, identity, conn := alice(t, s, nil)
	done := background(func() (json.RawMessage, error) {
		return c.Call(t.Context(), "echo", json.RawMessage(`{"a":"<"}`), client.Signed())
	})
	f := next[*wire.Command](t, conn)
	signature, err := wire.DecodeBase64(f.Signature)
	host := strings.TrimPrefix(s.URL, "http://")
	if err != nil || !e2ee.Verify(identity.PublicKey(), e2ee.CommandTranscript(host, "alice", f.ID, f.Timestamp, f.Command, f.Params), signature) {
		t.Errorf("the signature of %s does not verify: %v", f.Append(nil), err)
	}
	conn.push(&wire.Response{ID: f.ID, Command: "echo", Result: []byte(`{"ok":true}`)})
	if r := receive(t, done, "the answer"); r.err != nil || string(r.value) != `{"ok":true}` {
		t.Errorf("Call: got %s, %v", r.value, r.err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	done = background(func() (json.RawMessage, error) { return c.Call(ctx, "slow", nil) })
	f = next[*wire.Command](t, conn)
	cancel()
	if got := next[*wire.Cancel](t, conn); got.ID != f.ID {
		t.Errorf("cancel: got %s, want %s", got.ID, f.ID)
	}
	if r := receive(t, done, "the end"); !errors.Is(r.err, context.Canceled) {
		t.Errorf("Call: got %v, want %v", r.err, context.Canceled)
	}

	done = background(func() (json.RawMessage, error) { return c.Call(t.Context(), "lost", nil) })
	next[*wire.Command](t, conn)
	conn.close(1001)
	if r := receive(t, done, "the end"); !errors.Is(r.err, client.ErrConnectionLost) {
		t.Errorf("Call: got %v, want %v", r.err, client.ErrConnectionLost)
	}
}

// A token that the server forgot and a sign-in that fails do not end reconnecting.
func TestFailedSignInDoesNotEndReconnecting(t *testing.T) {
	s := newServer(t)
	_, _, conn := alice(t, s, nil)
	s.mu.Lock()
	s.failDial, s.failSign = 1, 1
	s.mu.Unlock()
	conn.close(1012)
	receive(t, s.conns, "the second connection")
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failDial != 0 || s.failSign != 0 {
		t.Errorf("refusals left: %d of the connection, %d of the sign-in, want none", s.failDial, s.failSign)
	}
}

func TestRevokedIsFinalAndCloseEndsWaiters(t *testing.T) {
	s := newServer(t)
	c, _, conn := alice(t, s, nil)
	done := background(func() (json.RawMessage, error) { return c.Call(t.Context(), "slow", nil, client.WithID("x")) })
	next[*wire.Command](t, conn)
	conn.close(wire.CloseTokenRevoked.Code)
	receive(t, done, "the end of the call")
	for _, err := range c.Events(t.Context()) {
		if fault.CodeOf(err) != fault.TokenRevoked {
			t.Errorf("Events: got %v, want %s", err, fault.TokenRevoked)
		}
	}

	unconnected := newClient(t, client.Options{Server: s.URL, Identity: mustIdentity(t)})
	if _, err := unconnected.Call(t.Context(), "x", nil); !errors.Is(err, client.ErrNotConnected) {
		t.Errorf("Call: got %v, want %v", err, client.ErrNotConnected)
	}
	_ = unconnected.Close()
	for _, err := range unconnected.Events(t.Context()) {
		if !errors.Is(err, client.ErrClosed) {
			t.Errorf("Events after Close: got %v, want %v", err, client.ErrClosed)
		}
	}
}

func mustIdentity(t *testing.T) *client.Identity {
	t.Helper()
	i, err := client.CreateIdentity(filepath.Join(t.TempDir(), "id"), "carol", "")
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestIdentityFile(t *testing.T) {
	i := mustIdentity(t)
	info, err := os.Stat(i.Path())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode: got %v, %v, want 0600", info.Mode(), err)
	}
	data, err := os.ReadFile(i.Path())
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Seed string `json:"ed25519_seed"`
	}
	if err := json.Unmarshal(data, &file); err != nil || file.Seed == "" {
		t.Fatalf("identity file: %v", err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(verb, i); strings.Contains(got, file.Seed) || !strings.Contains(got, "carol") || len(got) > 40 {
			t.Errorf("%s prints %s", verb, got)
		}
	}
	if _, err := client.CreateIdentity(i.Path(), "carol", ""); !errors.Is(err, os.ErrExist) {
		t.Errorf("CreateIdentity over a file: got %v, want %v", err, os.ErrExist)
	}
	again, err := client.OpenIdentity(i.Path())
	if err != nil || !again.PublicKey().Equal(i.PublicKey()) {
		t.Errorf("OpenIdentity: %v, or another key", err)
	}
	if err := os.Chmod(i.Path(), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := client.OpenIdentity(i.Path()); err == nil {
		t.Error("OpenIdentity of a file that others may read: got no error")
	}
}

// Two processes pin different peers at the same time; no pin is lost.
func TestConcurrentPins(t *testing.T) {
	s := newServer(t)
	_, identity, _ := alice(t, s, nil)
	var work sync.WaitGroup
	for p := range 2 {
		own, err := client.OpenIdentity(identity.Path())
		if err != nil {
			t.Fatal(err)
		}
		c := newClient(t, client.Options{Server: s.URL, Identity: own})
		for n := range 8 {
			id := fmt.Sprintf("peer-%d-%d", p, n)
			newPeer(t, s, id, 1)
			work.Go(func() {
				if _, err := c.Keys(t.Context(), id); err != nil {
					t.Error(err)
				}
			})
		}
	}
	work.Wait()
	last, err := client.OpenIdentity(identity.Path())
	if err != nil {
		t.Fatal(err)
	}
	for p := range 2 {
		for n := range 8 {
			if id := fmt.Sprintf("peer-%d-%d", p, n); last.Pin(id).KeyVersion != 1 {
				t.Errorf("the pin of %s was lost", id)
			}
		}
	}
}
