package hostsvc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/pluginpb"
)

const (
	maxKeyBytes = 512 // of the contract
	// maxListBytes is about how much one page of keys and values has, well below the
	// limit of a message.
	maxListBytes = 2 << 20
	// maxTTL is a hundred years; an expiry stays a time that every language holds.
	maxTTL = 100 * 365 * 24 * time.Hour
	// shownKey is how much of a key an error repeats.
	shownKey = 64
)

func checkKey(key string) error {
	if key == "" || len(key) > maxKeyBytes || !utf8.ValidString(key) {
		return fault.Newf(fault.InvalidRequest, "A key has %d bytes; want 1 to %d bytes of UTF-8.", len(key), maxKeyBytes)
	}
	return nil
}

// kvError says what went wrong with a key, for the plugin's author.
func (s *Service) kvError(err error, key string) error {
	if len(key) > shownKey {
		key = strings.ToValidUTF8(key[:shownKey], "") + "…"
	}
	switch {
	case errors.Is(err, core.ErrNotFound):
		return fault.Newf(codeNotFound, "There is no key %q.", key)
	case errors.Is(err, core.ErrRevision):
		return fault.Newf(codeRevisionConflict, "The key %q is not at the revision that was named; get it again.", key)
	case errors.Is(err, core.ErrQuota):
		return fault.Newf(fault.TooLarge, "With %q the plugin would keep more than its quota, which is %d keys and %d bytes of keys and values; delete some first.",
			key, s.quota.Keys, s.quota.Bytes)
	}
	return core.StoreFault(err)
}

func (s *Service) kvGet(ctx context.Context, req *pluginpb.KVGetRequest) (*pluginpb.HostReply, error) {
	if err := checkKey(req.GetKey()); err != nil {
		return nil, err
	}
	e, err := s.host.KVGet(ctx, s.plugin, req.GetKey(), s.usage.now())
	if err != nil {
		return nil, s.kvError(err, req.GetKey())
	}
	return &pluginpb.HostReply{Reply: &pluginpb.HostReply_KvGet{KvGet: &pluginpb.KVGetReply{Entry: entryOf(&e)}}}, nil
}

func (s *Service) kvPut(ctx context.Context, req *pluginpb.KVPutRequest) (*pluginpb.HostReply, error) {
	ttl, now := req.GetTtlMs(), s.usage.now()
	if err := checkKey(req.GetKey()); err != nil {
		return nil, err
	}
	if ttl < 0 || ttl > maxTTL.Milliseconds() {
		return nil, fault.Newf(fault.InvalidRequest, "The TTL is %d ms; want 1 ms to %d ms, or 0 for an entry that stays.", ttl, maxTTL.Milliseconds())
	}
	if n := len(req.GetValue()); n > s.maxValue {
		return nil, fault.Newf(fault.TooLarge, "The value has %d bytes; want at most %d.", n, s.maxValue)
	}
	w := &core.KVWrite{Key: req.GetKey(), Value: req.GetValue(), IfRevision: req.IfRevision}
	if ttl > 0 {
		w.ExpiresAt = now.Add(time.Duration(ttl) * time.Millisecond)
	}
	revision, err := s.host.KVPut(ctx, s.plugin, w, s.quota, now)
	if err != nil {
		return nil, s.kvError(err, req.GetKey())
	}
	return &pluginpb.HostReply{Reply: &pluginpb.HostReply_KvPut{KvPut: &pluginpb.KVPutReply{Revision: revision}}}, nil
}

func (s *Service) kvDelete(ctx context.Context, req *pluginpb.KVDeleteRequest) (*pluginpb.HostReply, error) {
	if err := checkKey(req.GetKey()); err != nil {
		return nil, err
	}
	if req.IfRevision != nil && req.GetIfRevision() == 0 {
		return nil, fault.New(fault.InvalidRequest, "No key has the revision 0; name the one to delete, or none for whatever is there.")
	}
	deleted, err := s.host.KVDelete(ctx, s.plugin, req.GetKey(), req.IfRevision, s.usage.now())
	if err != nil {
		return nil, s.kvError(err, req.GetKey())
	}
	return &pluginpb.HostReply{Reply: &pluginpb.HostReply_KvDelete{KvDelete: &pluginpb.KVDeleteReply{Deleted: deleted}}}, nil
}

// kvList answers one page; it may be shorter than asked for where values are large:
// next alone says where the list ends.
func (s *Service) kvList(ctx context.Context, req *pluginpb.KVListRequest) (*pluginpb.HostReply, error) {
	limit, err := pageSize(req.GetLimit())
	if err != nil {
		return nil, err
	}
	for _, part := range []string{req.GetPrefix(), req.GetAfter()} {
		if part != "" {
			if err := checkKey(part); err != nil {
				return nil, err
			}
		}
	}
	entries, more, err := s.host.KVList(ctx, s.plugin, core.KVRange{
		Prefix: req.GetPrefix(), After: req.GetAfter(), Limit: limit, MaxBytes: maxListBytes,
	}, s.usage.now())
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", core.StoreFault(err))
	}
	out := &pluginpb.KVListReply{}
	for i := range entries {
		out.Entries = append(out.Entries, entryOf(&entries[i]))
	}
	if more && len(entries) > 0 {
		out.Next = entries[len(entries)-1].Key
	}
	return &pluginpb.HostReply{Reply: &pluginpb.HostReply_KvList{KvList: out}}, nil
}

func entryOf(e *core.KVEntry) *pluginpb.KVEntry {
	out := &pluginpb.KVEntry{Key: e.Key, Value: e.Value, Revision: e.Revision}
	if !e.ExpiresAt.IsZero() {
		out.ExpiresAtUnixMs = e.ExpiresAt.UnixMilli()
	}
	return out
}
