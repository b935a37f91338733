package core_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/fault"
)

// until runs as long as its context.
func until(ctx context.Context) { <-ctx.Done() }

func wantCode(t *testing.T, err error, want fault.Code) {
	t.Helper()
	if got := fault.CodeOf(err); got != want {
		t.Errorf("got %q (%v), want %q", got, err, want)
	}
}

func TestCallsBoundAndDuplicates(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := core.NewCalls(ctx, 2)
	wantCode(t, c.Start("a", until), "")
	wantCode(t, c.Start("a", until), fault.IDConflict)
	wantCode(t, c.Start("b", until), "")
	err := c.Start("c", until)
	wantCode(t, err, fault.Overloaded)
	if f := fault.From(err, ""); f.RetryAfter <= 0 {
		t.Error("overloaded does not say when to try again")
	}
	wantCode(t, c.Start("b", until), fault.IDConflict) // also when full: it says more
	if got := c.Running(); got != 2 {
		t.Errorf("got %d running, want 2", got)
	}
	cancel()
	c.Wait()
	if got := c.Running(); got != 0 {
		t.Errorf("got %d running after Wait, want 0", got)
	}
	wantCode(t, c.Start("d", until), fault.ShuttingDown)
}

func TestCallsCancelOneFreesItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c := core.NewCalls(ctx, 2)
		ended := make(chan string, 2)
		for _, id := range []string{"a", "b"} {
			wantCode(t, c.Start(id, func(ctx context.Context) { <-ctx.Done(); ended <- id }), "")
		}
		if !c.Cancel("a") {
			t.Error("Cancel did not find a running call")
		}
		synctest.Wait()
		if got := <-ended; got != "a" || len(ended) != 0 {
			t.Errorf("got %q ended and %d more, want a alone", got, len(ended))
		}
		if c.Cancel("a") || c.Cancel("never") {
			t.Error("Cancel found a call that does not run")
		}
		wantCode(t, c.Start("a", until), "") // the id and the place are free again
		cancel()
		c.Wait()
	})
}

func TestCallsDrainLetsRunningEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := core.NewCalls(t.Context(), 4)
		release, cancelled := make(chan struct{}), false
		wantCode(t, c.Start("a", func(ctx context.Context) { <-release; cancelled = ctx.Err() != nil }), "")
		c.Drain()
		wantCode(t, c.Start("b", until), fault.ShuttingDown)
		waited := make(chan struct{})
		go func() { c.Wait(); close(waited) }()
		synctest.Wait()
		select {
		case <-waited:
			t.Fatal("Wait returned while a call ran")
		default:
		}
		close(release)
		<-waited
		if cancelled {
			t.Error("Drain cancelled a running call")
		}
	})
}

func TestCallsConcurrently(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const limit = 8
	c := core.NewCalls(ctx, limit)
	var running, most, started atomic.Int64
	var starters sync.WaitGroup
	for g := range 8 {
		starters.Go(func() {
			for i := range 300 {
				id := fmt.Sprintf("%d-%d", g, i)
				err := c.Start(id, func(ctx context.Context) {
					n := running.Add(1)
					for old := most.Load(); n > old && !most.CompareAndSwap(old, n); {
						old = most.Load()
					}
					if i%3 == 0 {
						<-ctx.Done()
					}
					running.Add(-1)
				})
				if err == nil {
					started.Add(1)
					if i%3 == 0 && !c.Cancel(id) {
						t.Errorf("call %s is not there to cancel", id)
					}
				} else if fault.CodeOf(err) != fault.Overloaded {
					t.Errorf("got %v, want overloaded or none", err)
				}
			}
		})
	}
	starters.Wait()
	c.Drain()
	c.Wait()
	if most.Load() > limit || running.Load() != 0 || started.Load() == 0 {
		t.Errorf("got %d at once and %d left of %d, want at most %d and none", most.Load(), running.Load(), started.Load(), limit)
	}
}
