package sdktest_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/plugboard/plugboard/sdk"
	"github.com/plugboard/plugboard/sdk/sdktest"
)

type alarm struct {
	In   time.Duration `json:"in"`
	Text string        `json:"text"`
}

// reminder is a plugin whose work depends on time: it looks for what is due once a
// minute, and forgets what nobody fetched within a day.
func reminder() sdk.Plugin {
	set := func(ctx context.Context, call sdk.Call, p alarm) (time.Time, error) {
		due := time.Now().Add(p.In)
		_, err := call.Host.KV().Put(ctx, due.UTC().Format(time.RFC3339)+" "+call.Caller.UserID, []byte(p.Text), sdk.TTL(p.In+24*time.Hour))
		return due, err
	}
	work := func(ctx context.Context, b sdk.Background) error {
		tick := time.NewTicker(time.Minute)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
			entries, err := b.Host.KV().List(ctx, "")
			if err != nil {
				return err
			}
			for _, e := range entries {
				if e.Key[:len("2006-01-02T15:04:05Z")] > time.Now().UTC().Format(time.RFC3339) {
					continue
				}
				if err := b.Host.Send(ctx, e.Key[len("2006-01-02T15:04:05Z "):], string(e.Value)); err != nil {
					b.Log.Warn("Reminder not sent", "error", err)
					continue
				}
				if err := b.Host.KV().Delete(ctx, e.Key); err != nil {
					return err
				}
			}
		}
	}
	return sdk.Plugin{
		Name: "remind", Version: "1.0.0", Summary: "Reminds", Needs: []sdk.Capability{sdk.CapabilityKV, sdk.CapabilitySend},
		Commands: []sdk.Command{sdk.Handle("remind", "Sets a reminder", set)}, Background: work,
	}
}

func sent(in *sdktest.Instance) (texts []string) {
	for _, r := range in.Host.Requests() {
		if r.Kind == "send" {
			texts = append(texts, r.UserID+": "+r.Text)
		}
	}
	return texts
}

// TestTheBubbleIsTheClock has three days pass in no time: the plugin, its ticker, its
// calls' deadlines and the host's expiry are all in the bubble.
func TestTheBubbleIsTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := sdktest.Start(t, reminder())
		in.Host.SetUsers(sdk.User{UserID: "alice"})
		if _, err := in.Call(t.Context(), "remind", alarm{In: 90 * time.Minute, Text: "tea"}); err != nil {
			t.Fatal(err)
		}
		if _, err := in.Call(t.Context(), "remind", alarm{In: time.Hour, Text: "lost"}, sdktest.As(sdk.Caller{UserID: "nobody"})); err != nil {
			t.Fatal(err)
		}
		time.Sleep(89 * time.Minute)
		synctest.Wait()
		if got := sent(in); len(got) == 0 || got[0] != "nobody: lost" || got[len(got)-1] == "alice: tea" {
			t.Errorf("after 89 minutes: got %q sent, want only what cannot be delivered", got)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if got := sent(in); got[len(got)-2] != "alice: tea" && got[len(got)-1] != "alice: tea" {
			t.Errorf("after 91 minutes: got %q last, want alice's tea", got[len(got)-1])
		}
		if got := len(in.Host.KV()); got != 1 {
			t.Errorf("got %d reminders left, want the one that cannot be delivered", got)
		}
		time.Sleep(72 * time.Hour)
		if got := len(in.Host.KV()); got != 0 {
			t.Errorf("got %d reminders left after three days, want them expired", got)
		}
	})
}

// TestACallsTimeLimitIsTheBubbles shows that waiting for a deadline takes no time.
func TestACallsTimeLimitIsTheBubbles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := sdktest.Start(t, sdk.Plugin{
			Name: "slow", Version: "1.0.0", Summary: "Waits",
			Commands: []sdk.Command{sdk.Handle("slow", "Waits", func(ctx context.Context, _ sdk.Call, _ struct{}) (struct{}, error) {
				<-ctx.Done()
				return struct{}{}, ctx.Err()
			})},
		})
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if _, err := in.Call(ctx, "slow", nil); err == nil || time.Since(start) != time.Hour {
			t.Errorf("got %v after %s, want an error after 1h", err, time.Since(start))
		}
	})
}
