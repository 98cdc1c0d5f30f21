package predict

import (
	"math"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDecimal32IsWhatTheShortestDecimalReadsAs(t *testing.T) {
	check := func(v float32) {
		if v-v != 0 {
			return
		}
		want, err := strconv.ParseFloat(strconv.FormatFloat(float64(v), 'g', -1, 32), 64)
		require.NoError(t, err)
		if got := decimal32(v); math.Float64bits(got) != math.Float64bits(want) {
			require.Equal(t, want, got, "%b", v)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 500_000 {
		check(math.Float32frombits(r.Uint32()))
		check(float32(r.NormFloat64()))
		check(float32(r.IntN(1_000_000)) / 1000)
		check(float32(math.Exp(r.Float64()*30 - 10)))
		check(float32(r.IntN(1<<24)) / float32(int(1)<<r.IntN(30))) // many lie in the middle between two decimals
	}
	for exponent := -149; exponent < 128; exponent++ {
		p := float32(math.Ldexp(1, exponent))
		for _, v := range []float32{p, math.Nextafter32(p, 0), math.Nextafter32(p, 2*p), -p} {
			check(v)
		}
	}
	require.True(t, math.IsNaN(decimal32(float32(math.NaN()))))
	require.True(t, math.IsInf(decimal32(float32(math.Inf(-1))), -1))
	require.True(t, math.Signbit(decimal32(float32(math.Copysign(0, -1)))))
}

func BenchmarkDecimal32(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	values := make([]float32, 1024)
	for i := range values {
		values[i] = float32(r.NormFloat64())
	}
	i, sum := 0, 0.0
	for b.Loop() {
		sum += decimal32(values[i&1023])
		i++
	}
	require.NotZero(b, sum)
}
