package command

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/plugboard/plugboard/core"
)

const (
	logQueue    = 4096
	logBatch    = 256
	logInterval = 250 * time.Millisecond
	logTimeout  = 5 * time.Second
)

// runLog buffers the lines of the command log, so that a call never waits for
// the disk. A full buffer drops the line and counts it.
type runLog struct {
	store   core.CommandLog
	logger  zerolog.Logger
	metrics *metrics

	queue chan core.CommandRun
	done  chan struct{} // closed by the writer

	mu      sync.Mutex
	quit    chan struct{} // nil before start
	stopped bool
}

func newRunLog(store core.CommandLog, logger zerolog.Logger, m *metrics) *runLog {
	return &runLog{
		store: store, logger: logger, metrics: m,
		queue: make(chan core.CommandRun, logQueue), done: make(chan struct{}),
	}
}

func (l *runLog) start() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.quit == nil && !l.stopped {
		l.quit = make(chan struct{})
		go l.write(l.quit)
	}
}

func (l *runLog) stop(ctx context.Context) error {
	l.mu.Lock()
	started := l.quit != nil
	if started && !l.stopped {
		close(l.quit)
	}
	l.stopped = true
	l.mu.Unlock()
	if !started {
		return nil
	}
	select {
	case <-l.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("write command log: %d lines waiting: %w", len(l.queue), ctx.Err())
	}
}

// offer never blocks.
func (l *runLog) offer(run core.CommandRun) {
	select {
	case l.queue <- run:
	default:
		l.metrics.logDropped.WithLabelValues(dropFull).Inc()
	}
}

// write gathers lines and flushes them when there are enough, or when the oldest
// has waited long enough.
func (l *runLog) write(quit <-chan struct{}) {
	defer close(l.done)
	batch := make([]core.CommandRun, 0, logBatch)
	timer := time.NewTimer(logInterval)
	timer.Stop()
	defer timer.Stop()
	for {
		select {
		case run := <-l.queue:
			if batch = append(batch, run); len(batch) == 1 {
				timer.Reset(logInterval)
			}
			if len(batch) < logBatch {
				continue
			}
		case <-timer.C:
		case <-quit:
			l.drain(batch)
			return
		}
		timer.Stop()
		batch = l.flush(batch)
	}
}

// drain writes everything that was offered before the stop.
func (l *runLog) drain(batch []core.CommandRun) {
	for {
		select {
		case run := <-l.queue:
			if batch = append(batch, run); len(batch) == logBatch {
				batch = l.flush(batch)
			}
		default:
			l.flush(batch)
			return
		}
	}
}

// flush writes one batch. A store that cannot write costs lines, which are
// counted; it does not cost commands.
func (l *runLog) flush(batch []core.CommandRun) []core.CommandRun {
	if len(batch) == 0 {
		return batch
	}
	ctx, cancel := context.WithTimeout(context.Background(), logTimeout)
	defer cancel()
	if err := l.store.LogRuns(ctx, batch); err != nil {
		l.metrics.logDropped.WithLabelValues(dropStore).Add(float64(len(batch)))
		l.logger.Error().Err(err).Int("lines", len(batch)).Msg("Command log lines lost")
	}
	// The store may keep what it was given: the next batch gets memory of its own.
	return make([]core.CommandRun, 0, logBatch)
}
