package sdk_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/plugboard/plugboard/sdk"
	"github.com/plugboard/plugboard/sdk/sdktest"
)

// withHost runs f as a command's function, in a plugin that needs everything.
func withHost(t *testing.T, prepare func(*sdktest.Host), f func(context.Context, sdk.Host) error, opts ...sdktest.Option) *sdktest.Instance {
	t.Helper()
	var failed error
	p := probe(sdk.Handle("probe", "Asks", func(ctx context.Context, c sdk.Call, _ struct{}) (struct{}, error) {
		failed = f(ctx, c.Host)
		return struct{}{}, nil
	}))
	p.Needs = []sdk.Capability{
		sdk.CapabilityServer, sdk.CapabilityUsers, sdk.CapabilityCommands,
		sdk.CapabilityKV, sdk.CapabilitySend, sdk.CapabilityBroadcast,
	}
	in := sdktest.Start(t, p, opts...)
	if prepare != nil {
		prepare(in.Host)
	}
	if _, err := in.Call(t.Context(), "probe", nil); err != nil {
		t.Fatal(err)
	}
	if failed != nil {
		t.Fatal(failed)
	}
	return in
}

func want(what string, got, want any) error {
	if d := cmp.Diff(want, got, cmpopts.EquateErrors()); d != "" {
		return fmt.Errorf("%s (-want +got): %s", what, d)
	}
	return nil
}

func TestKV(t *testing.T) {
	in := withHost(t, nil, func(ctx context.Context, h sdk.Host) error {
		kv := h.KV()
		_, missing := kv.Get(ctx, "a")
		first, err := kv.Put(ctx, "a", []byte{0, 255}, sdk.IfAbsent())
		_, again := kv.Put(ctx, "a", nil, sdk.IfAbsent())
		second, err2 := kv.Put(ctx, "a", []byte("two"), sdk.IfRevision(first), sdk.TTL(time.Hour))
		_, stale := kv.Put(ctx, "a", nil, sdk.IfRevision(first))
		e, err3 := kv.Get(ctx, "a")
		if left := time.Until(e.ExpiresAt); left < 59*time.Minute || left > time.Hour {
			return fmt.Errorf("expires in %s, want an hour", left)
		}
		return errors.Join(err, err2, err3,
			want("missing", missing, sdk.ErrNotFound), want("again", again, sdk.ErrConflict), want("stale", stale, sdk.ErrConflict),
			want("value", e.Value, []byte("two")), want("revision", e.Revision, second),
			want("delete at a stale revision", kv.DeleteIf(ctx, "a", first), sdk.ErrConflict),
			kv.DeleteIf(ctx, "a", second), kv.Delete(ctx, "a"))
	})
	if kv := in.Host.KV(); len(kv) != 0 {
		t.Errorf("got %v left, want nothing", kv)
	}
}

func TestKVListGoesThroughThePages(t *testing.T) {
	withHost(t, nil, func(ctx context.Context, h sdk.Host) error {
		kv := h.KV()
		for i := range 1203 {
			if _, err := kv.Put(ctx, fmt.Sprintf("n/%04d", i), nil); err != nil {
				return err
			}
		}
		if _, err := kv.Put(ctx, "other", nil); err != nil {
			return err
		}
		all, err := kv.List(ctx, "n/")
		some, err2 := kv.List(ctx, "n/", sdk.Limit(700), sdk.After("n/0099"))
		none, err3 := kv.List(ctx, "x")
		if err := errors.Join(err, err2, err3, want("all", len(all), 1203), want("some", len(some), 700), want("none", len(none), 0)); err != nil {
			return err
		}
		return errors.Join(want("last of all", all[1202].Key, "n/1202"), want("first of some", some[0].Key, "n/0100"), want("last of some", some[699].Key, "n/0799"))
	})
}

func TestUsersServerAndCommands(t *testing.T) {
	since := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	info := sdk.ServerInfo{Name: "plugboard", Version: "1.0.0", StartedAt: since, Uptime: time.Minute, Connections: 3, Plugins: []sdk.PluginState{{Name: "a", State: "ready"}}}
	command := sdk.CommandInfo{Name: "ping", Plugin: "ping", Params: []byte(`{}`), SignatureRequired: true}
	withHost(t, func(h *sdktest.Host) {
		h.SetServerInfo(info)
		h.SetCommands(command)
		h.SetUsers(sdk.User{UserID: "bob"}, sdk.User{UserID: "carol", Username: "Carol", Connected: true, ConnectedSince: since}, sdk.User{UserID: "alice", Connected: true})
	}, func(ctx context.Context, h sdk.Host) error {
		count, err := h.CountUsers(ctx)
		page, err2 := h.ListUsers(ctx, sdk.Limit(2))
		rest, err3 := h.ListUsers(ctx, sdk.After(page.Next))
		connected, err4 := h.ListUsers(ctx, sdk.ConnectedOnly())
		gotInfo, err5 := h.ServerInfo(ctx)
		commands, err6 := h.ListCommands(ctx)
		return errors.Join(err, err2, err3, err4, err5, err6,
			want("count", count, sdk.UserCount{Connected: 2, Registered: 3}),
			want("next", page.Next, "bob"), want("page", len(page.Users), 2),
			want("rest", rest, sdk.UserPage{Users: []sdk.User{{UserID: "carol", Username: "Carol", Connected: true, ConnectedSince: since}}}),
			want("connected", len(connected.Users), 2),
			want("info", gotInfo, info), want("commands", commands, []sdk.CommandInfo{command}))
	})
}

