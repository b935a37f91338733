// Package store chooses the engine that keeps the server's durable state. It owns
// nothing but the list of engines, and refuses a name that is not in it.
//
// Each engine is a folder below this one, implements [core.Store] and passes
// core/store/storetest; its goroutines are its own. core/server opens the store
// and hands its parts to the rooms, which know the contracts only.
package store
