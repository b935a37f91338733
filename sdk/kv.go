package sdk

import (
	"context"
	"errors"
	"time"

	"github.com/plugboard/plugboard/sdk/pluginpb"
)

// KV is the plugin's own part of the server's store: keys of 1 to 512 bytes of
// UTF-8, values of any bytes, up to 1 MiB each, under a quota of, as a rule, 10,000
// keys and 16 MiB. No other plugin sees it. It survives restarts of the plugin and of
// the server; what was put is on the disk when Put returns. All of it needs
// [CapabilityKV].
type KV struct{ host Host }

// KV is the plugin's part of the server's store.
func (h Host) KV() KV { return KV{host: h} }

// Entry is one key of [KV].
type Entry struct {
	Key   string
	Value []byte
	// Revision grows with every write of the key and is never 0. It is never given
	// twice, also not to a key that was deleted, or has expired, and was put again.
	Revision uint64
	// ExpiresAt is zero for an entry that stays.
	ExpiresAt time.Time
}

// PutOption refines [KV.Put].
type PutOption func(*pluginpb.KVPutRequest)

// IfRevision writes only over this revision of the key, else [ErrConflict].
func IfRevision(revision uint64) PutOption {
	return func(r *pluginpb.KVPutRequest) { r.IfRevision = &revision }
}

// IfAbsent writes only where there is no such key, else [ErrConflict].
func IfAbsent() PutOption { return IfRevision(0) }

// TTL lets the entry vanish after d, counted in whole milliseconds, at most a hundred
// years. A later Put without it makes the entry stay.
func TTL(d time.Duration) PutOption {
	return func(r *pluginpb.KVPutRequest) { r.TtlMs = max(d.Milliseconds(), 1) }
}

// Get returns the entry of a key, or [ErrNotFound].
func (k KV) Get(ctx context.Context, key string) (Entry, error) {
	if err := validText(key); err != nil {
		return Entry{}, err
	}
	reply, err := k.host.ask(ctx, CapabilityKV, &pluginpb.HostRequest{
		Request: &pluginpb.HostRequest_KvGet{KvGet: &pluginpb.KVGetRequest{Key: key}},
	})
	if err != nil {
		return Entry{}, err
	}
	e := reply.GetKvGet().GetEntry()
	if e == nil {
		return Entry{}, errReply(reply)
	}
	return entryFrom(e), nil
}

// Put writes a key and returns its new revision. A value that is too large, or goes
// beyond the quota, is a [HostError] of the code too_large, and nothing is written.
func (k KV) Put(ctx context.Context, key string, value []byte, options ...PutOption) (revision uint64, err error) {
	if err := validText(key); err != nil {
		return 0, err
	}
	put := &pluginpb.KVPutRequest{Key: key, Value: value}
	for _, option := range options {
		option(put)
	}
	reply, err := k.host.ask(ctx, CapabilityKV, &pluginpb.HostRequest{
		Request: &pluginpb.HostRequest_KvPut{KvPut: put},
	})
	if err != nil {
		return 0, err
	}
	if reply.GetKvPut() == nil {
		return 0, errReply(reply)
	}
	return reply.GetKvPut().GetRevision(), nil
}

// Delete removes a key. Removing what is not there is no error.
func (k KV) Delete(ctx context.Context, key string) error {
	return k.delete(ctx, &pluginpb.KVDeleteRequest{Key: key})
}

// DeleteIf removes a key at this revision, else [ErrConflict], also where the key is
// not there.
func (k KV) DeleteIf(ctx context.Context, key string, revision uint64) error {
	return k.delete(ctx, &pluginpb.KVDeleteRequest{Key: key, IfRevision: &revision})
}

func (k KV) delete(ctx context.Context, r *pluginpb.KVDeleteRequest) error {
	if err := validText(r.GetKey()); err != nil {
		return err
	}
	reply, err := k.host.ask(ctx, CapabilityKV, &pluginpb.HostRequest{
		Request: &pluginpb.HostRequest_KvDelete{KvDelete: r},
	})
	if err == nil && reply.GetKvDelete() == nil {
		err = errReply(reply)
	}
	return err
}

// errListStuck keeps a server that never advances from holding List for ever.
var errListStuck = errors.New("list keys: the server's next page does not advance")

// List returns the entries whose key begins with prefix, by key: all of them, asked
// for page by page, or at most [Limit].
func (k KV) List(ctx context.Context, prefix string, options ...ListOption) ([]Entry, error) {
	o := listOf(options)
	if err := validText(prefix, o.after); err != nil {
		return nil, err
	}
	const pageSize = 500
	var entries []Entry
	for after := o.after; ; {
		page := int32(pageSize)
		if o.limit > 0 {
			page = min(page, o.limit-int32(len(entries)))
		}
		reply, err := k.host.ask(ctx, CapabilityKV, &pluginpb.HostRequest{
			Request: &pluginpb.HostRequest_KvList{KvList: &pluginpb.KVListRequest{Prefix: prefix, Limit: page, After: after}},
		})
		if err != nil {
			return nil, err
		}
		r := reply.GetKvList()
		if r == nil {
			return nil, errReply(reply)
		}
		for _, e := range r.GetEntries() {
			entries = append(entries, entryFrom(e))
		}
		if r.GetNext() == "" {
			return entries, nil
		}
		if o.limit > 0 && len(entries) >= int(o.limit) {
			return entries[:o.limit], nil
		}
		if r.GetNext() <= after {
			return nil, errListStuck
		}
		after = r.GetNext()
	}
}

func entryFrom(e *pluginpb.KVEntry) Entry {
	return Entry{Key: e.GetKey(), Value: e.GetValue(), Revision: e.GetRevision(), ExpiresAt: timeOf(e.GetExpiresAtUnixMs())}
}
