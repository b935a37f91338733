package main

import (
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/plugboard/plugboard/sdk"
	"github.com/plugboard/plugboard/sdk/sdktest"
)

func TestListCommands(t *testing.T) {
	in := sdktest.Start(t, plugin())
	in.Host.SetCommands(sdk.CommandInfo{
		Name: "ping", Plugin: "ping", Version: "1.0.0", Summary: "Answers", Description: "With the *time*.",
		Params: jsontext.Value(`{"type":"object"}`), Result: jsontext.Value(`{"type":"object"}`),
		SignatureRequired: true,
	})
	got, err := in.Call(t.Context(), "listcommands", nil)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"commands":[{"name":"ping","plugin":"ping","version":"1.0.0","summary":"Answers","description":"With the *time*.",` +
		`"params":{"type":"object"},"result":{"type":"object"},"streaming":false,"signature_required":true}]}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if q := in.Host.Requests(); len(q) != 1 || q[0].Kind != "list_commands" || q[0].CallID == "" {
		t.Errorf("got requests %+v, want one list_commands on behalf of the call", q)
	}
}

func TestNoCommandsIsAnEmptyList(t *testing.T) {
	in := sdktest.Start(t, plugin())
	got, err := in.Call(t.Context(), "listcommands", nil)
	if want := `{"commands":[]}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
}
