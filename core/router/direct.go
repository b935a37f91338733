package router

import (
	"context"
	"errors"
	"time"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// storeTimeout bounds how long a sender's reader waits for a commit.
const storeTimeout = 10 * time.Second

// direct stores a message and then answers: the ack says "committed" and does not
// wait for the recipient. Only after the commit is delivery told.
func (r *Router) direct(ctx context.Context, req *core.Request) error {
	if req.Stored != nil {
		r.stored(req, *req.Stored)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	req.Message.ServerTime = r.Now()
	if err := r.fits(req.Raw, func() wire.Frame {
		delivered := *req.Message
		delivered.Seq = wire.MaxInteger // the longest there is
		return delivered.Frame()
	}); err != nil {
		return err
	}
	stored, err := r.Mailboxes.Append(ctx, req.Message, r.MailboxLimit)
	if err != nil {
		return r.notStored(req.Message, err)
	}
	req.Session.Received.Add(1)
	if !stored.Repeated {
		m := *req.Message
		m.Seq, m.ServerTime = stored.Seq, stored.ServerTime
		r.Bus.Publish(core.Committed{UserID: m.To, Seq: m.Seq, Message: &m})
	}
	r.stored(req, stored)
	return nil
}

func (r *Router) stored(req *core.Request, s core.Stored) {
	outcome := outcomeStored
	if s.Repeated {
		outcome = outcomeRepeated
	}
	r.metrics.direct.WithLabelValues(outcome).Inc()
	r.ack(req, &wire.Ack{Status: wire.StatusStored, Seq: s.Seq, Timestamp: wire.FormatTime(s.ServerTime)})
}

func (r *Router) notStored(m *core.Message, err error) error {
	r.metrics.direct.WithLabelValues(outcomeRefused).Inc()
	switch {
	case errors.Is(err, core.ErrIDConflict):
		return fault.Newf(fault.IDConflict, "The id %q was used for another message; choose another.", m.ID)
	case errors.Is(err, core.ErrMailboxFull):
		return fault.Newf(fault.MailboxFull, "%q has %d messages waiting, which is the limit; try again when they were fetched.", m.To, r.MailboxLimit)
	case errors.Is(err, core.ErrNotFound):
		return fault.Newf(fault.UnknownUser, "There is no user %q.", m.To)
	}
	return core.StoreFault(err)
}
