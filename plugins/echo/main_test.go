package main

import (
	"testing"

	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/sdktest"
)

func TestEcho(t *testing.T) {
	in := sdktest.Start(t, plugin())
	for _, params := range []string{
		`{}`,
		`{"text":"hello"}`,
		`{"big":12345678901234567890,"exact":1.10,"nested":[{"a":null},[true]],"umlaut":"ü"}`,
		`{ "spaces" : 1 }`,
	} {
		got, err := in.Call(t.Context(), "echo", params)
		if err != nil {
			t.Errorf("echo %s: %v", params, err)
		} else if string(got) != params {
			t.Errorf("got %s, want %s", got, params)
		}
	}
}

func TestEchoWantsAnObject(t *testing.T) {
	in := sdktest.Start(t, plugin())
	for _, params := range []string{`[1]`, `"text"`, `null`, `{"a":1,"a":2}`} {
		if _, err := in.Call(t.Context(), "echo", params); fault.CodeOf(err) != fault.InvalidParams {
			t.Errorf("echo %s: got %v, want invalid_params", params, err)
		}
	}
}
