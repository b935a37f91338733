package wire_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

var update = flag.Bool("update", false, "write the golden frames anew")

const when = "2026-01-31T12:00:00.000Z"

func base64Of(n int) string { return wire.EncodeBase64(bytes.Repeat([]byte{0xa5}, n)) }

func sealedDirect() *wire.Direct {
	return &wire.Direct{ID: "m-1", To: "bob", Content: base64Of(48), EncryptedKey: base64Of(112), EncryptionNonce: base64Of(12),
		KeyVersion: 3, Timestamp: when, Signature: base64Of(64)}
}

func delivered(d *wire.Direct) *wire.Direct {
	d.From, d.Seq, d.ServerTime = "alice", 41, "2026-01-31T12:00:00.007Z"
	return d
}

// clientGolden and serverGolden are the frames of testdata/golden, by file name.
func clientGolden() map[string]wire.ClientFrame {
	return map[string]wire.ClientFrame{
		"client-direct":           sealedDirect(),
		"client-direct-plain":     &wire.Direct{ID: "m-2", To: "bob", Content: "Grüße \"you\"\n\u2028", Timestamp: when},
		"client-broadcast":        &wire.Broadcast{ID: "b-1", Content: "hello", Timestamp: when},
		"client-broadcast-signed": &wire.Broadcast{ID: "b-2", Content: "hello", Timestamp: when, Signature: base64Of(64)},
		"client-server":           &wire.Command{ID: "c-1", Command: "echo"},
		"client-server-signed": &wire.Command{ID: "c-2", Command: "poll.open", Params: []byte("{ \"q\":\"<\\u00e9>\" ,\"n\":1.0e0}"),
			Timestamp: when, Signature: base64Of(64)},
		"client-cancel":       &wire.Cancel{ID: "c-1"},
		"client-ack":          &wire.MailboxAck{Seq: 41},
		"client-ack-receipts": &wire.MailboxAck{Seq: 41, Receipts: []wire.SignedReceipt{{40, when, base64Of(64)}, {41, when, base64Of(64)}}},
		"client-auth":         &wire.Auth{ID: "a-1", Token: "e30.e30.c2ln"},
	}
}

func serverGolden() map[string]wire.Frame {
	half, recipients := 50.5, uint64(0)
	invalid := fault.New(fault.InvalidParams, "The params do not fit.").WithDetails([]fault.Violation{{Pointer: "/q", Message: "must be a string"}})
	return map[string]wire.Frame{
		"server-welcome": &wire.Welcome{Protocol: wire.Protocol, UserID: "alice", SessionID: "s-1", ServerTime: when, Server: "plugboard/1.0.0",
			Node: "n-1", LastSeq: 41, AckedSeq: 39, HeartbeatMS: 30000, TokenExpiresAt: "2026-01-31T13:00:00.000Z",
			Limits: wire.Limits{MaxFrameBytes: 65536, Rate: 10, Burst: 20}},
		"server-ack-stored":      &wire.Ack{ID: "m-1", Status: wire.StatusStored, Seq: 41, Timestamp: when},
		"server-ack-sent":        &wire.Ack{ID: "b-1", Status: wire.StatusSent, Timestamp: when, Recipients: &recipients},
		"server-direct":          delivered(sealedDirect()),
		"server-broadcast":       &wire.Broadcast{ID: "b-1", From: "alice", ServerTime: when, Timestamp: when, Content: "hello", Signature: base64Of(64)},
		"server-receipt":         &wire.Receipt{ID: "m-1", To: "bob", Status: wire.StatusDelivered, Timestamp: when, Signature: base64Of(64)},
		"server-progress":        &wire.Progress{ID: "c-1", Data: []byte("[1, 2]"), Percent: &half},
		"server-response":        &wire.Response{ID: "c-1", Command: "echo", Result: []byte("{ \"a\":1}"), Elapsed: 1234 * time.Microsecond},
		"server-error":           &wire.ErrorFrame{ID: "c-1", Fault: fault.New(fault.RateLimited, "Slow down.").WithRetryAfter(1500 * time.Millisecond)},
		"server-error-details":   &wire.ErrorFrame{ID: "c-1", Fault: invalid},
		"server-notice-draining": &wire.Notice{Code: wire.NoticeDraining, Message: "Restarting.", ReconnectAfter: 2 * time.Second},
		"server-notice-token":    &wire.Notice{Code: wire.NoticeTokenExpiring, Message: "Sign in.", ExpiresAt: when},
	}
}

// What a frame keeps for itself is no part of the protocol.
var ignoreOwn = cmpopts.IgnoreUnexported(fault.Error{}, wire.Direct{})

// golden compares with the file byte for byte and returns its bytes.
func golden(t *testing.T, name string, f wire.Frame) []byte {
	t.Helper()
	path := filepath.Join("testdata", "golden", name+".json")
	got := f.Append(nil)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("Append: got %s, want %s", got, want)
	}
	if prefixed := f.Append([]byte("x")); string(prefixed) != "x"+string(want) {
		t.Errorf("Append behind other bytes: got %s", prefixed)
	}
	return want
}

func TestGoldenClientFrames(t *testing.T) {
	for name, want := range clientGolden() {
		t.Run(name, func(t *testing.T) {
			data := golden(t, name, want)
			got, id, err := wire.DecodeClient(data)
			if err != nil {
				t.Fatalf("DecodeClient: %v", err)
			}
			if diff := cmp.Diff(want, got, ignoreOwn); diff != "" {
				t.Errorf("DecodeClient (-want +got):\n%s", diff)
			}
			if err := got.Validate(); err != nil {
				t.Errorf("Validate: %v", err)
			}
			if w := got.RequestID(); w != "" && w != id {
				t.Errorf("id: got %q, want %q", id, w)
			}
		})
	}
}

func TestGoldenServerFrames(t *testing.T) {
	for name, want := range serverGolden() {
		t.Run(name, func(t *testing.T) {
			got, err := wire.DecodeServer(golden(t, name, want))
			if err != nil {
				t.Fatalf("DecodeServer: %v", err)
			}
			if diff := cmp.Diff(want, got, ignoreOwn); diff != "" {
				t.Errorf("DecodeServer (-want +got):\n%s", diff)
			}
		})
	}
}

// A golden file that no frame stands for is a test that no longer runs.
func TestGoldenFilesAreAllUsed(t *testing.T) {
	entries, err := os.ReadDir(filepath.Join("testdata", "golden"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), ".json")
		if clientGolden()[name] == nil && serverGolden()[name] == nil {
			t.Errorf("%s stands for no frame", e.Name())
		}
	}
}
