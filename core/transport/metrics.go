package transport

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// Why frames were dropped: a closed set.
const (
	dropSlowConsumer = "slow_consumer"
	dropWriteFailed  = "write_failed"
	dropPeerGone     = "peer_gone"
)

// closeVanished labels connections that ended without a close frame.
const closeVanished = "vanished"

type metrics struct {
	connections   prometheus.Gauge
	refused       prometheus.Counter
	closed        *prometheus.CounterVec
	droppedFrames *prometheus.CounterVec
	httpFaults    *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		connections: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "plugboard_connections", Help: "WebSocket connections that are open.",
		}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "plugboard_connections_refused_total", Help: "WebSocket handshakes refused because a connection cap was reached.",
		}),
		closed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plugboard_connections_closed_total", Help: "Connections that ended, by close code; vanished is without one.",
		}, []string{"code"}),
		droppedFrames: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plugboard_dropped_frames_total", Help: "Frames dropped from a connection's queue as it ended, by reason. Stored messages among them come again.",
		}, []string{"reason"}),
		httpFaults: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plugboard_http_faults_total", Help: "HTTP requests answered with a problem document, by code.",
		}, []string{"code"}),
	}
	if r != nil {
		r.MustRegister(m.connections, m.refused, m.closed, m.droppedFrames, m.httpFaults)
	}
	return m
}

// closeLabel is a close code of the protocol, or "other": peers choose theirs
// freely and must not choose our labels.
func closeLabel(code int) string {
	switch code {
	case 1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 4001, 4002:
		return strconv.Itoa(code)
	}
	return "other"
}
