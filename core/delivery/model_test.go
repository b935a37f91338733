package delivery_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/wire"
)

// TestDeliveryModel lets commits, hints, sessions and readers meet in any order,
// with hints lost, doubled and in the wrong order, queues of few places and a
// store that fails at times. Every session gets from+1, from+2, … and in the end
// everything.
func TestDeliveryModel(t *testing.T) {
	synctest.Test(t, func(*testing.T) {
		rapid.Check(t, func(rt *rapid.T) {
			h := newHouse(rt)
			defer h.stop(rt)
			users := []string{"bob", "carol"}
			var hints []core.Committed // not yet told
			var clients []*client
			rt.Repeat(map[string]func(*rapid.T){
				"commit": func(rt *rapid.T) {
					for range rapid.IntRange(1, 90).Draw(rt, "messages") {
						hints = append(hints, h.boxes.commit(rapid.SampledFrom(users).Draw(rt, "user")))
					}
				},
				"hint": func(rt *rapid.T) {
					for n := rapid.IntRange(1, 20).Draw(rt, "hints"); n > 0 && len(hints) > 0; n-- {
						i := rapid.IntRange(0, min(4, len(hints)-1)).Draw(rt, "which")
						hint := hints[i]
						if rapid.Bool().Draw(rt, "without message") {
							hint.Message = nil
						}
						h.d.Publish(hint)
						if !rapid.Bool().Draw(rt, "again") {
							hints = append(hints[:i:i], hints[i+1:]...)
						}
					}
				},
				"lose hints": func(*rapid.T) { hints = nil },
				"join": func(rt *rapid.T) {
					user := rapid.SampledFrom(users).Draw(rt, "user")
					after := rapid.Uint64Range(0, h.boxes.last(user)).Draw(rt, "after")
					clients = append(clients, h.join(rt, user, after, rapid.IntRange(1, 100).Draw(rt, "places")))
				},
				"leave": func(rt *rapid.T) {
					if len(clients) > 0 {
						i := rapid.IntRange(0, len(clients)-1).Draw(rt, "who")
						h.hub.Remove(clients[i].s)
						clients = append(clients[:i:i], clients[i+1:]...)
					}
				},
				"read": func(rt *rapid.T) {
					if len(clients) > 0 {
						rapid.SampledFrom(clients).Draw(rt, "who").read(rt, h, rapid.IntRange(1, 80).Draw(rt, "frames"))
					}
				},
				"ack": func(rt *rapid.T) {
					if len(clients) > 0 {
						c := rapid.SampledFrom(clients).Draw(rt, "who")
						_ = h.d.Acknowledge(context.Background(), c.s, &wire.MailboxAck{Seq: c.from + uint64(len(c.got))}) // fails while the store does
					}
				},
				"break store": func(rt *rapid.T) { h.boxes.setBroken(rapid.Bool().Draw(rt, "broken")) },
				"settle":      func(*rapid.T) { synctest.Wait() },
			})
			h.boxes.setBroken(false)
			time.Sleep(3 * time.Second) // of the bubble's time: retries that are due
			for _, user := range users {
				h.d.Publish(core.Committed{UserID: user}) // hints may all have been lost: the next one finds everything
			}
			for range 2000 {
				synctest.Wait()
				more := false
				for _, c := range clients {
					before := len(c.got)
					c.read(rt, h, 50)
					more = more || len(c.got) > before
				}
				if !more {
					break
				}
			}
			for i, c := range clients {
				if want := h.boxes.last(c.s.UserID()); c.from+uint64(len(c.got)) != want {
					rt.Fatalf("client %d got up to seq %d of %d", i, c.from+uint64(len(c.got)), want)
				}
			}
		})
	})
}

// TestDeliveryConcurrently has everybody at it at once, for the race detector.
func TestDeliveryConcurrently(t *testing.T) {
	h := newHouse(t)
	const users, messages, sessions = 4, 400, 3
	var senders, readers sync.WaitGroup
	for u := range users {
		user := fmt.Sprintf("user%d", u)
		for n := range sessions {
			c := h.join(t, user, 0, []int{2, 16, 256}[n])
			readers.Go(func() {
				for len(c.got) < messages && !t.Failed() {
					before := len(c.got)
					c.read(quiet{t}, h, 8)
					if len(c.got) == before {
						time.Sleep(50 * time.Microsecond) // nothing to read yet
					}
				}
			})
		}
		hints := make(chan core.Committed, 64)
		senders.Go(func() {
			defer close(hints)
			for range messages {
				hints <- h.boxes.commit(user)
			}
		})
		for range 2 { // two publishers, so that hints overtake each other
			senders.Go(func() {
				for hint := range hints {
					h.d.Publish(hint)
				}
			})
		}
	}
	senders.Wait()
	readers.Wait()
	h.stop(t)
}

// quiet fails a test from a goroutine beside its own.
type quiet struct{ t *testing.T }

func (q quiet) Helper()           { q.t.Helper() }
func (q quiet) Fatal(args ...any) { q.t.Error(args...) }
