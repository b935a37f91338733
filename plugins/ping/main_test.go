package main

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/sdktest"
)

func TestPing(t *testing.T) {
	in := sdktest.Start(t, plugin())
	before := time.Now().Add(-time.Millisecond) // the answer is cut to milliseconds
	raw, err := in.Call(t.Context(), "ping", nil)
	if err != nil {
		t.Fatal(err)
	}
	var got pong
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatalf("decode %s: %v", raw, err)
	}
	if !got.Pong || got.Time.Before(before) || got.Time.After(time.Now()) {
		t.Errorf("got %s, want pong and the time", raw)
	}
}

func TestPingTakesNoParams(t *testing.T) {
	in := sdktest.Start(t, plugin())
	if _, err := in.Call(t.Context(), "ping", `{"host":"example.org"}`); fault.CodeOf(err) != fault.InvalidParams {
		t.Errorf("got %v, want invalid_params", err)
	}
}
