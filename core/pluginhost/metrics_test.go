package pluginhost_test

import (
	"testing"
)

// metric is the value of a metric of a plugin; detail is its other label's value,
// or "".
func (w *world) metric(name, plugin, detail string) float64 {
	w.t.Helper()
	families, err := w.registry.Gather()
	if err != nil {
		w.t.Fatalf("gather metrics: %v", err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			found := labels["plugin"] == plugin
			delete(labels, "plugin")
			for _, value := range labels {
				found = found && value == detail
			}
			if found {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

func (w *world) wantMetric(name, plugin, detail string, want float64) {
	w.t.Helper()
	if got := w.metric(name, plugin, detail); got != want {
		w.t.Errorf("metric %s of %s %s: got %v, want %v", name, plugin, detail, got, want)
	}
}

func TestStatesAreMetrics(t *testing.T) {
	w := newWorld(t, "good", "exits").start(nil)
	w.wantMetric("plugboard_plugin_up", "good", "", 1)
	w.wantMetric("plugboard_plugin_up", "exits", "", 0)
	w.wantMetric("plugboard_plugin_starts_total", "good", "ok", 1)
}
