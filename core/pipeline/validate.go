package pipeline

import (
	"context"

	"github.com/plugboard/plugboard/core"
)

// validate holds the frame's members against the protocol's rules.
func validate(_ context.Context, r *core.Request) error {
	return r.Frame.Validate()
}
