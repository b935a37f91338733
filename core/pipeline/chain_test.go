package pipeline_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/pipeline"
	"github.com/plugboard/plugboard/sdk/e2ee"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

func plaintextAllowed(o *pipeline.Options) { o.RequireEncryption = false }

func TestMalformedFramesAreAnsweredAndCost(t *testing.T) {
	d := newDesk(t)
	for i, c := range []struct {
		frame, id string
		code      fault.Code
	}{
		{`{"type":"direct",`, "", fault.BadJSON},
		{`[]`, "", fault.BadJSON},
		{`{"type":"direct","type":"ack","id":"a"}`, "", fault.BadJSON},
		{`{"type":"dance","id":"a"}`, "a", fault.UnknownType},
		{`{"id":"a"}`, "a", fault.InvalidRequest},
		{`{"type":"server","id":"a"}`, "a", fault.InvalidRequest},
		{`{"type":"server","id":"a","command":"No Such"}`, "a", fault.InvalidRequest},
		{`{"type":"server","id":"bad id","command":"ping"}`, "", fault.InvalidRequest},
		{`{"type":"server","id":"a","command":"ping","params":[]}`, "a", fault.InvalidRequest},
	} {
		d.sendRaw(c.frame)
		d.wantError(c.code, c.id)
		if d.messages.taken != i+1 || d.flood.taken != i+1 {
			t.Errorf("%s: got %d tokens and %d of the flood bucket taken, want %d of each", c.frame, d.messages.taken, d.flood.taken, i+1)
		}
	}
	if len(d.out.closes) != 0 {
		t.Errorf("got closed with %v, want the connection to stay", d.out.closes)
	}
}

func TestRateLimitComesBeforeTheFrameIsJudged(t *testing.T) {
	d := newDesk(t)
	d.messages.left = 0
	for _, frame := range []string{`{`, `{"type":"server","id":"a","command":"ping"}`} {
		d.sendRaw(frame)
		f := d.wantError(fault.RateLimited, strings.Repeat("a", len(frame)/len(`{"type":"server","id":"a"}`)))
		if f.RetryAfter != 1500*time.Millisecond {
			t.Errorf("got retry after %v, want 1.5s", f.RetryAfter)
		}
	}
}

func TestAcksAndCancelsCostNoMessageToken(t *testing.T) {
	d := newDesk(t)
	d.messages.left, d.session.Acked = 0, 5
	d.send(&wire.MailboxAck{Seq: 6})
	d.wantRouted()
	if d.flood.taken != 0 {
		t.Error("an ack that moves forward was charged")
	}
	for i, frame := range []wire.Frame{&wire.MailboxAck{Seq: 5}, &wire.MailboxAck{Seq: 1}, &wire.Cancel{ID: "a"}} {
		d.send(frame)
		d.wantRouted()
		if d.flood.taken != i+1 {
			t.Errorf("got %d tokens of the flood bucket taken, want %d", d.flood.taken, i+1)
		}
	}
}

func TestFloodIsClosed(t *testing.T) {
	d := newDesk(t)
	d.flood.left = 3
	for range 3 {
		d.sendRaw(`{`)
		d.wantError(fault.BadJSON, "")
	}
	if len(d.out.closes) != 0 {
		t.Fatalf("got closed with %v too early", d.out.closes)
	}
	d.sendRaw(`{`)
	d.wantError(fault.BadJSON, "")
	if len(d.out.closes) != 1 || d.out.closes[0] != wire.ClosePolicy {
		t.Errorf("got closes %v, want 1008", d.out.closes)
	}
	// Acks that change nothing come to the same end.
	d.out.closes = nil
	d.send(&wire.MailboxAck{Seq: 0})
	d.wantError(fault.RateLimited, "")
	if len(d.out.closes) != 1 || d.out.closes[0].Code != 1008 {
		t.Errorf("got closes %v, want 1008", d.out.closes)
	}
}

