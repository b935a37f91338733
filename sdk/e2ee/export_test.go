package e2ee

// What the vectors of docs/e2ee.md show inside a message, for the tests.
var (
	DeriveKeys = deriveKeys
	WrapInfo   = wrapInfo
	ContentAAD = contentAAD
	Unwrap     = unwrap
	Unpad      = unpad
	SealWith   = seal
)

// Pad is pad without room behind the message.
func Pad(message []byte) []byte { return pad(message, 0) }

// DirectOverhead is what MaxMessage sets aside for everything but the content.
const DirectOverhead = directOverhead

// HeaderTranscript is H of docs/e2ee.md §3.
func HeaderTranscript(h *Header) []byte { return h.transcript() }

// BundleTranscript is what a bundle's signature covers.
func BundleTranscript(b *Bundle) []byte { return b.transcript() }
