package pluginhost

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Reasons for which something to or from a plugin is dropped.
const (
	dropUnknownCall = "unknown_call"    // an answer to a call that is not in flight
	dropUnexpected  = "unexpected"      // a message that makes no sense now
	dropBadProgress = "bad_progress"    // no JSON, or a percentage out of range
	dropQueueFull   = "queue_full"      // a ping, cancellation or drain to a plugin that does not read
	refusedPlaces   = "places_taken"    // max_concurrent and the queue behind it are full
	refusedDown     = "unavailable"     // the plugin is not running and did not come back in time
	refusedClosing  = "shutting_down"   // the server is stopping
	startOK         = "ok"              // outcomes of a start
	startFailed     = "failed"          //
	startRefused    = "refused"         //
	endCrash        = "crashed"         // ends of a generation
	endHung         = "hung"            //
	endStopped      = "stopped"         //
	endKilled       = "killed_at_close" // did not stop in time
)

// metrics of the plugin host, all by plugin. RSS and CPU of the processes are not
// among them.
type metrics struct {
	starts        *prometheus.CounterVec
	ends          *prometheus.CounterVec
	inFlight      *prometheus.GaugeVec
	waiting       *prometheus.GaugeVec
	refused       *prometheus.CounterVec
	dropped       *prometheus.CounterVec
	outputDropped *prometheus.CounterVec
	up            *prometheus.GaugeVec
	replaced      *prometheus.CounterVec
	replayed      *prometheus.CounterVec
	rollbacks     *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "plugboard_plugin_" + name, Help: help}, append([]string{"plugin"}, labels...))
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "plugboard_plugin_" + name, Help: help}, []string{"plugin"})
	}
	m := &metrics{
		starts:        counter("starts_total", "Starts of the process, by outcome.", "outcome"),
		ends:          counter("ends_total", "Ends of a process that had been ready, by how.", "how"),
		inFlight:      gauge("in_flight", "Calls that hold one of the plugin's places."),
		waiting:       gauge("waiting", "Calls that wait for a place or for a restart."),
		refused:       counter("refused_total", "Calls that never reached the plugin, by reason.", "reason"),
		dropped:       counter("dropped_total", "Messages dropped on the stream, by reason.", "reason"),
		outputDropped: counter("output_dropped_bytes_total", "Output that came faster than it is logged."),
		up:            gauge("up", "1 while the plugin takes calls."),
		replaced:      counter("replaced_total", "Generations that took the place of a running one."),
		replayed:      counter("replayed_total", "Calls of idempotent commands that were sent again after a crash."),
		rollbacks:     counter("rollbacks_total", "Returns to a former version."),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.starts, m.ends, m.inFlight, m.waiting, m.refused, m.dropped, m.outputDropped, m.up, m.replaced, m.replayed, m.rollbacks} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
