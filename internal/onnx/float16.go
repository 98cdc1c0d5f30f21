package onnx

import (
	"math"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// HalfToFloat32 returns the number that the bits of a float16 or bfloat16 stand for; exact.
func HalfToFloat32(dtype rowcast.DType, bits uint16) float32 {
	if dtype == rowcast.BFloat16 {
		return math.Float32frombits(uint32(bits) << 16)
	}
	sign := uint32(bits&0x8000) << 16
	exponent := uint32(bits>>10) & 0x1f
	fraction := uint32(bits & 0x3ff)
	switch {
	case exponent == 0x1f:
		return math.Float32frombits(sign | 0x7f800000 | fraction<<13)
	case exponent != 0:
		return math.Float32frombits(sign | (exponent+112)<<23 | fraction<<13)
	default: // zero or subnormal: fraction × 2^-24
		v := float32(fraction) / (1 << 24)
		return math.Float32frombits(sign | math.Float32bits(v))
	}
}

// HalfFromFloat32 returns the bits of the nearest float16 or bfloat16, ties to even; what is too large becomes infinite.
func HalfFromFloat32(dtype rowcast.DType, f float32) uint16 {
	bits := math.Float32bits(f)
	if dtype == rowcast.BFloat16 {
		if f != f {
			return uint16(bits>>16) | 0x40
		}
		return uint16((bits + 0x7fff + (bits>>16)&1) >> 16)
	}
	sign := uint16(bits>>16) & 0x8000
	magnitude := bits & 0x7fffffff
	switch {
	case magnitude > 0x7f800000: // NaN
		return sign | 0x7e00
	case magnitude >= 0x477ff000: // 65520 and above round to infinity
		return sign | 0x7c00
	case magnitude < 0x38800000: // below 2^-14: subnormal, a multiple of 2^-24
		scaled := math.RoundToEven(float64(math.Float32frombits(magnitude)) * (1 << 24))
		return sign | uint16(scaled)
	default:
		rounded := magnitude + 0xfff + (magnitude>>13)&1
		return sign | uint16((rounded-0x38000000)>>13)
	}
}

func widen(dtype rowcast.DType, dst []float32, src []uint16) {
	for i, bits := range src {
		dst[i] = HalfToFloat32(dtype, bits)
	}
}

func narrow(dtype rowcast.DType, dst []uint16, src []float32) {
	for i, f := range src {
		dst[i] = HalfFromFloat32(dtype, f)
	}
}
