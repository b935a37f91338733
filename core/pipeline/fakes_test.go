package pipeline_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"encoding/base64"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/pipeline"
	"github.com/plugboard/plugboard/sdk/e2ee"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var noon = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

const host = "chat.example:8443"

// outbox records what a client would see.
type outbox struct {
	mu      sync.Mutex
	answers [][]byte
	closes  []wire.Close
}

func (o *outbox) Offer(f *core.Encoded) bool { o.Answer(f); return true }

func (o *outbox) Answer(f *core.Encoded) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.answers = append(o.answers, f.JSON)
}

func (o *outbox) Room() int { return 1 }

func (o *outbox) Close(reason wire.Close) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closes = append(o.closes, reason)
}

// person is a user with private keys.
type person struct {
	account  *core.Account
	identity ed25519.PrivateKey
	keys     map[uint64]*ecdh.PrivateKey
}

func newPerson(t testing.TB, id string, versions ...core.EncryptionKey) *person {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	p := &person{identity: private, keys: make(map[uint64]*ecdh.PrivateKey)}
	p.account = &core.Account{User: core.User{ID: id, Username: id, PublicKey: public}}
	for _, k := range versions {
		key, err := e2ee.GenerateEncryptionKey()
		if err != nil {
			t.Fatal(err)
		}
		k.Public = key.PublicKey().Bytes()
		p.keys[k.Version] = key
		p.account.Keys = append(p.account.Keys, k)
	}
	return p
}

// accounts are the users by id.
type accounts map[string]*core.Account

// Account is pipeline.Accounts.
func (a accounts) Account(_ context.Context, id string) (*core.Account, error) {
	if found := a[id]; found != nil {
		return found, nil
	}
	return nil, fault.Newf(fault.UnknownUser, "There is no user %q.", id)
}

// lookup answers FindStored as a store would.
type lookup struct {
	stored map[string]core.Message // by sender and id
	err    error
	asked  int
}

// FindStored is pipeline.Lookup.
func (l *lookup) FindStored(_ context.Context, from, id string, digest [32]byte) (core.Stored, error) {
	l.asked++
	if l.err != nil {
		return core.Stored{}, l.err
	}
	m, ok := l.stored[from+"/"+id]
	switch {
	case !ok:
		return core.Stored{}, core.ErrNotFound
	case m.Digest != digest:
		return core.Stored{}, core.ErrIDConflict
	}
	return core.Stored{Seq: m.Seq, ServerTime: m.ServerTime, Repeated: true}, nil
}

// tokens is a bucket that counts and is never refilled.
type tokens struct{ left, taken int }

// Allow is pipeline.Limiter.
func (k *tokens) Allow(string, time.Time) (bool, time.Duration) {
	if k.left == 0 {
		return false, 1500 * time.Millisecond
	}
	k.left--
	k.taken++
	return true, 0
}

// desk is a chain with everything around it.
type desk struct {
	t               testing.TB
	alice, bob      *person
	lookup          *lookup
	messages, flood *tokens
	now             time.Time
	log             bytes.Buffer
	routed          []*core.Request
	route           core.Route
	out             *outbox
	session         *core.Session
	chain           *pipeline.Chain
}

func newDesk(t testing.TB, change ...func(*pipeline.Options)) *desk {
	t.Helper()
	d := &desk{t: t, now: noon, out: new(outbox), messages: &tokens{left: 1000}, flood: &tokens{left: 1000}}
	d.alice = newPerson(t, "alice", core.EncryptionKey{Version: 1, PublishedAt: noon.Add(-time.Hour)})
	d.bob = newPerson(t, "bob",
		core.EncryptionKey{Version: 3, PublishedAt: noon.Add(-time.Hour)},
		core.EncryptionKey{Version: 2, PublishedAt: noon.Add(-48 * time.Hour)},
		core.EncryptionKey{Version: 1, PublishedAt: noon.Add(-96 * time.Hour)})
	d.lookup = &lookup{stored: make(map[string]core.Message)}
	d.route = func(_ context.Context, r *core.Request) error { d.routed = append(d.routed, r); return nil }
	o := pipeline.Options{
		Accounts: accounts{"alice": d.alice.account, "bob": d.bob.account}, Lookup: d.lookup, Messages: d.messages, Flood: d.flood,
		RequireEncryption: true, Now: func() time.Time { return d.now }, Logger: zerolog.New(&d.log).Level(zerolog.DebugLevel),
		Route: func(ctx context.Context, r *core.Request) error { return d.route(ctx, r) },
	}
	for _, c := range change {
		c(&o)
	}
	d.chain = pipeline.New(o)
	principal := core.Principal{UserID: "alice", SessionID: "s", IssuedAt: noon.Add(-time.Minute), ExpiresAt: noon.Add(time.Hour)}
	d.session = core.NewSession("conn", principal, d.alice.account, core.Remote{Host: host}, noon, d.out, core.NewCalls(t.Context(), 4))
	return d
}

func (d *desk) send(frame wire.Frame) { d.sendRaw(string(frame.Append(nil))) }

func (d *desk) sendRaw(frame string) { d.chain.Handle(d.t.Context(), d.session, []byte(frame)) }

// wantRouted wants the last frame to have passed without an answer.
func (d *desk) wantRouted() *core.Request {
	d.t.Helper()
	if len(d.out.answers) != 0 || len(d.routed) != 1 {
		d.t.Fatalf("got %d routed and answers %s, want one routed and no answer", len(d.routed), d.out.answers)
	}
	r := d.routed[0]
	d.routed = nil
	return r
}

// wantError wants one error frame as the only answer.
func (d *desk) wantError(code fault.Code, id string) *fault.Error {
	d.t.Helper()
	if len(d.out.answers) != 1 || len(d.routed) != 0 {
		d.t.Fatalf("got %d routed and answers %s, want one answer", len(d.routed), d.out.answers)
	}
	f, err := wire.DecodeServer(d.out.answers[0])
	if err != nil {
		d.t.Fatal(err)
	}
	d.out.answers = nil
	e, ok := f.(*wire.ErrorFrame)
	if !ok || e.Fault.Code != code || e.ID != id {
		d.t.Fatalf("got %s, want error %s of id %q", f.Append(nil), code, id)
	}
	return e.Fault
}

// seal makes a sealed frame from alice to bob.
func (d *desk) seal(id string, version uint64, at time.Time) *wire.Direct {
	d.t.Helper()
	key, ok := d.bob.keys[version]
	if !ok {
		var err error
		if key, err = e2ee.GenerateEncryptionKey(); err != nil {
			d.t.Fatal(err)
		}
	}
	h := e2ee.Header{
		From: "alice", To: "bob", ID: id, Timestamp: wire.FormatTime(at), KeyVersion: version,
		Sender: d.alice.account.PublicKey, Recipient: d.bob.account.PublicKey, EncryptionKey: key.PublicKey().Bytes(),
	}
	e, err := e2ee.Seal(&h, d.alice.identity, []byte("the secret marker"))
	if err != nil {
		d.t.Fatal(err)
	}
	b64 := base64.StdEncoding.EncodeToString
	return &wire.Direct{
		ID: id, To: "bob", Timestamp: h.Timestamp, KeyVersion: version, Content: b64(e.Content),
		EncryptedKey: b64(e.EncryptedKey), EncryptionNonce: b64(e.Nonce), Signature: b64(e.Signature),
	}
}

func (d *desk) sign(transcript []byte) string {
	return base64.StdEncoding.EncodeToString(ed25519.Sign(d.alice.identity, transcript))
}
