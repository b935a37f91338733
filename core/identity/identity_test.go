package identity_test

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/identity"
	"github.com/plugboard/plugboard/core/store/sqlite"
	"github.com/plugboard/plugboard/sdk/e2ee"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var remote = core.Remote{Addr: "192.0.2.1", Host: "localhost:8080"}

type server struct {
	*identity.Service
	store *sqlite.Store
	o     identity.Options
	now   atomic.Int64
}

func newServer(t testing.TB) *server {
	t.Helper()
	dir := t.TempDir()
	st, err := sqlite.Open(t.Context(), sqlite.Options{Path: filepath.Join(dir, "p.db"), Synchronous: sqlite.SyncNormal})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() }) // the test is over
	s := &server{store: st}
	s.now.Store(time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC).UnixNano())
	s.o = identity.Options{Store: st, KeyDir: filepath.Join(dir, "keys"), Issuer: "iss", Audience: "aud", RegistrationOpen: true,
		FailedPerMinute: 1000, Now: func() time.Time { return time.Unix(0, s.now.Load()).UTC() }}
	s.reopen(t)
	return s
}

func (s *server) reopen(t testing.TB) {
	t.Helper()
	svc, err := identity.Open(t.Context(), s.o)
	if err != nil {
		t.Fatal(err)
	}
	if err := svc.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = svc.Stop(t.Context()) }) // ends at once
	s.Service = svc
}

func (s *server) advance(d time.Duration) { s.now.Add(int64(d)) }

type user struct {
	id   string
	priv ed25519.PrivateKey
}

func (s *server) bundle(t testing.TB, u user, version uint64) *e2ee.Bundle {
	t.Helper()
	k, err := e2ee.GenerateEncryptionKey()
	if err != nil {
		t.Fatal(err)
	}
	b := &e2ee.Bundle{UserID: u.id, PublicKey: u.priv.Public().(ed25519.PublicKey), EncryptionKey: k.PublicKey().Bytes(), KeyVersion: version, CreatedAt: wire.FormatTime(s.o.Now())}
	b.Sign(u.priv)
	return b
}

func (s *server) request(t testing.TB, u user) *wire.RegisterRequest {
	b := s.bundle(t, u, 1)
	at := wire.FormatTime(s.o.Now())
	return &wire.RegisterRequest{UserID: u.id, Username: "Name", PublicKey: b.PublicKey, X25519PublicKey: b.EncryptionKey, KeyVersion: 1,
		CreatedAt: b.CreatedAt, KeySignature: b.Signature, Timestamp: at, Signature: ed25519.Sign(u.priv, e2ee.RegisterTranscript(remote.Host, b, "Name", at))}
}

func newUser(id string) user {
	_, priv, _ := ed25519.GenerateKey(rand.Reader)
	return user{id, priv}
}

func (s *server) user(t testing.TB, id string) user {
	t.Helper()
	u := newUser(id)
	if _, created, err := s.Register(t.Context(), s.request(t, u), remote); err != nil || !created {
		t.Fatalf("register: got created %v, %v", created, err)
	}
	return u
}

func (s *server) answer(t testing.TB, u user, host string) *wire.LoginRequest {
	t.Helper()
	c, err := s.Challenge(u.id)
	if err != nil {
		t.Fatal(err)
	}
	return &wire.LoginRequest{UserID: u.id, Challenge: c.Challenge, Signature: ed25519.Sign(u.priv, e2ee.LoginTranscript(host, u.id, c.Challenge, c.ExpiresAt))}
}

func (s *server) signIn(t testing.TB, u user) string {
	t.Helper()
	in, err := s.SignIn(t.Context(), s.answer(t, u, remote.Host), remote)
	if err != nil {
		t.Fatalf("sign in: %v", err)
	}
	return in.Token
}

func wantCode(t testing.TB, what string, err error, want fault.Code) {
	t.Helper()
	if got := fault.CodeOf(err); got != want {
		t.Errorf("%s: got %q (%v), want %q", what, got, err, want)
	}
}

