package conformance

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"unicode"
)

const (
	maxLineBytes   = 64 << 10
	maxQuotedBytes = 300
	tailLines      = 3
)

// readLines calls emit for each line of r, without its end, until r ends. Of a line
// longer than 64 KiB the rest is skipped.
func readLines(r io.Reader, emit func(line string)) {
	in := bufio.NewReaderSize(r, 4<<10)
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		line = append(line, part[:min(len(part), max(0, maxLineBytes-len(line)))]...)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if len(line) > 0 {
			emit(string(bytes.TrimRight(line, "\r\n")))
		}
		if err != nil {
			return
		}
		line = line[:0]
	}
}

var escapes = regexp.MustCompile(`\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\-_])`)

// clean makes a stranger's text fit to be shown on a terminal: one line of valid
// UTF-8 without escapes, control or formatting characters.
func clean(s string) string {
	s = escapes.ReplaceAllString(strings.ToValidUTF8(s, "\uFFFD"), "")
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || r == '\n':
			return ' '
		case unicode.IsControl(r) || unicode.Is(unicode.Cf, r):
			return -1
		}
		return r
	}, s)
}

// quote is a stranger's text for a detail: clean and not too long.
func quote(s string) string {
	s = clean(s)
	if len(s) > maxQuotedBytes {
		s = strings.ToValidUTF8(s[:maxQuotedBytes], "") + "…"
	}
	return s
}

// transcript takes what processes print, for the caller's writer and for the story of
// an early end. It may be used from any goroutine.
type transcript struct {
	w io.Writer // nil: nobody wants it

	mu   sync.Mutex
	tail []string
}

func (t *transcript) print(stream, line string) {
	line = clean(line)
	t.mu.Lock()
	defer t.mu.Unlock()
	if stream == "stderr" && line != "" {
		t.tail = append(t.tail, quote(line))
		t.tail = t.tail[max(0, len(t.tail)-tailLines):]
	}
	if t.w != nil {
		_, _ = fmt.Fprintf(t.w, "%s: %s\n", stream, line) // what cannot be written is only lost
	}
}

// last is the end of standard error, to be appended to a sentence.
func (t *transcript) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.tail) == 0 {
		return ""
	}
	return fmt.Sprintf("; last of stderr: %q", t.tail)
}

// many is "1 call", "3 calls".
func many(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
