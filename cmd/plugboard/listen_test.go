package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/plugboard/plugboard/sdk/client"
)

// TestPluginsMessagesAreLegible: a plugin's message says that it is one, and cannot
// steer the terminal or look like somebody else's line.
func TestPluginsMessagesAreLegible(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.Local)
	text := "rain\x1b[31m\x9b2J\r\n12:00:01 bob: hello\u202e"
	for _, c := range []struct {
		event      client.Event
		want, json string
	}{
		{
			&client.Message{From: "plugin:weather", Plugin: "weather", ID: "m", Seq: 3, Text: []byte(text), SentAt: at, ServerTime: at},
			"12:00:00 weather (plugin): rain[31m\uFFFD2J 12:00:01 bob: hello", `"plugin":"weather"`,
		},
		{
			&client.Broadcast{From: "plugin:weather", Plugin: "weather", ID: "m", Text: text, ServerTime: at},
			"12:00:00 weather (plugin, to all): rain[31m\uFFFD2J 12:00:01 bob: hello", `"from":"plugin:weather","plugin":"weather"`,
		},
		{&client.Message{From: "bob", Text: []byte("x"), SentAt: at}, "12:00:00 bob (NOT SEALED: the server has read it): x", `"from":"bob","text"`},
		{&client.Message{From: "bob", Text: []byte("x"), SentAt: at, Sealed: true}, "12:00:00 bob: x", `"sealed":true`},
		{&client.Broadcast{From: "bob", Text: "x", ServerTime: at}, "12:00:00 bob (to all, not verified): x", `"verified":false`},
		{&client.Broadcast{From: "bob", Text: "x", ServerTime: at, Verified: true}, "12:00:00 bob (to all): x", `"verified":true`},
	} {
		if got := describe(c.event); got != c.want {
			t.Errorf("shown: got %q, want %q", got, c.want)
		}
		var out bytes.Buffer
		if err := printEvent(&out, c.event, true); err != nil || !strings.Contains(out.String(), c.json) || strings.Count(out.String(), "\n") != 1 {
			t.Errorf("as JSON: got %s (%v), want one line with %s", out.String(), err, c.json)
		}
	}
}
