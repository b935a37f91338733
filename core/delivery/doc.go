// Package delivery moves stored messages from mailboxes to live sessions.
//
// It owns each session's delivery position and nothing durable. What it is told
// (Publish: committed up to seq S; Wake: a session joined or has room again) is
// only a hint to look: delivery reads on from each session's own position, so a
// lost hint costs latency and never a message, and two hints in the wrong order
// cannot put two messages in the wrong order. A hint that carries the very next
// message saves the read.
//
// Users are spread over a few shards, each with one loop that Start starts and
// Stop waits for. A shard's set of users to look at holds only users who are
// connected here, and few messages for each: both are bounded. A session whose
// queue is full is left where it is and looked at again when its connection says
// that there is room.
//
// Acknowledgements go the other way, on the acknowledging connection's reader.
package delivery
