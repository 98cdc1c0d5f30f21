package score

import "github.com/prometheus/client_golang/prometheus"

// Metrics counts what a Service does.
type Metrics struct {
	rows, skipped, chunks prometheus.Counter
	jobs                  *prometheus.CounterVec
	failures              *prometheus.CounterVec
}

// NewMetrics makes the counters and registers them with reg, where there is one.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "rowcast", Subsystem: "jobs", Name: name, Help: help})
	}
	m := &Metrics{
		rows:    counter("rows_total", "Rows that scoring jobs have scored here and committed."),
		skipped: counter("rows_skipped_total", "Bad rows that scoring jobs have put into error tables."),
		chunks:  counter("chunks_total", "Chunks of scoring jobs that were committed here."),
		jobs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "rowcast", Subsystem: "jobs", Name: "phases_total", Help: "Phases of scoring jobs that ended well here.",
		}, []string{"phase"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "rowcast", Subsystem: "jobs", Name: "failures_total", Help: "Errors of scoring jobs here, those that are tried again too.",
		}, []string{"sqlstate"}),
	}
	if reg != nil {
		reg.MustRegister(m.rows, m.skipped, m.chunks, m.jobs, m.failures)
	}
	return m
}
