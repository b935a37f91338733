package e2ee_test

import (
	"crypto/ed25519"
	"fmt"
	"testing"

	"github.com/plugboard/plugboard/sdk/e2ee"
)

var benchmarkSizes = []int{100, 1000, 47_103}

func BenchmarkSeal(b *testing.B) {
	h, sender, _ := newPair(b)
	for _, size := range benchmarkSizes {
		message := make([]byte, size)
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e2ee.Seal(h, sender, message); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// sealed makes the message that the other benchmarks work on.
func sealed(b *testing.B, h *e2ee.Header, sender ed25519.PrivateKey, size int) *e2ee.Envelope {
	b.Helper()
	e, err := e2ee.Seal(h, sender, make([]byte, size))
	if err != nil {
		b.Fatal(err)
	}
	return e
}

func BenchmarkOpen(b *testing.B) {
	h, sender, key := newPair(b)
	for _, size := range benchmarkSizes {
		e := sealed(b, h, sender, size)
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e2ee.Open(h, key, e); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkVerify is what the server does for every sealed message.
func BenchmarkVerify(b *testing.B) {
	h, sender, _ := newPair(b)
	for _, size := range benchmarkSizes {
		e := sealed(b, h, sender, size)
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if err := e.Verify(h); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkBundleVerify(b *testing.B) {
	bundle := newBundle(b, 1, 1)
	b.ReportAllocs()
	for b.Loop() {
		if err := bundle.Verify(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSafetyNumber(b *testing.B) {
	key := newBundle(b, 1, 1).PublicKey
	for b.Loop() {
		e2ee.SafetyNumber("alice", key, "bob", key)
	}
}
