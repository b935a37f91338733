package pipeline

import (
	"context"
	"time"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// authorize checks that the session may speak at all, and speaks as itself: the
// sender is whom the token names, never whom the frame names. What a command
// needs beyond that is the command room's to decide.
func authorize(now func() time.Time) Stage {
	return func(_ context.Context, r *core.Request) error {
		if _, expires := r.Session.TokenTimes(); !now().Before(expires) && r.Frame.Type() != wire.TypeAuth {
			return fault.New(fault.TokenExpired, "The token of this connection has expired; send an auth frame or sign in anew.")
		}
		var from string
		switch f := r.Frame.(type) {
		case *wire.Direct:
			from = f.From
		case *wire.Broadcast:
			from = f.From
		}
		if from != "" && from != r.Session.UserID() {
			return fault.Newf(fault.Forbidden, "Member \"from\" must be %q, whom this connection is signed in as, or be left out.", r.Session.UserID())
		}
		return nil
	}
}
