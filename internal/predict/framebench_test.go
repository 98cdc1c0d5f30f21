package predict

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// benchmarkFrame gathers and runs 8192 rows; the figures are per row.
func benchmarkFrame(b *testing.B, name string, oid uint32, run bool) {
	var m *folder
	for _, dir := range folders(b) {
		if c := readFolder(b, dir); c.name == name {
			m = c
		}
	}
	if m == nil {
		b.Skip("no model " + name)
	}
	f := newFixture(b, name, m.artifact, m.sig)
	const rows = 8192
	columns := make([]Column, len(m.sig.Features))
	random := rand.New(rand.NewPCG(1, 2))
	values := make([][][]byte, rows)
	for i := range columns {
		columns[i] = Column{Name: m.sig.Features[i].Name, OID: oid}
	}
	for i := range values {
		for range columns {
			x := random.NormFloat64()
			switch oid {
			case oidFloat8:
				values[i] = append(values[i], pgFloat8(x))
			case oidFloat4:
				values[i] = append(values[i], pgFloat4(float32(x)))
			default:
				values[i] = append(values[i], pgNumeric(b, "1.2345"))
			}
		}
	}
	fr, err := f.engine.NewFrame(context.Background(), f.spec.Key, name, 1, columns, rows)
	require.NoError(b, err)
	defer fr.Close()
	b.ReportAllocs()
	for b.Loop() {
		fr.Reset()
		for i := range values {
			if err := fr.Append(values[i]); err != nil {
				b.Fatal(err)
			}
		}
		if run {
			if _, err := fr.Run(context.Background()); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/rows, "ns/row")
}

func BenchmarkFrame(b *testing.B) {
	for _, oid := range []uint32{oidFloat8, oidFloat4, oidNumeric} {
		kind := map[uint32]string{oidFloat8: "float8", oidFloat4: "float4", oidNumeric: "numeric"}[oid]
		b.Run("append/"+kind, func(b *testing.B) { benchmarkFrame(b, "logistic_10", oid, false) })
	}
	b.Run("run/logistic_10", func(b *testing.B) { benchmarkFrame(b, "logistic_10", oidFloat8, true) })
	b.Run("run/trees_100x6", func(b *testing.B) { benchmarkFrame(b, "trees_100x6", oidFloat8, true) })
}
