package sdktest_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/plugboard/plugboard/sdk"
	"github.com/plugboard/plugboard/sdk/sdktest"
)

// TestTheHostRefusesWhatAServerDoes: a plugin that works in its test is not surprised
// by a server's bounds later.
func TestTheHostRefusesWhatAServerDoes(t *testing.T) {
	long := strings.Repeat("k", 513)
	asks := map[string]struct {
		want string
		ask  func(context.Context, sdk.Host) error
	}{
		"no key":          {"invalid_request", func(ctx context.Context, h sdk.Host) error { _, err := h.KV().Get(ctx, ""); return err }},
		"a long key":      {"invalid_request", func(ctx context.Context, h sdk.Host) error { _, err := h.KV().Put(ctx, long, nil); return err }},
		"the longest key": {"", func(ctx context.Context, h sdk.Host) error { _, err := h.KV().Put(ctx, long[1:], nil); return err }},
		"a large value": {"too_large", func(ctx context.Context, h sdk.Host) error {
			_, err := h.KV().Put(ctx, "a", make([]byte, 1<<20+1))
			return err
		}},
		"the largest value": {"", func(ctx context.Context, h sdk.Host) error {
			_, err := h.KV().Put(ctx, "a", make([]byte, 1<<20))
			return err
		}},
		"a long prefix":      {"invalid_request", func(ctx context.Context, h sdk.Host) error { _, err := h.KV().List(ctx, long); return err }},
		"delete revision 0":  {"invalid_request", func(ctx context.Context, h sdk.Host) error { return h.KV().DeleteIf(ctx, "a", 0) }},
		"delete of no key":   {"", func(ctx context.Context, h sdk.Host) error { return h.KV().Delete(ctx, "none") }},
		"delete of none, if": {"revision_conflict", func(ctx context.Context, h sdk.Host) error { return h.KV().DeleteIf(ctx, "none", 7) }},
		"a page of 501":      {"invalid_request", func(ctx context.Context, h sdk.Host) error { _, err := h.ListUsers(ctx, sdk.Limit(501)); return err }},
		"no text":            {"invalid_request", func(ctx context.Context, h sdk.Host) error { return h.Send(ctx, "bob", "") }},
		"no text to all":     {"invalid_request", func(ctx context.Context, h sdk.Host) error { return h.Broadcast(ctx, "") }},
		"64 KiB of text":     {"too_large", func(ctx context.Context, h sdk.Host) error { return h.Send(ctx, "bob", strings.Repeat("x", 64<<10)) }},
		"64 KiB to all":      {"too_large", func(ctx context.Context, h sdk.Host) error { return h.Broadcast(ctx, strings.Repeat("x", 64<<10)) }},
		"escapes":            {"too_large", func(ctx context.Context, h sdk.Host) error { return h.Send(ctx, "bob", strings.Repeat("\x01", 20<<10)) }},
		"65,000 bytes":       {"", func(ctx context.Context, h sdk.Host) error { return h.Send(ctx, "bob", strings.Repeat("x", 65_000)) }},
		"nobody":             {"unknown_user", func(ctx context.Context, h sdk.Host) error { return h.Send(ctx, "nobody", "x") }},
	}
	in := sdktest.Start(t, sdk.Plugin{
		Name: "probe", Version: "1.0.0", Summary: "Asks",
		Needs: []sdk.Capability{sdk.CapabilityKV, sdk.CapabilityUsers, sdk.CapabilitySend, sdk.CapabilityBroadcast},
		Commands: []sdk.Command{sdk.Handle("probe", "Asks", func(ctx context.Context, c sdk.Call, _ struct{}) (bool, error) {
			for name, a := range asks {
				err := a.ask(ctx, c.Host)
				var refused *sdk.HostError
				if !errors.As(err, &refused) {
					refused = &sdk.HostError{}
				}
				if refused.Code != a.want || err != nil && refused.Code == "" {
					t.Errorf("%s: got %v, want the code %q", name, err, a.want)
				}
			}
			return true, nil
		})},
	}, sdktest.Grants(sdk.CapabilityKV, sdk.CapabilityUsers, sdk.CapabilitySend, sdk.CapabilityBroadcast))
	in.Host.SetUsers(sdk.User{UserID: "bob"})
	if _, err := in.Call(t.Context(), "probe", nil); err != nil {
		t.Fatal(err)
	}
}