func TestRegister(t *testing.T) {
	s := newServer(t)
	u := newUser("alice")
	r := s.request(t, u)
	first, _, err := s.Register(t.Context(), r, remote)
	wantCode(t, "first", err, "")
	s.advance(time.Hour)
	again, created, err := s.Register(t.Context(), r, remote)
	if err != nil || created || again != first {
		t.Errorf("again: got %v %v %v, want %v false", again, created, err, first)
	}
	_, _, err = s.Register(t.Context(), s.request(t, newUser("alice")), remote)
	wantCode(t, "another identity", err, fault.UserExists)
	for name, c := range map[string]struct {
		change func(*wire.RegisterRequest)
		code   fault.Code
	}{
		"reserved":   {func(r *wire.RegisterRequest) { r.UserID = "server" }, fault.InvalidRequest},
		"low order":  {func(r *wire.RegisterRequest) { r.PublicKey = append([]byte{1}, make([]byte, 31)...) }, fault.InvalidRequest},
		"short key":  {func(r *wire.RegisterRequest) { r.PublicKey = r.PublicKey[:5] }, fault.InvalidRequest},
		"zero x":     {func(r *wire.RegisterRequest) { r.X25519PublicKey = make([]byte, 32) }, fault.InvalidRequest},
		"key sig":    {func(r *wire.RegisterRequest) { r.KeySignature[0] ^= 1 }, fault.InvalidSignature},
		"possession": {func(r *wire.RegisterRequest) { r.Username = "Other" }, fault.InvalidSignature},
		"version":    {func(r *wire.RegisterRequest) { r.KeyVersion = 2 }, fault.InvalidRequest},
		"stale":      {func(*wire.RegisterRequest) { s.advance(6 * time.Minute) }, fault.StaleTimestamp},
		"ahead":      {func(*wire.RegisterRequest) { s.advance(-6 * time.Minute) }, fault.StaleTimestamp},
	} {
		r := s.request(t, newUser("bob"))
		c.change(r)
		_, _, err := s.Register(t.Context(), r, remote)
		wantCode(t, name, err, c.code)
	}
	_, _, err = s.Register(t.Context(), s.request(t, newUser("bob")), core.Remote{Host: "elsewhere"})
	wantCode(t, "other host", err, fault.InvalidSignature)
	s.o.RegistrationOpen = false
	s.reopen(t)
	_, _, err = s.Register(t.Context(), s.request(t, newUser("bob")), remote)
	wantCode(t, "closed", err, fault.RegistrationClosed)
	_, _, err = s.Register(t.Context(), r, remote)
	wantCode(t, "repeat while closed", err, "")
}

func TestSignIn(t *testing.T) {
	s := newServer(t)
	u := s.user(t, "alice")
	p, err := s.Authenticate(t.Context(), s.signIn(t, u))
	if err != nil || p.UserID != "alice" || p.Username != "Name" || p.SessionID == "" {
		t.Fatalf("authenticate: got %+v, %v", p, err)
	}
	stranger := newUser("nobody")
	var words string
	for name, r := range map[string]*wire.LoginRequest{
		"unknown": s.answer(t, stranger, remote.Host), "other key": s.answer(t, user{"alice", stranger.priv}, remote.Host),
		"other host": s.answer(t, u, "evil"), "empty": {UserID: "alice"},
	} {
		_, err := s.SignIn(t.Context(), r, remote)
		wantCode(t, name, err, fault.AuthenticationFailed)
		if words == "" {
			words = err.Error()
		}
		if err == nil || err.Error() != words {
			t.Errorf("%s: got %v, want %q", name, err, words)
		}
	}
	good := s.answer(t, u, remote.Host)
	for i := range good.Challenge {
		bad := *good
		bad.Challenge = append([]byte(nil), good.Challenge...)
		bad.Challenge[i] ^= 1
		_, err := s.SignIn(t.Context(), &bad, remote)
		wantCode(t, fmt.Sprint("byte ", i), err, fault.AuthenticationFailed)
	}
	s.advance(time.Minute)
	_, err = s.SignIn(t.Context(), good, remote)
	wantCode(t, "late", err, fault.AuthenticationFailed)
}

