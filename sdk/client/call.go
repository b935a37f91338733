package client

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/plugboard/plugboard/sdk/e2ee"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/wire"
)

// pending waits for a frame's one final answer.
type pending struct {
	frame    []byte
	again    bool // sent again on every new connection, until it is answered
	progress func(Progress)
	done     chan outcome // has room for the one answer
}

type outcome struct {
	ack      *wire.Ack
	response *wire.Response
	err      error
}

// Progress is part of a streaming command's answer.
type Progress struct {
	Data    json.RawMessage
	Percent *float64
}

// CallOption changes one call.
type CallOption func(*callOptions)

type callOptions struct {
	id       string
	sign     bool
	progress func(Progress)
}

// Signed signs the command with the identity key, as commands with
// signature_required want it. A signed id runs once.
func Signed() CallOption { return func(o *callOptions) { o.sign = true } }

// OnProgress is called for every part of a streaming answer, in order, by the
// connection's reader: it must not block and must not call the client.
func OnProgress(fn func(Progress)) CallOption { return func(o *callOptions) { o.progress = fn } }

// WithID chooses the request's id.
func WithID(id string) CallOption { return func(o *callOptions) { o.id = id } }

// Call runs a command and returns its result. params is encoded with
// encoding/json; nil is no params, a json.RawMessage is sent as it is. When ctx
// ends the command is cancelled. Errors of the server are *fault.Error;
// ErrConnectionLost where the connection broke meanwhile.
func (c *Client) Call(ctx context.Context, command string, params any, options ...CallOption) (json.RawMessage, error) {
	o := callOptions{id: newID()}
	for _, option := range options {
		option(&o)
	}
	f := &wire.Command{ID: o.id, Command: command}
	if params != nil {
		raw, err := json.Marshal(params)
		if err != nil {
			return nil, fmt.Errorf("encode params of %s: %w", command, err)
		}
		f.Params = raw
	}
	if o.sign {
		f.Timestamp = wire.FormatTime(time.Now())
		transcript := e2ee.CommandTranscript(c.host, c.o.Identity.UserID(), f.ID, f.Timestamp, f.Command, f.Params)
		f.Signature = wire.EncodeBase64(ed25519.Sign(c.o.Identity.signer(), transcript))
	}
	if err := f.Validate(); err != nil {
		return nil, err
	}
	out, err := c.request(ctx, o.id, &pending{frame: f.Append(nil), progress: o.progress})
	if err != nil {
		if ctx.Err() != nil {
			c.cancelCall(o.id)
		}
		return nil, err
	}
	if out.response == nil {
		return nil, errUnexpectedAnswer
	}
	return json.RawMessage(out.response.Result), nil
}

var errUnexpectedAnswer = errors.New("the server gave an answer of another kind")

// cancelCall tells the server that nobody waits any more; a lost cancel costs the
// server some work and nobody else.
func (c *Client) cancelCall(id string) {
	c.mu.Lock()
	l := c.link
	c.mu.Unlock()
	if l != nil {
		if err := l.send((&wire.Cancel{ID: id}).Append(nil)); err != nil {
			c.log.Debug("Cancel could not be sent", "error", err)
		}
	}
}

// Broadcast sends text to everybody who is connected, signed, and returns how many
// connections that were. It is at most once: ErrConnectionLost leaves it open.
func (c *Client) Broadcast(ctx context.Context, text string) (recipients uint64, err error) {
	f := &wire.Broadcast{ID: newID(), Content: text, Timestamp: wire.FormatTime(time.Now())}
	transcript := e2ee.BroadcastTranscript(c.o.Identity.UserID(), f.ID, f.Timestamp, f.Content)
	f.Signature = wire.EncodeBase64(ed25519.Sign(c.o.Identity.signer(), transcript))
	frame := f.Append(nil)
	if limit := c.Welcome().Limits.MaxFrameBytes; limit > 0 && uint64(len(frame)) > limit {
		return 0, fmt.Errorf("%w: the frame is %d bytes, this server takes %d", ErrTooLarge, len(frame), limit)
	}
	out, err := c.request(ctx, f.ID, &pending{frame: frame})
	switch {
	case err != nil:
		return 0, err
	case out.ack == nil || out.ack.Recipients == nil:
		return 0, errUnexpectedAnswer
	}
	return *out.ack.Recipients, nil
}

// newID is a UUIDv7: ids sort by time.
func newID() string {
	id, err := uuid.NewV7()
	if err != nil {
		return uuid.NewString() // the clock gave nothing; randomness is what counts
	}
	return id.String()
}

// request sends a frame and waits for its final answer.
func (c *Client) request(ctx context.Context, id string, p *pending) (outcome, error) {
	p.done = make(chan outcome, 1)
	l, err := c.enlist(ctx, id, p)
	if err != nil {
		return outcome{}, err
	}
	defer c.forget(id)
	if err := l.send(p.frame); err != nil && !p.again {
		return outcome{}, fmt.Errorf("%w: %w", ErrConnectionLost, err)
	}
	select {
	case out := <-p.done:
		return out, out.err
	case <-ctx.Done():
		return outcome{}, ctx.Err()
	case <-c.ctx.Done():
		return outcome{}, context.Cause(c.ctx)
	}
}

// enlist waits for a connection and notes who waits for id.
func (c *Client) enlist(ctx context.Context, id string, p *pending) (*link, error) {
	for {
		c.mu.Lock()
		if !c.started {
			c.mu.Unlock()
			return nil, ErrNotConnected
		}
		if _, taken := c.waiting[id]; taken {
			c.mu.Unlock()
			return nil, fault.Newf(fault.IDConflict, "The id %q is in use.", id)
		}
		if l := c.link; l != nil {
			c.waiting[id] = p
			c.mu.Unlock()
			return l, nil
		}
		linked := c.linked
		c.mu.Unlock()
		select {
		case <-linked:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-c.ctx.Done():
			return nil, context.Cause(c.ctx)
		}
	}
}

func (c *Client) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
}

// answer gives the final answer to whoever waits for id; nobody may.
func (c *Client) answer(id string, out outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.waiting[id]; ok {
		delete(c.waiting, id)
		p.done <- out
	}
}

func (c *Client) progress(f *wire.Progress) {
	c.mu.Lock()
	p := c.waiting[f.ID]
	c.mu.Unlock()
	if p != nil && p.progress != nil {
		p.progress(Progress{Data: json.RawMessage(f.Data), Percent: f.Percent})
	}
}
