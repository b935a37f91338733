package sdk_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plugboard/plugboard/sdk"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/sdktest"
)

type everything struct {
	Text  string            `json:"text" jsonschema:"some words"`
	Maybe int               `json:"maybe,omitempty"`
	List  []string          `json:"list"`
	Bytes []byte            `json:"bytes"`
	At    time.Time         `json:"at"`
	For   time.Duration     `json:"for"`
	Addr  netip.Addr        `json:"addr"`
	Raw   json.RawMessage   `json:"raw"`
	Map   map[string]bool   `json:"map"`
	Deep  struct{ N uint8 } `json:"deep"`
}

func TestSchemasComeFromTheTypes(t *testing.T) {
	in := sdktest.Start(t, probe(sdk.Handle("probe", "Takes everything", func(_ context.Context, _ sdk.Call, p everything) (everything, error) {
		return p, nil
	}, sdk.ReadOnly(), sdk.Idempotent(), sdk.Destructive(), sdk.Timeout(time.Second), sdk.Describe("*Long*."))))
	c := in.Description.GetCommands()[0]
	var got any
	if err := json.Unmarshal(c.GetParamsSchema(), &got); err != nil {
		t.Fatal(err)
	}
	duration := got.(map[string]any)["properties"].(map[string]any)["for"].(map[string]any)
	delete(duration, "pattern")
	wantJSON := `{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object","additionalProperties":false,
		"required":["text","list","bytes","at","for","addr","raw","map","deep"],
		"properties":{"text":{"type":"string","description":"some words"},"maybe":{"type":"integer"},
		"list":{"type":"array","items":{"type":"string"}},"bytes":{"type":"string","contentEncoding":"base64"},
		"at":{"type":"string","format":"date-time"},"for":{"type":"string"},"addr":{"type":"string"},"raw":true,
		"map":{"type":"object","additionalProperties":{"type":"boolean"}},
		"deep":{"type":"object","additionalProperties":false,"required":["N"],"properties":{"N":{"type":"integer","minimum":0,"maximum":255}}}}}`
	var wanted any
	if err := json.Unmarshal([]byte(wantJSON), &wanted); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(wanted, got); d != "" {
		t.Errorf("schema (-want +got): %s", d)
	}
	if !c.GetReadOnly() || !c.GetIdempotent() || !c.GetDestructive() || c.GetStreaming() || c.GetTimeoutMs() != 1000 || c.GetDescription() != "*Long*." {
		t.Errorf("options: got %v", c)
	}
	params := `{"text":"x","list":[],"bytes":"AAE=","at":"2026-01-31T12:00:00.000Z","for":"1m30s","addr":"192.0.2.1","raw":{"any":[1]},"map":{"a":true},"deep":{"N":255}}`
	raw, err := in.Call(t.Context(), "probe", params)
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Replace(params, `"x",`, `"x","maybe":0,`, 1); string(raw) != want {
		t.Errorf("there and back:\ngot  %s\nwant %s", raw, want)
	}
}

func TestParamsTheSchemaCannotRefuse(t *testing.T) {
	in := sdktest.Start(t, probe(sdk.Handle("probe", "Takes everything", func(_ context.Context, _ sdk.Call, p everything) (everything, error) { return p, nil })))
	const rest = `"text":"x","list":[],"bytes":"","raw":1,"map":{},"deep":{"N":1}`
	for _, tt := range []struct{ params, pointer string }{
		{`{` + rest + `,"at":"yesterday","for":"1s","addr":"192.0.2.1"}`, "/at"},
		{`{` + rest + `,"at":"2026-01-31T12:00:00Z","for":"99999999999999h","addr":"192.0.2.1"}`, "/for"},
		{`{` + rest + `,"at":"2026-01-31T12:00:00Z","for":"1s","addr":"here"}`, "/addr"},
	} {
		_, err := in.Call(t.Context(), "probe", tt.params)
		var got *fault.Error
		if !errors.As(err, &got) || got.Code != fault.InvalidParams {
			t.Errorf("%s: got %v, want invalid_params", tt.params, err)
			continue
		}
		var v []fault.Violation
		if err := json.Unmarshal(got.Details, &v); err != nil || len(v) != 1 || v[0].Pointer != tt.pointer {
			t.Errorf("got details %s, want the pointer %s", got.Details, tt.pointer)
		}
		if strings.Contains(got.Message, "Go ") || strings.Contains(got.Message, "sdk_test") {
			t.Errorf("message %q shows internals", got.Message)
		}
	}
}