func TestChallengeOnceConcurrently(t *testing.T) {
	s := newServer(t)
	u := s.user(t, "alice")
	for range 20 {
		r := s.answer(t, u, remote.Host)
		var wg sync.WaitGroup
		var won atomic.Int64
		for range 8 {
			wg.Go(func() {
				if _, err := s.SignIn(t.Context(), r, remote); err == nil {
					won.Add(1)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Fatalf("sessions of one challenge: got %d, want 1", won.Load())
		}
	}
}

func TestFailuresAreLimited(t *testing.T) {
	s := newServer(t)
	s.o.FailedPerMinute = 10
	s.reopen(t)
	s.user(t, "alice")
	for _, id := range []string{"alice", "nobody"} {
		for range 10 {
			_, err := s.SignIn(t.Context(), &wire.LoginRequest{UserID: id}, remote)
			wantCode(t, id, err, fault.AuthenticationFailed)
		}
		_, err := s.SignIn(t.Context(), &wire.LoginRequest{UserID: id}, remote)
		wantCode(t, id+" again", err, fault.RateLimited)
	}
}

func TestRevocationSurvivesReopen(t *testing.T) {
	s := newServer(t)
	token := s.signIn(t, s.user(t, "alice"))
	p, err := s.Authenticate(t.Context(), token)
	wantCode(t, "before", err, "")
	wantCode(t, "logout", s.Logout(t.Context(), p), "")
	_, err = s.Authenticate(t.Context(), token)
	wantCode(t, "after", err, fault.TokenRevoked)
	s.reopen(t)
	_, err = s.Authenticate(t.Context(), token)
	wantCode(t, "reopened", err, fault.TokenRevoked)
}

func TestPublishKey(t *testing.T) {
	s := newServer(t)
	u := s.user(t, "alice")
	p := core.Principal{UserID: "alice"}
	up := func(v uint64) *wire.KeyUpload {
		b := s.bundle(t, u, v)
		return &wire.KeyUpload{X25519PublicKey: b.EncryptionKey, KeyVersion: v, CreatedAt: b.CreatedAt, KeySignature: b.Signature}
	}
	wantCode(t, "same time", s.PublishKey(t.Context(), p, up(2)), fault.InvalidRequest)
	s.advance(time.Minute)
	second := up(2)
	wantCode(t, "second", s.PublishKey(t.Context(), p, second), "")
	wantCode(t, "repeated", s.PublishKey(t.Context(), p, second), "")
	s.advance(time.Minute)
	wantCode(t, "too soon", s.PublishKey(t.Context(), p, up(3)), fault.RateLimited)
	wantCode(t, "skipped", s.PublishKey(t.Context(), p, up(4)), fault.KeyVersion)
	s.advance(time.Hour)
	bad := up(3)
	bad.KeySignature[0] ^= 1
	wantCode(t, "forged", s.PublishKey(t.Context(), p, bad), fault.InvalidSignature)
	wantCode(t, "third", s.PublishKey(t.Context(), p, up(3)), "")
	a, err := s.Account(t.Context(), "alice")
	if err != nil || a.Current().Version != 3 || len(a.Keys) != 3 {
		t.Errorf("account: got %+v, %v", a, err)
	}
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

func (s *server) serverKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	names, _ := filepath.Glob(filepath.Join(s.o.KeyDir, "signing-*.pem"))
	data, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return k.(ed25519.PrivateKey)
}

func TestForgedTokens(t *testing.T) {
	s := newServer(t)
	good := s.signIn(t, s.user(t, "alice"))
	key := s.serverKey(t)
	parts := strings.Split(good, ".")
	rawHeader, _ := base64.RawURLEncoding.DecodeString(parts[0])
	rawClaims, _ := base64.RawURLEncoding.DecodeString(parts[1])
	h, c := string(rawHeader), string(rawClaims)
	sign := func(h, c string) string {
		text := b64(h) + "." + b64(c)
		return text + "." + b64(string(ed25519.Sign(key, []byte(text))))
	}
	if _, err := s.Authenticate(t.Context(), sign(h, c)); err != nil {
		t.Fatalf("the test's own token: %v", err)
	}
	bad := map[string]string{"empty": "", "dots": "..", "two parts": parts[0] + "." + parts[1], "four": good + ".a", "line end": good + "\n",
		"line inside": parts[0] + "." + parts[1] + "." + parts[2][:9] + "\n" + parts[2][9:], "padding": good + "=", "blank": " " + good,
		"bearer": "Bearer " + good, "no signature": parts[0] + "." + parts[1] + ".", "zero signature": parts[0] + "." + parts[1] + "." + b64(strings.Repeat("\x00", 64)),
		"short signature": good[:len(good)-4], "unused bits": good[:len(good)-1] + string(rune(good[len(good)-1]+1)), "huge": strings.Repeat("a", 1<<20),
		"huge shaped": good + strings.Repeat("A", 2048), "swapped": parts[1] + "." + parts[0] + "." + parts[2]}
	mac := hmac.New(sha256.New, key.Public().(ed25519.PublicKey))
	hs := b64(strings.Replace(h, "EdDSA", "HS256", 1)) + "." + parts[1]
	mac.Write([]byte(hs))
	bad["HS256 with public key"] = hs + "." + b64(string(mac.Sum(nil)))
	other := newUser("x").priv
	text := parts[0] + "." + parts[1]
	bad["other key"] = text + "." + b64(string(ed25519.Sign(other, []byte(text))))
	for _, alg := range []string{"none", "None", "RS256", "ES256", "eddsa", "Ed25519", ""} {
		bad["alg "+alg] = sign(strings.Replace(h, "EdDSA", alg, 1), c)
	}
	for _, more := range []string{`"crit":["exp"]`, `"b64":false`, `"jwk":{}`, `"jku":"http://x"`, `"alg":"EdDSA"`, `"x5u":"a"`, `"cty":"JWT"`} {
		bad["header "+more] = sign(h[:len(h)-1]+","+more+"}", c)
	}
	bad["typ"] = sign(strings.Replace(h, "JWT", "at+jwt", 1), c)
	bad["no kid"] = sign(`{"alg":"EdDSA","typ":"JWT"}`, c)
	bad["other kid"] = sign(`{"alg":"EdDSA","kid":"x","typ":"JWT"}`, c)
	now := s.o.Now().Unix()
	for name, p := range map[string][2]string{
		"iss": {`"iss":"iss"`, `"iss":"x"`}, "no iss": {`"iss":"iss",`, ``}, "aud": {`"aud":"aud"`, `"aud":"x"`}, "aud list": {`"aud":"aud"`, `"aud":["aud"]`},
		"no aud": {`"aud":"aud",`, ``}, "sub": {`"sub":"alice"`, `"sub":""`}, "no sub": {`"sub":"alice",`, ``}, "sub grammar": {`"alice"`, `"Alice"`},
		"unknown sub": {`"alice"`, `"mallory"`}, "number sub": {`"alice"`, `7`}, "null sub": {`"alice"`, `null`}, "duplicate": {`"sub":"alice"`, `"sub":"alice","sub":"alice"`},
		"case": {`"sub":"alice"`, `"SUB":"alice"`}, "extra": {`"sub"`, `"admin":true,"sub"`}, "empty sid": {`"sid":"`, `"sid":"","x":"`},
		"short jti": {`"jti":"`, `"jti":"a","y":"`}, "nbf future": {fmt.Sprintf(`"nbf":%d`, now), fmt.Sprintf(`"nbf":%d`, now+31)},
		"iat future": {fmt.Sprintf(`"iat":%d`, now), fmt.Sprintf(`"iat":%d`, now+31)}, "no nbf": {fmt.Sprintf(`"nbf":%d,`, now), ``}, "no iat": {fmt.Sprintf(`"iat":%d,`, now), ``},
		"exp text": {fmt.Sprintf(`"exp":%d`, now+3600), fmt.Sprintf(`"exp":"%d"`, now+3600)}, "no exp": {fmt.Sprintf(`,"exp":%d`, now+3600), ``},
		"exp fraction": {fmt.Sprintf(`"exp":%d`, now+3600), fmt.Sprintf(`"exp":%d.5`, now+3600)}, "exp far": {fmt.Sprintf(`"exp":%d`, now+3600), `"exp":9223372036854775807`},
		"exp year": {fmt.Sprintf(`"exp":%d`, now+3600), fmt.Sprintf(`"exp":%d`, now+365*86400)}, "exp exponent": {fmt.Sprintf(`"exp":%d`, now+3600), `"exp":1e300`},
	} {
		changed := strings.Replace(c, p[0], p[1], 1)
		if changed == c {
			t.Errorf("%s: the test changes nothing in %s", name, c)
		}
		bad["claim "+name] = sign(h, changed)
	}
	bad["claims list"], bad["claims null"], bad["claims cut"] = sign(h, "[]"), sign(h, "null"), sign(h, c[:len(c)-1])
	for name, token := range bad {
		_, err := s.Authenticate(t.Context(), token)
		wantCode(t, name, err, fault.AuthenticationFailed)
	}
	if len(bad) < 60 {
		t.Errorf("forged tokens: got %d, want at least 60", len(bad))
	}
	s.advance(time.Hour + 31*time.Second)
	_, err := s.Authenticate(t.Context(), good)
	wantCode(t, "expired", err, fault.TokenExpired)
}

func TestKeysOthersCanReadAreRefused(t *testing.T) {
	s := newServer(t)
	path := filepath.Join(s.o.KeyDir, "challenge.pem")
	if err := os.Chmod(path, 0o644); err != nil { // #nosec G302 -- the mistake under test
		t.Fatal(err)
	}
	if _, err := identity.Open(t.Context(), s.o); err == nil || !strings.Contains(err.Error(), "chmod") {
		t.Errorf("open: got %v, want a hint", err)
	}
}

func FuzzAuthenticate(f *testing.F) {
	s := newServer(f)
	f.Add("")
	f.Add("a.b.c")
	f.Add(s.keyless())
	f.Fuzz(func(t *testing.T, token string) {
		if _, err := s.Authenticate(t.Context(), token); err == nil {
			t.Error("got a principal, want none without users")
		}
	})
}

func (*server) keyless() string { return b64(`{"alg":"none"}`) + "." + b64("{}") + "." }

func FuzzSignInChallenge(f *testing.F) {
	s := newServer(f)
	c, _ := s.Challenge("alice")
	f.Add(c.Challenge, make([]byte, 64))
	f.Add([]byte{}, []byte{1})
	f.Fuzz(func(t *testing.T, challenge, signature []byte) {
		if _, err := s.SignIn(t.Context(), &wire.LoginRequest{UserID: "alice", Challenge: challenge, Signature: signature}, remote); err == nil {
			t.Error("got a session, want none")
		}
	})
}

func BenchmarkSignInRefused(b *testing.B) {
	s := newServer(b)
	s.o.FailedPerMinute = 1 << 40
	s.reopen(b)
	s.user(b, "known")
	for _, id := range []string{"known", "unknown"} {
		b.Run(id, func(b *testing.B) {
			r := s.answer(b, user{id, newUser(id).priv}, remote.Host)
			for b.Loop() {
				_, _ = s.SignIn(b.Context(), r, remote) // refused by design
			}
		})
	}
}
