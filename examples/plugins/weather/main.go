// Command weather is an example plugin that asks a service on the network: the
// address, a key and the patience are settings, the answer is bounded, and the
// service's own limits reach the caller.
//
//	plugins:
//	  grants:   {weather: [net]}
//	  settings: {weather: {timeout: 3s}}
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/plugboard/plugboard/sdk"
)

// maxAnswer bounds what is read of the service's answer.
const maxAnswer = 1 << 20

// Settings are the operator's. The presets use a public service without a key.
type Settings struct {
	BaseURL string        `json:"base_url" jsonschema:"where the service is"`
	APIKey  string        `json:"api_key,omitempty" jsonschema:"sent as a bearer token where it is set; secret"`
	Timeout time.Duration `json:"timeout" jsonschema:"how long to wait for the service"`
}

// Validate is asked before the first call.
func (s *Settings) Validate() error {
	u, err := url.Parse(s.BaseURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("base_url must be an http or https URL")
	}
	if s.Timeout < 100*time.Millisecond || s.Timeout > time.Minute {
		return fmt.Errorf("timeout is %v, want 100ms to 1m", s.Timeout)
	}
	return nil
}

// Params say where.
type Params struct {
	Latitude  float64 `json:"latitude" jsonschema:"degrees, -90 to 90"`
	Longitude float64 `json:"longitude" jsonschema:"degrees, -180 to 180"`
}

// Result is the weather there now.
type Result struct {
	Temperature float64 `json:"temperature" jsonschema:"degrees Celsius"`
	Wind        float64 `json:"wind" jsonschema:"kilometres per hour"`
}

func plugin(s *Settings) sdk.Plugin {
	return sdk.Plugin{
		Name: "weather", Version: "1.0.0", Summary: "Tells the weather", Settings: s, Needs: []sdk.Capability{sdk.CapabilityNet},
		Commands: []sdk.Command{sdk.Handle("weather", "Tells the weather somewhere now", (&service{settings: s}).weather, sdk.ReadOnly(), sdk.Idempotent())},
	}
}

func presets() *Settings {
	return &Settings{BaseURL: "https://api.open-meteo.com", Timeout: 5 * time.Second}
}

type service struct {
	settings *Settings
	client   http.Client
}

func (s *service) weather(ctx context.Context, call sdk.Call, p Params) (Result, error) {
	switch {
	case p.Latitude < -90 || p.Latitude > 90:
		return Result{}, sdk.InvalidParams("/latitude", "must be -90 to 90")
	case p.Longitude < -180 || p.Longitude > 180:
		return Result{}, sdk.InvalidParams("/longitude", "must be -180 to 180")
	}
	ctx, cancel := context.WithTimeout(ctx, s.settings.Timeout)
	defer cancel()
	query := url.Values{"current": {"temperature_2m,wind_speed_10m"}}
	query.Set("latitude", strconv.FormatFloat(p.Latitude, 'f', -1, 64))
	query.Set("longitude", strconv.FormatFloat(p.Longitude, 'f', -1, 64))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.settings.BaseURL+"/v1/forecast?"+query.Encode(), nil)
	if err != nil {
		return Result{}, fmt.Errorf("make request: %w", err)
	}
	if s.settings.APIKey != "" {
		req.Header.Set("Authorization", "Bearer "+s.settings.APIKey)
	}
	if call.Traceparent != "" {
		req.Header.Set("Traceparent", call.Traceparent)
	}
	res, err := s.client.Do(req)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return Result{}, sdk.Failf("slow", "The weather service did not answer within %v.", s.settings.Timeout)
		}
		call.Log.Warn("Weather service not reached", "error", err) // it names the URL, which holds no key
		return Result{}, sdk.Failf("unreachable", "The weather service cannot be reached.")
	}
	defer func() { _ = res.Body.Close() }()
	switch {
	case res.StatusCode == http.StatusTooManyRequests:
		return Result{}, sdk.RetryAfter(retryAfter(res.Header), "The weather service is asked too often.")
	case res.StatusCode != http.StatusOK:
		call.Log.Warn("Weather service refused", "status", res.StatusCode)
		return Result{}, sdk.Failf("refused", "The weather service answered %d.", res.StatusCode)
	}
	return read(res.Body)
}

func read(body io.Reader) (Result, error) {
	var answer struct {
		Current *struct {
			Temperature float64 `json:"temperature_2m"`
			Wind        float64 `json:"wind_speed_10m"`
		} `json:"current"`
	}
	if err := json.NewDecoder(io.LimitReader(body, maxAnswer)).Decode(&answer); err != nil || answer.Current == nil {
		return Result{}, sdk.Failf("rubbish", "The weather service answered something that is no weather.")
	}
	return Result{Temperature: answer.Current.Temperature, Wind: answer.Current.Wind}, nil
}

// retryAfter is how long the service wants to be left alone, within reason.
func retryAfter(h http.Header) time.Duration {
	seconds, err := strconv.Atoi(h.Get("Retry-After"))
	if err != nil || seconds < 1 || seconds > 3600 {
		return time.Minute
	}
	return time.Duration(seconds) * time.Second
}

func main() { sdk.Serve(plugin(presets())) }