func TestSendAndBroadcast(t *testing.T) {
	in := withHost(t, func(h *sdktest.Host) {
		h.SetUsers(sdk.User{UserID: "bob"})
	}, func(ctx context.Context, h sdk.Host) error {
		return errors.Join(h.Send(ctx, "bob", "hello"), h.Broadcast(ctx, "all"),
			want("unknown user", h.Send(ctx, "nobody", "hello"), sdk.ErrUnknownUser))
	})
	asked := in.Host.Requests()
	id := asked[0].CallID
	if d := cmp.Diff([]sdktest.Request{
		{Kind: "send", CallID: id, UserID: "bob", Text: "hello"},
		{Kind: "broadcast", CallID: id, Text: "all"},
		{Kind: "send", CallID: id, UserID: "nobody", Text: "hello"},
	}, asked); d != "" || id == "" {
		t.Errorf("requests of call %q: %s", id, d)
	}
}

func TestTheHostRefuses(t *testing.T) {
	in := withHost(t, func(h *sdktest.Host) {
		h.Refuse("kv_put", "too_large", "The quota is used up.")
	}, func(ctx context.Context, h sdk.Host) error {
		_, err := h.KV().Put(ctx, "a", nil)
		var refusal *sdk.HostError
		if !errors.As(err, &refusal) || refusal.Code != "too_large" || refusal.Message != "The quota is used up." {
			return fmt.Errorf("put: got %w, want the server's refusal", err)
		}
		if err := h.Broadcast(ctx, "x"); !errors.Is(err, sdk.ErrForbidden) {
			return fmt.Errorf("broadcast: got %w, want it forbidden", err)
		}
		cancelled, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := h.KV().Get(cancelled, "a"); !errors.Is(err, context.Canceled) {
			return fmt.Errorf("get: got %w, want the end of its context", err)
		}
		if err := h.Broadcast(ctx, string([]byte{0xff})); err == nil {
			return errors.New("broadcast of invalid UTF-8: got nil")
		}
		if _, err := h.KV().Put(ctx, "a", bytes.Repeat([]byte{1}, 5<<20)); err == nil {
			return errors.New("a value above the limit: got nil")
		}
		return nil
	}, sdktest.Grants(sdk.CapabilityKV))
	for _, r := range in.Host.Requests() {
		if r.Kind == "broadcast" {
			t.Error("an ungranted request reached the server")
		}
	}
}

func TestTheZeroHostHasNoServer(t *testing.T) {
	if _, err := (sdk.Host{}).CountUsers(t.Context()); !errors.Is(err, sdk.ErrNoServer) {
		t.Errorf("got %v, want ErrNoServer", err)
	}
}

func TestLogRecords(t *testing.T) {
	in := sdktest.Start(t, probe(sdk.Handle("probe", "Logs", func(_ context.Context, c sdk.Call, _ struct{}) (struct{}, error) {
		c.Log.Debug("Plain")
		log := c.Log.With("city", "Ulm").WithGroup("wind")
		log.Warn("Blows", "kmh", 80, "error", errors.New("too much"))
		c.Log.Error("Named like ours", "level", "x", "msg", "y")
		return struct{}{}, nil
	})))
	if _, err := in.Call(t.Context(), "probe", nil); err != nil {
		t.Fatal(err)
	}
	got := in.Logs()
	id := got[0].CallID
	if d := cmp.Diff([]sdktest.LogRecord{
		{Level: "DEBUG", Message: "Plain", CallID: id},
		{Level: "WARN", Message: "Blows", CallID: id, Attrs: []byte(`{"city":"Ulm","wind":{"kmh":80,"error":"too much"}}`)},
		{Level: "ERROR", Message: "Named like ours", CallID: id, Attrs: []byte(`{"level":"x","msg":"y"}`)},
	}, got); d != "" || id == "" {
		t.Errorf("log of call %q: %s", id, d)
	}
}
