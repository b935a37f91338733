package hostsvc_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/pluginhost/hostsvc"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/pluginpb"
)

// keeper is a plugin with the capability kv, and a clock that the test moves.
type keeper struct {
	t       *testing.T
	service *hostsvc.Service
	now     time.Time
}

func newKeeper(t *testing.T, kv core.PluginKV, plugin string, change func(*hostsvc.Options)) *keeper {
	t.Helper()
	k := &keeper{t: t, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	o := hostsvc.Options{Plugin: plugin, Host: &host{PluginKV: kv}, Grants: []string{"kv"}}
	if change != nil {
		change(&o)
	}
	o.Usage = hostsvc.NewUsage(hostsvc.UsageOptions{Plugin: plugin, Now: func() time.Time { return k.now }, Requests: hostsvc.Rate{PerSecond: -1}})
	k.service = hostsvc.New(o)
	return k
}

func (k *keeper) ask(req *pluginpb.HostRequest) *pluginpb.HostReply {
	return k.service.Handle(k.t.Context(), req, nobody) // background work: there is no call
}

func (k *keeper) put(p *pluginpb.KVPutRequest) *pluginpb.HostReply {
	return k.ask(&pluginpb.HostRequest{Request: &pluginpb.HostRequest_KvPut{KvPut: p}})
}

func (k *keeper) get(key string) *pluginpb.HostReply {
	return k.ask(&pluginpb.HostRequest{Request: &pluginpb.HostRequest_KvGet{KvGet: &pluginpb.KVGetRequest{Key: key}}})
}

func (k *keeper) delete(d *pluginpb.KVDeleteRequest) *pluginpb.HostReply {
	return k.ask(&pluginpb.HostRequest{Request: &pluginpb.HostRequest_KvDelete{KvDelete: d}})
}

func (k *keeper) list(l *pluginpb.KVListRequest) *pluginpb.HostReply {
	return k.ask(&pluginpb.HostRequest{Request: &pluginpb.HostRequest_KvList{KvList: l}})
}

// wantPut writes a key that must be taken.
func (k *keeper) wantPut(key, value string) uint64 {
	k.t.Helper()
	reply := k.put(&pluginpb.KVPutRequest{Key: key, Value: []byte(value)})
	if reply.GetKvPut().GetRevision() == 0 {
		k.t.Fatalf("put %q: got %v, want a revision", key, reply)
	}
	return reply.GetKvPut().GetRevision()
}

func TestKV(t *testing.T) {
	kv := openStore(t)
	k, other := newKeeper(t, kv, "weather", nil), newKeeper(t, kv, "notes", nil)
	wantError(t, k.get("a"), "not_found")
	first := k.wantPut("a", "1")
	wantError(t, other.get("a"), "not_found")
	wantError(t, k.put(&pluginpb.KVPutRequest{Key: "a", IfRevision: proto.Uint64(0)}), "revision_conflict")
	wantError(t, k.put(&pluginpb.KVPutRequest{Key: "a", IfRevision: proto.Uint64(math.MaxUint64)}), "revision_conflict")
	reply := k.put(&pluginpb.KVPutRequest{Key: "a", Value: []byte("2"), IfRevision: &first, TtlMs: 1500})
	second := reply.GetKvPut().GetRevision()
	if second <= first {
		t.Fatalf("put over revision %d: got %v", first, reply)
	}
	want := &pluginpb.KVEntry{Key: "a", Value: []byte("2"), Revision: second, ExpiresAtUnixMs: k.now.Add(1500 * time.Millisecond).UnixMilli()}
	if diff := cmp.Diff(want, k.get("a").GetKvGet().GetEntry(), protocmp.Transform()); diff != "" {
		t.Errorf("entry (-want +got):\n%s", diff)
	}
	k.now = k.now.Add(1500 * time.Millisecond)
	wantError(t, k.get("a"), "not_found")
	wantError(t, k.delete(&pluginpb.KVDeleteRequest{Key: "a", IfRevision: &second}), "revision_conflict")
	if reply := k.delete(&pluginpb.KVDeleteRequest{Key: "a"}); reply.GetKvDelete() == nil || reply.GetKvDelete().GetDeleted() {
		t.Errorf("delete of what has expired: got %v", reply)
	}
	third := k.wantPut("a", "")
	if reply := k.delete(&pluginpb.KVDeleteRequest{Key: "a", IfRevision: &third}); !reply.GetKvDelete().GetDeleted() {
		t.Errorf("delete: got %v", reply)
	}
}

func TestKVListInPages(t *testing.T) {
	k := newKeeper(t, openStore(t), "weather", nil)
	for i := range 7 {
		k.wantPut(fmt.Sprintf("day/%d", i), "x")
	}
	k.wantPut("other", "x")
	pages := func(l *pluginpb.KVListRequest) (keys []string, sizes []int) {
		for {
			reply := k.list(l)
			if reply.GetKvList() == nil {
				t.Fatalf("list: got %v", reply)
			}
			for _, e := range reply.GetKvList().GetEntries() {
				keys = append(keys, e.GetKey())
			}
			sizes = append(sizes, len(reply.GetKvList().GetEntries()))
			next := reply.GetKvList().GetNext()
			if next == "" {
				return keys, sizes
			}
			l.After = next
		}
	}
	keys, sizes := pages(&pluginpb.KVListRequest{Prefix: "day/", Limit: 3})
	if got := strings.Join(keys, " "); got != "day/0 day/1 day/2 day/3 day/4 day/5 day/6" || cmp.Diff([]int{3, 3, 1}, sizes) != "" {
		t.Errorf("keys in pages: got %s in %v", got, sizes)
	}
	// Large values make small pages, each of which fits into a message.
	for i := range 5 {
		k.wantPut(fmt.Sprintf("large/%d", i), strings.Repeat("x", 1<<20))
	}
	reply := k.list(&pluginpb.KVListRequest{Prefix: "large/"})
	if n := proto.Size(reply); n > pluginpb.MaxMessageBytes || reply.GetKvList().GetNext() == "" {
		t.Errorf("page of large values: got %d bytes, next %q", n, reply.GetKvList().GetNext())
	}
	if keys, _ := pages(&pluginpb.KVListRequest{Prefix: "large/"}); len(keys) != 5 {
		t.Errorf("large values: got %v", keys)
	}
}

func TestKVBounds(t *testing.T) {
	k := newKeeper(t, openStore(t), "weather", func(o *hostsvc.Options) {
		o.Quota, o.MaxValueBytes = core.KVQuota{Keys: 3, Bytes: 600}, 100
	})
	long := strings.Repeat("k", 512)
	k.wantPut(long, "x")
	value := make([]byte, 100)
	for name, c := range map[string]struct {
		reply *pluginpb.HostReply
		want  fault.Code
	}{
		"no key":                 {k.put(&pluginpb.KVPutRequest{}), fault.InvalidRequest},
		"a long key":             {k.put(&pluginpb.KVPutRequest{Key: long + "k"}), fault.InvalidRequest},
		"a key that is no text":  {k.get("\xff"), fault.InvalidRequest},
		"get of no key":          {k.get(""), fault.InvalidRequest},
		"delete of no key":       {k.delete(&pluginpb.KVDeleteRequest{}), fault.InvalidRequest},
		"delete of revision 0":   {k.delete(&pluginpb.KVDeleteRequest{Key: "a", IfRevision: proto.Uint64(0)}), fault.InvalidRequest},
		"a negative TTL":         {k.put(&pluginpb.KVPutRequest{Key: "a", TtlMs: -1}), fault.InvalidRequest},
		"a TTL without end":      {k.put(&pluginpb.KVPutRequest{Key: "a", TtlMs: math.MaxInt64}), fault.InvalidRequest},
		"a large value":          {k.put(&pluginpb.KVPutRequest{Key: "a", Value: make([]byte, 101)}), fault.TooLarge},
		"more bytes than quota":  {k.put(&pluginpb.KVPutRequest{Key: "a", Value: value}), fault.TooLarge},
		"too large a page":       {k.list(&pluginpb.KVListRequest{Limit: 501}), fault.InvalidRequest},
		"a negative page":        {k.list(&pluginpb.KVListRequest{Limit: -1}), fault.InvalidRequest},
		"a long prefix":          {k.list(&pluginpb.KVListRequest{Prefix: long + "k"}), fault.InvalidRequest},
		"an after of no text":    {k.list(&pluginpb.KVListRequest{After: "\xff"}), fault.InvalidRequest},
		"a key that is not here": {k.get(long[1:]), "not_found"},
	} {
		if said := wantError(t, c.reply, c.want); said == "" || len(said) > 300 {
			t.Errorf("%s: got the sentence %q", name, said)
		}
	}
	k.delete(&pluginpb.KVDeleteRequest{Key: long})
	for _, key := range []string{"a", "b", "c"} {
		k.wantPut(key, string(value))
	}
	if said := wantError(t, k.put(&pluginpb.KVPutRequest{Key: "d"}), fault.TooLarge); !strings.Contains(said, "3 keys and 600 bytes") {
		t.Errorf("a fourth key: got %q, want the quota told", said)
	}
}

func TestKVDefaults(t *testing.T) {
	kv := &noStore{}
	k := newKeeper(t, kv, "weather", nil)
	k.put(&pluginpb.KVPutRequest{Key: "a", Value: make([]byte, 1<<20)})
	if want := (core.KVQuota{Keys: 10_000, Bytes: 16 << 20}); kv.quota != want || kv.plugin != "weather" {
		t.Errorf("got quota %+v for %q, want %+v", kv.quota, kv.plugin, want)
	}
	wantError(t, k.put(&pluginpb.KVPutRequest{Key: "a", Value: make([]byte, 1<<20+1)}), fault.TooLarge)
}

// noStore fails all calls with err.
type noStore struct {
	err    error
	quota  core.KVQuota
	plugin string
}

func (n *noStore) KVGet(context.Context, string, string, time.Time) (core.KVEntry, error) {
	return core.KVEntry{}, n.err
}

func (n *noStore) KVPut(_ context.Context, plugin string, _ *core.KVWrite, q core.KVQuota, _ time.Time) (uint64, error) {
	n.plugin, n.quota = plugin, q
	return 1, n.err
}

func (n *noStore) KVDelete(context.Context, string, string, *uint64, time.Time) (bool, error) {
	return false, n.err
}

func (n *noStore) KVList(context.Context, string, core.KVRange, time.Time) ([]core.KVEntry, bool, error) {
	return nil, false, n.err
}

func TestKVWhenTheStoreIsInTrouble(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want fault.Code
	}{
		"busy":    {core.ErrBusy, fault.Overloaded},
		"closed":  {core.ErrClosed, fault.ShuttingDown},
		"disk":    {errors.New("disk I/O error at /var/lib/secret.db"), fault.StorageUnavailable},
		"stopped": {context.Canceled, fault.ShuttingDown},
	} {
		k := newKeeper(t, &noStore{err: c.err}, "weather", nil)
		for _, reply := range []*pluginpb.HostReply{
			k.get("a"), k.put(&pluginpb.KVPutRequest{Key: "a"}), k.delete(&pluginpb.KVDeleteRequest{Key: "a"}), k.list(&pluginpb.KVListRequest{}),
		} {
			if said := wantError(t, reply, c.want); strings.Contains(said, "secret") {
				t.Errorf("%s: the plugin was told %q", name, said)
			}
		}
	}
}
