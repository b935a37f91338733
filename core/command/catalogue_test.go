package command_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plugboard/plugboard/core"
	"github.com/plugboard/plugboard/core/command"
	"github.com/plugboard/plugboard/sdk/fault"
)

func TestPublishChecksNames(t *testing.T) {
	for name, c := range map[string]core.Command{
		"another plugin's name":    {Name: "other", Plugin: "weather"},
		"another plugin's command": {Name: "other.now", Plugin: "weather"},
		"a bad second part":        {Name: "weather.Now", Plugin: "weather"},
		"three parts":              {Name: "weather.now.here", Plugin: "weather"},
		"a prefix only":            {Name: "weatherman", Plugin: "weather"},
		"another owner":            {Name: "weather.now", Plugin: "other"},
	} {
		d := newDispatcher(t, command.Options{})
		if err := d.Catalogue().Publish("weather", []core.Command{c}, echo); err == nil {
			t.Errorf("%s: %q was published", name, c.Name)
		}
		if got := names(d, core.RoleUser); len(got) != 0 {
			t.Errorf("%s: catalogue has %v, want nothing", name, got)
		}
	}
	d := newDispatcher(t, command.Options{})
	twice := []core.Command{{Name: "weather", Plugin: "weather"}, {Name: "weather", Plugin: "weather"}}
	if err := d.Catalogue().Publish("weather", twice, echo); err == nil {
		t.Error("a name that stands twice was published")
	}
}

func TestPublishChecksSchemas(t *testing.T) {
	for name, schema := range map[string]string{
		"not JSON":           `{`,
		"not an object":      `[]`,
		"a wrong type":       `{"type":"strnig"}`,
		"a file":             `{"$ref":"file:///etc/passwd"}`,
		"a page":             `{"$ref":"https://example.com/schema.json"}`,
		"a relative place":   `{"$ref":"other.json"}`,
		"an older draft":     `{"$schema":"http://json-schema.org/draft-07/schema#","type":"object"}`,
		"a bad pattern":      `{"type":"object","properties":{"a":{"pattern":"("}}}`,
		"duplicate members":  `{"type":"object","type":"array"}`,
		"an absurd exponent": `{"type":"object","properties":{"a":{"maximum":1e999999}}}`,
	} {
		for _, member := range []string{"params", "result"} {
			d := newDispatcher(t, command.Options{OnChange: func() { t.Errorf("%s: announced", name) }})
			c := core.Command{Name: "weather", Plugin: "weather"}
			if member == "params" {
				c.ParamsSchema = []byte(schema)
			} else {
				c.ResultSchema = []byte(schema)
			}
			err := d.Catalogue().Publish("weather", []core.Command{c}, echo)
			if err == nil || !strings.Contains(err.Error(), member+" schema of command \"weather\"") {
				t.Errorf("%s as %s schema: got %v, want a refusal that names it", name, member, err)
			}
		}
	}
}

func TestCatalogueAnnouncesOnlyChanges(t *testing.T) {
	changes := 0
	d := newDispatcher(t, command.Options{OnChange: func() { changes++ }})
	step := func(want int, what string, do func()) {
		t.Helper()
		do()
		if changes != want {
			t.Fatalf("%s: got %d changes, want %d", what, changes, want)
		}
	}
	now := core.Command{Name: "weather.now", Plugin: "weather", Summary: "Now", ParamsSchema: []byte(textSchema)}
	next := now
	next.Summary = "What it is like now"
	step(1, "publish", func() { publish(t, d, echo, now) })
	step(1, "publish the same again", func() { publish(t, d, echo, now) })
	step(2, "publish with other words", func() { publish(t, d, echo, next) })
	step(2, "withdraw an unknown plugin", func() { d.Catalogue().Withdraw("other") })
	step(3, "withdraw", func() { d.Catalogue().Withdraw("weather") })
	step(3, "withdraw again", func() { d.Catalogue().Withdraw("weather") })
}

func TestListAndFindShowOnlyWhatMayBeRun(t *testing.T) {
	off := false
	d := newDispatcher(t, command.Options{Access: map[string]command.Policy{
		"admin":        {Roles: []string{core.RoleAdmin}},
		"admin.status": {RequireSignature: true},
		"broken":       {Enabled: &off},
	}})
	publish(t, d, echo, core.Command{Name: "ping"}, core.Command{Name: "admin"}, core.Command{Name: "admin.status"}, core.Command{Name: "broken"},
		core.Command{Name: "alpha.one", ParamsSchema: []byte(textSchema)})
	if diff := cmp.Diff([]string{"alpha.one", "ping"}, names(d, core.RoleUser)); diff != "" {
		t.Errorf("list of a user (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"admin", "admin.status", "alpha.one", "ping"}, names(d, core.RoleUser, core.RoleAdmin)); diff != "" {
		t.Errorf("list of an admin (-want +got):\n%s", diff)
	}
	user, admin := core.Caller{Roles: []string{core.RoleUser}}, core.Caller{Roles: []string{core.RoleAdmin}}
	if _, ok := d.Find(user, "admin.status"); ok {
		t.Error("a user found an admin's command")
	}
	info, ok := d.Find(admin, "admin.status")
	if !ok || !info.SignatureRequired {
		t.Errorf("got %+v, %v, want a command that requires a signature", info, ok)
	}
	if info, _ := d.Find(user, "ping"); string(info.Params) != `{"type":"object"}` {
		t.Errorf("got params schema %s, want that of any object", info.Params)
	}
}

func TestDispatchHidesWhatMayNotBeRun(t *testing.T) {
	off := false
	d := newDispatcher(t, command.Options{Access: map[string]command.Policy{"admin": {Roles: []string{core.RoleAdmin}}, "broken": {Enabled: &off}}})
	publish(t, d, echo, core.Command{Name: "admin"}, core.Command{Name: "broken"})
	said := map[string]bool{}
	for _, name := range []string{"admin", "broken", "absent"} {
		_, _, err := d.Dispatch(t.Context(), callOf(name, "{}"), nil)
		f := wantCode(t, err, fault.UnknownCommand)
		said[strings.ReplaceAll(f.Message, name, "X")] = true
	}
	if len(said) != 1 {
		t.Errorf("got %d wordings, want one for every cause: %v", len(said), said)
	}
}

func TestNewRefusesBadPolicy(t *testing.T) {
	_, err := command.New(command.Options{Log: &memoryLog{}, Access: map[string]command.Policy{"Bad Name": {}, "a": {Rate: -1}, "b": {Timeout: -1}}})
	for _, part := range []string{`"Bad Name"`, `rate of "a"`, `timeout of "b"`} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("got %v, want it to name %s", err, part)
		}
	}
}

func TestDispatchWhilePublishing(t *testing.T) {
	d := newDispatcher(t, command.Options{})
	publish(t, d, echo, core.Command{Name: "echo"})
	var stop atomic.Bool
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for !stop.Load() {
				if _, _, err := d.Dispatch(context.Background(), callOf("echo", ""), nil); err != nil {
					t.Errorf("dispatch: %v", err)
					return
				}
				d.List(core.Caller{})
			}
		})
	}
	for i := range 200 {
		publish(t, d, echo, core.Command{Name: "echo", Summary: fmt.Sprint(i)})
		d.Catalogue().Withdraw("other")
	}
	stop.Store(true)
	wg.Wait()
}
