// Package sqlite keeps the server's durable state in one SQLite file. It owns
// that file, the lock file beside it and every connection to them; it implements
// [core.Store] and is proved by core/store/storetest.
//
// An acknowledged write is on the disk: the journal is a write-ahead log with
// synchronous=FULL, which is asserted on every connection. (The driver's build
// makes NORMAL the default of a write-ahead log, and NORMAL loses acknowledged
// rows in a power cut.)
//
// Goroutines, all ended by [Store.Close]:
//
//   - the writer takes what waits in a bounded queue, runs it in one transaction,
//     commits, and then answers each caller. What the disk costs is shared by all
//     who wait for it. It is the only goroutine that writes rows;
//   - the checkpointer moves the log into the file, so that no commit does.
//
// Reads run in their callers' goroutines on a few read-only connections and see
// every write that has been answered.
//
// What it refuses: a second process on the same file, a file that is damaged, is
// no database, belongs to another program or has a newer schema, and a write when
// the queue is full ([core.ErrBusy], at once).
//
// Its neighbours: core/store opens it; nothing else imports it.
package sqlite
