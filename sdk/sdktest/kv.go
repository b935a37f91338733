package sdktest

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/plugboard/plugboard/sdk"
	"github.com/plugboard/plugboard/sdk/pluginpb"
)

// answerKVLocked answers the four requests of the store. Expiry is by the test's
// clock, so that testing/synctest governs it.
func (h *Host) answerKVLocked(r *pluginpb.HostRequest, reply *pluginpb.HostReply, refuse func(code, message string) *pluginpb.HostReply) *pluginpb.HostReply {
	if code := badKV(r); code != "" {
		return refuse(code, "A key has 1 to 512 bytes of UTF-8, a value at most 1 MiB, a page 1 to 500 keys, and no key the revision 0.")
	}
	switch q := r.GetRequest().(type) {
	case *pluginpb.HostRequest_KvGet:
		e, ok := h.kv[q.KvGet.GetKey()]
		if !ok {
			return refuse("not_found", "No such key.")
		}
		reply.Reply = &pluginpb.HostReply_KvGet{KvGet: &pluginpb.KVGetReply{Entry: entryOf(e)}}
	case *pluginpb.HostRequest_KvPut:
		key := q.KvPut.GetKey()
		if q.KvPut.IfRevision != nil && h.kv[key].Revision != q.KvPut.GetIfRevision() {
			return refuse("revision_conflict", "The key has another revision.")
		}
		h.revision++
		e := sdk.Entry{Key: key, Value: slices.Clone(q.KvPut.GetValue()), Revision: h.revision}
		if ttl := q.KvPut.GetTtlMs(); ttl > 0 {
			e.ExpiresAt = time.Now().Add(time.Duration(ttl) * time.Millisecond)
		}
		h.kv[key] = e
		reply.Reply = &pluginpb.HostReply_KvPut{KvPut: &pluginpb.KVPutReply{Revision: e.Revision}}
	case *pluginpb.HostRequest_KvDelete:
		e, ok := h.kv[q.KvDelete.GetKey()]
		if q.KvDelete.IfRevision != nil && e.Revision != q.KvDelete.GetIfRevision() {
			return refuse("revision_conflict", "The key has another revision.")
		}
		delete(h.kv, q.KvDelete.GetKey())
		reply.Reply = &pluginpb.HostReply_KvDelete{KvDelete: &pluginpb.KVDeleteReply{Deleted: ok}}
	case *pluginpb.HostRequest_KvList:
		reply.Reply = &pluginpb.HostReply_KvList{KvList: h.listLocked(q.KvList)}
	default:
		return refuse("invalid_request", "This server does not know the request.")
	}
	return reply
}

const (
	maxKeyBytes   = 512
	maxValueBytes = 1 << 20
)

// badKV is the code that a server of the default limits refuses a request for the
// store with, or empty.
func badKV(r *pluginpb.HostRequest) string {
	var (
		key string
		bad bool
	)
	switch q := r.GetRequest().(type) {
	case *pluginpb.HostRequest_KvGet:
		key = q.KvGet.GetKey()
	case *pluginpb.HostRequest_KvPut:
		key, bad = q.KvPut.GetKey(), q.KvPut.GetTtlMs() < 0
		if len(q.KvPut.GetValue()) > maxValueBytes {
			return "too_large"
		}
	case *pluginpb.HostRequest_KvDelete:
		key, bad = q.KvDelete.GetKey(), q.KvDelete.IfRevision != nil && q.KvDelete.GetIfRevision() == 0
	case *pluginpb.HostRequest_KvList:
		l := q.KvList
		key, bad = "any", badPage(l.GetLimit()) || len(l.GetPrefix()) > maxKeyBytes || len(l.GetAfter()) > maxKeyBytes
	default:
		return ""
	}
	if bad || key == "" || len(key) > maxKeyBytes {
		return "invalid_request"
	}
	return ""
}

func (h *Host) listLocked(q *pluginpb.KVListRequest) *pluginpb.KVListReply {
	limit := int(q.GetLimit())
	if limit == 0 {
		limit = 100
	}
	out := &pluginpb.KVListReply{}
	for _, key := range slices.Sorted(maps.Keys(h.kv)) {
		if !strings.HasPrefix(key, q.GetPrefix()) || key <= q.GetAfter() {
			continue
		}
		if len(out.GetEntries()) == limit {
			out.Next = out.GetEntries()[limit-1].GetKey()
			break
		}
		out.Entries = append(out.Entries, entryOf(h.kv[key]))
	}
	return out
}

func (h *Host) expireLocked() {
	now := time.Now()
	maps.DeleteFunc(h.kv, func(_ string, e sdk.Entry) bool { return !e.ExpiresAt.IsZero() && !e.ExpiresAt.After(now) })
}

func entryOf(e sdk.Entry) *pluginpb.KVEntry {
	out := &pluginpb.KVEntry{Key: e.Key, Value: e.Value, Revision: e.Revision}
	if !e.ExpiresAt.IsZero() {
		out.ExpiresAtUnixMs = e.ExpiresAt.UnixMilli()
	}
	return out
}