func TestEveryMistakeOfADescriptionIsNamed(t *testing.T) {
	noop := func(context.Context, sdk.Call, struct{}) (struct{}, error) { return struct{}{}, nil }
	p := sdk.Plugin{
		Name: "Probe", Version: "v1", Needs: []sdk.Capability{"kv", "kv", "root"}, Settings: struct{}{},
		Commands: []sdk.Command{
			sdk.Handle("other", "x", noop),
			sdk.Handle("Probe", "", noop),
			sdk.Handle("Probe.a", "x", func(context.Context, sdk.Call, string) (int, error) { return 0, nil }),
			sdk.Handle("Probe.b", "x", func(context.Context, sdk.Call, struct{}) (chan int, error) { return nil, nil }),
			sdk.Handle("Probe.c", "x", noop, sdk.Example(1, nil)),
			sdk.Handle("Probe.d", "x", noop, sdk.Example(struct{}{}, 2)),
			sdk.Handle("Probe.d", "x", noop),
			sdk.Handle("Probe.e", "x", noop, sdk.Timeout(0)),
			sdk.Handle[struct{}, struct{}]("Probe.f", "x", nil),
			{},
		},
	}
	_, err := sdk.NewServer(p)
	if err == nil {
		t.Fatal("got nil")
	}
	for _, part := range []string{
		`name "Probe"`, `version "v1"`, "summary", `"kv": stands there twice`, `need "root"`, "settings are a struct",
		`command "other": want the name`, `command "Probe": want a summary`, "its params are a string", "chan int",
		"params of example 1", "result of example 1", `command "Probe.d": there are two`, "timeout is 0s", "the function is nil", `command ""`,
	} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is missing in:\n%v", part, err)
		}
	}
}

type limits struct {
	Key     string        `json:"key" jsonschema:"the API key"`
	Retries int           `json:"retries"`
	Wait    time.Duration `json:"wait"`
	Zone    string        `json:"zone,omitempty"`
}

func (l *limits) Validate() error {
	if l.Retries > 10 {
		return errors.New("retries must be at most 10")
	}
	if l.Zone == "panic" {
		panic("zone")
	}
	return nil
}

func configured() (sdk.Plugin, *limits) {
	s := &limits{Retries: 3, Wait: time.Second}
	p := probe(sdk.Handle("probe", "Tells its settings", func(context.Context, sdk.Call, struct{}) (limits, error) { return *s, nil }))
	p.Settings = s
	return p, s
}

func TestSettings(t *testing.T) {
	p, _ := configured()
	in := sdktest.Start(t, p, sdktest.Settings(`{"key":"k","wait":"250ms"}`))
	got, err := in.Call(t.Context(), "probe", nil)
	if want := `{"key":"k","retries":3,"wait":"250ms"}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
	schema := string(in.Description.GetSettingsSchema())
	for _, part := range []string{`"required":["key"]`, `"default":3`, `"default":"1s"`, `"the API key"`} {
		if !strings.Contains(schema, part) {
			t.Errorf("%s is missing in %s", part, schema)
		}
	}
}

func TestSettingsAreRefusedWithTheReason(t *testing.T) {
	for _, tt := range []struct{ settings, want string }{
		{`{}`, "key"},
		{`{"key":1}`, "/key"},
		{`{"key":"k","colour":"red"}`, "/colour is not a known member"},
		{`{"key":"k","wait":"long"}`, "/wait must be a duration"},
		{`{"key":"k","retries":11}`, "retries must be at most 10"},
		{`{"key":"k","zone":"panic"}`, "panicked"},
		{`{"key":`, "not valid JSON"},
	} {
		p, _ := configured()
		var err error
		in := sdktest.Start(t, p, sdktest.Settings(tt.settings), sdktest.Refused(&err))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("settings %s: got %v, want it to say %q", tt.settings, err, tt.want)
		}
		if err := in.Stop(); err != nil {
			t.Errorf("end of the session: got %v, want clean", err)
		}
	}
	var err error
	sdktest.Start(t, failing(nil), sdktest.Settings(`{"a":1}`), sdktest.Refused(&err))
	if err == nil || !strings.Contains(err.Error(), "takes none") {
		t.Errorf("settings for a plugin without: got %v", err)
	}
}
