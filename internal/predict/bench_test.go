package predict

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/rowcast"
)

func benchmarkDo(b *testing.B, name string, verb rowcast.Verb, format rowcast.Format, payload string) {
	m := readFolder(b, own(name))
	f := newFixture(b, name, m.artifact, m.sig)
	c := &rowcast.Call{Verb: verb, Spec: f.spec.Key, Model: name, Version: 1, Format: format, Payload: []byte(payload)}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	dst, err := f.engine.Do(ctx, c, make([]byte, 0, 1024))
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.engine.Do(ctx, c, dst[:0]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDo(b *testing.B) {
	const iris = `{"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}`
	b.Run("array, number", func(b *testing.B) {
		benchmarkDo(b, "tides", rowcast.VerbPredict, rowcast.FormatArray, sent(1.7e9, 5.1))
	})
	b.Run("array, probabilities", func(b *testing.B) {
		benchmarkDo(b, "iris_v2", rowcast.VerbProba, rowcast.FormatArray, sent(5.1, 3.5, 1.4, 0.2))
	})
	b.Run("literal, label", func(b *testing.B) {
		benchmarkDo(b, "iris_v2", rowcast.VerbLabel, rowcast.FormatText, "{5.1,3.5,1.4,0.2}")
	})
	b.Run("JSON, label", func(b *testing.B) { benchmarkDo(b, "iris_v2", rowcast.VerbLabel, rowcast.FormatJSON, iris) })
	b.Run("JSON, JSON", func(b *testing.B) { benchmarkDo(b, "iris_v2", rowcast.VerbJSON, rowcast.FormatJSON, iris) })
	b.Run("record, columns, label", func(b *testing.B) {
		benchmarkDo(b, "penguins", rowcast.VerbLabel, rowcast.FormatRecord, `{"id":7,"island":"Torgersen","bill_length_mm":39.1,"bill_depth_mm":18.7,`+
			`"flipper_length_mm":181,"body_mass_g":3750,"sex":"male","year":2007,"species":"Adelie"}`)
	})
}

// What Do adds to ONNX Runtime: the same row through the binding alone.
func BenchmarkBindingAlone(b *testing.B) {
	m := readFolder(b, own("tides"))
	session, err := testRuntime.NewSession(m.artifact)
	require.NoError(b, err)
	defer func() { _ = session.Close() }()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	b.ReportAllocs()
	for b.Loop() {
		binding, err := session.Acquire(1)
		if err != nil {
			b.Fatal(err)
		}
		copy(binding.Inputs()[0].Data.([]float64), []float64{1.7e9, 5.1})
		if err := binding.Run(ctx); err != nil {
			b.Fatal(err)
		}
		session.Release(binding)
	}
}

// The same without ONNX Runtime: how a row is read.
func BenchmarkFill(b *testing.B) {
	m := readFolder(b, own("iris_v2"))
	f := newFixture(b, "iris", m.artifact, m.sig)
	require.NoError(b, f.engine.Warm(context.Background(), f.spec.Key))
	loaded := f.engine.entries[f.spec.Key].model
	binding, err := loaded.session.Acquire(1)
	require.NoError(b, err)
	defer loaded.session.Release(binding)
	for _, form := range []form{
		{rowcast.FormatArray, sent(5.1, 3.5, 1.4, 0.2)}, {rowcast.FormatText, "{5.1,3.5,1.4,0.2}"},
		{rowcast.FormatJSON, `{"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}`},
	} {
		b.Run(string(form.format), func(b *testing.B) {
			s := &scratch{}
			s.prepare(4)
			c := &rowcast.Call{Format: form.format, Payload: []byte(form.payload)}
			b.ReportAllocs()
			for b.Loop() {
				r := filler{plan: loaded.plan, call: c, inputs: binding.Inputs(), scratch: s}
				if err := r.fill(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
