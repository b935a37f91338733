package telemetry_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plugboard/plugboard/core/telemetry"
)

func TestHealthFollowsItsChecks(t *testing.T) {
	h := telemetry.NewHealth()
	var storeErr, pluginErr error
	h.AddLive("store", func(context.Context) error { return storeErr })
	h.AddReady("plugins", func(context.Context) error { return pluginErr })
	want := func(what string, got telemetry.Report, status string, checks map[string]string) {
		t.Helper()
		if diff := cmp.Diff(telemetry.Report{Status: status, Checks: checks}, got); diff != "" {
			t.Errorf("%s: want -, got +\n%s", what, diff)
		}
	}
	want("before serving", h.Ready(t.Context()), "failing", map[string]string{"store": "ok", "plugins": "ok", "serving": "failing"})
	h.SetServing(true)
	want("serving", h.Ready(t.Context()), "ok", map[string]string{"store": "ok", "plugins": "ok", "serving": "ok"})
	pluginErr = errors.New("a plugin is starting")
	want("plugin down: not ready", h.Ready(t.Context()), "failing", map[string]string{"store": "ok", "plugins": "failing", "serving": "ok"})
	want("plugin down: alive", h.Live(t.Context()), "ok", map[string]string{"store": "ok"})
	storeErr = errors.New("disk I/O error")
	want("store down", h.Live(t.Context()), "failing", map[string]string{"store": "failing"})
}
