// Command reminders is an example plugin that keeps state and works by itself: it
// writes down what somebody wants to be reminded of, in the server's store, and sends
// it to their mailbox when it is due. Neither a crash of the plugin nor a restart of
// the server loses a reminder.
//
//	plugins:
//	  grants: {reminders: [kv, send]}
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/plugboard/plugboard/sdk"
)

const (
	interval = time.Second          // between two looks at what is due
	furthest = 366 * 24 * time.Hour // a reminder may lie ahead
	perUser  = 50                   // reminders
	keepFor  = 30 * 24 * time.Hour  // after it was due, where the mailbox is full
)

// Reminder is one of them.
type Reminder struct {
	ID   string    `json:"id"`
	Text string    `json:"text"`
	Due  time.Time `json:"due"`
}

// Add are the params of reminders.add.
type Add struct {
	Text string        `json:"text" jsonschema:"what to be reminded of"`
	In   time.Duration `json:"in" jsonschema:"how long from now, such as 90m or 24h"`
}

// Remove are the params of reminders.remove.
type Remove struct {
	ID string `json:"id" jsonschema:"as reminders lists it"`
}

// List is the result of reminders.
type List struct {
	Reminders []Reminder `json:"reminders"`
}

func plugin() sdk.Plugin {
	return sdk.Plugin{
		Name: "reminders", Version: "1.0.0", Summary: "Reminds people by messages to their mailboxes",
		Needs: []sdk.Capability{sdk.CapabilityKV, sdk.CapabilitySend},
		Commands: []sdk.Command{
			sdk.Handle("reminders", "Lists your reminders", list, sdk.ReadOnly(), sdk.Idempotent()),
			sdk.Handle("reminders.add", "Reminds you of something later", add,
				sdk.Example(Add{Text: "Tea is ready", In: 4 * time.Minute}, Reminder{ID: "20261123T101500.000-1", Text: "Tea is ready", Due: time.Date(2026, 11, 23, 10, 15, 0, 0, time.UTC)})),
			sdk.Handle("reminders.remove", "Forgets a reminder", remove, sdk.Destructive(), sdk.Idempotent()),
		},
		Background: deliver,
	}
}

// A reminder lies under "user/USER/ID", to be listed by its owner, and its id begins
// with when it is due, so that ids sort by that.
func prefix(user string) string { return "user/" + user + "/" }

func list(ctx context.Context, call sdk.Call, _ struct{}) (List, error) {
	entries, err := call.Host.KV().List(ctx, prefix(call.Caller.UserID))
	if err != nil {
		return List{}, err
	}
	out := List{Reminders: []Reminder{}}
	for _, e := range entries {
		var r Reminder
		if err := json.Unmarshal(e.Value, &r); err != nil {
			return List{}, fmt.Errorf("read reminder %s: %w", e.Key, err)
		}
		out.Reminders = append(out.Reminders, r)
	}
	return out, nil
}

func add(ctx context.Context, call sdk.Call, p Add) (Reminder, error) {
	text := strings.TrimSpace(p.Text)
	switch {
	case text == "" || len(text) > 1000:
		return Reminder{}, sdk.InvalidParams("/text", "must have 1 to 1000 bytes")
	case p.In < interval || p.In > furthest:
		return Reminder{}, sdk.InvalidParams("/in", "must be 1s to 8784h")
	}
	mine, err := list(ctx, call, struct{}{})
	if err != nil {
		return Reminder{}, err
	}
	if len(mine.Reminders) >= perUser {
		return Reminder{}, sdk.Failf("too_many", "You have %d reminders; remove one first.", perUser)
	}
	r := Reminder{Text: text, Due: time.Now().Add(p.In).UTC().Truncate(time.Millisecond)}
	for n := 1; n <= perUser+1; n++ { // several may be due in one millisecond
		r.ID = fmt.Sprintf("%s-%d", r.Due.Format("20060102T150405.000"), n)
		raw, err := json.Marshal(r)
		if err != nil {
			return Reminder{}, fmt.Errorf("encode reminder: %w", err)
		}
		_, err = call.Host.KV().Put(ctx, prefix(call.Caller.UserID)+r.ID, raw, sdk.IfAbsent(), sdk.TTL(p.In+keepFor))
		if !errors.Is(err, sdk.ErrConflict) {
			return r, err
		}
	}
	return Reminder{}, sdk.Failf("too_many", "Too many reminders are due at that moment.")
}

func remove(ctx context.Context, call sdk.Call, p Remove) (struct{}, error) {
	if p.ID == "" || strings.Contains(p.ID, "/") {
		return struct{}{}, sdk.InvalidParams("/id", "must be an id as reminders lists it")
	}
	return struct{}{}, call.Host.KV().Delete(ctx, prefix(call.Caller.UserID)+p.ID)
}

// deliver sends what is due, until the plugin drains.
func deliver(ctx context.Context, b sdk.Background) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if err := deliverDue(ctx, b); err != nil && ctx.Err() == nil {
			b.Log.Warn("Reminders cannot be delivered at the moment", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func deliverDue(ctx context.Context, b sdk.Background) error {
	entries, err := b.Host.KV().List(ctx, "user/")
	if err != nil {
		return err
	}
	for _, e := range entries {
		_, user, ok := strings.Cut(e.Key, "/")
		user, _, found := strings.Cut(user, "/")
		var r Reminder
		if !ok || !found || json.Unmarshal(e.Value, &r) != nil {
			b.Log.Warn("A key that is no reminder was left alone", "key", e.Key)
			continue
		}
		if time.Now().Before(r.Due) {
			continue
		}
		// First the message, then the deletion: a crash between the two reminds twice
		// rather than never.
		err := b.Host.Send(ctx, user, "Reminder: "+r.Text)
		switch {
		case errors.Is(err, sdk.ErrUnknownUser):
			b.Log.Warn("Reminder of a user who is gone was dropped", "user", user)
		case err != nil:
			return fmt.Errorf("send reminder to %s: %w", user, err)
		}
		if err := b.Host.KV().DeleteIf(ctx, e.Key, e.Revision); err != nil && !errors.Is(err, sdk.ErrConflict) {
			return err
		}
	}
	return nil
}

func main() { sdk.Serve(plugin()) }
