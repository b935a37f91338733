package pipeline_test

import (
	"context"
	"testing"

	"github.com/rs/zerolog"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/pipeline"
	"github.com/plugboard/plugboard/sdk/wire"
)

// hot is the chain as production has it: no debug log, and a route that does
// nothing, so that only the pipeline counts.
func hot(t testing.TB) (*desk, map[string][]byte) {
	d := newDesk(t, func(o *pipeline.Options) {
		o.Logger = zerolog.Nop()
		o.Route = func(context.Context, *core.Request) error { return nil }
	})
	d.messages.left, d.flood.left = 1<<60, 1<<60
	return d, map[string][]byte{
		"direct": d.seal("01890a5d-ac96-774b-bcce-b302099a8057", 3, noon).Append(nil),
		"server": (&wire.Command{ID: "01890a5d-ac96-774b-bcce-b302099a8057", Command: "ping", Params: []byte(`{"text":"hello"}`)}).Append(nil),
	}
}

// What the pipeline may allocate for a frame; more is a decision, not an accident.
const maxDirectAllocs, maxServerAllocs = 28, 9

// TestAllocations guards the hot path.
func TestAllocations(t *testing.T) {
	d, frames := hot(t)
	for name, most := range map[string]float64{"direct": maxDirectAllocs, "server": maxServerAllocs} {
		got := testing.AllocsPerRun(200, func() { d.chain.Handle(t.Context(), d.session, frames[name]) })
		if len(d.out.answers) != 0 {
			t.Fatalf("%s was refused: %s", name, d.out.answers)
		}
		t.Logf("%s: %v allocations", name, got)
		if got > most && !raceEnabled {
			t.Errorf("%s: got %v allocations, want at most %v", name, got, most)
		}
	}
}

func BenchmarkChain(b *testing.B) {
	d, frames := hot(b)
	for name, frame := range frames {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				d.chain.Handle(b.Context(), d.session, frame)
			}
		})
	}
}
