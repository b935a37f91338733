package delivery_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/delivery"
	"github.com/plugboard/plugboard/core/hub"
	"github.com/plugboard/plugboard/sdk/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// mailboxes is the part of a store that delivery needs, in memory.
type mailboxes struct {
	mu       sync.Mutex
	messages map[string][]core.Message
	acked    map[string]uint64
	broken   bool
	reads    int
}

func newMailboxes() *mailboxes {
	return &mailboxes{messages: make(map[string][]core.Message), acked: make(map[string]uint64)}
}

var errDisk = errors.New("disk on fire")

// commit stores the user's next message.
func (m *mailboxes) commit(user string) core.Committed {
	m.mu.Lock()
	defer m.mu.Unlock()
	seq := uint64(len(m.messages[user]) + 1)
	msg := core.Message{From: "alice", To: user, ID: fmt.Sprintf("m%d", seq), Seq: seq, Content: "c", ServerTime: time.Now()}
	m.messages[user] = append(m.messages[user], msg)
	return core.Committed{UserID: user, Seq: seq, Message: &msg}
}

func (m *mailboxes) last(user string) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return uint64(len(m.messages[user]))
}

func (m *mailboxes) setBroken(broken bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.broken = broken
}

func (m *mailboxes) readCount() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.reads
}

// Read is core.Mailboxes.Read.
func (m *mailboxes) Read(_ context.Context, user string, after uint64, limit, _ int) ([]core.Message, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reads++
	if m.broken {
		return nil, errDisk
	}
	all := m.messages[user]
	if after >= uint64(len(all)) {
		return nil, nil
	}
	page := all[after:]
	return slices.Clone(page[:min(limit, len(page))]), nil
}

// Ack is core.Mailboxes.Ack.
func (m *mailboxes) Ack(_ context.Context, user string, seq uint64, at time.Time, signed map[uint64]core.Receipt) ([]core.Receipt, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken {
		return nil, errDisk
	}
	if seq > uint64(len(m.messages[user])) {
		return nil, core.ErrSeq
	}
	var receipts []core.Receipt
	for s := m.acked[user] + 1; s <= seq; s++ {
		r := core.Receipt{Seq: s, From: "alice", To: user, ID: fmt.Sprintf("m%d", s), Timestamp: wire.FormatTime(at)}
		if own, ok := signed[s]; ok {
			r.Timestamp, r.Signature = own.Timestamp, own.Signature
		}
		receipts = append(receipts, r)
	}
	m.acked[user] = max(m.acked[user], seq)
	return receipts, nil
}

// outbox is a connection's queue of a size; take plays its writer.
type outbox struct {
	mu      sync.Mutex
	size    int
	queue   []*core.Encoded
	lagging bool
}

// Offer refuses when the queue is full.
func (o *outbox) Offer(f *core.Encoded) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.queue) >= o.size {
		o.lagging = true
		return false
	}
	o.queue = append(o.queue, f)
	return true
}

// Answer is not delivery's to call.
func (o *outbox) Answer(*core.Encoded) { panic("delivery answered") }

// Close is not delivery's to call.
func (o *outbox) Close(wire.Close) { panic("delivery closed") }

// Room is what Offer would take.
func (o *outbox) Room() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	room := o.size - len(o.queue)
	o.lagging = o.lagging || room == 0
	return room
}

// take empties up to n places and reports whether somebody waits for room.
func (o *outbox) take(n int) (frames []*core.Encoded, wake bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n = min(n, len(o.queue))
	frames = slices.Clone(o.queue[:n])
	o.queue = o.queue[n:]
	if n > 0 && o.lagging {
		o.lagging, wake = false, true
	}
	return frames, wake
}

// house is a delivery with its neighbours.
type house struct {
	boxes *mailboxes
	hub   *hub.Hub
	d     *delivery.Delivery
	n     int
}

type starter interface {
	Helper()
	Fatal(args ...any)
}

func newHouse(t starter) *house {
	t.Helper()
	h := &house{boxes: newMailboxes(), hub: hub.New()}
	h.d = delivery.New(delivery.Options{Mailboxes: h.boxes, Live: h.hub, Now: time.Now, Logger: zerolog.Nop()})
	if err := h.d.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *house) stop(t starter) {
	t.Helper()
	if err := h.d.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// client is a connected session and what it has read.
type client struct {
	s    *core.Session
	out  *outbox
	from uint64 // where its delivery began
	got  []uint64
	kind map[string]int
}

// join connects as transport does: position, hub, wake.
func (h *house) join(t starter, user string, after uint64, size int) *client {
	t.Helper()
	h.n++
	c := &client{out: &outbox{size: size}, from: after, kind: make(map[string]int)}
	c.s = core.NewSession(fmt.Sprint(h.n), core.Principal{UserID: user}, nil, core.Remote{}, time.Now(), c.out, nil)
	c.s.Delivered, c.s.Acked = after, after
	if err := h.hub.Add(c.s); err != nil {
		t.Fatal(err)
	}
	h.d.Wake(user)
	return c
}

// read takes up to n frames off the queue.
func (c *client) read(t starter, h *house, n int) {
	t.Helper()
	frames, wake := c.out.take(n)
	for _, f := range frames {
		frame, err := wire.DecodeServer(f.JSON)
		if err != nil {
			t.Fatal(err)
		}
		c.kind[frame.Type()]++
		if d, ok := frame.(*wire.Direct); ok {
			if want := c.from + uint64(len(c.got)) + 1; d.Seq != want {
				t.Fatal(fmt.Sprintf("got seq %d, want %d", d.Seq, want))
			}
			c.got = append(c.got, d.Seq)
		}
	}
	if wake {
		h.d.Wake(c.s.UserID())
	}
}
