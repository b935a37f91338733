package pipeline

import (
	"context"

	"github.com/rs/zerolog"

	"github.com/plugboard/plugboard/core"
)

// audit notes what was accepted: counters by type, and at debug level a line with
// ids and never with contents.
func audit(log zerolog.Logger, m *metrics) Stage {
	return func(_ context.Context, r *core.Request) error {
		m.accepted.WithLabelValues(r.Frame.Type()).Inc()
		log.Debug().Str("conn", r.Session.ConnID).Str("user", r.Session.UserID()).Str("type", r.Frame.Type()).
			Str("id", r.ID).Int("bytes", len(r.Raw)).Msg("Frame accepted")
		return nil
	}
}
