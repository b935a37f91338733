package command_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/command"
	"github.com/plugboard/plugboard/sdk/fault"
)

func TestDispatchNormalisesParams(t *testing.T) {
	d := newDispatcher(t, command.Options{})
	publish(t, d, echo, core.Command{Name: "echo"})
	for _, params := range []string{"", "null", " null\n", "{}"} {
		got, _, err := d.Dispatch(t.Context(), callOf("echo", params), nil)
		if err != nil || string(got) != "{}" {
			t.Errorf("params %q: got %s, %v, want {}", params, got, err)
		}
	}
	signed := `{ "text" : "<a>" }`
	if got, _, err := d.Dispatch(t.Context(), callOf("echo", signed), nil); err != nil || string(got) != signed {
		t.Errorf("got %s, %v, want the very bytes %s", got, err, signed)
	}
}

func TestInvalidParamsNameEveryPlace(t *testing.T) {
	d := newDispatcher(t, command.Options{})
	publish(t, d, echo, core.Command{Name: "echo", ParamsSchema: []byte(textSchema)})
	_, _, err := d.Dispatch(t.Context(), callOf("echo", `{"count":1.5,"tags":["a",2],"where":{"a/b~c":3},"extra":true}`), nil)
	f := wantCode(t, err, fault.InvalidParams)
	var got []fault.Violation
	if err := json.Unmarshal(f.Details, &got); err != nil {
		t.Fatalf("read details %s: %v", f.Details, err)
	}
	want := []fault.Violation{
		{Pointer: "/count", Message: "must be integer, not number"},
		{Pointer: "/extra", Message: "is not a parameter of this command"},
		{Pointer: "/tags/1", Message: "must be string, not number"},
		{Pointer: "/text", Message: "is missing"},
		{Pointer: "/where/a~1b~0c", Message: "must be boolean, not number"},
		{Pointer: "/where/lat", Message: "is missing"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("details (-want +got):\n%s", diff)
	}
	many := `{"text":"a"`
	for i := range 50 {
		many += fmt.Sprintf(`,"x%d":1`, i)
	}
	_, _, err = d.Dispatch(t.Context(), callOf("echo", many+"}"), nil)
	if err := json.Unmarshal(wantCode(t, err, fault.InvalidParams).Details, &got); err != nil || len(got) != 20 {
		t.Errorf("got %d details, %v, want 20", len(got), err)
	}
}

func TestParamsThatAreNoStrictObject(t *testing.T) {
	d := newDispatcher(t, command.Options{})
	invoked := 0
	publish(t, d, invokerFunc(func(context.Context, *core.Call, func(core.Progress)) ([]byte, error) {
		invoked++
		return []byte("1"), nil
	}),
		core.Command{Name: "echo", ParamsSchema: []byte(`{}`)})
	for _, params := range []string{
		`[]`, `"a"`, `{"a":1,"a":2}`, `{"a":}`, `{} {}`, "{\"a\":\"\xff\"}", `{"a":1e999999999}`, `{"a":1e-999999999}`,
		`{"a":` + strings.Repeat("9", 600) + `}`, strings.Repeat(`{"a":`, 70) + "1" + strings.Repeat("}", 70),
		`{"a":[` + strings.Repeat("1,", 10_001) + `1]}`,
	} {
		_, _, err := d.Dispatch(t.Context(), callOf("echo", params), nil)
		f := wantCode(t, err, fault.InvalidParams)
		if len(f.Message) > 500 || f.Details == nil {
			t.Errorf("params %.40q: got message %q, details %s", params, f.Message, f.Details)
		}
	}
	if invoked != 0 {
		t.Errorf("the plugin was invoked %d times", invoked)
	}
}

func FuzzValidateParams(f *testing.F) {
	for _, seed := range []string{
		``, `null`, `{}`, `[]`, `{"text":"hi"}`, `{"text":"","count":1e400,"tags":[1,[2]],"where":{"a/b~c":null}}`, `{"text":1,"text":2}`,
		`{"a":1e999999}`, "{\"\xff\":1}", `{"text":"\ud800"}`, strings.Repeat(`{"where":`, 100), `{"n":5,"u":[1,1.0,10e-1]}`,
	} {
		f.Add([]byte(seed))
	}
	d := newDispatcher(f, command.Options{})
	publish(f, d, echo, core.Command{Name: "echo", ParamsSchema: []byte(textSchema)},
		core.Command{Name: "sums", ParamsSchema: []byte(`{"type":"object","properties":{"n":{"multipleOf":0.01,"maximum":1e10},"u":{"uniqueItems":true}}}`)})
	f.Fuzz(func(t *testing.T, params []byte) {
		for _, name := range []string{"echo", "sums"} {
			got, _, err := d.Dispatch(context.Background(), callOf(name, string(params)), nil)
			if err != nil {
				if code := fault.CodeOf(err); code != fault.InvalidParams && code != fault.TooLarge {
					t.Fatalf("%s: got %v, want invalid_params", name, err)
				}
				continue
			}
			var object map[string]any
			if err := json.Unmarshal(got, &object); err != nil {
				t.Fatalf("%s: params %q passed and are no object: %v", name, got, err)
			}
		}
	})
}
