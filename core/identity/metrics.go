package identity

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/plugboard/plugboard/sdk/fault"
)

// operation labels what was asked: a closed set.
type operation string

const (
	opRegister operation = "register"
	opSignIn   operation = "sign_in"
	opToken    operation = "token"
	opLogout   operation = "logout"
	opPublish  operation = "publish_key"
)

// Outcomes beside the closed codes of package fault.
const (
	outcomeOK       = "ok"
	outcomeRepeated = "repeated"
)

type metrics struct {
	outcomes   *prometheus.CounterVec
	registerer prometheus.Registerer
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plugboard_auth_total",
			Help: "Registrations, sign-ins, token checks, logouts and key uploads, by outcome: ok, repeated, or the code of the refusal.",
		}, []string{"operation", "outcome"}),
		registerer: r,
	}
	if r == nil {
		return m, nil
	}
	return m, r.Register(m.outcomes)
}

func (m *metrics) unregister() {
	if m.registerer != nil {
		m.registerer.Unregister(m.outcomes)
	}
}

func (m *metrics) count(op operation, outcome string) {
	m.outcomes.WithLabelValues(string(op), outcome).Inc()
}

func outcome(err error) string {
	if err == nil {
		return outcomeOK
	}
	return string(fault.CodeOf(err))
}
