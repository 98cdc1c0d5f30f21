package record

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are what the recorder counts. Make them with NewMetrics.
type Metrics struct {
	Queued   prometheus.GaugeFunc // rows that are not committed
	Written  prometheus.Counter   // rows
	Failures prometheus.Counter   // transactions that had to be tried again
	Waits    prometheus.Counter   // predictions that found the queue full
	Refused  prometheus.Counter   // rows that PostgreSQL refused
	Lost     prometheus.Counter   // rows given up at the end

	recorder atomic.Pointer[Recorder]
}

// NewMetrics makes the metrics and registers them with reg, which may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "rowcast", Subsystem: "record", Name: name, Help: help})
	}
	m.Queued = prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "rowcast", Subsystem: "record", Name: "queued",
		Help: "Logged predictions that are not committed yet."}, func() float64 {
		if r := m.recorder.Load(); r != nil {
			return float64(r.queued())
		}
		return 0
	})
	m.Written = counter("written_total", "Logged predictions written.")
	m.Failures = counter("failures_total", "Writes of logged predictions that failed and are tried again.")
	m.Waits = counter("waits_total", "Predictions that waited because the queue of the log was full.")
	m.Refused = counter("refused_total", "Logged predictions that PostgreSQL refused; they are lost.")
	m.Lost = counter("lost_total", "Logged predictions that could not be written before the sidecar ended.")
	if reg != nil {
		reg.MustRegister(m.Queued, m.Written, m.Failures, m.Waits, m.Refused, m.Lost)
	}
	return m
}
