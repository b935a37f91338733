package router

import "github.com/prometheus/client_golang/prometheus"

// The closed set of outcomes.
const (
	outcomeStored   = "stored"
	outcomeRepeated = "repeated"
	outcomeRefused  = "refused"
	outcomeQueued   = "queued"
	outcomeDropped  = "dropped"
)

type metrics struct {
	direct          *prometheus.CounterVec
	broadcast       *prometheus.CounterVec
	progressDropped prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		direct: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plugboard_direct_messages_total", Help: "Direct messages by outcome.",
		}, []string{"outcome"}),
		broadcast: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plugboard_broadcast_frames_total", Help: "Broadcast frames by connection: queued, or dropped because its queue was full.",
		}, []string{"outcome"}),
		progressDropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "plugboard_progress_dropped_total", Help: "Progress frames dropped because the connection's queue was full.",
		}),
	}
	if r != nil {
		r.MustRegister(m.direct, m.broadcast, m.progressDropped)
	}
	return m
}
