package sqlite

import (
	"slices"
	"sync"

	"github.com/plugboard/plugboard/core"
)

// op is one write on its way: a function of the transaction and nothing else, so
// that it can be run again where a neighbour in its batch spoiled the transaction.
type op struct {
	run func(*tx) error
	// err is what run answered last. Owned by the writer.
	err error
	// done gets the answer; it has room for it.
	done chan error
}

// queue holds the operations that wait for the writer, first come first served.
// It is bounded: offer refuses at once when it is full.
type queue struct {
	size int

	mu      sync.Mutex
	arrived sync.Cond // on mu
	waiting []*op
	closed  bool
	failure error
}

func newQueue(size int) *queue {
	q := &queue{size: size}
	q.arrived.L = &q.mu
	return q
}

// offer puts o in the queue, or says why not.
func (q *queue) offer(o *op) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return core.ErrClosed
	case q.failure != nil:
		return q.failure
	case len(q.waiting) >= q.size:
		return core.ErrBusy
	}
	q.waiting = append(q.waiting, o)
	q.arrived.Signal()
	return nil
}

// remove takes o out again; false where the writer has taken it up already.
func (q *queue) remove(o *op) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.waiting, o)
	if i < 0 {
		return false
	}
	q.waiting = slices.Delete(q.waiting, i, i+1)
	return true
}

// take waits until there is something and moves up to limit operations into
// batch. An empty batch means that the queue is closed and empty.
func (q *queue) take(batch []*op, limit int) ([]*op, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.waiting) == 0 && !q.closed {
		q.arrived.Wait()
	}
	n := min(limit, len(q.waiting))
	batch = append(batch, q.waiting[:n]...)
	q.waiting = slices.Delete(q.waiting, 0, n)
	return batch, q.failure
}

// close refuses what comes from now on; what waits is still taken.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.arrived.Signal()
}

// fail makes err the answer to what comes from now on.
func (q *queue) fail(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.failure = err
}

func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting)
}
