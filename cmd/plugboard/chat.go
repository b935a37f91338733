package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/plugboard/plugboard/sdk/client"
)

func newChat(o *clientOptions) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "chat USER",
		GroupID: groupClient,
		Short:   "Exchange sealed messages with a user, a line each",
		Long: `Exchange sealed messages with a user. Every line you type is sealed for them, sent
and confirmed once it is stored; what they send is opened, verified and shown.
Messages of others, and of the server's plugins, are shown with their sender's
name. End with Ctrl-D.`,
		Example: `  plugboard chat bob
  plugboard chat alice --as bob`,
		Args: args(1, 1, "chat bob"),
	}
	o.bind(cmd)
	cmd.RunE = func(cmd *cobra.Command, given []string) error {
		s, err := newScreen(cmd)
		if err != nil {
			return err
		}
		defer s.restore()
		c, id, err := o.dial(cmd, reportRefused(s))
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }() // never fails
		number, err := c.SafetyNumber(cmd.Context(), given[0])
		if err != nil {
			return explainSend(given[0], err)
		}
		s.say("%s and %s, sealed. Ctrl-D ends.", id.UserID(), given[0])
		s.say("Safety number, the same on both sides: %s", number)
		return converse(cmd.Context(), c, s, given[0], o)
	}
	return cmd
}

// converse runs until the person ends it, or the connection does for good.
func converse(ctx context.Context, c *client.Client, s *screen, peer string, o *clientOptions) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var incoming sync.WaitGroup
	var numbers sync.Map // of what was sent here: id → number in the peer's mailbox
	incoming.Go(func() {
		for e, err := range c.Events(ctx) {
			if err != nil {
				cancel(err)
				s.interrupt()
				return
			}
			text := describe(e)
			if r, ok := e.(*client.Receipt); ok {
				if number, sentHere := numbers.Load(r.ID); sentHere {
					text = fmt.Sprintf("  number %d delivered", number)
				}
			}
			s.say("%s", text)
		}
	})
	err := typing(ctx, c, s, peer, o, &numbers)
	cancel(nil)
	incoming.Wait()
	if cause := context.Cause(ctx); err == nil && cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// typing sends what is typed, line by line.
func typing(ctx context.Context, c *client.Client, s *screen, peer string, o *clientOptions, numbers *sync.Map) error {
	for {
		line, err := s.readLine()
		if errors.Is(err, io.EOF) || ctx.Err() != nil {
			return nil //nolint:nilerr // the end of the input or of the chat is no failure
		}
		if err != nil {
			return fmt.Errorf("read line: %w", err)
		}
		if strings.TrimSpace(line) == "" {
			continue
		}
		sending, cancel := context.WithTimeout(ctx, o.timeout)
		sent, err := c.Send(sending, peer, []byte(line))
		cancel()
		if err != nil {
			s.say("not sent: %v", explainSend(peer, err))
			continue
		}
		numbers.Store(sent.ID, sent.Seq)
		s.say("  number %d stored", sent.Seq)
	}
}

// screen is a terminal with a line editor, or plain lines where there is none.
type screen struct {
	out      io.Writer
	terminal *term.Terminal
	lines    *bufio.Scanner
	in       io.Reader
	restore  func()

	mu sync.Mutex // writes from both directions
}

func newScreen(cmd *cobra.Command) (*screen, error) {
	s := &screen{out: cmd.OutOrStdout(), in: cmd.InOrStdin(), restore: func() {}}
	in, isFile := cmd.InOrStdin().(*os.File)
	if !isFile || !term.IsTerminal(int(in.Fd())) || !isTerminal(s.out) {
		s.lines = bufio.NewScanner(cmd.InOrStdin())
		s.lines.Buffer(nil, maxParams)
		return s, nil
	}
	state, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return nil, fmt.Errorf("prepare terminal: %w", err)
	}
	s.restore = func() { _ = term.Restore(int(in.Fd()), state) } // nothing else could be done
	s.terminal = term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{in, s.out}, "> ")
	if width, height, err := term.GetSize(int(in.Fd())); err == nil {
		_ = s.terminal.SetSize(width, height) // without it lines are cut at 80 columns
	}
	return s, nil
}

// interrupt ends a readLine that waits, where that is possible.
func (s *screen) interrupt() {
	if f, ok := s.in.(*os.File); ok {
		_ = f.Close() // terminals and pipes let go of their reader; nothing else could be done
	}
}

func (s *screen) readLine() (string, error) {
	if s.terminal != nil {
		return s.terminal.ReadLine()
	}
	if s.lines.Scan() {
		return s.lines.Text(), nil
	}
	if err := s.lines.Err(); err != nil {
		return "", err
	}
	return "", io.EOF
}

// say prints a line above the one that is being typed.
func (s *screen) say(format string, values ...any) {
	_, _ = fmt.Fprintf(s, format+"\n", values...) // a terminal that is gone ends the chat by itself
}

// Write is for lines of other parts.
func (s *screen) Write(p []byte) (int, error) {
	if s.terminal != nil {
		return s.terminal.Write(p)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(p)
}
