package sdk_test

import (
	"context"
	"testing"

	"github.com/plugboard/plugboard/sdk"
	"github.com/plugboard/plugboard/sdk/sdktest"
)

// BenchmarkRoundTrip is one call through the gRPC service in this process and back,
// one at a time and many at once; encoding, schema checks of the test host included.
func BenchmarkRoundTrip(b *testing.B) {
	p := probe(sdk.Handle("probe", "Echoes", func(_ context.Context, _ sdk.Call, p text) (text, error) { return p, nil }))
	call := func(b *testing.B, in *sdktest.Instance) {
		if _, err := in.Call(b.Context(), "probe", `{"text":"hello"}`); err != nil {
			b.Error(err)
		}
	}
	b.Run("serial", func(b *testing.B) {
		in := sdktest.Start(b, p)
		b.ReportAllocs()
		for b.Loop() {
			call(b, in)
		}
	})
	b.Run("parallel", func(b *testing.B) {
		in := sdktest.Start(b, p)
		b.ReportAllocs()
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				call(b, in)
			}
		})
	})
}
