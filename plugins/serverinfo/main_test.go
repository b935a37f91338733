package main

import (
	"testing"
	"time"

	"github.com/plugboard/plugboard/sdk"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/sdktest"
)

func TestServerInfo(t *testing.T) {
	in := sdktest.Start(t, plugin())
	in.Host.SetServerInfo(sdk.ServerInfo{
		Name: "plugboard", Version: "1.2.3", Protocol: "plugboard.v1", GoVersion: "go1.26.0", Connections: 7,
		StartedAt: time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC), Uptime: 1500 * time.Millisecond,
		Plugins: []sdk.PluginState{{Name: "ping", Version: "1.0.0", State: "ready"}},
	})
	got, err := in.Call(t.Context(), "serverinfo", nil)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"name":"plugboard","version":"1.2.3","started_at":"2026-01-31T12:00:00.000Z","uptime_seconds":1.5,` +
		`"go_version":"go1.26.0","protocol":"plugboard.v1","connections":7,` +
		`"plugins":[{"name":"ping","version":"1.0.0","state":"ready"}]}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestServerInfoNotGranted(t *testing.T) {
	in := sdktest.Start(t, plugin(), sdktest.Grants())
	if _, err := in.Call(t.Context(), "serverinfo", nil); fault.CodeOf(err) != fault.Internal {
		t.Errorf("got %v, want internal: it is not the user who is forbidden", err)
	}
}
