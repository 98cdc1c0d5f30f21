package server

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rowcast/rowcast/internal/predict"
)

// engineCollector shows the model cache to Prometheus.
type engineCollector struct {
	engine *predict.Engine

	loaded, bytes, budget, quarantined, loads, failures, evictions *prometheus.Desc
}

func registerEngineMetrics(reg *prometheus.Registry, e *predict.Engine) {
	describe := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(prometheus.BuildFQName("rowcast", "models", name), help, nil, nil)
	}
	reg.MustRegister(&engineCollector{
		engine:      e,
		loaded:      describe("loaded", "Models in memory."),
		bytes:       describe("bytes", "Memory of the loaded models, estimated."),
		budget:      describe("budget_bytes", "Memory that loaded models may take."),
		quarantined: describe("quarantined", "Artifacts that are not run because they killed or stalled the sidecar."),
		loads:       describe("loads_total", "Models loaded since the start."),
		failures:    describe("load_failures_total", "Loads that failed since the start."),
		evictions:   describe("evictions_total", "Models dropped for want of memory since the start."),
	})
}

// Describe implements prometheus.Collector.
func (c *engineCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.loaded, c.bytes, c.budget, c.quarantined, c.loads, c.failures, c.evictions} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *engineCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.engine.Stats()
	gauge := func(d *prometheus.Desc, v int64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v))
	}
	counter := func(d *prometheus.Desc, v int64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
	gauge(c.loaded, int64(s.Loaded))
	gauge(c.bytes, s.Bytes)
	gauge(c.budget, s.Budget)
	gauge(c.quarantined, int64(s.Quarantined))
	counter(c.loads, s.Loads)
	counter(c.failures, s.Failures)
	counter(c.evictions, s.Evictions)
}
