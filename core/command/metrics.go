package command

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Reasons for which lines of the command log are dropped.
const (
	dropFull  = "queue_full"
	dropStore = "store_failed"
)

// metrics of the dispatcher. Label values come from the catalogue and the closed
// set of codes, never from a request.
type metrics struct {
	calls      *prometheus.CounterVec
	unknown    prometheus.Counter
	duration   *prometheus.HistogramVec
	inFlight   *prometheus.GaugeVec
	logDropped *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plugboard_command_calls_total", Help: "Calls by command and outcome (ok or a fault code).",
		}, []string{"command", "outcome"}),
		unknown: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "plugboard_command_unknown_total", Help: "Calls of commands that do not exist, or not for the caller.",
		}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "plugboard_command_duration_seconds", Help: "Time from dispatch to outcome.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"command"}),
		inFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "plugboard_command_in_flight", Help: "Calls that a plugin is working on or that wait for it.",
		}, []string{"plugin"}),
		logDropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plugboard_command_log_dropped_total", Help: "Lines of the command log that were lost, by reason.",
		}, []string{"reason"}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.calls, m.unknown, m.duration, m.inFlight, m.logDropped} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
