package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"sync"
	"time"

	"github.com/plugboard/plugboard/sdk/e2ee"
	"github.com/plugboard/plugboard/sdk/wire"
)

// Event is something that the server sent: *Message, *Broadcast, *Receipt or
// *Notice.
type Event interface{ event() }

// Message is a direct message that was opened and verified.
type Message struct {
	From, ID string
	// Plugin is the plugin of the server that wrote the message, or empty: From is
	// "plugin:" and its name then, which no user can have. Such a message is not
	// sealed, and that it is the plugin's is the server's word.
	Plugin string
	Seq    uint64
	Text   []byte
	// SentAt is the sender's clock, as signed; ServerTime is the server's.
	SentAt, ServerTime time.Time
	// Sealed is false for a plugin's message, and else only with
	// Options.AllowPlaintext: then the server has read the message and may have
	// written it.
	Sealed bool
}

// Broadcast is a public message.
type Broadcast struct {
	From, ID, Text string
	// Plugin is the plugin of the server that wrote it, or empty.
	Plugin     string
	ServerTime time.Time
	// Verified: it carries a signature that verifies under the sender's pinned
	// identity. Without it the sender is the server's word.
	Verified bool
}

// Receipt says that a recipient acknowledged a message of ours.
type Receipt struct {
	ID, To string
	At     string
}

// Notice is news from the server, by the codes of package wire.
type Notice struct{ Code, Text string }

func (*Message) event()   {}
func (*Broadcast) event() {}
func (*Receipt) event()   {}
func (*Notice) event()    {}

// inbox is the bounded queue between the reader and whoever takes events. Direct
// messages enter it in the order of their seq without gaps; one that does not fit
// is left on the server and fetched when there is room.
type inbox struct {
	size int

	mu      sync.Mutex
	frames  []wire.Frame
	last    uint64 // seq of the newest direct message that entered
	behind  bool   // the server has direct messages that did not fit
	missed  uint64 // how many frames were left out for that
	known   bool   // last is set
	dropped uint64
	reason  error
	wake    chan struct{} // holds one token
	taken   bool
}

func newInbox(size int) *inbox { return &inbox{size: size, wake: make(chan struct{}, 1)} }

// begin is told of every connection: messages up to the acknowledged seq do not
// come again.
func (b *inbox) begin(w *wire.Welcome) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.known && w.LastSeq < b.last && len(b.frames) == 0 {
		b.last, b.behind = w.AckedSeq, false // the server lost what it had, and counts anew
	}
	if !b.known || w.AckedSeq > b.last && len(b.frames) == 0 && !b.behind {
		b.last, b.known = w.AckedSeq, true
	}
}

// offer takes a frame from the reader and never blocks.
func (b *inbox) offer(f wire.Frame) {
	b.mu.Lock()
	d, direct := f.(*wire.Direct)
	switch {
	case direct && d.Seq <= b.last: // came before
	case direct && (d.Seq != b.last+1 || b.behind || len(b.frames) >= b.size):
		b.behind = true
		b.missed++
	case len(b.frames) >= b.size:
		b.dropped++
	default:
		if direct {
			b.last = d.Seq
		}
		b.frames = append(b.frames, f)
	}
	b.mu.Unlock()
	b.signal()
}

func (b *inbox) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

func (b *inbox) end(reason error) {
	b.mu.Lock()
	b.reason = reason
	b.mu.Unlock()
	b.signal()
}

// gap says from where the mailbox is to be read on, and what had been left out
// when that was decided.
type gap struct{ after, missed uint64 }

// next returns a frame, or that the mailbox is to be read on, or why there will be
// no more; none of these is "wait".
func (b *inbox) next() (f wire.Frame, g *gap, reason error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case len(b.frames) > 0:
		f = b.frames[0]
		b.frames[0] = nil
		if b.frames = b.frames[1:]; len(b.frames) == 0 {
			b.frames = nil
		}
	case b.reason != nil:
		reason = b.reason
	case b.behind:
		g = &gap{after: b.last, missed: b.missed}
	}
	return f, g, reason
}

// refill takes what was fetched from the mailbox, in order. An empty page ends the
// catching up, unless another frame was left out while the page was on its way.
func (b *inbox) refill(page []*wire.Direct, g *gap) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(page) == 0 {
		b.behind = b.missed != g.missed
	}
	for _, d := range page {
		if d.Seq > b.last { // what the server no longer has does not stop what it has
			b.last = d.Seq
			b.frames = append(b.frames, d)
		}
	}
}

