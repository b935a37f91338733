package server_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/plugboard/plugboard/sdk/e2ee"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// The same frame on two connections at once is stored once.
func TestTheSameMessageOnTwoConnectionsAtOnce(t *testing.T) {
	t.Parallel()
	h := newBareServer(t)
	alice := h.person("alice")
	h.person("bob")
	lines := []*line{alice.connect(), alice.connect(), alice.connect()}
	toBob := alice.keys("bob")
	for i := 1; i <= 40; i++ {
		id := fmt.Sprint("m", i)
		m := alice.seal(id, toBob, "once")
		var all sync.WaitGroup
		for _, l := range lines {
			all.Go(func() {
				l.send(m)
				l.wantStored(id, uint64(i))
			})
		}
		all.Wait()
	}
}

// One name, many askers: one gets it.
func TestRegistrationsAndRotationsRace(t *testing.T) {
	t.Parallel()
	h := newBareServer(t)
	race := func(method, path, token string, bodies []any) map[int]int {
		got := map[int]int{}
		var mu sync.Mutex
		var all sync.WaitGroup
		for _, b := range bodies {
			all.Go(func() {
				status, _ := h.do(method, path, token, b)
				mu.Lock()
				defer mu.Unlock()
				got[status]++
			})
		}
		all.Wait()
		return got
	}
	var bodies []any
	for range 8 {
		bodies = append(bodies, h.stranger("alice").apply(nil))
	}
	if got := race("POST", "/auth/register", "", bodies); got[http.StatusCreated] != 1 || got[http.StatusConflict] != 7 {
		t.Errorf("eight keys for one name: got %v, want one 201 and seven 409", got)
	}
	same := h.stranger("bob").apply(nil)
	if got := race("POST", "/auth/register", "", []any{same, same, same, same}); got[http.StatusCreated] != 1 || got[http.StatusOK] != 3 {
		t.Errorf("one registration four times: got %v, want one 201 and three 200", got)
	}
	carol := h.person("carol")
	bodies = nil
	for range 8 {
		key, err := e2ee.GenerateEncryptionKey()
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, carol.upload(2, key.PublicKey().Bytes(), time.Now().Add(time.Second), carol.sign))
	}
	if got := race("PUT", "/auth/keys", carol.token, bodies); got[http.StatusOK] != 1 || got[http.StatusConflict] != 7 {
		t.Errorf("eight keys of one version: got %v, want one 200 and seven 409", got)
	}
}

// Request ids are each client's own: others may use the same at the same time.
func TestTheSameRequestIDOfSeveralClients(t *testing.T) {
	t.Parallel()
	h := newMisbehavingServer(t)
	alice, bob := h.person("alice"), h.person("bob")
	a, a2, b := alice.connect(), alice.connect(), bob.connect()
	var all sync.WaitGroup
	for _, l := range []*line{a, a2, b} {
		all.Go(func() {
			l.send(&wire.Command{ID: "same", Command: "test.slow", Params: []byte(`{"ms":200}`)})
			if r := want[*wire.Response](l); r.ID != "same" {
				t.Errorf("got %s", r.Append(nil))
			}
		})
	}
	for range 2 {
		all.Go(func() {
			r := h.request("POST", "/commands/test.slow", h.name(), "Authorization: Bearer "+alice.token, "Idempotency-Key: same", "Content-Length: 10", "", `{"ms":200}`)
			if r.status != http.StatusOK {
				t.Errorf("got %d %s", r.status, r.body)
			}
		})
	}
	all.Wait()
	b.send(&wire.Command{ID: "same", Command: "test.hang"})
	a.send(&wire.Command{ID: "same", Command: "test.hang"})
	a.send(&wire.Cancel{ID: "same"})
	a.wantError("same", fault.CommandCancelled)
	a2.send(&wire.Cancel{ID: "same"}) // stops nothing of others
	b.send(&wire.Command{ID: "ping", Command: "ping"})
	if r := want[*wire.Response](b); r.ID != "ping" {
		t.Errorf("got %s", r.Append(nil))
	}
}

// What the server adds and escapes must not make a frame larger than the size
// that the welcome tells: a client that holds to it would never get past it.
func TestNoFrameIsLargerThanTheWelcomeSays(t *testing.T) {
	t.Parallel()
	h := newBareServer(t, plaintext)
	alice, bob := h.person(strings.Repeat("a", 63)), h.person("bob")
	a, b := alice.connect(), bob.connect()
	b.ws.SetReadLimit(int64(b.welcome.Limits.MaxFrameBytes))
	fill := func(unit string, room int) string { return strings.Repeat(unit, room/len(unit)) }
	for i, unit := range []string{"x", `\b`, `\f`, `\/`, `\u007f`, "\u2028", "é", `\"`, `\u00e9`, `\u0000`} {
		for _, kind := range []string{"direct", "broadcast"} {
			id := fmt.Sprint(kind, i)
			head := `{"type":"` + kind + `","id":"` + id + `","timestamp":"` + now(0) + `"`
			if kind == "direct" {
				head += `,"to":"bob"`
			}
			head += `,"content":"`
			frame := head + fill(unit, int(a.welcome.Limits.MaxFrameBytes)-len(head)-2) + `"}`
			a.sendText(frame)
			for done := false; !done; {
				switch f := a.next().(type) {
				case *wire.Ack:
					done = true
					b.next() // fails when it is larger than the limit
				case *wire.ErrorFrame:
					done = true
					if f.Fault.Code != fault.TooLarge {
						t.Errorf("%s of %q: got %s, want too_large", kind, unit, f.Append(nil))
					}
				}
			}
		}
	}
}
