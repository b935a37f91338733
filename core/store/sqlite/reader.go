package sqlite

import (
	"context"
	"sync"
	"time"

	"github.com/plugboard/plugboard/core"
)

// readTimeout bounds every read: an older snapshot keeps the log from being
// emptied, so none may live long.
const readTimeout = 5 * time.Second

// read runs a query in the caller's goroutine; fn must use the ctx it is given.
func (s *Store) read(ctx context.Context, fn func(ctx context.Context) error) error {
	if !s.reads.enter() {
		return core.ErrClosed
	}
	defer s.reads.leave()
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	err := fn(ctx)
	if err != nil && isFatal(err) {
		s.fail(err)
	}
	return err
}

// gate counts who is inside and, once closed, lets nobody in.
type gate struct {
	mu     sync.Mutex
	closed bool
	inside sync.WaitGroup // added to under mu, while not closed
}

func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.inside.Add(1)
	return true
}

func (g *gate) leave() { g.inside.Done() }

// close reports false where the gate was closed before.
func (g *gate) close() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.closed = true
	return true
}

func (g *gate) wait() { g.inside.Wait() }
