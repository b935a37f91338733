package main

import (
	"testing"

	"github.com/plugboard/plugboard/sdk"
	"github.com/plugboard/plugboard/sdk/sdktest"
)

func TestUserCount(t *testing.T) {
	in := sdktest.Start(t, plugin())
	in.Host.SetUsers(sdk.User{UserID: "alice", Connected: true}, sdk.User{UserID: "bob"}, sdk.User{UserID: "carol", Connected: true})
	got, err := in.Call(t.Context(), "usercount", nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"connected":2,"registered":3}`; string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
