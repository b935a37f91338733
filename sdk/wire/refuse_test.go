package wire_test

import (
	"strings"
	"testing"
	"time"

	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

func nested(open, end string, n int) string {
	return `{"type":"server","id":"c","command":"x","params":{"a":` + strings.Repeat(open, n) + strings.Repeat(end, n) + `}}`
}

const (
	dm  = `{"type":"direct","id":"m","to":"bob","content":"x","timestamp":"2026-01-31T12:00:00.000Z"`
	cmd = `{"type":"server","id":"c","command":"echo"`
)

func TestDecodeClientRefuses(t *testing.T) {
	for _, test := range []struct {
		name, frame, id string
		code            fault.Code
		says            string
	}{
		{"empty", ``, "", fault.BadJSON, "ends too early"},
		{"cut", cmd, "", fault.BadJSON, "ends too early"},
		{"no JSON", `hello`, "", fault.BadJSON, "not valid"},
		{"array", `[1]`, "", fault.BadJSON, "one object"},
		{"null", `null`, "", fault.BadJSON, "one object"},
		{"trailing data", cmd + `} {}`, "", fault.BadJSON, "not valid"},
		{"trailing comma", cmd + `,}`, "", fault.BadJSON, "not valid"},
		{"comment", cmd + `/*x*/}`, "", fault.BadJSON, "not valid"},
		{"duplicate", cmd + `,"id":"d"}`, "", fault.BadJSON, "twice"},
		{"duplicate by escape", cmd + `,"\u0069d":"d"}`, "", fault.BadJSON, "twice"},
		{"duplicate of an unknown member", cmd + `,"x":1,"x":2}`, "", fault.BadJSON, "twice"},
		{"duplicate inside params", cmd + `,"params":{"a":{"b":1,"b":2}}}`, "", fault.BadJSON, "twice"},
		{"case variant", cmd + `,"Params":{}}`, "c", fault.BadJSON, `"Params"`},
		{"long s", cmd + `,"ſignature":""}`, "c", fault.BadJSON, "case"},
		{"Kelvin sign", cmd + `,"toKen":""}`, "c", fault.BadJSON, "case"},
		{"case variant by escape", cmd + `,"\u0054imestamp":""}`, "c", fault.BadJSON, "case"},
		{"case variant in a receipt", `{"type":"ack","seq":1,"receipts":[{"Seq":1}]}`, "", fault.BadJSON, "case"},
		{"high surrogate alone", cmd + `,"x":"\ud800"}`, "", fault.BadJSON, "not valid"},
		{"low surrogate alone", cmd + `,"x":"\udc00"}`, "", fault.BadJSON, "not valid"},
		{"surrogate inside params", cmd + `,"params":{"a":"\ud800x"}}`, "", fault.BadJSON, "not valid"},
		{"invalid UTF-8", cmd + ",\"x\":\"\xff\"}", "", fault.BadJSON, "not valid"},
		{"invalid UTF-8 in a name", cmd + ",\"\xc3\":1}", "", fault.BadJSON, "not valid"},
		{"overlong UTF-8", cmd + ",\"x\":\"\xc0\xaf\"}", "", fault.BadJSON, "not valid"},
		{"byte order mark", "\xef\xbb\xbf" + cmd + `}`, "", fault.BadJSON, "not valid"},
		{"too deep", nested("[", "]", 63), "", fault.BadJSON, "64 levels"},
		{"too many members", cmd + `,"params":{"a":[` + strings.Repeat("0,", 10_000) + `0]}}`, "", fault.BadJSON, "10000 members"},
		{"no type", `{"id":"c"}`, "c", fault.InvalidRequest, `"type" is missing`},
		{"type of another kind", `{"type":1,"id":"c"}`, "c", fault.InvalidRequest, `"type" must be a string`},
		{"unknown type", `{"type":"welcome","id":"c"}`, "c", fault.UnknownType, "direct, broadcast"},
		{"no id", `{"type":"cancel"}`, "", fault.InvalidRequest, `"id" is missing`},
		{"id a number", `{"type":"cancel","id":7}`, "", fault.InvalidRequest, `"id" must be a string`},
		{"id null", `{"type":"cancel","id":null}`, "", fault.InvalidRequest, `"id" must be a string`},
		{"no to", `{"type":"direct","id":"m","content":"x","timestamp":""}`, "m", fault.InvalidRequest, `"to" is missing`},
		{"no content", `{"type":"direct","id":"m","to":"bob","timestamp":""}`, "m", fault.InvalidRequest, `"content" is missing`},
		{"no timestamp", `{"type":"broadcast","id":"b","content":""}`, "b", fault.InvalidRequest, `"timestamp" is missing`},
		{"no command", `{"type":"server","id":"c"}`, "c", fault.InvalidRequest, `"command" is missing`},
		{"no token", `{"type":"auth","id":"a"}`, "a", fault.InvalidRequest, `"token" is missing`},
		{"no seq", `{"type":"ack"}`, "", fault.InvalidRequest, `"seq" is missing`},
		{"fraction", dm + `,"key_version":1.0}`, "m", fault.InvalidRequest, `"key_version" must be a whole number`},
		{"exponent", dm + `,"key_version":1e0}`, "m", fault.InvalidRequest, `"key_version"`},
		{"leading zero", dm + `,"key_version":01}`, "", fault.BadJSON, "not valid"},
		{"minus", dm + `,"key_version":-1}`, "m", fault.InvalidRequest, `"key_version"`},
		{"minus zero", dm + `,"key_version":-0}`, "m", fault.InvalidRequest, `"key_version"`},
		{"plus", dm + `,"key_version":+1}`, "", fault.BadJSON, "not valid"},
		{"2^53", `{"type":"ack","seq":9007199254740992}`, "", fault.InvalidRequest, `"seq"`},
		{"integer as string", `{"type":"ack","seq":"1"}`, "", fault.InvalidRequest, `"seq"`},
		{"params a list", cmd + `,"params":[]}`, "c", fault.InvalidRequest, `"params" must be an object`},
		{"params a string", cmd + `,"params":"{}"}`, "c", fault.InvalidRequest, `"params"`},
		{"receipts an object", `{"type":"ack","seq":1,"receipts":{}}`, "", fault.InvalidRequest, `"receipts" must be a list`},
		{"receipt without signature", `{"type":"ack","seq":1,"receipts":[{"seq":1,"timestamp":""}]}`, "", fault.InvalidRequest, `"receipts", entry 0: Member "signature" is missing`},
		{"receipt a number", `{"type":"ack","seq":1,"receipts":[1]}`, "", fault.InvalidRequest, "entry 0"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, id, err := wire.DecodeClient([]byte(test.frame))
			wantFault(t, err, test.code, test.says)
			if id != test.id {
				t.Errorf("id beside the error: got %q, want %q", id, test.id)
			}
		})
	}
}

