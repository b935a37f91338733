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
	direct    *prometheus.CounterVec
	broadcast *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		direct: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plugboard_direct_messages_total", Help: "Direct messages by outcome.",
		}, []string{"outcome"}),
		broadcast: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plugboard_broadcast_frames_total", Help: "Broadcast frames by connection: queued, or dropped because its queue was full.",
		}, []string{"outcome"}),
	}
	if r != nil {
		r.MustRegister(m.direct, m.broadcast)
	}
	return m
}
