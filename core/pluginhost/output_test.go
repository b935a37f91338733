package pluginhost

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
)

func newOutput(log *bytes.Buffer) (*output, *int) {
	dropped := new(int)
	return &output{log: zerolog.New(log), dropped: func(n int) { *dropped += n }}, dropped
}

func TestReadLines(t *testing.T) {
	long := strings.Repeat("x", 3*maxLineBytes)
	for name, c := range map[string]struct {
		in   string
		want []string
	}{
		"nothing":            {"", nil},
		"lines":              {"a\nb\r\n\nc", []string{"a", "b", "", "c"}},
		"too long":           {"a\n" + long + "\nb\n", []string{"a", long[:maxLineBytes], "b"}},
		"too long, no end":   {long, []string{long[:maxLineBytes]}},
		"just fits":          {long[:maxLineBytes] + "\nb", []string{long[:maxLineBytes], "b"}},
		"a buffer, no more":  {long[:4096] + "\n" + long[:4095] + "\nb", []string{long[:4096], long[:4095], "b"}},
		"one of two is long": {long + "\n" + "b", []string{long[:maxLineBytes], "b"}},
	} {
		var got []string
		readLines(strings.NewReader(c.in), func(line []byte) { got = append(got, string(line)) })
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%.300s", name, diff)
		}
		// The writer cuts the same lines out of pieces of any size.
		var log bytes.Buffer
		o, _ := newOutput(&log)
		w := &writer{out: o, stream: streamStderr}
		for in := c.in + "\n"; in != ""; {
			n := min(len(in), 1000)
			if _, err := w.Write([]byte(in[:n])); err != nil {
				t.Fatal(err)
			}
			in = in[n:]
		}
		if got := o.last(); len(c.want) > 0 && got[0] != clip(c.want[0], tailLineBytes) {
			t.Errorf("%s: writer's first line is %.50q", name, got[0])
		}
	}
}

func TestTailAndLevels(t *testing.T) {
	var log bytes.Buffer
	o, _ := newOutput(&log)
	for i := range 2 * tailLines {
		o.print(streamStderr, fmt.Appendf(nil, "line %d", i))
	}
	o.print(streamStdout, []byte("not in the tail"))
	tail := o.last()
	if len(tail) != tailLines || tail[0] != fmt.Sprint("line ", tailLines) || tail[tailLines-1] != fmt.Sprint("line ", 2*tailLines-1) {
		t.Errorf("got tail %v", tail)
	}
	log.Reset()
	o.print(streamStderr, []byte(`{"@level":"debug","@message":"said by a logger","@timestamp":"x"}`))
	o.print(streamStderr, []byte("[ERROR] broken"))
	o.print(streamStderr, []byte("panic: at the disco"))
	o.print(streamStderr, []byte("goroutine 1 [running]:"))
	var got []string
	for line := range strings.SplitSeq(strings.TrimSpace(log.String()), "\n") {
		level, _, _ := strings.Cut(strings.TrimPrefix(line, `{"level":"`), `"`)
		got = append(got, level)
	}
	if diff := cmp.Diff([]string{"debug", "error", "error", "error"}, got); diff != "" {
		t.Errorf("levels (-want +got):\n%s", diff)
	}
}

func TestOutputBudget(t *testing.T) {
	var log bytes.Buffer
	o, dropped := newOutput(&log)
	line := bytes.Repeat([]byte("x"), 1<<10)
	for range 3 << 10 {
		o.print(streamStderr, line)
	}
	// The loop may have crossed into a second second, and no more than that.
	if *dropped < 1<<20 || *dropped > 2<<20 {
		t.Errorf("got %d bytes dropped of 3 MiB, want 1 or 2 MiB", *dropped)
	}
	o.window = o.window.Add(-1e9)
	o.print(streamStderr, []byte("after"))
	if !strings.Contains(log.String(), "Plugin output dropped") {
		t.Error("nothing tells what was dropped")
	}
}

func FuzzClean(f *testing.F) {
	for _, seed := range []string{"plain", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07x", "\x1b]8;;http://a\x1b\\x", "a\tb\nc\rd", "\xff\xfe", "\u202egnp.exe", "\x1b", "\u009b31m", "é…"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		got := clean(in)
		if !utf8.ValidString(got) {
			t.Fatalf("clean(%q) = %q is not UTF-8", in, got)
		}
		for _, r := range got {
			if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
				t.Fatalf("clean(%q) = %q has %U", in, got, r)
			}
		}
		if short := clip(got, 10); !utf8.ValidString(short) || len(short) > 10+len("…") {
			t.Fatalf("clip(%q) = %q", got, short)
		}
	})
}

func FuzzHandshakeFilter(f *testing.F) {
	const line = "1|1|unix|/run/g/echo.1/plugin123|grpc|MIIB"
	for _, seed := range []string{line, "hello\n" + line, "", "1|1|tcp|127.0.0.1:1|netrpc", "||||", line + "\n" + line, "1|1|unix|/x|grpc", "1|1|unix||grpc|", "\x1b[0m" + line} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, printed string) {
		var h handshakeFilter
		passed := 0
		readLines(strings.NewReader(printed), func(line []byte) {
			if !h.take(string(line)) {
				return
			}
			passed++
			// go-plugin reads five parts, the first two as numbers.
			if parts := strings.Split(string(line), "|"); len(parts) < 5 || parts[3] == "" {
				t.Errorf("%q passed for a handshake", line)
			}
		})
		if passed > 1 || len(h.first) > skippedKept {
			t.Errorf("%q: %d lines passed, %d kept", printed, passed, len(h.first))
		}
		for _, kept := range h.first {
			if len(kept) > skippedLineBytes+len("…") || kept != clean(kept) {
				t.Errorf("kept %q", kept)
			}
		}
	})
}

func TestHandshakeIsFoundBehindRubbish(t *testing.T) {
	var h handshakeFilter
	for _, line := range []string{"hello", "1|1", "1|1|unix|/x|", "|||||"} {
		if h.take(line) {
			t.Errorf("%q passed for a handshake", line)
		}
	}
	if !h.take("1|1|unix|/run/plugin123|grpc|MIIB") || h.skipped != 4 {
		t.Errorf("got %+v, want the handshake found after 4 lines", h)
	}
	if h.take("1|1|unix|/run/plugin123|grpc|MIIB") {
		t.Error("a second handshake passed")
	}
}
