package command

import (
	"context"
	"sync"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/fault"
)

// What may wait of one call's progress while its caller reads slowly.
const (
	relayBytes = 1 << 20
	relayParts = 4096
)

// relay carries the progress of one call from the goroutine that serves its whole
// plugin, which must not wait for anybody, to a surface that may have to. Parts
// are never dropped: a caller that leaves more than the bound unread has its call
// cancelled, because an answer with holes would be worse than none.
type relay struct {
	ctx     context.Context
	cancel  context.CancelCauseFunc
	deliver func(core.Progress) // may block; bounded by the surface's write deadline

	worker sync.WaitGroup // while there is something to deliver

	mu      sync.Mutex
	waiting []core.Progress
	bytes   int
	busy    bool
	lost    bool // parts were left over when the call's time was up
}

func errUnread() error {
	return fault.New(fault.Overloaded, "The command was cancelled because its progress was not read fast enough.")
}

// add takes a part and never blocks.
func (r *relay) add(p core.Progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() != nil {
		return
	}
	if len(r.waiting) >= relayParts || r.bytes+len(p.Data) > relayBytes {
		r.cancel(errUnread())
		return
	}
	r.waiting = append(r.waiting, p)
	r.bytes += len(p.Data)
	if !r.busy {
		r.busy = true
		r.worker.Go(r.run)
	}
}

// run delivers what waits, in order, and retires. What waits of a call that is
// over is not delivered any more.
func (r *relay) run() {
	for {
		r.mu.Lock()
		if len(r.waiting) == 0 || r.ctx.Err() != nil {
			r.lost = r.lost || len(r.waiting) > 0
			r.waiting, r.bytes, r.busy = nil, 0, false
			r.mu.Unlock()
			return
		}
		p := r.waiting[0]
		r.waiting[0] = core.Progress{}
		r.waiting = r.waiting[1:]
		r.bytes -= len(p.Data)
		r.mu.Unlock()
		r.deliver(p)
	}
}

// wait returns when everything has been delivered, or with the reason why the rest
// was not. The invoker has returned.
func (r *relay) wait() error {
	r.worker.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lost {
		return context.Cause(r.ctx)
	}
	return nil
}
