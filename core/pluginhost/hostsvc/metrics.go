package hostsvc

import "github.com/prometheus/client_golang/prometheus"

// Outcomes beside the codes of a HostError.
const (
	outcomeOK      = "ok"
	outcomeQueued  = "queued"
	outcomeDropped = "dropped"
)

// Metrics count what plugins ask for. One serves all plugins of a server.
type Metrics struct {
	requests   *prometheus.CounterVec
	broadcasts *prometheus.CounterVec
}

// NewMetrics makes the metrics and registers them; nil registers them nowhere.
func NewMetrics(r prometheus.Registerer) (*Metrics, error) {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plugboard_plugin_host_requests_total",
			Help: "What plugins asked of the server, by kind and outcome: ok, or the code of the refusal.",
		}, []string{"plugin", "kind", "outcome"}),
		broadcasts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plugboard_plugin_broadcast_frames_total",
			Help: "Frames of plugins' broadcasts, by connection: queued, or dropped because its queue was full.",
		}, []string{"plugin", "outcome"}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.broadcasts} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