func TestSenderSpeaksAsItself(t *testing.T) {
	d := newDesk(t)
	m := d.seal("a", 3, noon)
	m.From = "bob"
	d.send(m)
	d.wantError(fault.Forbidden, "a")
	d.send(&wire.Broadcast{ID: "b", From: "bob", Content: "x", Timestamp: wire.FormatTime(noon)})
	d.wantError(fault.Forbidden, "b")
	m.From = "alice"
	d.send(m)
	if got := d.wantRouted().Message.From; got != "alice" {
		t.Errorf("got from %q, want alice", got)
	}
}

func TestExpiredToken(t *testing.T) {
	d := newDesk(t)
	d.now = noon.Add(time.Hour)
	d.send(&wire.Command{ID: "a", Command: "ping"})
	d.wantError(fault.TokenExpired, "a")
	d.send(&wire.Auth{ID: "b", Token: "x"}) // the way out
	d.wantRouted()
	d.now = d.now.Add(-time.Nanosecond)
	d.send(&wire.Command{ID: "a", Command: "ping"})
	d.wantRouted()
}

func TestDirectIsPreparedForTheStore(t *testing.T) {
	d := newDesk(t)
	f := d.seal("a", 3, noon)
	d.send(f)
	r := d.wantRouted()
	m := r.Message
	if r.Recipient != d.bob.account || r.Stored != nil || m.From != "alice" || m.To != "bob" || m.ID != "a" || m.KeyVersion != 3 ||
		m.Content != f.Content || m.EncryptedKey != f.EncryptedKey || m.EncryptionNonce != f.EncryptionNonce || m.Signature != f.Signature ||
		m.Timestamp != f.Timestamp || m.Digest == [32]byte{} {
		t.Errorf("got %+v of %+v", m, f)
	}
	if d.lookup.asked != 0 {
		t.Error("asked the store about a message that is new and good")
	}
	d.send(f)
	if again := d.wantRouted().Message; again.Digest != m.Digest {
		t.Error("the same message has two digests")
	}
	other := d.seal("a", 3, noon)
	d.send(other)
	if again := d.wantRouted().Message; again.Digest == m.Digest {
		t.Error("two messages have one digest")
	}
	if strings.Contains(d.log.String(), f.Content) || strings.Contains(d.log.String(), f.Signature) {
		t.Error("contents or signature in the log")
	}
}

func TestDirectRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		frame func(*desk) *wire.Direct
		want  fault.Code
	}{
		"unknown recipient": {func(d *desk) *wire.Direct { f := d.seal("a", 3, noon); f.To = "nobody"; return f }, fault.UnknownUser},
		"not sealed": {func(*desk) *wire.Direct {
			return &wire.Direct{ID: "a", To: "bob", Content: "hi", Timestamp: wire.FormatTime(noon)}
		}, fault.EncryptionRequired},
		"future version":    {func(d *desk) *wire.Direct { return d.seal("a", 4, noon) }, fault.KeyVersion},
		"two versions back": {func(d *desk) *wire.Direct { return d.seal("a", 1, noon) }, fault.KeyVersion},
		"too old":           {func(d *desk) *wire.Direct { return d.seal("a", 3, noon.Add(-24*time.Hour-time.Millisecond)) }, fault.StaleTimestamp},
		"too early":         {func(d *desk) *wire.Direct { return d.seal("a", 3, noon.Add(5*time.Minute+time.Millisecond)) }, fault.StaleTimestamp},
		"content changed": {func(d *desk) *wire.Direct {
			f := d.seal("a", 3, noon)
			f.Content = d.seal("a", 3, noon).Content
			return f
		}, fault.InvalidSignature},
		"id changed": {func(d *desk) *wire.Direct { f := d.seal("b", 3, noon); f.ID = "a"; return f }, fault.InvalidSignature},
		"time changed": {func(d *desk) *wire.Direct {
			f := d.seal("a", 3, noon.Add(-25*time.Hour))
			f.Timestamp = wire.FormatTime(noon)
			return f
		}, fault.InvalidSignature},
		"signed by another": {func(d *desk) *wire.Direct {
			mallory := newPerson(d.t, "alice", core.EncryptionKey{Version: 1})
			d.alice.identity, d.alice.account = mallory.identity, mallory.account
			return d.seal("a", 3, noon)
		}, fault.InvalidSignature},
		"half sealed": {func(d *desk) *wire.Direct { f := d.seal("a", 3, noon); f.Signature = ""; return f }, fault.InvalidRequest},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t)
			d.send(c.frame(d))
			f := d.wantError(c.want, "a")
			if got, want := string(f.Details), `{"key_version":3}`; c.want == fault.KeyVersion && got != want {
				t.Errorf("got details %s, want %s", got, want)
			}
			if d.messages.taken != 1 {
				t.Errorf("got %d tokens taken, want 1", d.messages.taken)
			}
		})
	}
}

