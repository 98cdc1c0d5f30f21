package gateway

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// Metrics are what the gateway counts. Make them with NewMetrics.
type Metrics struct {
	Connections prometheus.Gauge       // authenticated or on the way there
	Running     prometheus.GaugeFunc   // calls in the engine
	Queued      prometheus.GaugeFunc   // calls that wait for the engine
	Calls       *prometheus.CounterVec // by verb and code; code "ok" for success
	Seconds     *prometheus.HistogramVec
	Pending     prometheus.Counter     // calls answered "not yet" at least once
	Stalled     prometheus.Counter     // calls that ignored their cancellation
	Refused     *prometheus.CounterVec // connections that were turned away, by reason
	Panics      prometheus.Counter

	// Children by verb, so that the hot path looks nothing up.
	okCalls [128]prometheus.Counter
	seconds [128]prometheus.Observer

	gateway atomic.Pointer[Gateway] // whose load Running and Queued show
}

// label is the value of the label verb; "" for what is not counted.
func (v verb) label() string {
	switch v {
	case verbPredict:
		return "predict"
	case verbLabel:
		return "predict_label"
	case verbProba, verbTagProba:
		return "predict_proba"
	case verbJSON, verbTagJSON:
		return "predict_json"
	case verbInfer, verbTagInfer:
		return "infer"
	case verbBatch:
		return "batch"
	case verbNoop:
		return "noop"
	case verbValidateUpload, verbValidateStored:
		return "validate"
	}
	return ""
}

// NewMetrics makes the metrics and registers them with reg, which may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{}
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "rowcast", Subsystem: "gateway", Name: name, Help: help}
	}
	gauge := func(name, help string) prometheus.GaugeOpts {
		return prometheus.GaugeOpts{Namespace: "rowcast", Subsystem: "gateway", Name: name, Help: help}
	}
	m.Connections = prometheus.NewGauge(gauge("connections", "Open connections."))
	m.Running = prometheus.NewGaugeFunc(gauge("calls_running", "Calls that run."), func() float64 {
		running, _ := m.load()
		return float64(running)
	})
	m.Queued = prometheus.NewGaugeFunc(gauge("calls_queued", "Calls that wait to run."), func() float64 {
		_, queued := m.load()
		return float64(queued)
	})
	m.Calls = prometheus.NewCounterVec(counter("calls_total", "Calls answered, by verb and error code (ok: none)."), []string{"verb", "code"})
	m.Seconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: "rowcast", Subsystem: "gateway", Name: "call_seconds", Help: "Time from a call's arrival to its result, by verb.",
		Buckets: []float64{5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 5e-3, .02, .1, .5, 2, 10, 60},
	}, []string{"verb"})
	m.Pending = prometheus.NewCounter(counter("calls_pending_total", "Calls that took so long that the caller was told to ask again."))
	m.Stalled = prometheus.NewCounter(counter("calls_stalled_total", "Calls that ran on for 5 s after they were cancelled."))
	m.Refused = prometheus.NewCounterVec(counter("connections_refused_total", "Connections turned away, by reason."), []string{"reason"})
	m.Panics = prometheus.NewCounter(counter("panics_total", "Calls that ended in a Go panic."))
	for v := range verb(len(m.seconds)) {
		if label := v.label(); label != "" {
			m.okCalls[v] = m.Calls.WithLabelValues(label, "ok")
			m.seconds[v] = m.Seconds.WithLabelValues(label)
		}
	}
	if reg != nil {
		reg.MustRegister(m.Connections, m.Running, m.Queued, m.Calls, m.Seconds, m.Pending, m.Stalled, m.Refused, m.Panics)
	}
	return m
}

func (m *Metrics) load() (running, queued int) {
	if g := m.gateway.Load(); g != nil {
		return g.slots.load()
	}
	return 0, 0
}

// finished counts a call that ended with err after d.
func (m *Metrics) finished(v verb, d time.Duration, err error) {
	if m.seconds[v] == nil {
		return
	}
	m.seconds[v].Observe(d.Seconds())
	if err == nil {
		m.okCalls[v].Inc()
		return
	}
	m.Calls.WithLabelValues(v.label(), string(rowcast.CodeOf(err))).Inc()
}
