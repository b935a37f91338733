package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/sdktest"
)

// start runs the plugin over a directory with one file of some chunks.
func start(t *testing.T, bytesOf int) (*sdktest.Instance, []byte) {
	t.Helper()
	root := t.TempDir()
	data := bytes.Repeat([]byte("0123456789abcdef"), bytesOf/16)
	for _, err := range []error{
		os.WriteFile(filepath.Join(root, "large"), data, 0o600), os.WriteFile(filepath.Join(root, "empty"), nil, 0o600),
		os.Mkdir(filepath.Join(root, "directory"), 0o700), os.Symlink("/etc/passwd", filepath.Join(root, "away")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return sdktest.Start(t, plugin(&Settings{}), sdktest.Settings(Settings{Root: root})), data
}

func TestChecksum(t *testing.T) {
	in, data := start(t, 5*chunk)
	last, parts := -1.0, 0
	raw, err := in.Call(t.Context(), "checksum", Params{Path: "large"}, sdktest.OnProgress(func(p sdktest.Progress) {
		parts++
		if p.Percent == nil || *p.Percent < last || *p.Percent > 99 {
			t.Errorf("got %v percent after %v", p.Percent, last)
			return
		}
		last = *p.Percent
	}))
	var got Result
	if err == nil {
		err = json.Unmarshal(raw, &got)
	}
	if want := fmt.Sprintf("%x", sha256.Sum256(data)); err != nil || got.Sum != want || got.Bytes != int64(len(data)) || parts != 5 {
		t.Errorf("got %+v after %d parts, %v, want %s after 5", got, parts, err, want)
	}
	raw, err = in.Call(t.Context(), "checksum", Params{Path: "empty", Algorithm: "sha512"})
	if want := fmt.Sprintf(`{"algorithm":"sha512","sum":"%x","bytes":0}`, sha512.Sum512(nil)); err != nil || string(raw) != want {
		t.Errorf("got %s, %v, want %s", raw, err, want)
	}
}

func TestWhatCannotBeHashed(t *testing.T) {
	in, _ := start(t, 0)
	for path, want := range map[string]fault.Code{
		"nothing": fault.CommandFailed, "../x": fault.InvalidParams, "/etc/passwd": fault.InvalidParams, "away": fault.InvalidParams,
		"directory": fault.InvalidParams, "": fault.InvalidParams,
	} {
		if _, err := in.Call(t.Context(), "checksum", Params{Path: path}); fault.CodeOf(err) != want {
			t.Errorf("%q: got %v, want %s", path, err, want)
		}
	}
	if _, err := in.Call(t.Context(), "checksum", Params{Path: "empty", Algorithm: "md5"}); fault.CodeOf(err) != fault.InvalidParams {
		t.Errorf("md5: got %v", err)
	}
	var refused error
	sdktest.Start(t, plugin(&Settings{}), sdktest.Settings(Settings{Root: "relative"}), sdktest.Refused(&refused))
	if refused == nil {
		t.Error("a relative root was taken")
	}
}

func TestItStopsWhenNobodyWaits(t *testing.T) {
	in, _ := start(t, 64*chunk)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	begin := time.Now()
	_, err := in.Call(ctx, "checksum", Params{Path: "large"}, sdktest.OnProgress(func(sdktest.Progress) { cancel() }))
	if err == nil {
		t.Errorf("the call succeeded after %v although it was cancelled", time.Since(begin))
	}
}
