package router

import (
	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/wire"
)

// broadcast offers one frame, encoded once, to every connection, the sender's
// own among them. A connection whose queue is full misses it, which is counted:
// broadcasts are at most once.
func (r *Router) broadcast(req *core.Request, f *wire.Broadcast) error {
	out := *f
	out.From, out.ServerTime = req.Session.UserID(), wire.FormatTime(r.Now())
	if err := r.fits(req.Raw, func() wire.Frame { return &out }); err != nil {
		return err
	}
	frame := core.EncodeShared(&out)
	var queued, missed uint64
	r.Live.Each(func(s *core.Session) {
		if s.Outbox.Offer(frame) {
			queued++
			s.Sent.Add(1)
		} else {
			missed++
		}
	})
	req.Session.Received.Add(1)
	r.metrics.broadcast.WithLabelValues(outcomeQueued).Add(float64(queued))
	r.metrics.broadcast.WithLabelValues(outcomeDropped).Add(float64(missed))
	r.ack(req, &wire.Ack{Status: wire.StatusSent, Timestamp: out.ServerTime, Recipients: &queued})
	return nil
}
