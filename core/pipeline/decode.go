package pipeline

import (
	"context"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/wire"
)

// decode turns the bytes into a frame. What is wrong with them is only noted: the
// limit stage answers it after it has charged for it.
func decode(_ context.Context, r *core.Request) error {
	r.Frame, r.ID, r.Malformed = wire.DecodeClient(r.Raw)
	return nil
}
