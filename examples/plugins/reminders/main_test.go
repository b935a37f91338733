package main

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/plugboard/plugboard/sdk"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/sdktest"
)

func sent(in *sdktest.Instance) (texts []string) {
	for _, r := range in.Host.Requests() {
		if r.Kind == "send" {
			texts = append(texts, r.UserID+": "+r.Text)
		}
	}
	return texts
}

func addOne(t *testing.T, in *sdktest.Instance, user, text string, later time.Duration) Reminder {
	t.Helper()
	raw, err := in.Call(t.Context(), "reminders.add", Add{Text: text, In: later}, sdktest.As(sdk.Caller{UserID: user}))
	var r Reminder
	if err == nil {
		err = json.Unmarshal(raw, &r)
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func listOf(t *testing.T, in *sdktest.Instance, user string) string {
	t.Helper()
	raw, err := in.Call(t.Context(), "reminders", struct{}{}, sdktest.As(sdk.Caller{UserID: user}))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// Hours pass in the bubble of synctest: nothing waits.
func TestRemindersComeWhenTheyAreDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := sdktest.Start(t, plugin())
		in.Host.SetUsers(sdk.User{UserID: "alice"}, sdk.User{UserID: "bob"})
		addOne(t, in, "alice", "tea", 4*time.Minute)
		addOne(t, in, "alice", "bread", 4*time.Minute)
		late := addOne(t, in, "bob", "meeting", time.Hour)
		addOne(t, in, "ghost", "boo", time.Minute)
		time.Sleep(4*time.Minute - time.Second)
		synctest.Wait()
		if got := sent(in); len(got) != 1 || got[0] != "ghost: Reminder: boo" {
			t.Errorf("too early: %q", got)
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if got := sent(in); len(got) != 3 || got[1] != "alice: Reminder: tea" || got[2] != "alice: Reminder: bread" {
			t.Errorf("got %q, want alice's two", got)
		}
		if got := listOf(t, in, "alice"); got != `{"reminders":[]}` {
			t.Errorf("alice still has %s", got)
		}
		if got := listOf(t, in, "bob"); !strings.Contains(got, late.ID) {
			t.Errorf("bob has %s, want the meeting", got)
		}
		if _, err := in.Call(t.Context(), "reminders.remove", Remove{ID: late.ID}, sdktest.As(sdk.Caller{UserID: "alice"})); err != nil {
			t.Error(err) // another's reminder is simply not there
		}
		if got := listOf(t, in, "bob"); !strings.Contains(got, late.ID) {
			t.Errorf("alice removed bob's reminder: %s", got)
		}
		if _, err := in.Call(t.Context(), "reminders.remove", Remove{ID: late.ID}, sdktest.As(sdk.Caller{UserID: "bob"})); err != nil {
			t.Error(err)
		}
		time.Sleep(90 * time.Minute)
		synctest.Wait()
		if got := sent(in); len(got) != 3 {
			t.Errorf("got %q, want nothing after the removal", got)
		}
	})
}

func TestAFullMailboxIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := sdktest.Start(t, plugin())
		in.Host.SetUsers(sdk.User{UserID: "alice"})
		in.Host.Refuse("send", "mailbox_full", "full")
		addOne(t, in, "alice", "tea", time.Minute)
		time.Sleep(2 * time.Minute)
		if got := listOf(t, in, "alice"); !strings.Contains(got, "tea") {
			t.Errorf("the reminder is lost: %s", got)
		}
		in.Host.Refuse("send", "", "")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := listOf(t, in, "alice"); got != `{"reminders":[]}` {
			t.Errorf("got %s, want it sent", got)
		}
	})
}

func TestBounds(t *testing.T) {
	in := sdktest.Start(t, plugin())
	for _, p := range []Add{{Text: " ", In: time.Hour}, {Text: "x", In: 0}, {Text: "x", In: 2 * furthest}, {Text: strings.Repeat("x", 1001), In: time.Hour}} {
		if _, err := in.Call(t.Context(), "reminders.add", p); fault.CodeOf(err) != fault.InvalidParams {
			t.Errorf("%.20v: got %v, want invalid_params", p, err)
		}
	}
	for range perUser {
		addOne(t, in, "alice", "x", time.Hour)
	}
	if _, err := in.Call(t.Context(), "reminders.add", Add{Text: "x", In: time.Hour}, sdktest.As(sdk.Caller{UserID: "alice"})); fault.CodeOf(err) != fault.CommandFailed {
		t.Errorf("one too many: got %v", err)
	}
}
