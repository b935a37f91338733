// Package storetest is what every engine under core/store must pass: the
// contracts of [core.Store] as tests. It owns no data; the engine's own test
// hands it a function that opens one. It starts goroutines inside tests only and
// waits for them there. Only tests import it.
package storetest
