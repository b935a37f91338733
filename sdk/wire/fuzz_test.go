package wire_test

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plugboard/plugboard/sdk/wire"
)

func FuzzDecodeClient(f *testing.F) {
	for _, frame := range clientGolden() {
		f.Add(frame.Append(nil))
	}
	f.Add([]byte(`{"type":"server","id":"c","command":"x","params":{"a":"\ud83d\ude00"},"other":[{}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		first, id, err := wire.DecodeClient(data)
		if id != "" && !wire.ValidID(id) {
			t.Fatalf("id %q is not in the grammar", id)
		}
		if err != nil {
			return
		}
		_ = first.Validate() // only must not panic
		again, _, err := wire.DecodeClient(first.Append(nil))
		if err != nil {
			t.Fatalf("decode what was appended: %v", err)
		}
		if diff := cmp.Diff(first, again, ignoreOwn); diff != "" {
			t.Fatalf("decode, append, decode (-first +again):\n%s", diff)
		}
	})
}

// Times of a server frame may lose what is below their unit once, and only once.
func FuzzDecodeServer(f *testing.F) {
	for _, frame := range serverGolden() {
		f.Add(frame.Append(nil))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		first, err := wire.DecodeServer(data)
		if err != nil {
			return
		}
		once := first.Append(nil)
		second, err := wire.DecodeServer(once)
		if err != nil {
			t.Fatalf("decode what was appended: %v\n%s", err, once)
		}
		if reflect.TypeOf(first) != reflect.TypeOf(second) {
			t.Fatalf("type: got %T, want %T", second, first)
		}
		if twice := second.Append(nil); !bytes.Equal(once, twice) {
			t.Fatalf("append after decode:\n got %s\nwant %s", twice, once)
		}
	})
}

func fuzzBody[T any](f *testing.F, seed []byte, decode func([]byte) (*T, error)) {
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		first, err := decode(data)
		if err != nil {
			return
		}
		again, err := decode(marshal(t, first))
		if err != nil {
			t.Fatalf("decode what was encoded: %v", err)
		}
		if diff := cmp.Diff(first, again, ignoreOwn); diff != "" {
			t.Fatalf("decode, encode, decode (-first +again):\n%s", diff)
		}
	})
}

func FuzzDecodeRegister(f *testing.F) {
	fuzzBody(f, marshal(f, registration()), wire.DecodeRegister)
}

func FuzzDecodeLogin(f *testing.F) {
	f.Add([]byte(`{"user_id":"alice"}`), false)
	f.Add([]byte(`{"user_id":"alice","challenge":"AAAA","signature":"AAAA"}`), true)
	f.Fuzz(func(t *testing.T, data []byte, verify bool) {
		r, err := wire.DecodeLogin(data, verify)
		if err == nil && !wire.ValidUserID(r.UserID) {
			t.Fatalf("user id %q is not in the grammar", r.UserID)
		}
	})
}

func FuzzDecodeKeyUpload(f *testing.F) {
	r := registration()
	fuzzBody(f, marshal(f, &wire.KeyUpload{X25519PublicKey: r.X25519PublicKey, KeyVersion: 2, CreatedAt: when, KeySignature: r.KeySignature}), wire.DecodeKeyUpload)
}

func FuzzDecodeParams(f *testing.F) {
	for _, s := range []string{"", "{}", ` {"a":[1,{"b":null}]} `} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		params, err := wire.DecodeParams(data)
		if err != nil {
			return
		}
		if params[0] != '{' || params[len(params)-1] != '}' || len(data) > 0 && !bytes.Contains(data, params) {
			t.Fatalf("params %q of %q", params, data)
		}
	})
}

func kilobyte() *wire.Direct {
	d := delivered(sealedDirect())
	d.Content = base64Of(528)
	return d
}

func BenchmarkDecodeDirect(b *testing.B) {
	data := kilobyte().Append(nil)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := wire.DecodeClient(data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendDirect(b *testing.B) {
	d := kilobyte()
	buf := d.Append(nil)
	b.SetBytes(int64(len(buf)))
	b.ReportAllocs()
	for b.Loop() {
		buf = d.Append(buf[:0])
	}
}

// The server decodes every frame, so the number of allocations is held.
func TestDecodeDirectAllocations(t *testing.T) {
	data := kilobyte().Append(nil)
	got := testing.AllocsPerRun(100, func() {
		if _, _, err := wire.DecodeClient(data); err != nil {
			t.Error(err)
		}
	})
	if got > 20 {
		t.Errorf("DecodeClient of a direct frame: got %v allocations, want at most 20", got)
	}
	if strings.Contains(string(data), "\\") {
		t.Error("the frame has escapes, which the measurement is not about")
	}
}
