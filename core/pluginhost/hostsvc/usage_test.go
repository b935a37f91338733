package hostsvc_test

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/plugboard/plugboard/core/pluginhost/hostsvc"
	"github.com/plugboard/plugboard/sdk/fault"
	"github.com/plugboard/plugboard/sdk/pluginpb"
)

func sendTo(user, text string) *pluginpb.HostRequest {
	return &pluginpb.HostRequest{Request: &pluginpb.HostRequest_Send{Send: &pluginpb.SendRequest{UserId: user, Text: text}}}
}

func broadcast(text string) *pluginpb.HostRequest {
	return &pluginpb.HostRequest{Request: &pluginpb.HostRequest_Broadcast{Broadcast: &pluginpb.BroadcastRequest{Text: text}}}
}

func countUsers() *pluginpb.HostRequest {
	return &pluginpb.HostRequest{Request: &pluginpb.HostRequest_CountUsers{}}
}

// counted is the value of a counter by its labels, name=value in the order of names.
func counted(t *testing.T, r *prometheus.Registry, name, labels string) float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var got []string
			for _, l := range m.GetLabel() {
				got = append(got, l.GetName()+"="+l.GetValue())
			}
			if f.GetName() == name && strings.Join(got, " ") == labels {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

func TestSendAndBroadcast(t *testing.T) {
	h := &host{}
	r := prometheus.NewRegistry()
	m, err := hostsvc.NewMetrics(r)
	if err != nil {
		t.Fatal(err)
	}
	s := hostsvc.New(hostsvc.Options{Plugin: "weather", Host: h, Grants: []string{"send", "broadcast"}, Usage: hostsvc.NewUsage(hostsvc.UsageOptions{Plugin: "weather", Metrics: m})})
	if reply := s.Handle(t.Context(), sendTo("bob", "rain"), nobody); reply.GetSend().GetMessageId() != "id" || reply.GetSend().GetSeq() != 1 {
		t.Errorf("send: got %v", reply)
	}
	if reply := s.Handle(t.Context(), broadcast("storm"), nobody); reply.GetBroadcast().GetRecipients() != 3 {
		t.Errorf("broadcast: got %v, want 3 recipients", reply)
	}
	if diff := cmp.Diff([]string{"weather bob rain", "weather all storm"}, h.said); diff != "" {
		t.Errorf("said (-want +got):\n%s", diff)
	}
	for name, c := range map[string]struct {
		req  *pluginpb.HostRequest
		want fault.Code
	}{
		"no text":           {sendTo("bob", ""), fault.InvalidRequest},
		"bytes":             {sendTo("bob", "\xff"), fault.InvalidRequest},
		"nobody":            {sendTo("", "x"), fault.UnknownUser},
		"a plugin":          {sendTo("plugin:weather", "x"), fault.UnknownUser},
		"no user id":        {sendTo("Bob\n", "x"), fault.UnknownUser},
		"empty to all":      {broadcast(""), fault.InvalidRequest},
		"bytes to all":      {broadcast("\xc3"), fault.InvalidRequest},
		"nobody, no member": {&pluginpb.HostRequest{Request: &pluginpb.HostRequest_Send{}}, fault.InvalidRequest},
	} {
		if said := wantError(t, s.Handle(t.Context(), c.req, nobody), c.want); said == "" {
			t.Errorf("%s: no sentence", name)
		}
	}
	if len(h.said) != 2 {
		t.Errorf("said after what was refused: got %q", h.said)
	}
	for labels, want := range map[string]float64{
		"kind=send outcome=ok plugin=weather": 1, "kind=broadcast outcome=ok plugin=weather": 1,
		"kind=send outcome=unknown_user plugin=weather": 3, "kind=send outcome=invalid_request plugin=weather": 3,
	} {
		if got := counted(t, r, "plugboard_plugin_host_requests_total", labels); got != want {
			t.Errorf("requests with %s: got %v, want %v", labels, got, want)
		}
	}
	if got := counted(t, r, "plugboard_plugin_broadcast_frames_total", "outcome=dropped plugin=weather"); got != 2 {
		t.Errorf("frames dropped: got %v, want 2", got)
	}
	if _, err := hostsvc.NewMetrics(r); err == nil {
		t.Error("metrics twice in one registry: got no error")
	}
}

func TestRatesOutliveTheProcess(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	r := prometheus.NewRegistry()
	m, err := hostsvc.NewMetrics(r)
	if err != nil {
		t.Fatal(err)
	}
	u := hostsvc.NewUsage(hostsvc.UsageOptions{Plugin: "weather", Metrics: m, Now: func() time.Time { return now }})
	h := &host{}
	next := func() *hostsvc.Service { // of another process of the same plugin
		return hostsvc.New(hostsvc.Options{Plugin: "weather", Host: h, Grants: []string{"send", "broadcast", "users"}, Usage: u})
	}
	drain := func(req *pluginpb.HostRequest, burst int, retry time.Duration) {
		t.Helper()
		for i := range burst {
			if reply := next().Handle(t.Context(), req, nobody); reply.GetError() != nil {
				t.Fatalf("request %d of a burst of %d: got %v", i+1, burst, reply)
			}
		}
		reply := next().Handle(t.Context(), req, nobody)
		wantError(t, reply, fault.RateLimited)
		if got := time.Duration(reply.GetError().GetRetryAfterMs()) * time.Millisecond; got != retry {
			t.Errorf("retry after: got %v, want %v", got, retry)
		}
		now = now.Add(retry)
		if reply := next().Handle(t.Context(), req, nobody); reply.GetError() != nil {
			t.Errorf("after %v: got %v", retry, reply)
		}
	}
	drain(broadcast("x"), 10, 500*time.Millisecond)
	drain(sendTo("bob", "x"), 100, 20*time.Millisecond)
	now = now.Add(time.Minute)
	drain(countUsers(), 2000, time.Millisecond)
	if got := counted(t, r, "plugboard_plugin_host_requests_total", "kind=count_users outcome=rate_limited plugin=weather"); got != 1 {
		t.Errorf("refused requests: got %v, want 1", got)
	}
	// Another plugin has a rate of its own, and one without limits has none.
	free := hostsvc.New(hostsvc.Options{Plugin: "notes", Host: h, Grants: []string{"send"}, Usage: hostsvc.NewUsage(hostsvc.UsageOptions{
		Plugin: "notes", Sends: hostsvc.Rate{PerSecond: -1}, Requests: hostsvc.Rate{PerSecond: -1},
	})})
	for range 3000 {
		if reply := free.Handle(t.Context(), sendTo("bob", "x"), nobody); reply.GetError() != nil {
			t.Fatalf("got %v", reply)
		}
	}
}

func TestWhatIsWantedIsTold(t *testing.T) {
	for _, observe := range []bool{false, true} {
		var log bytes.Buffer
		u := hostsvc.NewUsage(hostsvc.UsageOptions{Plugin: "weather"})
		h := &host{PluginKV: &noStore{}}
		for range 2 { // two processes, one after the other
			s := hostsvc.New(hostsvc.Options{Plugin: "weather", Host: h, Grants: []string{"users"}, Observe: observe, Usage: u, Logger: zerolog.New(&log)})
			for range 3 {
				for _, req := range []*pluginpb.HostRequest{
					sendTo("bob", "secret text"), countUsers(), {Request: &pluginpb.HostRequest_KvPut{KvPut: &pluginpb.KVPutRequest{Key: "a"}}},
				} {
					refused := s.Handle(t.Context(), req, nobody).GetError().GetCode() == string(fault.Forbidden)
					if want := !observe && !isCount(req); refused != want {
						t.Errorf("observe %v, %v: got refused %v, want %v", observe, req, refused, want)
					}
				}
			}
		}
		if diff := cmp.Diff([]string{"kv", "send"}, u.Wanted()); diff != "" {
			t.Errorf("wanted (-want +got):\n%s", diff)
		}
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		if len(lines) != 2 || !strings.Contains(lines[0], `"config":"plugins.grants.weather: [users, send]"`) ||
			!strings.Contains(lines[1], `"config":"plugins.grants.weather: [users, kv, send]"`) || !strings.Contains(lines[1], `"level":"warn"`) {
			t.Errorf("observe %v: got the log\n%s", observe, log.String())
		}
		if strings.Contains(log.String(), "secret") {
			t.Errorf("the log tells the text:\n%s", log.String())
		}
		if n := len(h.said); (n > 0) != observe {
			t.Errorf("observe %v: got %d messages sent", observe, n)
		}
	}
}

func isCount(req *pluginpb.HostRequest) bool {
	_, ok := req.GetRequest().(*pluginpb.HostRequest_CountUsers)
	return ok
}

func TestUsageFromManyGoroutines(t *testing.T) {
	u := hostsvc.NewUsage(hostsvc.UsageOptions{Plugin: "weather"})
	s := hostsvc.New(hostsvc.Options{Plugin: "weather", Host: &host{PluginKV: &noStore{}}, Observe: true, Usage: u})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for _, req := range everyRequest() {
				s.Handle(t.Context(), req, nobody)
				u.Wanted()
			}
		})
	}
	wg.Wait()
	if diff := cmp.Diff([]string{"broadcast", "commands", "kv", "send", "server", "users"}, u.Wanted()); diff != "" {
		t.Errorf("wanted (-want +got):\n%s", diff)
	}
}
