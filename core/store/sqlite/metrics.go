package sqlite

import "github.com/prometheus/client_golang/prometheus"

// metrics are what the store tells of itself. Without a registerer they count and
// nobody reads them.
type metrics struct {
	batch  prometheus.Histogram
	commit prometheus.Histogram
	busy   prometheus.Counter
	reruns prometheus.Counter
	wal    prometheus.Gauge

	registerer prometheus.Registerer
	registered []prometheus.Collector
}

func newMetrics(r prometheus.Registerer, depth func() int) (*metrics, error) {
	m := &metrics{
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "plugboard_store_batch_operations",
			Help:    "Operations that shared a transaction.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 9),
		}),
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "plugboard_store_commit_seconds",
			Help:    "Time of a transaction from its beginning until the commit was on the disk.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 15),
		}),
		busy: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "plugboard_store_busy_total",
			Help: "Operations refused because the writer's queue was full.",
		}),
		reruns: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "plugboard_store_batch_reruns_total",
			Help: "Transactions rolled back for one operation's error and run again one by one.",
		}),
		wal: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "plugboard_store_wal_bytes",
			Help: "Size of the write-ahead log at the last checkpoint.",
		}),
		registerer: r,
	}
	if r == nil {
		return m, nil
	}
	waiting := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "plugboard_store_queue_depth",
		Help: "Operations that wait for the writer.",
	}, func() float64 { return float64(depth()) })
	for _, c := range []prometheus.Collector{m.batch, m.commit, m.busy, m.reruns, m.wal, waiting} {
		if err := r.Register(c); err != nil {
			m.unregister()
			return nil, err
		}
		m.registered = append(m.registered, c)
	}
	return m, nil
}

// unregister may be called on nil: a store that did not come to have metrics.
func (m *metrics) unregister() {
	if m == nil {
		return
	}
	for _, c := range m.registered {
		m.registerer.Unregister(c)
	}
	m.registered = nil
}
