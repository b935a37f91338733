package server_test

import (
	"crypto/ed25519"
	"fmt"
	"math/rand"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/plugboard/plugboard/sdk/e2ee"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// One backlog, live traffic on top of it, several devices: each gets every seq in
// order and once.
func TestBacklogMeetsLiveTraffic(t *testing.T) {
	t.Parallel()
	h := newBareServer(t, plaintext)
	alice, bob := h.person("alice"), h.person("bob")
	senders := []*line{alice.connect(), alice.connect(), alice.connect()}
	const waiting, live, devices = 1000, 300, 3
	stored := 0
	sendMany := func(n int, name string) { // from all senders at once, acks read beside
		var wg sync.WaitGroup
		for i, l := range senders {
			wg.Go(func() {
				for k := range n / len(senders) {
					l.send(plain(fmt.Sprintf("%s-%d-%d", name, i, k), "bob", strings.Repeat("x", 100)))
				}
			})
			wg.Go(func() {
				for range n / len(senders) {
					if a := want[*wire.Ack](l); a.Status != wire.StatusStored {
						t.Errorf("got %s", a.Append(nil))
					}
				}
			})
		}
		wg.Wait()
		stored += n / len(senders) * len(senders)
	}
	sendMany(waiting, "w")
	for seed := range 3 {
		total := stored + live
		var readers sync.WaitGroup
		began := make(chan struct{}, devices)
		for d := range devices {
			l := bob.connect()
			readers.Go(func() {
				pace := rand.New(rand.NewSource(int64(seed*devices + d)))
				defer l.ws.Close()
				for i := 1; i <= total; i++ {
					f := want[*wire.Direct](l)
					if f.Seq != uint64(i) {
						t.Errorf("seed %d, device %d: got seq %d in place %d", seed, d, f.Seq, i)
						return
					}
					if i == 10 {
						began <- struct{}{}
					}
					if pace.Intn(200) == 0 {
						time.Sleep(time.Duration(pace.Intn(4)) * time.Millisecond)
					}
				}
			})
		}
		<-began
		sendMany(live, fmt.Sprint("l", seed))
		readers.Wait()
	}
	// The mailbox over HTTP says the same, in pages.
	seen := uint64(0)
	for {
		status, body := h.do("GET", fmt.Sprintf("/messages?after=%d&limit=500", seen), bob.token, nil)
		var page wire.MessagesPage
		if err := wire.Unmarshal(body, &page); err != nil || status != http.StatusOK || page.LastSeq != uint64(stored) {
			t.Fatalf("got %d %.200s (%v), want last_seq %d", status, body, err, stored)
		}
		if len(page.Messages) == 0 {
			break
		}
		for _, m := range page.Messages {
			f, err := wire.DecodeServer(m)
			d, ok := f.(*wire.Direct)
			if seen++; err != nil || !ok || d.Seq != seen || d.From != "alice" || d.ServerTime == "" {
				t.Fatalf("got %s (%v), want seq %d", m, err, seen)
			}
		}
	}
	if seen != uint64(stored) {
		t.Errorf("got %d messages, want %d", seen, stored)
	}
}

// Acks are cumulative, count once whoever sends them, and never go back.
func TestAcksOfTwoDevicesRace(t *testing.T) {
	t.Parallel()
	h := newBareServer(t, plaintext)
	alice, bob := h.person("alice"), h.person("bob")
	a, b1, b2 := alice.connect(), bob.connect(), bob.connect()
	const n = 120
	for i := 1; i <= n; i++ {
		a.send(plain(fmt.Sprint("m", i), "bob", "x"))
		a.wantStored(fmt.Sprint("m", i), uint64(i))
	}
	var devices sync.WaitGroup
	for d, l := range []*line{b1, b2} {
		devices.Go(func() {
			for i := 1; i <= n; i++ {
				want[*wire.Direct](l)
				if i%(d+2) == 0 || i == n {
					l.send(&wire.MailboxAck{Seq: uint64(i)})
				}
			}
		})
	}
	receipts := map[string]int{}
	for range n {
		r := want[*wire.Receipt](a)
		receipts[r.ID]++
	}
	devices.Wait()
	for i := 1; i <= n; i++ {
		if got := receipts[fmt.Sprint("m", i)]; got != 1 {
			t.Errorf("m%d: got %d receipts, want 1", i, got)
		}
	}
	b1.send(&wire.MailboxAck{Seq: 3}) // late and lower: changes nothing
	b1.send(&wire.MailboxAck{Seq: n + 1})
	b1.wantError("", fault.InvalidRequest)
	if w := bob.connect().welcome; w.AckedSeq != n || w.LastSeq != n {
		t.Errorf("got acked %d of %d, want %d", w.AckedSeq, w.LastSeq, n)
	}
	a.send(&wire.Command{ID: "end", Command: "none"}) // nothing else came
	a.wantError("end", fault.UnknownCommand)
}

func TestSignedReceiptsAreCarried(t *testing.T) {
	t.Parallel()
	h := newBareServer(t)
	alice, bob := h.person("alice"), h.person("bob")
	a, a2, b := alice.connect(), alice.connect(), bob.connect()
	m := alice.seal("m", alice.keys("bob"), "text")
	a.send(m)
	a.wantStored("m", 1)
	d := want[*wire.Direct](b)
	signature, _ := wire.DecodeBase64(d.Signature)
	at := now(0)
	receipt := ed25519.Sign(bob.sign, e2ee.ReceiptTranscript("alice", "bob", "m", signature, at))
	b.send(&wire.MailboxAck{Seq: 1, Receipts: []wire.SignedReceipt{{Seq: 1, Timestamp: at, Signature: wire.EncodeBase64(receipt)}}})
	for _, l := range []*line{a, a2} {
		r := want[*wire.Receipt](l)
		got, err := wire.DecodeBase64(r.Signature)
		sent, _ := wire.DecodeBase64(m.Signature)
		if err != nil || r.ID != "m" || r.To != "bob" || r.Status != wire.StatusDelivered || r.Timestamp != at ||
			!e2ee.Verify(bob.public(), e2ee.ReceiptTranscript("alice", r.To, r.ID, sent, r.Timestamp), got) {
			t.Errorf("got %s, want bob's signed receipt", r.Append(nil))
		}
	}
}

func TestPlaintextMailboxLimitAndIDs(t *testing.T) {
	t.Parallel()
	h := newBareServer(t, plaintext, "PLUGBOARD_MESSAGES__MAILBOX_LIMIT=3")
	alice, bob, carol := h.person("alice"), h.person("bob"), h.person("carol")
	a, c := alice.connect(), carol.connect()
	first := plain("m1", "bob", "one <&> \u2028 \x00 \"")
	a.send(first)
	a.wantStored("m1", 1)
	for _, other := range []*wire.Direct{
		plain("m1", "carol", first.Content), {ID: "m1", To: "bob", Content: "other", Timestamp: first.Timestamp}, {ID: "m1", To: "bob", Content: first.Content, Timestamp: now(time.Second)},
		alice.seal("m1", alice.keys("bob"), first.Content),
	} {
		a.send(other)
		a.wantError("m1", fault.IDConflict)
	}
	c.send(plain("m1", "bob", "ids are each sender's own"))
	c.wantStored("m1", 2)
	for _, stale := range []*wire.Direct{{ID: "old", To: "bob", Content: "x", Timestamp: now(-25 * time.Hour)}, {ID: "old", To: "bob", Content: "x", Timestamp: now(6 * time.Minute)}} {
		a.send(stale)
		a.wantError("old", fault.StaleTimestamp)
	}
	a.send(&wire.Direct{ID: "old", To: "bob", Content: "x", Timestamp: now(-23 * time.Hour)})
	a.wantStored("old", 3)
	a.send(plain("m4", "bob", "too many"))
	a.wantError("m4", fault.MailboxFull)
	a.send(first) // stored before it was full
	a.wantStored("m1", 1)
	a.send(plain("self", "alice", "to myself"))
	for range 2 {
		switch f := a.next().(type) {
		case *wire.Ack:
		case *wire.Direct:
			if f.From != "alice" || f.To != "alice" {
				t.Errorf("got %s", f.Append(nil))
			}
		default:
			t.Errorf("got %s", f.Append(nil))
		}
	}
	b := bob.connect()
	d := want[*wire.Direct](b)
	if d.Content != first.Content || d.Signature != "" || d.Timestamp != first.Timestamp {
		t.Errorf("got %s, want the text as it was sent", d.Append(nil))
	}
	want[*wire.Direct](b)
	want[*wire.Direct](b)
	b.send(&wire.MailboxAck{Seq: 1})
	want[*wire.Receipt](a)
	a.send(plain("m4", "bob", "too many"))
	a.wantStored("m4", 4)
}
