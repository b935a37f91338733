package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/plugboard/plugboard/sdk/client"
	"github.com/plugboard/plugboard/sdk/fault"
)

// console is where results (stdout) and everything else (stderr) come out, from
// several goroutines, a line at a time.
type console struct {
	out, errOut io.Writer

	mu sync.Mutex // writes
}

// say tells the author something.
func (c *console) say(format string, values ...any) {
	_, _ = fmt.Fprintf(c, "plugboard: "+format+"\n", values...) // a terminal that is gone ends all by itself
}

// Write is for lines of others: the compiler, the server's log.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.errOut.Write(p)
}

func (c *console) result(raw []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return printJSON(c.out, raw, true)
}

// authorLog passes a server's log on as the author of a plugin wants it: what the
// plugin says in full, what the server says from warnings on.
type authorLog struct {
	to     io.Writer
	server zerolog.ConsoleWriter
}

func newAuthorLog(to io.Writer) zerolog.Logger {
	w := authorLog{to: to, server: zerolog.ConsoleWriter{Out: to, TimeFormat: time.TimeOnly, NoColor: true}}
	return zerolog.New(w).Level(zerolog.DebugLevel).With().Timestamp().Logger()
}

// Write is for lines without a level, of which there are none.
func (w authorLog) Write(line []byte) (int, error) { return w.WriteLevel(zerolog.NoLevel, line) }

// WriteLevel implements zerolog.LevelWriter.
func (w authorLog) WriteLevel(level zerolog.Level, line []byte) (int, error) {
	var said struct {
		Message string          `json:"message"`
		Plugin  string          `json:"plugin"`
		Text    string          `json:"text"`
		Stream  string          `json:"stream"`
		Attrs   json.RawMessage `json:"attrs"`
	}
	own := bytes.Contains(line, []byte(`"text":`)) && json.Unmarshal(line, &said) == nil &&
		(said.Message == "Plugin log" || said.Message == "Plugin printed")
	switch {
	case own && said.Stream != "":
		_, _ = fmt.Fprintf(w.to, "%s | %s\n", said.Plugin, printable(said.Text)) // as a log does, without complaint
	case own:
		text := strings.ToUpper(level.String()) + " " + printable(said.Text)
		if len(said.Attrs) > 0 {
			text += " " + printable(string(said.Attrs))
		}
		_, _ = fmt.Fprintf(w.to, "%s | %s\n", said.Plugin, text) // the same
	case level >= zerolog.WarnLevel:
		return w.server.Write(line)
	}
	return len(line), nil
}

// prompt runs what is typed, a command and its params on a line, until the input or
// ctx ends. In a script's input a call that failed makes the whole fail.
func prompt(ctx context.Context, in io.Reader, c *console, calls *client.Client) error {
	lines := &lineReader{in: in}
	failed, total := 0, 0
	for {
		line, err := lines.next(ctx)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // the person's wish
		case errors.Is(err, io.EOF):
			if failed > 0 && !isTerminalInput(in) {
				return fmt.Errorf("%d of %d calls failed", failed, total)
			}
			return nil
		case err != nil:
			return fmt.Errorf("read line: %w", err)
		}
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		total++
		if err := callLine(ctx, line, c, calls); err != nil && ctx.Err() == nil {
			failed++
			report(c, err)
		}
	}
}

func callLine(ctx context.Context, line string, c *console, calls *client.Client) error {
	command, rest, _ := strings.Cut(line, " ")
	var params any
	if rest = strings.TrimSpace(rest); rest != "" {
		if !json.Valid([]byte(rest)) || rest[0] != '{' {
			return errors.New(`want a command and one JSON object on a line, such as: echo {"text":"hi"}`)
		}
		params = json.RawMessage(rest)
	}
	result, err := calls.Call(ctx, command, params, client.OnProgress(func(p client.Progress) { printProgress(c, p) }))
	if fault.CodeOf(err) == fault.UnknownCommand {
		return fmt.Errorf("there is no command %q; the plugin has %s", command, offered(ctx, calls))
	}
	if err != nil {
		return err
	}
	return c.result(result)
}

// offered are the commands that there are.
func offered(ctx context.Context, calls *client.Client) string {
	commands, err := calls.Commands(ctx)
	if err != nil || len(commands) == 0 {
		return "none at the moment"
	}
	names := make([]string, 0, len(commands))
	for _, c := range commands {
		names = append(names, c.Name)
	}
	return strings.Join(names, ", ")
}

// isTerminalInput reports whether somebody types there.
func isTerminalInput(in io.Reader) bool {
	f, ok := in.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// lineReader reads lines. A wait for the next one ends with its context, which a
// read of a terminal or a pipe would not; other readers must come to an end by
// themselves.
type lineReader struct {
	in   io.Reader
	read []byte
	err  error
}

func (r *lineReader) next(ctx context.Context) (string, error) {
	for {
		if line, rest, ended := bytes.Cut(r.read, []byte{'\n'}); ended {
			r.read = rest
			return string(line), nil
		}
		switch {
		case r.err != nil && len(r.read) > 0:
			line := string(r.read)
			r.read = nil
			return line, nil
		case r.err != nil:
			return "", r.err
		case len(r.read) > maxParams:
			return "", fmt.Errorf("a line of more than %d bytes", maxParams)
		}
		if err := waitReadable(ctx, r.in); err != nil {
			return "", err
		}
		chunk := make([]byte, 4<<10)
		n, err := r.in.Read(chunk)
		r.read, r.err = append(r.read, chunk[:n]...), err
	}
}

// waitReadable returns when a read of a file would not wait, or with ctx's error.
func waitReadable(ctx context.Context, in io.Reader) error {
	f, ok := in.(*os.File)
	if !ok {
		return ctx.Err()
	}
	woken, wake, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("wait for input: %w", err)
	}
	defer func() { _ = woken.Close() }() // nothing is lost with it
	var once sync.Once
	closeWake := func() { once.Do(func() { _ = wake.Close() }) } // the end of file is the point
	defer closeWake()
	defer context.AfterFunc(ctx, closeWake)()
	for {
		fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}, {Fd: int32(woken.Fd()), Events: unix.POLLIN}}
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait for input: %w", err)
		case fds[1].Revents != 0:
			return ctx.Err()
		default:
			return nil
		}
	}
}
