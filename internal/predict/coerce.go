package predict

import (
	"math"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// A filler writes one row into a model's input tensors: the first row, or in a Frame any.
type filler struct {
	plan    *plan
	call    *rowcast.Call
	inputs  []onnx.Tensor
	scratch *scratch
	row     int
	widths  []int // elements per row of each input; nil where row is always the first
}

// at is where f's value of the row goes in its tensor.
func (r *filler) at(f *feature) int {
	if r.row == 0 {
		return f.column
	}
	return r.row*r.widths[f.input] + f.column
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
		r.inputs[f.input].Data.([]string)[r.at(f)] = string(v.text)
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
		switch onnx.SetFloat(r.inputs[f.input].Data, f.dtype, r.at(f), x) {
		case onnx.OutOfRange:
			return r.outOfRange(f, v)
		case onnx.Fractional:
			return r.wrongType(f, v)
		}
		return nil
	}
}

func (r *filler) storeInt(f *feature, v cell, n int64) error {
	if !onnx.SetInt(r.inputs[f.input].Data, f.dtype, r.at(f), n) {
		return r.outOfRange(f, v)
	}
	return nil
}

// storeMissing writes what a model that takes missing values reads as one. Integers and booleans have no such value.
func (r *filler) storeMissing(f *feature) bool {
	if f.dtype == rowcast.String {
		r.inputs[f.input].Data.([]string)[r.at(f)] = ""
		return true
	}
	return onnx.SetFloat(r.inputs[f.input].Data, f.dtype, r.at(f), math.NaN()) == onnx.Fits
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
