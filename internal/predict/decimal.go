package predict

import (
	"math"
	"strconv"

	"github.com/rowcast/rowcast/internal/tensorjson"
)

// decimal32 is the double that PostgreSQL reads from the shortest decimal of a float32: 0.1 rather than 0.10000000149011612. Answers are written so,
// and a real column comes to a single row so.
//
// Between 1e-4 and 1e6 it tries six to nine digits, four times as fast as writing and reading the decimal: the product below is exact (24 bits times
// at most the 28 of 5 to the power of 12), so rounding it gives the nearest decimal of that many digits (of two, the even one, as strconv does), which
// is the shortest if any of that length reads back as v. What lies on the border between two float32 and powers of two, whose lower neighbour is nearer, go the long way.
func decimal32(v float32) float64 {
	x := math.Abs(float64(v))
	if x == math.Trunc(x) && x < 1<<24 {
		return float64(v)
	}
	const mantissa, below = 1<<23 - 1, 1<<29 - 1
	if x >= 1e-4 && x < 1e6 && math.Float32bits(v)&mantissa != 0 {
		scale := 1.0
		for x*scale < 1e5 {
			scale *= 10
		}
		for range 4 {
			d := math.RoundToEven(x*scale) / scale
			if math.Float64bits(d)&below == (below+1)/2 {
				break
			}
			if float64(float32(d)) == x {
				return math.Copysign(d, float64(v))
			}
			scale *= 10
		}
	}
	if v-v != 0 {
		return float64(v)
	}
	var buf [24]byte
	d, _ := tensorjson.ParseFloat(strconv.AppendFloat(buf[:0], float64(v), 'g', -1, 32))
	return d
}
