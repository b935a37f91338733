package server_test

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// signingKey reads what a thief of the data directory would have.
func (h *host) signingKey() ed25519.PrivateKey {
	h.t.Helper()
	files, err := filepath.Glob(filepath.Join(strings.TrimPrefix(h.env[2], "PLUGBOARD_DATA_DIR="), "keys", "signing-*.pem"))
	if err != nil || len(files) != 1 {
		h.t.Fatalf("got %v (%v), want one signing key", files, err)
	}
	info, err := os.Stat(files[0])
	if err != nil || info.Mode().Perm() != 0o600 {
		h.t.Errorf("got %v (%v), want mode 0600", info, err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		h.t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		h.t.Fatal(err)
	}
	return key.(ed25519.PrivateKey)
}

func b64url(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// What a token looks like, and that no other token opens any door: neither an
// HTTP route, nor /ws by any way, nor an auth frame.
func TestTokens(t *testing.T) {
	t.Parallel()
	h := newBareServer(t)
	alice, bob := h.person("alice"), h.person("bob")
	parts := strings.Split(alice.token, ".")
	header, _ := base64.RawURLEncoding.DecodeString(parts[0])
	payload, _ := base64.RawURLEncoding.DecodeString(parts[1])
	var head, claims map[string]any
	if json.Unmarshal(header, &head) != nil || json.Unmarshal(payload, &claims) != nil || len(head) != 3 || head["alg"] != "EdDSA" || head["typ"] != "JWT" || head["kid"] == "" {
		t.Errorf("got header %s", header)
	}
	for _, name := range []string{"iss", "aud", "sub", "sid", "jti", "iat", "nbf", "exp"} {
		if claims[name] == nil {
			t.Errorf("the token has no %s", name)
		}
	}
	if claims["sub"] != "alice" || claims["sid"] != alice.sid || len(claims) != 8 || claims["exp"].(float64)-claims["iat"].(float64) != 3600 {
		t.Errorf("got claims %s", payload)
	}

	key := h.signingKey()
	sign := func(header, claims string) string {
		text := b64url(header) + "." + b64url(claims)
		return text + "." + b64url(string(ed25519.Sign(key, []byte(text))))
	}
	hs := b64url(strings.Replace(string(header), "EdDSA", "HS256", 1)) + "." + parts[1]
	mac := hmac.New(sha256.New, key.Public().(ed25519.PublicKey))
	mac.Write([]byte(hs))
	expired := map[string]any{}
	maps.Copy(expired, claims)
	then := time.Now().Add(-2 * time.Hour).Unix()
	expired["iat"], expired["nbf"], expired["exp"] = then, then, then+3600
	// The order and form of the claims are the server's own.
	order := string(payload)
	for _, name := range []string{"iat", "nbf", "exp"} {
		was, _ := json.Marshal(int64(claims[name].(float64)))
		is, _ := json.Marshal(expired[name])
		order = strings.Replace(order, `"`+name+`":`+string(was), `"`+name+`":`+string(is), 1)
	}
	bad := map[string]string{
		"alg none":              b64url(`{"alg":"none","typ":"JWT"}`) + "." + parts[1] + ".",
		"alg none, signed":      sign(`{"alg":"none","typ":"JWT"}`, string(payload)),
		"HS256 with public key": hs + "." + b64url(string(mac.Sum(nil))),
		"other audience":        sign(string(header), strings.Replace(string(payload), `"aud":"plugboard"`, `"aud":"other"`, 1)),
		"other issuer":          sign(string(header), strings.Replace(string(payload), `"iss":"plugboard"`, `"iss":"other"`, 1)),
		"unknown user":          sign(string(header), strings.Replace(string(payload), `"sub":"alice"`, `"sub":"nobody"`, 1)),
		"no signature":          parts[0] + "." + parts[1] + ".",
		"other's signature":     parts[0] + "." + parts[1] + "." + strings.Split(bob.token, ".")[2],
		"rubbish":               "a.b.c",
		"long":                  alice.token + strings.Repeat("A", 4096),
	}
	routes := []struct{ method, path string }{
		{"POST", "/auth/logout"}, {"GET", "/auth/users/alice"}, {"PUT", "/auth/keys"}, {"GET", "/active-users"}, {"GET", "/messages"},
		{"GET", "/commands"}, {"POST", "/commands/ping"}, {"GET", "/ws"},
	}
	a := alice.connect()
	refused := func(name, token string, code fault.Code) {
		t.Helper()
		for _, r := range routes {
			status, body := h.do(r.method, r.path, token, nil)
			h.wantProblem(status, body, http.StatusUnauthorized, code)
		}
		for _, header := range []string{"Authorization: Bearer " + token, "Sec-WebSocket-Protocol: plugboard.v1, bearer." + token} {
			h.wantRefused(name, h.request("GET", "/ws", h.name(), append([]string{header}, upgrade...)...), http.StatusUnauthorized, code)
		}
		h.wantRefused(name, h.request("GET", "/ws?token="+token, h.name(), upgrade...), http.StatusUnauthorized, code)
		a.send(&wire.Auth{ID: "x", Token: token})
		a.wantError("x", code)
	}
	for name, token := range bad {
		refused(name, token, fault.AuthenticationFailed)
	}
	refused("expired", sign(string(header), order), fault.TokenExpired)
	for _, header := range []string{"", "Authorization: Basic " + alice.token, "Authorization: " + alice.token, "Authorization: Bearer", "X-Token: " + alice.token} {
		for _, r := range routes {
			headers := []string{"Content-Length: 0"}
			if header != "" {
				headers = append(headers, header)
			}
			h.wantRefused(r.path+" with "+header, h.request(r.method, r.path, h.name(), headers...), http.StatusUnauthorized, fault.AuthenticationFailed)
		}
	}
	if got := sign(string(header), string(payload)); got != alice.token {
		t.Errorf("the test's own signing does not give the server's token")
	}
	a.send(&wire.Auth{ID: "bob", Token: bob.token})
	a.wantError("bob", fault.Forbidden)
	a.send(&wire.Auth{ID: "own", Token: alice.token})
	if ack := want[*wire.Ack](a); ack.ID != "own" || ack.Status != wire.StatusOK {
		t.Errorf("got %s, want ok", ack.Append(nil))
	}
	a.send(&wire.Auth{Token: alice.token})
	if ack := want[*wire.Ack](a); ack.ID != "" || ack.Status != wire.StatusOK {
		t.Errorf("got %s, want ok without id", ack.Append(nil))
	}
}

// An auth frame moves the connection to the new token's session: ending the old
// one no longer closes it, ending the new one does.
func TestAuthFrameMovesTheSession(t *testing.T) {
	t.Parallel()
	h := newBareServer(t)
	alice := h.person("alice")
	first := alice.token
	a := alice.connect()
	alice.signIn()
	a.send(&wire.Auth{ID: "1", Token: alice.token})
	want[*wire.Ack](a)
	if status, body := h.do("POST", "/auth/logout", first, nil); status != http.StatusNoContent || len(body) != 0 {
		t.Fatalf("got %d %s, want 204", status, body)
	}
	a.send(&wire.Auth{ID: "2", Token: first})
	a.wantError("2", fault.TokenRevoked)
	if status, _ := h.do("POST", "/auth/logout", alice.token, nil); status != http.StatusNoContent {
		t.Fatalf("got %d, want 204", status)
	}
	a.wantClosed(4002)
}

func TestWaysOfTheToken(t *testing.T) {
	t.Parallel()
	h := newBareServer(t)
	alice, bob := h.person("alice"), h.person("bob")
	dial := func(query string, header http.Header, protocols ...string) (*websocket.Conn, *http.Response, error) {
		d := websocket.Dialer{Subprotocols: protocols, HandshakeTimeout: waitLimit}
		return d.Dial("ws"+strings.TrimPrefix(h.base, "http")+"/ws"+query, header)
	}
	authorization := http.Header{"Authorization": {"Bearer " + alice.token}}
	for name, c := range map[string]struct {
		query     string
		header    http.Header
		protocols []string
		answered  string
	}{
		"header":                    {header: authorization, protocols: []string{"plugboard.v1"}, answered: "plugboard.v1"},
		"header, no protocol":       {header: authorization},
		"subprotocol":               {protocols: []string{"plugboard.v1", "bearer." + alice.token}, answered: "plugboard.v1"},
		"subprotocol, token first":  {protocols: []string{"bearer." + alice.token, "plugboard.v1"}, answered: "plugboard.v1"},
		"query":                     {query: "?token=" + alice.token, protocols: []string{"plugboard.v1"}, answered: "plugboard.v1"},
		"header before subprotocol": {header: authorization, protocols: []string{"plugboard.v1", "bearer." + bob.token}, answered: "plugboard.v1"},
		"header before query":       {query: "?token=" + bob.token, header: authorization},
		"subprotocol before query":  {query: "?token=" + bob.token, protocols: []string{"plugboard.v1", "bearer." + alice.token}, answered: "plugboard.v1"},
	} {
		ws, res, err := dial(c.query, c.header, c.protocols...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		_ = res.Body.Close()
		if got := res.Header.Get("Sec-WebSocket-Protocol"); got != c.answered {
			t.Errorf("%s: answered with subprotocol %q, want %q", name, got, c.answered)
		}
		l := &line{t: t, ws: ws}
		if w := want[*wire.Welcome](l); w.UserID != "alice" {
			t.Errorf("%s: welcomes %s, want alice", name, w.UserID)
		}
		_ = ws.Close()
	}
	for _, protocols := range [][]string{{"plugboard.v2"}, {"plugboard.v2", "bearer." + alice.token}, {"bearer." + alice.token}} {
		ws, res, err := dial("", authorization, protocols...)
		if err == nil {
			_ = ws.Close()
			t.Errorf("%v: accepted, want 400", protocols)
			continue
		}
		if res == nil || res.StatusCode != http.StatusBadRequest {
			t.Errorf("%v: got %v %v, want 400", protocols, res, err)
		}
	}
	// A bad token in a better place is not made good by a good one in a worse.
	if _, res, err := dial("?token="+alice.token, http.Header{"Authorization": {"Bearer bad"}}, "plugboard.v1"); err == nil || res.StatusCode != http.StatusUnauthorized {
		t.Errorf("got %v, want 401", err)
	}
	off := newBareServer(t, "PLUGBOARD_SERVER__ALLOW_QUERY_TOKEN=off")
	carol := off.person("carol")
	off.wantRefused("query token switched off", off.request("GET", "/ws?token="+carol.token, off.name(), upgrade...), http.StatusUnauthorized, fault.AuthenticationFailed)
	// Not on loopback, nothing said: ?token= is off.
	wide := newBareServer(t, "PLUGBOARD_SERVER__LISTEN=0.0.0.0:0", "PLUGBOARD_SERVER__HOSTS=127.0.0.1", "PLUGBOARD_TLS__MODE=off")
	wide.base = "http://127.0.0.1:" + wide.base[strings.LastIndex(wide.base, ":")+1:]
	dave := wide.person("dave")
	wide.wantRefused("query token off loopback", wide.request("GET", "/ws?token="+dave.token, wide.name(), upgrade...), http.StatusUnauthorized, fault.AuthenticationFailed)
	dave.connect()
}
