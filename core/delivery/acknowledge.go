package delivery

import (
	"context"
	"errors"
	"time"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// ackTimeout bounds how long a reader waits for the commit of an acknowledgement.
const ackTimeout = 10 * time.Second

// Acknowledge moves the mailbox of the session's user forward and sends the
// receipts to those senders who are connected. It is called by the connection's
// reader, in the client's order. Errors are faults: invalid_request for a seq
// that was never given.
func (d *Delivery) Acknowledge(ctx context.Context, s *core.Session, a *wire.MailboxAck) error {
	ctx, cancel := context.WithTimeout(ctx, ackTimeout)
	defer cancel()
	signed := make(map[uint64]core.Receipt, len(a.Receipts))
	for _, r := range a.Receipts {
		signed[r.Seq] = core.Receipt{Timestamp: r.Timestamp, Signature: r.Signature}
	}
	receipts, err := d.Mailboxes.Ack(ctx, s.UserID(), a.Seq, d.Now(), signed)
	if errors.Is(err, core.ErrSeq) {
		return fault.Newf(fault.InvalidRequest, "Member \"seq\" must be at most that of your newest message; %d was never given.", a.Seq)
	}
	if err != nil {
		return core.StoreFault(err)
	}
	s.Acked = max(s.Acked, a.Seq)
	for i := range receipts {
		d.sendReceipt(&receipts[i])
	}
	return nil
}

// sendReceipt offers a receipt to the message's sender. The fact is stored with
// the message whether or not the sender is here to hear of it.
func (d *Delivery) sendReceipt(r *core.Receipt) {
	sessions := d.Live.Of(r.From)
	if len(sessions) == 0 {
		return
	}
	frame := core.Encode(r.Frame())
	for _, s := range sessions {
		if s.Outbox.Offer(frame) {
			d.metrics.receipts.WithLabelValues(outcomeQueued).Inc()
		} else {
			d.metrics.receipts.WithLabelValues(outcomeDropped).Inc()
		}
	}
}