func TestDirectAtTheBorders(t *testing.T) {
	d := newDesk(t)
	for _, f := range []*wire.Direct{
		d.seal("a", 3, noon.Add(-24*time.Hour)), d.seal("a", 3, noon.Add(5*time.Minute)), d.seal("a", 2, noon),
	} {
		d.send(f)
		d.wantRouted()
	}
	d.now = noon.Add(23*time.Hour + time.Millisecond) // bob rotated an hour before noon
	d.session.Renew(core.Principal{UserID: "alice", IssuedAt: d.now, ExpiresAt: d.now.Add(time.Hour)})
	d.send(d.seal("b", 2, d.now))
	d.wantError(fault.KeyVersion, "b")
}

// TestRepeatedMessageGetsItsFirstAnswer: a retry after a long absence is no error,
// whatever its age and key version are by now.
func TestRepeatedMessageGetsItsFirstAnswer(t *testing.T) {
	d := newDesk(t)
	old := d.seal("a", 1, noon.Add(-90*24*time.Hour)) // stale and two rotations back
	before := d.now
	d.now, d.bob.account.Keys = noon.Add(-90*24*time.Hour), d.bob.account.Keys[2:]
	d.send(old)
	m := *d.wantRouted().Message
	m.Seq, m.ServerTime = 7, d.now
	d.lookup.stored["alice/a"] = m

	fresh := newDesk(t)
	fresh.alice, fresh.bob, fresh.lookup.stored = d.alice, d.bob, d.lookup.stored
	d.now = before
	d.bob.account.Keys = append([]core.EncryptionKey{{Version: 3, Public: m.Digest[:], PublishedAt: noon}, {Version: 2, Public: m.Digest[:]}}, d.bob.account.Keys...)
	d.send(old)
	r := d.wantRouted()
	if r.Stored == nil || r.Stored.Seq != 7 || !r.Stored.Repeated || !r.Stored.ServerTime.Equal(m.ServerTime) {
		t.Errorf("got %+v, want the answer of the first time", r.Stored)
	}
	// The same id with other contents.
	d.send(d.seal("a", 1, noon.Add(-80*24*time.Hour)))
	d.wantError(fault.IDConflict, "a")
	// The store cannot tell: the client must not believe that nothing was stored.
	d.lookup.err = errors.New("disk /var/secret on fire")
	d.send(old)
	if f := d.wantError(fault.StorageUnavailable, "a"); strings.Contains(f.Message, "secret") {
		t.Errorf("got internal text %q", f.Message)
	}
}

func TestPlaintextWhereAllowed(t *testing.T) {
	d := newDesk(t, plaintextAllowed)
	f := &wire.Direct{ID: "a", To: "bob", Content: "hi", Timestamp: wire.FormatTime(noon)}
	d.send(f)
	r := d.wantRouted()
	if want := sha256.Sum256(e2ee.PlainTranscript("alice", "bob", "a", f.Timestamp, "hi")); r.Message.Digest != want || r.Message.KeyVersion != 0 {
		t.Errorf("got %+v", r.Message)
	}
	f.Timestamp = wire.FormatTime(noon.Add(-25 * time.Hour))
	d.send(f)
	d.wantError(fault.StaleTimestamp, "a")
}