func wantFault(t *testing.T, err error, code fault.Code, says string) {
	t.Helper()
	if err == nil {
		t.Fatalf("got no error, want %s", code)
	}
	if got := fault.CodeOf(err); got != code {
		t.Errorf("code: got %s (%v), want %s", got, err, code)
	}
	if !strings.Contains(err.Error(), says) {
		t.Errorf("error: got %q, want it to say %q", err, says)
	}
}

func TestDecodeClientAccepts(t *testing.T) {
	for _, frame := range []string{
		" \n" + cmd + "}\t",
		cmd + `,"unknown":{"type":1,"a":null}}`,
		cmd + `,"params":null}`,
		cmd + `,"params":{"ID":1,"id":2}}`, // only the frame's own names are compared
		cmd + `,"x":"\ud83d\ude00"}`,
		nested("[", "]", 62),
		`{"type":"ack","seq":9007199254740991}`,
		`{"\u0074ype":"cancel","id":"\u0063"}`,
	} {
		if _, _, err := wire.DecodeClient([]byte(frame)); err != nil {
			t.Errorf("DecodeClient(%.90s): %v", frame, err)
		}
	}
}

func TestParamsBytesAreKept(t *testing.T) {
	for _, params := range []string{
		`{}`, `{ "a" : 1 }`, "{\n\t\"a\":[1.0,1e3,-0]\r\n}", `{"h":"<&>\u003c\/\u00e9é"}`, `null`, `{"n":12345678901234567890.000}`,
	} {
		f, _, err := wire.DecodeClient([]byte(cmd + `,"params" : ` + params + ` ,"timestamp":""}`))
		if err != nil {
			t.Fatalf("DecodeClient with %s: %v", params, err)
		}
		got := f.(*wire.Command).Params
		if string(got) != params {
			t.Errorf("params: got %q, want %q", got, params)
		}
		again, _, err := wire.DecodeClient(f.Append(nil))
		if err != nil || string(again.(*wire.Command).Params) != params {
			t.Errorf("params after Append: got %v, %v, want %q", again, err, params)
		}
	}
	f, _, err := wire.DecodeClient([]byte(cmd + `}`))
	if err != nil || f.(*wire.Command).Params != nil {
		t.Errorf("absent params: got %v, %v, want nil", f, err)
	}
}

