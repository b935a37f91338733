package pluginhost

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/rs/zerolog"
)

const (
	maxLineBytes = 64 << 10
	// outputRate is how many bytes of a plugin's output are logged in a second.
	outputRate = 1 << 20

	tailLines     = 50
	tailLineBytes = 1 << 10
)

// readLines calls emit for each line of r, without its end, until r ends. Of a
// line longer than 64 KiB the rest is skipped. Emit must not keep line.
func readLines(r io.Reader, emit func(line []byte)) {
	in := bufio.NewReaderSize(r, 4<<10)
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		if room := maxLineBytes - len(line); room > 0 {
			line = append(line, part[:min(len(part), room)]...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if len(line) > 0 {
			emit(bytes.TrimRight(line, "\r\n"))
		}
		if err != nil {
			return
		}
		line = line[:0]
	}
}

// escapes are terminal control sequences: CSI, OSC and the two-byte ones.
var escapes = regexp.MustCompile(`\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\-_])`)

// clean makes a plugin's text fit to be shown: no terminal escapes, no control or
// formatting characters, valid UTF-8.
func clean(s string) string {
	if isPlain(s) {
		return s
	}
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

func isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c > 0x7e {
			return false
		}
	}
	return true
}

// clip shortens s to about limit bytes at a character's border.
func clip(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit] + "…"
}

// output is where everything goes that a plugin prints or logs: the server's log,
// within a budget, and the last lines into a tail for the story of a crash. It may
// be used from any goroutine.
type output struct {
	log     zerolog.Logger
	dropped func(bytes int)

	mu        sync.Mutex
	window    time.Time // begin of the second that is being counted
	spent     int
	lost      int
	panicking bool
	tail      []string
	dump      *strings.Builder // what a hung plugin says of its goroutines; nil before
}

// maxDump bounds the goroutines of a hung plugin.
const maxDump = 256 << 10

// startDump keeps stderr from now on apart from the tail.
func (o *output) startDump() {
	o.mu.Lock()
	o.dump = new(strings.Builder)
	o.mu.Unlock()
}

// dumped is what came since.
func (o *output) dumped() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.dump == nil {
		return ""
	}
	return o.dump.String()
}

// print takes a line from one of the plugin's streams.
func (o *output) print(stream string, line []byte) {
	text := clean(string(line))
	level, text := levelOf(text)
	o.mu.Lock()
	if stream == streamStderr {
		o.panicking = o.panicking || isPanic(text)
		if o.panicking {
			level = zerolog.ErrorLevel
		}
		if o.dump != nil && o.dump.Len() < maxDump {
			o.dump.WriteString(text + "\n")
		}
		if len(o.tail) == tailLines {
			o.tail = append(o.tail[:0], o.tail[1:]...)
		}
		o.tail = append(o.tail, clip(text, tailLineBytes))
	}
	o.mu.Unlock()
	if o.within(len(text)) && text != "" {
		o.log.WithLevel(level).Str("stream", stream).Str("text", text).Msg("Plugin printed")
	}
}

const (
	streamStdout = "stdout"
	streamStderr = "stderr"
)

// within reports whether n more bytes fit in the current second. What was lost in
// the seconds before is told once there is room again.
func (o *output) within(n int) bool {
	now := time.Now()
	o.mu.Lock()
	lost := 0
	if now.Sub(o.window) >= time.Second {
		lost, o.lost = o.lost, 0
		o.window, o.spent = now, 0
	}
	o.spent += n
	fits := o.spent <= outputRate
	if !fits {
		o.lost += n
	}
	o.mu.Unlock()
	if !fits {
		o.dropped(n)
	}
	if lost > 0 {
		o.log.Warn().Int("bytes", lost).Msg("Plugin output dropped, it came too fast")
	}
	return fits
}

// last are the newest lines of stderr.
func (o *output) last() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]string{}, o.tail...)
}

// writer takes a stream in pieces, as go-plugin copies it, and prints whole lines.
// It is used by one goroutine.
type writer struct {
	out    *output
	stream string
	line   []byte
}

func (w *writer) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		part, after, ended := bytes.Cut(rest, []byte{'\n'})
		if room := maxLineBytes - len(w.line); room > 0 {
			w.line = append(w.line, part[:min(len(part), room)]...)
		}
		if ended {
			w.out.print(w.stream, w.line)
			w.line = w.line[:0]
		}
		rest = after
	}
	return len(p), nil
}

func isPanic(text string) bool {
	for _, prefix := range []string{"panic: ", "fatal error: ", "SIGQUIT: "} {
		if strings.HasPrefix(text, prefix) {
			return true
		}
	}
	return false
}

// levelOf reads the level of a line that a logger wrote: hclog's JSON, which
// go-plugin itself uses in the child, or the customary [LEVEL] prefix.
func levelOf(text string) (zerolog.Level, string) {
	if strings.HasPrefix(text, "{") {
		var line struct {
			Level   string `json:"@level"`
			Message string `json:"@message"`
		}
		if json.Unmarshal([]byte(text), &line) == nil && line.Message != "" {
			return namedLevel(line.Level), line.Message
		}
	}
	if rest, ok := strings.CutPrefix(text, "["); ok {
		if name, _, ok := strings.Cut(rest, "]"); ok {
			return namedLevel(strings.ToLower(name)), text
		}
	}
	return zerolog.InfoLevel, text
}

func namedLevel(name string) zerolog.Level {
	switch name {
	case "trace", "debug":
		return zerolog.DebugLevel
	case "warn":
		return zerolog.WarnLevel
	case "error":
		return zerolog.ErrorLevel
	}
	return zerolog.InfoLevel
}
