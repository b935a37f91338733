package store

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/store/sqlite"
)

// DriverSQLite is the engine that keeps everything in one file.
const DriverSQLite = "sqlite"

// Options name an engine and what it works on.
type Options struct {
	// Driver is DriverSQLite.
	Driver string
	// DSN is where the data is; for DriverSQLite the path of the database file. It
	// may hold a password and must not be logged.
	DSN string
	// Synchronous is for DriverSQLite alone: "full" (also where it is empty) or
	// "normal", which trades the last writes before a power cut for speed.
	Synchronous string
	// QueueLen is how many writes may wait, 0 for the engine's default; one more is
	// answered core.ErrBusy.
	QueueLen int
	// MaxBatch is how many writes share a commit at most, 0 for the engine's default.
	MaxBatch int
	// Logger gets what an operator could act on.
	Logger zerolog.Logger
	// Metrics is where the engine registers its metrics until Close; nil is nowhere.
	Metrics prometheus.Registerer
	// OnFatal is called once when the data can no longer be trusted. The process
	// should end; it must not block and must not call Close.
	OnFatal func(error)
}

// Open opens the store; ctx bounds the opening only. The caller closes it.
func Open(ctx context.Context, o Options) (core.Store, error) {
	switch o.Driver {
	case DriverSQLite:
		s, err := sqlite.Open(ctx, sqlite.Options{
			Path: o.DSN, Synchronous: o.Synchronous, QueueLen: o.QueueLen, MaxBatch: o.MaxBatch,
			Logger: o.Logger, Metrics: o.Metrics, OnFatal: o.OnFatal,
		})
		if err != nil {
			return nil, err // not s: a nil *sqlite.Store is no nil core.Store
		}
		return s, nil
	default:
		return nil, fmt.Errorf("open store: unknown driver %q, want %q", o.Driver, DriverSQLite)
	}
}
