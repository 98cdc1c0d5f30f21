package predict

import (
	"math"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// A filler writes one row into the first row of a model's input tensors.
type filler struct {
	plan    *plan
	call    *rowcast.Call
	inputs  []onnx.Tensor
	scratch *scratch
}

// store coerces v to f's type and writes it. The rules:
//
//	absent, NULL, NaN   the default; else NaN where the feature is declared missing and its tensor holds NaN (the empty text for text); else an error
//	real, double        a number; infinities only where the model allows them; a finite number that the tensor's type turns infinite is refused
//	bigint              an integral number, exactly: 2 and 2.0, not 2.5
//	boolean             true, false, 1, 0, and in quotes what PostgreSQL's boolean takes
//	text                text
func (r *filler) store(f *feature, v cell) error {
	if v.kind <= cellNull || f.kind != rowcast.TypeText && v.isNaN() {
		switch {
		case f.fallback.kind != cellAbsent:
			v = f.fallback
		case f.missing && r.storeMissing(f):
			return nil
		default:
			return r.noValue(f, v)
		}
	}
	switch f.kind {
	case rowcast.TypeText:
		if v.kind != cellString && v.kind != cellText && v.kind != cellWord {
			return r.wrongType(f, v)
		}
		r.inputs[f.input].Data.([]string)[f.column] = string(v.text)
		return nil
	case rowcast.TypeBoolean:
		b, known := v.boolean()
		if !known {
			return r.wrongType(f, v)
		}
		return r.storeInt(f, v, boolInt(b))
	case rowcast.TypeBigint:
		n, fraction, exceeds, known := v.integer()
		switch {
		case !known || fraction:
			return r.wrongType(f, v)
		case exceeds:
			return r.outOfRange(f, v)
		}
		return r.storeInt(f, v, n)
	default:
		x, exceeds, known := v.number()
		switch {
		case !known:
			return r.wrongType(f, v)
		case exceeds:
			return r.outOfRange(f, v)
		case math.IsInf(x, 0) && !r.plan.infinity:
			return r.infinite(f, v)
		}
		switch setFloat(r.inputs[f.input].Data, f.dtype, f.column, x) {
		case setOutOfRange:
			return r.outOfRange(f, v)
		case setFraction:
			return r.wrongType(f, v)
		}
		return nil
	}
}

func (r *filler) storeInt(f *feature, v cell, n int64) error {
	if !setInt(r.inputs[f.input].Data, f.dtype, f.column, n) {
		return r.outOfRange(f, v)
	}
	return nil
}

// storeMissing writes what a model that takes missing values reads as one. Integers and booleans have no such value.
func (r *filler) storeMissing(f *feature) bool {
	if f.dtype == rowcast.String {
		r.inputs[f.input].Data.([]string)[f.column] = ""
		return true
	}
	return setFloat(r.inputs[f.input].Data, f.dtype, f.column, math.NaN()) == setDone
}

func boolInt(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// repeat copies the first row over the rest of a fixed batch: unlike zeros, a copy cannot make the graph fail where the row itself does not.
func (r *filler) repeat() {
	for i := range r.inputs {
		switch data := r.inputs[i].Data.(type) {
		case []float32:
			repeatRow(data, r.plan.rows)
		case []float64:
			repeatRow(data, r.plan.rows)
		case []int8:
			repeatRow(data, r.plan.rows)
		case []int16:
			repeatRow(data, r.plan.rows)
		case []int32:
			repeatRow(data, r.plan.rows)
		case []int64:
			repeatRow(data, r.plan.rows)
		case []uint8:
			repeatRow(data, r.plan.rows)
		case []uint16:
			repeatRow(data, r.plan.rows)
		case []uint32:
			repeatRow(data, r.plan.rows)
		case []uint64:
			repeatRow(data, r.plan.rows)
		case []bool:
			repeatRow(data, r.plan.rows)
		case []string:
			repeatRow(data, r.plan.rows)
		}
	}
}

func repeatRow[T any](data []T, rows int) {
	width := len(data) / rows
	for at := width; at < len(data); at += width {
		copy(data[at:], data[:width])
	}
}

// setResult says how storing a float went.
type setResult byte

const (
	setDone setResult = iota
	setOutOfRange
	setFraction // an integer tensor, and the number is not integral
)

// setFloat stores v as element i of a tensor's data. A finite v that would become infinite is out of range.
func setFloat(data any, dtype rowcast.DType, i int, v float64) setResult {
	switch d := data.(type) {
	case []float32:
		d[i] = float32(v)
		if math.IsInf(float64(d[i]), 0) && !math.IsInf(v, 0) {
			return setOutOfRange
		}
		return setDone
	case []float64:
		d[i] = v
		return setDone
	case []uint16:
		if dtype != rowcast.Uint16 {
			d[i] = onnx.HalfFromFloat32(dtype, float32(v))
			if math.IsInf(float64(onnx.HalfToFloat32(dtype, d[i])), 0) && !math.IsInf(v, 0) {
				return setOutOfRange
			}
			return setDone
		}
	}
	switch {
	case v != math.Trunc(v): // NaN too
		return setFraction
	case v < -1<<63 || v >= 1<<63 || !setInt(data, dtype, i, int64(v)):
		return setOutOfRange
	}
	return setDone
}

// setInt stores v as element i of a tensor's data and reports whether it fits. A float tensor takes the nearest float.
func setInt(data any, dtype rowcast.DType, i int, v int64) bool {
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
	case []string:
		return false
	}
	return setFloat(data, dtype, i, float64(v)) == setDone
}