func TestValidateRefuses(t *testing.T) {
	direct := func(change func(*wire.Direct)) wire.ClientFrame {
		d := sealedDirect()
		change(d)
		return d
	}
	receipts := func(r wire.SignedReceipt) wire.ClientFrame {
		return &wire.MailboxAck{Seq: 5, Receipts: []wire.SignedReceipt{r}}
	}
	signature := base64Of(64)
	for _, test := range []struct {
		name  string
		frame wire.ClientFrame
		says  string
	}{
		{"empty id", direct(func(d *wire.Direct) { d.ID = "" }), `"id"`},
		{"long id", &wire.Cancel{ID: strings.Repeat("a", 65)}, `"id"`},
		{"id with a dot", &wire.Cancel{ID: "a.b"}, `"id"`},
		{"upper-case user", direct(func(d *wire.Direct) { d.To = "Bob" }), `"to" must match`},
		{"user with dot first", direct(func(d *wire.Direct) { d.To = ".bob" }), `"to"`},
		{"long user", direct(func(d *wire.Direct) { d.To = strings.Repeat("a", 64) }), `"to"`},
		{"user with line break", direct(func(d *wire.Direct) { d.To = "bob\n" }), `"to"`},
		{"from", direct(func(d *wire.Direct) { d.From = "Å" }), `"from"`},
		{"zero key version", direct(func(d *wire.Direct) { d.KeyVersion = 0 }), `"key_version"`},
		{"short encrypted key", direct(func(d *wire.Direct) { d.EncryptedKey = base64Of(111) }), `"encrypted_key" must be 112 bytes`},
		{"long nonce", direct(func(d *wire.Direct) { d.EncryptionNonce = base64Of(13) }), `"encryption_nonce"`},
		{"short content", direct(func(d *wire.Direct) { d.Content = base64Of(47) }), `"content"`},
		{"no padding", direct(func(d *wire.Direct) { d.Signature = strings.TrimRight(signature, "=") }), `"signature"`},
		{"line break in base64", direct(func(d *wire.Direct) { d.Signature = signature[:4] + "\n" + signature[4:] }), `"signature"`},
		{"unused bits set", direct(func(d *wire.Direct) { d.Signature = signature[:85] + "R==" }), `"signature"`},
		{"URL alphabet", direct(func(d *wire.Direct) { d.EncryptionNonce = "----------------" }), `"encryption_nonce"`},
		{"command in capitals", &wire.Command{ID: "c", Command: "Echo"}, `"command"`},
		{"command of three parts", &wire.Command{ID: "c", Command: "a.b.c"}, `"command"`},
		{"command with empty part", &wire.Command{ID: "c", Command: "a."}, `"command"`},
		{"command with a digit first", &wire.Command{ID: "c", Command: "1a"}, `"command"`},
		{"long command", &wire.Command{ID: "c", Command: strings.Repeat("a", 64)}, `"command"`},
		{"signed without time", &wire.Command{ID: "c", Command: "a", Signature: signature}, `"timestamp" is missing`},
		{"broadcast signature", &wire.Broadcast{ID: "b", Timestamp: when, Signature: "AA=="}, `"signature"`},
		{"receipt of a later seq", receipts(wire.SignedReceipt{Seq: 6, Timestamp: when, Signature: signature}), `"receipts"`},
		{"receipt of seq 0", receipts(wire.SignedReceipt{Timestamp: when, Signature: signature}), `"receipts"`},
		{"receipt's time", receipts(wire.SignedReceipt{Seq: 1, Signature: signature}), `"receipts"`},
		{"receipt's signature", receipts(wire.SignedReceipt{Seq: 1, Timestamp: when}), `"receipts"`},
		{"empty token", &wire.Auth{}, `"token"`},
		{"auth id", &wire.Auth{ID: "é", Token: "t"}, `"id"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			wantFault(t, test.frame.Validate(), fault.InvalidRequest, test.says)
		})
	}
}

func TestParseTime(t *testing.T) {
	for _, s := range []string{
		"", "2026-01-31T12:00:00Z", "2026-01-31T12:00:00.00Z", "2026-01-31T12:00:00.0000Z", "2026-01-31t12:00:00.000z",
		"2026-01-31T12:00:00.000+00:00", "2026-01-31 12:00:00.000Z", "2026-02-30T12:00:00.000Z", "2026-01-31T24:00:00.000Z",
		"2026-01-31T12:00:60.000Z", "2026-01-31T12:00:00,000Z", "26-01-31T12:00:00.000Z", "2026-1-31T12:00:00.0000Z",
	} {
		if at, err := wire.ParseTime(s); err == nil {
			t.Errorf("ParseTime(%q): got %v, want an error", s, at)
		}
	}
	at, err := wire.ParseTime("2024-02-29T23:59:59.999Z")
	if err != nil || !at.Equal(time.Date(2024, 2, 29, 23, 59, 59, 999e6, time.UTC)) {
		t.Errorf("ParseTime: got %v, %v", at, err)
	}
	if got := wire.FormatTime(at.Add(999 * time.Microsecond)); got != "2024-02-29T23:59:59.999Z" {
		t.Errorf("FormatTime cuts below the millisecond: got %s", got)
	}
}

func TestValidUsername(t *testing.T) {
	for name, want := range map[string]bool{
		"": false, "Zoë": true, strings.Repeat("é", 64): true, strings.Repeat("é", 64) + "x": false,
		"a\tb": false, "a\x7fb": false, "a\u0085b": false, "\xff": false,
	} {
		if got := wire.ValidUsername(name); got != want {
			t.Errorf("ValidUsername(%q): got %v, want %v", name, got, want)
		}
	}
}

func TestDecodeServerRefuses(t *testing.T) {
	for frame, code := range map[string]fault.Code{
		`{"type":"later"}`: fault.UnknownType,
		`{}`:               fault.InvalidRequest,
		`{"type":"direct","id":"m","to":"b","content":"","timestamp":""}`:       fault.InvalidRequest, // no seq
		`{"type":"ack","id":"m","Status":"ok","status":"ok"}`:                   fault.BadJSON,
		`{"type":"progress","id":"c","percent":"1"}`:                            fault.InvalidRequest,
		`{"type":"progress","id":"c","percent":1e999}`:                          fault.InvalidRequest,
		`{"type":"welcome","protocol":"p","user_id":"a","limits":[]}`:           fault.InvalidRequest,
		`{"type":"welcome","protocol":"p","user_id":"a","limits":{"rate":"x"}}`: fault.InvalidRequest,
	} {
		if _, err := wire.DecodeServer([]byte(frame)); fault.CodeOf(err) != code {
			t.Errorf("DecodeServer(%s): got %v, want %s", frame, err, code)
		}
	}
}

// A hostile server's numbers must not turn into negative waits.
func TestDecodeServerDurationsAreClamped(t *testing.T) {
	for _, frame := range []string{
		`{"type":"notice","code":"draining","message":"","reconnect_after_ms":9007199254740991}`,
		`{"type":"error","code":"overloaded","message":"","retry_after_ms":9007199254740991}`,
		`{"type":"response","id":"c","command":"x","elapsed_ms":1e300}`,
		`{"type":"response","id":"c","command":"x","elapsed_ms":-1e300}`,
	} {
		f, err := wire.DecodeServer([]byte(frame))
		if err != nil {
			t.Fatalf("DecodeServer(%s): %v", frame, err)
		}
		var got time.Duration
		switch f := f.(type) {
		case *wire.Notice:
			got = f.ReconnectAfter
		case *wire.ErrorFrame:
			got = f.Fault.RetryAfter
		case *wire.Response:
			got = f.Elapsed
		}
		if got < 0 {
			t.Errorf("DecodeServer(%s): got %v, want no negative duration", frame, got)
		}
	}
}

func TestCloseTable(t *testing.T) {
	for code, want := range map[int]bool{1000: false, 1001: true, 1005: true, 1006: true, 1008: false, 1009: false, 1012: true, 1013: true, 4001: true, 4002: false, 4999: true} {
		if got := wire.ShouldReconnect(code); got != want {
			t.Errorf("ShouldReconnect(%d): got %v, want %v", code, got, want)
		}
	}
}
