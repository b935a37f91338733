package pipeline

import (
	"context"
	"time"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// limit takes one token for every frame that makes work and for every malformed
// one. An ack that moves the connection's position forward is free, since there
// can be no more of those than messages; other acks and cancels are cheap and
// draw on the flood bucket. Buckets belong to the user and outlive the
// connection: reconnecting resets nothing.
func limit(messages, flood Limiter, now func() time.Time) Stage {
	return func(_ context.Context, r *core.Request) error {
		bucket := messages
		switch f := r.Frame.(type) {
		case *wire.MailboxAck:
			if f.Seq > r.Session.Acked {
				return nil
			}
			bucket = flood
		case *wire.Cancel:
			bucket = flood
		}
		if ok, retry := bucket.Allow(r.Session.UserID(), now()); !ok {
			return fault.New(fault.RateLimited, "Too many frames; slow down to the rate that the welcome frame tells.").WithRetryAfter(retry)
		}
		return r.Malformed
	}
}