func TestBroadcastSignature(t *testing.T) {
	d := newDesk(t)
	b := &wire.Broadcast{ID: "a", Content: "to all", Timestamp: wire.FormatTime(noon)}
	d.send(b)
	d.wantRouted()
	b.Signature = d.sign(e2ee.BroadcastTranscript("alice", b.ID, b.Timestamp, b.Content))
	d.send(b)
	d.wantRouted()
	b.Content = "to nobody"
	d.send(b)
	d.wantError(fault.InvalidSignature, "a")
}

func TestSignedCommand(t *testing.T) {
	params := "{ \"b\" : 1,\n\"a\":\"<&>\" }" // as it stands in the frame, to the byte
	frame := func(d *desk, host string, at time.Time) string {
		stamp := wire.FormatTime(at)
		return fmt.Sprintf(`{"type":"server","id":"a","command":"ping","params":%s,"timestamp":%q,"signature":%q}`,
			params, stamp, d.sign(e2ee.CommandTranscript(host, "alice", "a", stamp, "ping", []byte(params))))
	}
	d := newDesk(t)
	d.sendRaw(frame(d, host, noon))
	r := d.wantRouted()
	want := sha256.Sum256(e2ee.CommandTranscript(host, "alice", "a", wire.FormatTime(noon), "ping", []byte(params)))
	if !r.SignatureVerified || r.SignedDigest != want {
		t.Errorf("got verified %v and digest %x, want %x", r.SignatureVerified, r.SignedDigest, want)
	}
	d.sendRaw(frame(d, "evil.example", noon)) // relayed by another host
	d.wantError(fault.InvalidSignature, "a")
	d.sendRaw(strings.Replace(frame(d, host, noon), `"ping"`, `"pong"`, 1))
	d.wantError(fault.InvalidSignature, "a")
	d.sendRaw(strings.Replace(frame(d, host, noon), "1,", "2,", 1))
	d.wantError(fault.InvalidSignature, "a")
	for _, off := range []time.Duration{-5*time.Minute - time.Millisecond, 5*time.Minute + time.Millisecond} {
		d.sendRaw(frame(d, host, noon.Add(off)))
		d.wantError(fault.StaleTimestamp, "a")
	}
	for _, off := range []time.Duration{-5 * time.Minute, 5 * time.Minute} {
		d.sendRaw(frame(d, host, noon.Add(off)))
		d.wantRouted()
	}
	d.sendRaw(`{"type":"server","id":"a","command":"ping"}`)
	if r := d.wantRouted(); r.SignatureVerified || r.SignedDigest != [32]byte{} {
		t.Error("a command without a signature passes for signed")
	}
}

func TestInternalTextStaysInside(t *testing.T) {
	d := newDesk(t)
	for name, route := range map[string]core.Route{
		"panic": func(context.Context, *core.Request) error { panic("the secret of the house") },
		"error": func(context.Context, *core.Request) error { return errors.New("the secret of the house") },
		"nil":   func(context.Context, *core.Request) error { var r *core.Request; r.ID = "x"; return nil },
	} {
		t.Run(name, func(t *testing.T) {
			d.t, d.route = t, route
			d.log.Reset()
			d.send(&wire.Command{ID: "a", Command: "ping"})
			f := d.wantError(fault.Internal, "a")
			_, rest, ok := strings.Cut(f.Message, "reference ")
			reference, _, _ := strings.Cut(rest, " ")
			if !ok || len(reference) != 36 || !strings.Contains(d.log.String(), reference) {
				t.Errorf("got %q, want a reference that is in the log:\n%s", f.Message, d.log.String())
			}
			if strings.Contains(f.Message, "secret") || strings.Contains(f.Message, "nil map") || len(f.Details) != 0 {
				t.Errorf("got internal text %q", f.Message)
			}
			if name == "error" && !strings.Contains(d.log.String(), "the secret of the house") {
				t.Error("the log does not say what happened")
			}
		})
	}
	d.t, d.route = t, func(context.Context, *core.Request) error { return nil }
	d.send(&wire.Command{ID: "b", Command: "ping"}) // the connection goes on
	if len(d.out.answers) != 0 || len(d.out.closes) != 0 {
		t.Errorf("got %s and closes %v after the panic", d.out.answers, d.out.closes)
	}
}
