package sqlite

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
)

// The values of Options.Synchronous.
const (
	// SyncFull syncs the log at every commit: an acknowledged write survives a
	// power cut.
	SyncFull = "full"
	// SyncNormal syncs at checkpoints only: faster, but a power cut may take the
	// last acknowledged writes with it. The database stays consistent.
	SyncNormal = "normal"
)

// The defaults of the sizes in [Options].
const (
	DefaultQueueLen = 4096
	DefaultMaxBatch = 256
	DefaultReaders  = 4
)

// Options configure a store. The zero value of everything but Path is usable.
type Options struct {
	// Path is the database file. It is made with mode 0600 where it is missing, its
	// folder with 0700.
	Path string
	// Synchronous is SyncFull or SyncNormal; empty is SyncFull.
	Synchronous string
	// Logger gets what an operator could act on; the zero Logger writes nothing.
	Logger zerolog.Logger
	// Metrics is where the store registers its metrics until Close; nil is nowhere.
	Metrics prometheus.Registerer
	// OnFatal is called once, with the first error after which the file can no
	// longer be trusted (I/O error, damage). From then on every write answers that
	// error; the process should end. It is called from a goroutine of the store or
	// of a caller: it must not block and must not call Close.
	OnFatal func(error)

	// QueueLen is how many operations may wait for the writer, at least 1; 0 is
	// DefaultQueueLen. One more is answered core.ErrBusy at once.
	QueueLen int
	// MaxBatch is how many operations share a transaction at most, 1 … 4096; 0 is
	// DefaultMaxBatch. Larger batches raise throughput and the latency of each.
	MaxBatch int
	// Readers is how many reads may run at the same time, 1 … 64; 0 is
	// DefaultReaders. Others wait their turn.
	Readers int
	// MaxBytes bounds the database file, without the log; 0 does not. Writes that
	// need more fail as on a full disk until Prune has made room.
	MaxBytes int64
}

// complete fills defaults in and checks the rest, telling all that is wrong.
func (o *Options) complete() error {
	if o.Synchronous == "" {
		o.Synchronous = SyncFull
	}
	var errs []error
	if o.Path == "" {
		errs = append(errs, errors.New("path: must name the database file"))
	}
	if o.Synchronous != SyncFull && o.Synchronous != SyncNormal {
		errs = append(errs, fmt.Errorf("synchronous: got %q, want %q or %q", o.Synchronous, SyncFull, SyncNormal))
	}
	size := func(name string, v *int, standard, most int) {
		if *v == 0 {
			*v = standard
		}
		if *v < 1 || *v > most {
			errs = append(errs, fmt.Errorf("%s: got %d, want 1 to %d", name, *v, most))
		}
	}
	size("queue length", &o.QueueLen, DefaultQueueLen, 1<<20)
	size("batch size", &o.MaxBatch, DefaultMaxBatch, 4096)
	size("readers", &o.Readers, DefaultReaders, 64)
	if o.MaxBytes < 0 {
		errs = append(errs, fmt.Errorf("size limit: got %d bytes, want 0 or more", o.MaxBytes))
	}
	return errors.Join(errs...)
}
