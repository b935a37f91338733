package pipeline

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	accepted *prometheus.CounterVec
	refused  *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		accepted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plugboard_frames_accepted_total", Help: "Client frames that passed the pipeline, by type.",
		}, []string{"type"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plugboard_frames_refused_total", Help: "Client frames that were answered with an error, by code.",
		}, []string{"code"}),
	}
	if r != nil {
		r.MustRegister(m.accepted, m.refused)
	}
	return m
}
