// Package limit owns token buckets: arithmetic over the times that callers pass
// in. It starts no goroutine, reads no clock and knows nobody; the rooms that
// limit something declare the one-method interface that they need of it.
//
// A bucket is kept as one number, the moment at which it will be full again: a
// token taken moves that moment ahead by 1/rate, and a bucket whose moment has
// passed is full, so forgetting it changes nothing.
package limit
