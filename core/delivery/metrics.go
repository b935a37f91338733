package delivery

import "github.com/prometheus/client_golang/prometheus"

const (
	outcomeQueued  = "queued"
	outcomeDropped = "dropped"
)

type metrics struct {
	delivered    prometheus.Counter
	deferred     prometheus.Counter
	readFailures prometheus.Counter
	receipts     *prometheus.CounterVec
	latency      prometheus.Histogram
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		delivered: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "plugboard_delivered_frames_total", Help: "Stored messages queued on a connection.",
		}),
		deferred: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "plugboard_deferred_frames_total", Help: "Times that a stored message found a connection's queue full and stayed in the store.",
		}),
		readFailures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "plugboard_delivery_read_failures_total", Help: "Reads of a mailbox that failed and are tried again.",
		}),
		receipts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plugboard_receipt_frames_total", Help: "Receipts by connection of the sender: queued, or dropped because its queue was full.",
		}, []string{"outcome"}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "plugboard_delivery_seconds", Help: "Time from the commit of a message to its place in a connection's queue.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 10),
		}),
	}
	if r != nil {
		r.MustRegister(m.delivered, m.deferred, m.readFailures, m.receipts, m.latency)
	}
	return m
}
