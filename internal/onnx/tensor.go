package onnx

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/rowcast/rowcast/internal/rowcast"
	ort "github.com/yalue/onnxruntime_go"
)

// Tensor is a value that goes into a run or comes out of one.
type Tensor struct {
	Name  string
	DType rowcast.DType
	Shape []int64 // empty for rank 0
	// Data is flat, last dimension fastest: []float32, []float64, []int8 to []int64, []uint8 to []uint64, []bool, []string; float16 and bfloat16 are
	// []uint16 that hold the bits.
	Data any
	// MapKeys is set for a sequence of maps that could not be rewritten: []string or []int64, one per column of Data, which is [rows, keys].
	MapKeys any
}

// Len is the number of elements that shape holds, or -1 where a dimension is negative or the product overflows.
func Len(shape []int64) int64 {
	n := int64(1)
	for _, d := range shape {
		if d < 0 || (d > 0 && n > math.MaxInt64/d) {
			return -1
		}
		n *= d
	}
	return n
}

// MakeData allocates the slice that Tensor.Data holds for n elements of dtype.
func MakeData(dtype rowcast.DType, n int) any {
	switch dtype {
	case rowcast.Float16, rowcast.BFloat16, rowcast.Uint16:
		return make([]uint16, n)
	case rowcast.Float32:
		return make([]float32, n)
	case rowcast.Float64:
		return make([]float64, n)
	case rowcast.Int8:
		return make([]int8, n)
	case rowcast.Int16:
		return make([]int16, n)
	case rowcast.Int32:
		return make([]int32, n)
	case rowcast.Int64:
		return make([]int64, n)
	case rowcast.Uint8:
		return make([]uint8, n)
	case rowcast.Uint32:
		return make([]uint32, n)
	case rowcast.Uint64:
		return make([]uint64, n)
	case rowcast.Bool:
		return make([]bool, n)
	case rowcast.String:
		return make([]string, n)
	}
	return nil
}

// DataLen is the number of elements of what Tensor.Data holds, or -1 where it is nothing that a tensor can hold.
func DataLen(data any) int {
	switch d := data.(type) {
	case []float32:
		return len(d)
	case []float64:
		return len(d)
	case []int8:
		return len(d)
	case []int16:
		return len(d)
	case []int32:
		return len(d)
	case []int64:
		return len(d)
	case []uint8:
		return len(d)
	case []uint16:
		return len(d)
	case []uint32:
		return len(d)
	case []uint64:
		return len(d)
	case []bool:
		return len(d)
	case []string:
		return len(d)
	}
	return -1
}

// half reports the types that cross the border as float32.
func half(dtype rowcast.DType) bool { return dtype == rowcast.Float16 || dtype == rowcast.BFloat16 }

// newValue makes an ONNX Runtime value that shares data's memory (strings and rank 0 are copied).
func newValue(shape []int64, data any) (ort.Value, error) {
	if len(shape) == 0 {
		return newScalar(data)
	}
	switch d := data.(type) {
	case []float32:
		return value(ort.NewTensor(shape, d))
	case []float64:
		return value(ort.NewTensor(shape, d))
	case []int8:
		return value(ort.NewTensor(shape, d))
	case []int16:
		return value(ort.NewTensor(shape, d))
	case []int32:
		return value(ort.NewTensor(shape, d))
	case []int64:
		return value(ort.NewTensor(shape, d))
	case []uint8:
		return value(ort.NewTensor(shape, d))
	case []uint16:
		return value(ort.NewTensor(shape, d))
	case []uint32:
		return value(ort.NewTensor(shape, d))
	case []uint64:
		return value(ort.NewTensor(shape, d))
	case []bool:
		return value(ort.NewTensor(shape, d))
	case []string:
		return newStrings(shape, d)
	}
	return nil, fmt.Errorf("no tensor holds %T", data)
}

func newScalar(data any) (ort.Value, error) {
	switch d := data.(type) {
	case []float32:
		return value(ort.NewScalar(d[0]))
	case []float64:
		return value(ort.NewScalar(d[0]))
	case []int8:
		return value(ort.NewScalar(d[0]))
	case []int16:
		return value(ort.NewScalar(d[0]))
	case []int32:
		return value(ort.NewScalar(d[0]))
	case []int64:
		return value(ort.NewScalar(d[0]))
	case []uint8:
		return value(ort.NewScalar(d[0]))
	case []uint16:
		return value(ort.NewScalar(d[0]))
	case []uint32:
		return value(ort.NewScalar(d[0]))
	case []uint64:
		return value(ort.NewScalar(d[0]))
	case []bool:
		return value(ort.NewScalar(d[0]))
	}
	return nil, fmt.Errorf("no tensor of rank 0 holds %T where the graph declares no rank", data)
}

func newStrings(shape []int64, data []string) (ort.Value, error) {
	t, err := ort.NewStringTensor(shape)
	if err != nil {
		return nil, err
	}
	if err := t.SetContents(data); err != nil {
		_ = t.Destroy()
		return nil, err
	}
	return t, nil
}

// value keeps a nil pointer from becoming a non-nil interface.
func value[V ort.Value](v V, err error) (ort.Value, error) {
	if err != nil {
		return nil, err
	}
	return v, nil
}

// contents returns a value's flat data: live memory, except for strings, which are copied.
func contents(v ort.Value) (any, error) {
	switch t := v.(type) {
	case *ort.Tensor[float32]:
		return t.GetData(), nil
	case *ort.Tensor[float64]:
		return t.GetData(), nil
	case *ort.Tensor[int8]:
		return t.GetData(), nil
	case *ort.Tensor[int16]:
		return t.GetData(), nil
	case *ort.Tensor[int32]:
		return t.GetData(), nil
	case *ort.Tensor[int64]:
		return t.GetData(), nil
	case *ort.Tensor[uint8]:
		return t.GetData(), nil
	case *ort.Tensor[uint16]:
		return t.GetData(), nil
	case *ort.Tensor[uint32]:
		return t.GetData(), nil
	case *ort.Tensor[uint64]:
		return t.GetData(), nil
	case *ort.Tensor[bool]:
		return t.GetData(), nil
	case *ort.StringTensor:
		return t.GetContents()
	}
	return nil, fmt.Errorf("the output is a %T, which Rowcast can't carry", v)
}

func dtypeOf(data any) rowcast.DType {
	switch data.(type) {
	case []float32:
		return rowcast.Float32
	case []float64:
		return rowcast.Float64
	case []int8:
		return rowcast.Int8
	case []int16:
		return rowcast.Int16
	case []int32:
		return rowcast.Int32
	case []int64:
		return rowcast.Int64
	case []uint8:
		return rowcast.Uint8
	case []uint16:
		return rowcast.Uint16
	case []uint32:
		return rowcast.Uint32
	case []uint64:
		return rowcast.Uint64
	case []bool:
		return rowcast.Bool
	case []string:
		return rowcast.String
	}
	return ""
}

// Bytes is the memory that a tensor's numbers take, in bytes; strings count 16 each and their text.
func (t *Tensor) Bytes() int {
	switch d := t.Data.(type) {
	case []string:
		n := 16 * len(d)
		for _, s := range d {
			n += len(s)
		}
		return n
	default:
		return max(binary.Size(d), 0)
	}
}
