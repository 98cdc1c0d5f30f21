package onnx

import (
	"math"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// FloatAt returns element i of a tensor's data as a float, and whether it is one of 32 or of 64 bits; what is no float is one of 64.
func FloatAt(data any, dtype rowcast.DType, i int) (v float64, bits int) {
	switch d := data.(type) {
	case []float32:
		return float64(d[i]), 32
	case []float64:
		return d[i], 64
	case []uint16:
		if dtype == rowcast.Uint16 {
			return float64(d[i]), 64
		}
		return float64(HalfToFloat32(dtype, d[i])), 32
	case []int8:
		return float64(d[i]), 64
	case []int16:
		return float64(d[i]), 64
	case []int32:
		return float64(d[i]), 64
	case []int64:
		return float64(d[i]), 64
	case []uint8:
		return float64(d[i]), 64
	case []uint32:
		return float64(d[i]), 64
	case []uint64:
		return float64(d[i]), 64
	case []bool:
		if d[i] {
			return 1, 64
		}
	}
	return 0, 64
}

// Fit says how storing a number went.
type Fit byte

// What SetFloat returns.
const (
	Fits Fit = iota
	OutOfRange
	Fractional // an integer tensor, and the number is not integral
)

// SetFloat stores v as element i of a tensor's data. A finite v that would become infinite is out of range.
func SetFloat(data any, dtype rowcast.DType, i int, v float64) Fit {
	switch d := data.(type) {
	case []float32:
		d[i] = float32(v)
		if math.IsInf(float64(d[i]), 0) && !math.IsInf(v, 0) {
			return OutOfRange
		}
		return Fits
	case []float64:
		d[i] = v
		return Fits
	case []uint16:
		if dtype != rowcast.Uint16 {
			d[i] = HalfFromFloat32(dtype, float32(v))
			if math.IsInf(float64(HalfToFloat32(dtype, d[i])), 0) && !math.IsInf(v, 0) {
				return OutOfRange
			}
			return Fits
		}
	}
	switch {
	case v != math.Trunc(v): // NaN too
		return Fractional
	case v < -1<<63 || v >= 1<<63 || !SetInt(data, dtype, i, int64(v)):
		return OutOfRange
	}
	return Fits
}

// SetInt stores v as element i of a tensor's data and reports whether it fits. A float tensor takes the nearest float.
func SetInt(data any, dtype rowcast.DType, i int, v int64) bool {
	switch d := data.(type) {
	case []int64:
		d[i] = v
		return true
	case []int32:
		d[i] = int32(v)
		return int64(d[i]) == v
	case []int16:
		d[i] = int16(v)
		return int64(d[i]) == v
	case []int8:
		d[i] = int8(v)
		return int64(d[i]) == v
	case []uint64:
		d[i] = uint64(v)
		return v >= 0
	case []uint32:
		d[i] = uint32(v)
		return int64(d[i]) == v
	case []uint8:
		d[i] = uint8(v)
		return int64(d[i]) == v
	case []uint16:
		if dtype == rowcast.Uint16 {
			d[i] = uint16(v)
			return int64(d[i]) == v
		}
	case []bool:
		d[i] = v == 1
		return v == 0 || v == 1
	case []string, nil:
		return false
	}
	return SetFloat(data, dtype, i, float64(v)) == Fits
}
