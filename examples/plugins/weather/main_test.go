package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/sdktest"
)

// start runs the plugin against a service of our own.
func start(t *testing.T, answer http.HandlerFunc) *sdktest.Instance {
	t.Helper()
	service := httptest.NewServer(answer)
	t.Cleanup(service.Close)
	return sdktest.Start(t, plugin(presets()), sdktest.Settings(Settings{BaseURL: service.URL, APIKey: "s3cret", Timeout: 200 * time.Millisecond}))
}

func TestWeather(t *testing.T) {
	in := start(t, func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if r.URL.Path != "/v1/forecast" || q.Get("latitude") != "52.5" || q.Get("longitude") != "-13.4" || r.Header.Get("Authorization") != "Bearer s3cret" {
			t.Errorf("got %s %v", r.URL, r.Header)
		}
		_, _ = fmt.Fprint(w, `{"current":{"temperature_2m":7.5,"wind_speed_10m":11,"more":1},"latitude":52.5}`)
	})
	got, err := in.Call(t.Context(), "weather", Params{Latitude: 52.5, Longitude: -13.4})
	if want := `{"temperature":7.5,"wind":11}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
}

func TestTroubleWithTheService(t *testing.T) {
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		code   fault.Code
		says   string
	}{
		"busy": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusTooManyRequests)
		}, fault.RateLimited, "too often"},
		"refuses": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }, fault.CommandFailed, "418"},
		"rubbish": {func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "<html>") }, fault.CommandFailed, "no weather"},
		"huge": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = fmt.Fprintf(w, `{"x":%q,"current":{}}`, strings.Repeat("x", 2*maxAnswer))
		}, fault.CommandFailed, "no weather"},
		"slow":     {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, fault.CommandFailed, "did not answer within 200ms"},
		"hangs up": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, fault.CommandFailed, "cannot be reached"},
	} {
		in := start(t, c.answer)
		_, err := in.Call(t.Context(), "weather", Params{})
		f, ok := errors.AsType[*fault.Error](err)
		if !ok || f.Code != c.code || !strings.Contains(f.Message, c.says) {
			t.Errorf("%s: got %v, want %s with %q", name, err, c.code, c.says)
		}
		if name == "busy" && ok && f.RetryAfter != 7*time.Second {
			t.Errorf("busy: got a wait of %v, want 7s", f.RetryAfter)
		}
		for _, r := range in.Logs() {
			if strings.Contains(fmt.Sprint(r), "s3cret") {
				t.Errorf("%s: the key is in the log: %v", name, r)
			}
		}
	}
}

func TestParamsAndSettings(t *testing.T) {
	in := start(t, func(http.ResponseWriter, *http.Request) { t.Error("the service was asked") })
	for _, p := range []Params{{Latitude: 91}, {Longitude: -181}} {
		if _, err := in.Call(t.Context(), "weather", p); fault.CodeOf(err) != fault.InvalidParams {
			t.Errorf("%v: got %v", p, err)
		}
	}
	for _, s := range []Settings{{BaseURL: "ftp://x", Timeout: time.Second}, {BaseURL: "http://x", Timeout: time.Hour}} {
		var refused error
		sdktest.Start(t, plugin(presets()), sdktest.Settings(s), sdktest.Refused(&refused))
		if refused == nil || strings.Contains(refused.Error(), "s3cret") {
			t.Errorf("%v: got %v, want it refused", s, refused)
		}
	}
}
