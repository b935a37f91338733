package pluginhost

import (
	"regexp"
)

// handshakeLine is go-plugin's one line on stdout: core protocol, plugin protocol,
// network, address, and more.
var handshakeLine = regexp.MustCompile(`^[0-9]{1,4}\|[0-9]{1,9}\|[a-z]{1,10}\|[^|]+\|[a-z]+(\||$)`)

const (
	skippedKept      = 3   // lines that are shown
	skippedLineBytes = 200 // of each
)

// handshakeFilter finds the handshake among what a plugin prints before it. It is
// owned by the reader of stdout.
type handshakeFilter struct {
	found   bool
	skipped int
	first   []string
}

// take judges one line: true for the handshake itself, which go-plugin is to see.
func (f *handshakeFilter) take(line string) bool {
	if f.found {
		return false
	}
	if handshakeLine.MatchString(line) {
		f.found = true
		return true
	}
	f.skipped++
	if len(f.first) < skippedKept {
		f.first = append(f.first, clip(clean(line), skippedLineBytes))
	}
	return false
}