// Dropped is how many broadcasts, receipts and notices did not fit into the queue.
func (c *Client) Dropped() uint64 {
	c.inbox.mu.Lock()
	defer c.inbox.mu.Unlock()
	return c.inbox.dropped
}

// Messages yields direct messages, as [Client.Events] does.
func (c *Client) Messages(ctx context.Context) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		for e, err := range c.Events(ctx) {
			m, ok := e.(*Message)
			if err != nil || ok {
				if !yield(m, err) {
					return
				}
			}
		}
	}
}

// Events yields what the server sends, in its order, until ctx ends, the client is
// closed or the server says not to come back: that reason is the last thing
// yielded. A direct message is acknowledged after the loop's body has returned,
// once it is recorded on disk as dealt with; a body that ends the loop has dealt
// with its message, too. Only one goroutine may take events at a time; another one
// gets ErrBusy.
func (c *Client) Events(ctx context.Context) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		if !c.inbox.take() {
			yield(nil, ErrBusy)
			return
		}
		defer c.inbox.give()
		for {
			f, err := c.nextFrame(ctx)
			if err != nil {
				yield(nil, err)
				return
			}
			more, err := c.hand(ctx, f, yield)
			if err != nil {
				yield(nil, err)
				return
			}
			if !more {
				return
			}
		}
	}
}

func (b *inbox) take() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.taken {
		return false
	}
	b.taken = true
	return true
}

func (b *inbox) give() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.taken = false
}

