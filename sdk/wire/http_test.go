package wire_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

func registration() *wire.RegisterRequest {
	k := func(n int) []byte { return []byte(strings.Repeat("k", n)) }
	return &wire.RegisterRequest{UserID: "alice", Username: "Alice", PublicKey: k(32), X25519PublicKey: k(32), KeyVersion: 1,
		CreatedAt: when, KeySignature: k(64), Timestamp: when, Signature: k(64)}
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	data, err := wire.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestDecodeRegister(t *testing.T) {
	want := registration()
	got, err := wire.DecodeRegister(marshal(t, want))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("DecodeRegister (-want +got):\n%s", diff)
	}
	for member, change := range map[string]func(*wire.RegisterRequest){
		"user_id":           func(r *wire.RegisterRequest) { r.UserID = "server" },
		"username":          func(r *wire.RegisterRequest) { r.Username = "a\nb" },
		"public_key":        func(r *wire.RegisterRequest) { r.PublicKey = r.PublicKey[:31] },
		"x25519_public_key": func(r *wire.RegisterRequest) { r.X25519PublicKey = nil },
		"key_version":       func(r *wire.RegisterRequest) { r.KeyVersion = 2 },
		"created_at":        func(r *wire.RegisterRequest) { r.CreatedAt = "today" },
		"key_signature":     func(r *wire.RegisterRequest) { r.KeySignature = append(r.KeySignature, 0) },
		"timestamp":         func(r *wire.RegisterRequest) { r.Timestamp = "" },
		"signature":         func(r *wire.RegisterRequest) { r.Signature = nil },
	} {
		r := registration()
		change(r)
		_, err := wire.DecodeRegister(marshal(t, r))
		wantFault(t, err, fault.InvalidRequest, `"`+member+`"`)
	}
	var members map[string]any
	if err := json.Unmarshal(marshal(t, want), &members); err != nil {
		t.Fatal(err)
	}
	for member := range members {
		short := map[string]any{}
		for k, v := range members {
			if k != member {
				short[k] = v
			}
		}
		_, err := wire.DecodeRegister(marshal(t, short))
		wantFault(t, err, fault.InvalidRequest, `"`+member+`" is missing`)
	}
}

func TestDecodeLoginAndKeyUpload(t *testing.T) {
	if _, err := wire.DecodeLogin([]byte(`{"user_id":"alice"}`), false); err != nil {
		t.Errorf("DecodeLogin, first step: %v", err)
	}
	_, err := wire.DecodeLogin([]byte(`{"user_id":"alice"}`), true)
	wantFault(t, err, fault.InvalidRequest, `"challenge" is missing`)
	_, err = wire.DecodeLogin([]byte(`{"user_id":"alice","challenge":"AB==","signature":""}`), true)
	wantFault(t, err, fault.InvalidRequest, `"challenge" must be canonical base64`)
	_, err = wire.DecodeLogin([]byte(`{"user_id":"../x"}`), false)
	wantFault(t, err, fault.InvalidRequest, `"user_id"`)

	r := registration()
	upload := &wire.KeyUpload{X25519PublicKey: r.X25519PublicKey, KeyVersion: 2, CreatedAt: when, KeySignature: r.KeySignature}
	got, err := wire.DecodeKeyUpload(marshal(t, upload))
	if diff := cmp.Diff(upload, got); err != nil || diff != "" {
		t.Errorf("DecodeKeyUpload: %v (-want +got):\n%s", err, diff)
	}
	upload.KeyVersion = 0
	_, err = wire.DecodeKeyUpload(marshal(t, upload))
	wantFault(t, err, fault.InvalidRequest, `"key_version"`)
}

func TestDecodeParams(t *testing.T) {
	for body, want := range map[string]string{"": "{}", "{}": "{}", " \r\n\t{ \"a\" : 1 } \n": `{ "a" : 1 }`} {
		got, err := wire.DecodeParams([]byte(body))
		if err != nil || string(got) != want {
			t.Errorf("DecodeParams(%q): got %q, %v, want %q", body, got, err, want)
		}
	}
	for _, body := range []string{" ", "[]", "null", `{"a":1,"a":2}`, `{"a":{"b":1,"b":1}}`, "{}{}", `{"a":"\ud800"}`} {
		if _, err := wire.DecodeParams([]byte(body)); fault.CodeOf(err) != fault.BadJSON {
			t.Errorf("DecodeParams(%q): got %v, want %s", body, err, fault.BadJSON)
		}
	}
}

func TestUnmarshalWantsCanonicalBase64(t *testing.T) {
	for _, value := range []string{"AB==", "AA", "AA==\n", "A A=", "--=="} {
		quoted, _ := json.Marshal(value)
		var c wire.Challenge
		if err := wire.Unmarshal([]byte(`{"challenge":`+string(quoted)+`}`), &c); err == nil {
			t.Errorf("Unmarshal of %q: got %v, want an error", value, c.Challenge)
		}
	}
	var c wire.Challenge
	if err := wire.Unmarshal([]byte(`{"challenge":"AA==","later":1}`), &c); err != nil || len(c.Challenge) != 1 {
		t.Errorf("Unmarshal: got %v, %v", c, err)
	}
}

func TestProblemHidesTheCause(t *testing.T) {
	e := fault.New(fault.RateLimited, "Slow down.").WithRetryAfter(1500 * time.Microsecond).WithCause(errors.New("secret"))
	got := string(marshal(t, wire.NewProblem(e)))
	want := `{"type":"about:blank","title":"Too Many Requests","status":429,"detail":"Slow down.","code":"rate_limited","retry_after_ms":2}`
	if got != want {
		t.Errorf("problem: got %s, want %s", got, want)
	}
}
