package delivery_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

func TestHintSavesTheRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		defer h.stop(t)
		c := h.join(t, "bob", 0, 100)
		synctest.Wait()
		before := h.boxes.readCount()
		for range 20 {
			h.d.Publish(h.boxes.commit("bob"))
		}
		synctest.Wait()
		c.read(t, h, 100)
		if len(c.got) != 20 || h.boxes.readCount() != before {
			t.Errorf("got %d messages by %d reads, want 20 by none", len(c.got), h.boxes.readCount()-before)
		}
		h.d.Publish(h.boxes.commit("nobody here"))
		synctest.Wait()
		if h.boxes.readCount() != before {
			t.Error("read for a user who is not connected")
		}
	})
}

func TestLostHintIsFoundByTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		defer h.stop(t)
		c := h.join(t, "bob", 0, 100)
		synctest.Wait()
		h.boxes.commit("bob") // its hint is lost
		second, third := h.boxes.commit("bob"), h.boxes.commit("bob")
		h.d.Publish(third)
		h.d.Publish(second)
		synctest.Wait()
		c.read(t, h, 100)
		if diff := cmp.Diff([]uint64{1, 2, 3}, c.got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestFullQueueIsServedWhenThereIsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		defer h.stop(t)
		slow, quick := h.join(t, "bob", 0, 2), h.join(t, "bob", 0, 500)
		for range 300 {
			h.d.Publish(h.boxes.commit("bob"))
		}
		synctest.Wait()
		quick.read(t, h, 500)
		if len(quick.got) != 300 {
			t.Errorf("got %d messages, want 300 whatever the slow session does", len(quick.got))
		}
		for range 150 {
			slow.read(t, h, 2)
			synctest.Wait()
		}
		if len(slow.got) != 300 {
			t.Errorf("got %d messages on the slow session, want 300", len(slow.got))
		}
	})
}

// TestFailingStore: a store in trouble is asked once a second for a user, however
// many sessions and hints there are, and everything comes once it works again.
func TestFailingStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		defer h.stop(t)
		var clients []*client
		for range 5 {
			clients = append(clients, h.join(t, "bob", 0, 100))
		}
		synctest.Wait()
		h.boxes.setBroken(true)
		before := h.boxes.readCount()
		h.boxes.commit("bob")
		h.d.Wake("bob")
		synctest.Wait()
		time.Sleep(10*time.Second + time.Millisecond)
		if got := h.boxes.readCount() - before; got != 11 {
			t.Errorf("got %d reads in ten seconds of failure, want 11", got)
		}
		h.boxes.setBroken(false)
		time.Sleep(time.Second)
		synctest.Wait()
		for i, c := range clients {
			c.read(t, h, 100)
			if len(c.got) != 1 {
				t.Errorf("session %d got %d messages, want 1", i, len(c.got))
			}
		}
		reads := h.boxes.readCount()
		time.Sleep(time.Minute)
		if got := h.boxes.readCount(); got != reads {
			t.Errorf("got %d more reads of a healthy store that nobody asked for", got-reads)
		}
	})
}

func TestAcknowledgeSendsReceipts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		defer h.stop(t)
		bob := h.join(t, "bob", 0, 100)
		alice, full := h.join(t, "alice", 0, 100), h.join(t, "alice", 0, 0)
		for range 3 {
			h.d.Publish(h.boxes.commit("bob"))
		}
		stamp := "2026-01-31T12:00:00.000Z"
		err := h.d.Acknowledge(t.Context(), bob.s, &wire.MailboxAck{Seq: 2, Receipts: []wire.SignedReceipt{{Seq: 2, Timestamp: stamp, Signature: "c2ln"}}})
		if err != nil || bob.s.Acked != 2 {
			t.Fatalf("got %v and acked %d, want none and 2", err, bob.s.Acked)
		}
		frames, _ := alice.out.take(100)
		var got []wire.Receipt
		for _, f := range frames {
			frame, err := wire.DecodeServer(f.JSON)
			if err != nil {
				t.Fatal(err)
			}
			if r, ok := frame.(*wire.Receipt); ok {
				got = append(got, *r)
			}
		}
		want := []wire.Receipt{
			{ID: "m1", To: "bob", Status: "delivered", Timestamp: wire.FormatTime(time.Now())},
			{ID: "m2", To: "bob", Status: "delivered", Timestamp: stamp, Signature: "c2ln"},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if frames, _ := full.out.take(1); len(frames) != 0 {
			t.Error("a full queue took a receipt")
		}
		// The same again, and an older one: nobody is told twice.
		for _, seq := range []uint64{2, 1, 0} {
			if err := h.d.Acknowledge(t.Context(), bob.s, &wire.MailboxAck{Seq: seq}); err != nil {
				t.Error(err)
			}
		}
		if frames, _ := alice.out.take(100); len(frames) != 0 || bob.s.Acked != 2 {
			t.Errorf("got %d more receipts and acked %d, want none and 2", len(frames), bob.s.Acked)
		}
	})
}

func TestAcknowledgeFaults(t *testing.T) {
	h := newHouse(t)
	defer h.stop(t)
	bob := h.join(t, "bob", 0, 100)
	h.boxes.commit("bob")
	err := h.d.Acknowledge(t.Context(), bob.s, &wire.MailboxAck{Seq: 2})
	if fault.CodeOf(err) != fault.InvalidRequest || bob.s.Acked != 0 {
		t.Errorf("got %v and acked %d, want invalid_request and 0", err, bob.s.Acked)
	}
	h.boxes.setBroken(true)
	err = h.d.Acknowledge(t.Context(), bob.s, &wire.MailboxAck{Seq: 1})
	f := fault.From(err, "")
	if f.Code != fault.StorageUnavailable || strings.Contains(f.Message, errDisk.Error()) || bob.s.Acked != 0 {
		t.Errorf("got %v and acked %d, want storage_unavailable without its cause, and 0", f, bob.s.Acked)
	}
}

func BenchmarkLiveDelivery(b *testing.B) {
	h := newHouse(b)
	c := h.join(b, "bob", 0, 1<<30)
	for b.Loop() {
		h.d.Publish(h.boxes.commit("bob"))
	}
	h.stop(b)
	_ = c
	var _ core.Bus = h.d
}
