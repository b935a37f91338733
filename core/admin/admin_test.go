package admin_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/plugboard/plugboard/core/admin"
	"github.com/plugboard/plugboard/core/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestServesHealthAndMetricsToItsOwnNamesOnly(t *testing.T) {
	registry := prometheus.NewRegistry()
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "plugboard_test_total", Help: "Test."})
	registry.MustRegister(counter)
	counter.Inc()
	health := telemetry.NewHealth()
	health.AddLive("store", func(context.Context) error { return errors.New("disk gone") })
	a := admin.New(admin.Options{Listen: "127.0.0.1:0", Health: health, Metrics: registry, Logger: zerolog.Nop()})
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := a.Stop(ctx); err != nil {
			t.Error(err)
		}
	}()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for _, c := range []struct {
		path, host string
		status     int
		contains   string
	}{
		{"/metrics", "", 200, "plugboard_test_total 1"},
		{"/healthz", "localhost:9090", 503, `"store":"failing"`},
		{"/readyz", "", 503, `"serving":"failing"`},
		{"/metrics", "evil.example", 421, "Host header"},
		{"/debug/pprof/", "", 404, ""},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+a.Addr().String()+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = c.host
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != c.status || !strings.Contains(string(body), c.contains) {
			t.Errorf("%s as %q: got %d %s, want %d with %q", c.path, c.host, res.StatusCode, body, c.status, c.contains)
		}
	}
}