// nextFrame waits for a frame, fetching what did not fit.
func (c *Client) nextFrame(ctx context.Context) (wire.Frame, error) {
	for {
		f, gap, reason := c.inbox.next()
		switch {
		case f != nil:
			return f, nil
		case reason != nil:
			return nil, reason
		case gap != nil:
			page, err := c.fetch(ctx, gap.after)
			if err != nil {
				c.log.Info("Mailbox could not be read", "error", err)
				if err := c.sleep(ctx, backoff(0)); err != nil {
					return nil, err
				}
				continue
			}
			c.inbox.refill(page, gap)
			continue
		}
		select {
		case <-c.inbox.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (c *Client) sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-c.ctx.Done():
		return context.Cause(c.ctx)
	}
}

// fetch reads a page of the mailbox.
func (c *Client) fetch(ctx context.Context, after uint64) ([]*wire.Direct, error) {
	var page wire.MessagesPage
	if err := c.get(ctx, "/messages?limit=100&after="+strconv.FormatUint(after, 10), &page); err != nil {
		return nil, err
	}
	frames := make([]*wire.Direct, 0, len(page.Messages))
	for _, raw := range page.Messages {
		f, err := wire.DecodeServer(raw)
		if err != nil {
			c.log.Warn("Stored message of the server passed over", "error", err)
			continue
		}
		if d, ok := f.(*wire.Direct); ok {
			frames = append(frames, d)
		}
	}
	return frames, nil
}

// hand gives one frame to the loop's body.
func (c *Client) hand(ctx context.Context, f wire.Frame, yield func(Event, error) bool) (more bool, err error) {
	switch f := f.(type) {
	case *wire.Direct:
		return c.handDirect(ctx, f, yield)
	case *wire.Broadcast:
		at, _ := wire.ParseTime(f.ServerTime) // zero where the server gave none
		return yield(&Broadcast{
			From: f.From, Plugin: pluginOf(f.From), ID: f.ID, Text: f.Content, ServerTime: at, Verified: c.verifyBroadcast(ctx, f),
		}, nil), nil
	case *wire.Receipt:
		return yield(&Receipt{ID: f.ID, To: f.To, At: f.Timestamp}, nil), nil
	case *wire.Notice:
		return yield(&Notice{Code: f.Code, Text: f.Message}, nil), nil
	}
	return true, nil
}

// handDirect opens a message, hands it over, records it and acknowledges it, in
// this order. One that can never be opened is recorded and acknowledged too:
// nobody's broken frame holds up the rest (docs/e2ee.md §3).
func (c *Client) handDirect(ctx context.Context, f *wire.Direct, yield func(Event, error) bool) (more bool, err error) {
	more = true
	m, err := c.openDirect(ctx, f)
	for err != nil && !isPermanent(err) && !errors.Is(err, errSeen) {
		c.log.Info("Message cannot be opened yet", "from", f.From, "error", err)
		if err := c.sleep(ctx, time.Second); err != nil {
			return false, err
		}
		m, err = c.openDirect(ctx, f)
	}
	switch {
	case err == nil:
		more = yield(m, nil)
	case !errors.Is(err, errSeen) && c.o.OnRefused != nil:
		c.o.OnRefused(Refused{From: f.From, ID: f.ID, Seq: f.Seq, Reason: err})
	}
	if !errors.Is(err, errSeen) {
		if err := c.o.Identity.record(f, err); err != nil {
			return false, err // not durable, so not acknowledged
		}
	}
	c.acknowledge(f.Seq)
	return more, nil
}

// acknowledge tells the server; a lost ack is made good by the next one, or the
// message comes again and is known.
func (c *Client) acknowledge(seq uint64) {
	c.mu.Lock()
	l := c.link
	c.mu.Unlock()
	if l == nil {
		return
	}
	if err := l.send((&wire.MailboxAck{Seq: seq}).Append(nil)); err != nil {
		c.log.Debug("Acknowledgement could not be sent", "error", err)
	}
}

// openDirect is the recipient's checks of docs/e2ee.md §3, in their order.
func (c *Client) openDirect(ctx context.Context, f *wire.Direct) (*Message, error) {
	refuse := func(check e2ee.Check, why string) error {
		return &e2ee.RefusedError{Check: check, Err: errors.New(why)}
	}
	if f.To != c.o.Identity.UserID() {
		return nil, refuse(e2ee.CheckTo, "it is for "+f.To)
	}
	at, err := wire.ParseTime(f.ServerTime)
	if err != nil {
		at = time.Time{} // decides nothing
	}
	if plugin := pluginOf(f.From); plugin != "" {
		return c.fromPlugin(f, plugin, at)
	}
	if !f.IsSealed() {
		return c.plain(f, at)
	}
	sender, err := c.identityOf(ctx, f.From)
	if err != nil {
		return nil, err
	}
	key := c.o.Identity.encryptionKey(f.KeyVersion)
	if key == nil {
		return nil, refuse(e2ee.CheckKeyVersion, fmt.Sprintf("there is no private key of version %d", f.KeyVersion))
	}
	if err := f.Validate(); err != nil {
		return nil, refuse(e2ee.CheckShape, err.Error())
	}
	parts, err := f.Sealed()
	if err != nil {
		return nil, refuse(e2ee.CheckShape, err.Error())
	}
	header := &e2ee.Header{
		From: f.From, To: f.To, ID: f.ID, Timestamp: f.Timestamp, KeyVersion: f.KeyVersion,
		Sender: sender, Recipient: c.o.Identity.PublicKey(), EncryptionKey: key.PublicKey().Bytes(),
	}
	envelope := e2ee.Envelope(*parts)
	if err := envelope.Verify(header); err != nil {
		return nil, err
	}
	if err := c.o.Identity.checkSeen(f); err != nil {
		return nil, err
	}
	text, err := e2ee.Open(header, key, &envelope)
	if err != nil {
		return nil, err
	}
	sent, err := wire.ParseTime(f.Timestamp)
	if err != nil {
		return nil, refuse(e2ee.CheckShape, err.Error())
	}
	return &Message{From: f.From, ID: f.ID, Seq: f.Seq, Text: text, SentAt: sent, ServerTime: at, Sealed: true}, nil
}

// plain hands over an unsealed message where the user switched that on.
func (c *Client) plain(f *wire.Direct, at time.Time) (*Message, error) {
	if !c.o.AllowPlaintext {
		return nil, errPlaintext
	}
	if err := f.Validate(); err != nil || f.From == "" {
		return nil, &e2ee.RefusedError{Check: e2ee.CheckShape, Err: err}
	}
	if err := c.o.Identity.checkSeen(f); err != nil {
		return nil, err
	}
	sent, err := wire.ParseTime(f.Timestamp)
	if err != nil {
		sent = time.Time{} // unsigned, so it decides nothing
	}
	return &Message{From: f.From, ID: f.ID, Seq: f.Seq, Text: []byte(f.Content), SentAt: sent, ServerTime: at}, nil
}

// verifyBroadcast reports whether the signature is the sender's. Without one, or
// without the sender's keys, which a plugin never has, the answer is no.
func (c *Client) verifyBroadcast(ctx context.Context, f *wire.Broadcast) bool {
	if f.Signature == "" || pluginOf(f.From) != "" {
		return false
	}
	signature, err := wire.DecodeBase64(f.Signature)
	if err != nil {
		return false
	}
	sender, err := c.identityOf(ctx, f.From)
	if err != nil {
		return false
	}
	return e2ee.Verify(sender, e2ee.BroadcastTranscript(f.From, f.ID, f.Timestamp, f.Content), signature)
}
