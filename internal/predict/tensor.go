package predict

import (
	"slices"
	"strconv"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/rowcast"
)

func dataLen(data any) int {
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
	return 0
}

// floatAt returns element i as a float and how many bits hold it exactly.
func floatAt(data any, dtype rowcast.DType, i int) (v float64, bits int) {
	switch d := data.(type) {
	case []float32:
		return float64(d[i]), 32
	case []float64:
		return d[i], 64
	case []uint16:
		if dtype == rowcast.Uint16 {
			return float64(d[i]), 64
		}
		return float64(onnx.HalfToFloat32(dtype, d[i])), 32
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
		return float64(boolInt(d[i])), 64
	}
	return 0, 64
}

// appendElement writes element i. In JSON booleans are true and false, texts strings and the non-finite strings; outside booleans are 1 and 0,
// since a number was asked for.
func appendElement(dst []byte, t *onnx.Tensor, i int, json bool) []byte {
	switch d := t.Data.(type) {
	case []int8:
		return strconv.AppendInt(dst, int64(d[i]), 10)
	case []int16:
		return strconv.AppendInt(dst, int64(d[i]), 10)
	case []int32:
		return strconv.AppendInt(dst, int64(d[i]), 10)
	case []int64:
		return strconv.AppendInt(dst, d[i], 10)
	case []uint8:
		return strconv.AppendUint(dst, uint64(d[i]), 10)
	case []uint32:
		return strconv.AppendUint(dst, uint64(d[i]), 10)
	case []uint64:
		return strconv.AppendUint(dst, d[i], 10)
	case []bool:
		if json {
			return strconv.AppendBool(dst, d[i])
		}
	case []string:
		if json {
			return appendJSONString(dst, d[i])
		}
		return appendText(dst, d[i])
	}
	v, bits := floatAt(t.Data, t.DType, i)
	if json {
		return appendJSONFloat(dst, v, bits)
	}
	return appendDecimal(dst, v, bits)
}

// appendTensor writes a tensor as nested arrays, as a bare value for rank 0, and as {"shape": ..., "data": []} where nesting cannot say the shape:
// a dimension of 0 hides every one that follows.
func appendTensor(dst []byte, t *onnx.Tensor) []byte {
	if empty := slices.Index(t.Shape, 0); empty >= 0 && empty < len(t.Shape)-1 {
		dst = append(dst, `{"shape":[`...)
		for i, d := range t.Shape {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = strconv.AppendInt(dst, d, 10)
		}
		return append(dst, `],"data":[]}`...)
	}
	dst, _ = appendNested(dst, t, t.Shape, 0)
	return dst
}

func appendNested(dst []byte, t *onnx.Tensor, shape []int64, at int) ([]byte, int) {
	if len(shape) == 0 {
		return appendElement(dst, t, at, true), at + 1
	}
	dst = append(dst, '[')
	for i := range shape[0] {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst, at = appendNested(dst, t, shape[1:], at)
	}
	return append(dst, ']'), at
}

// appendOutputs writes every output by name. Of a batch that a row was repeated to fill, rows says its size, only the first row is written.
func (m *model) appendOutputs(dst []byte, outputs []onnx.Tensor, rows int) []byte {
	dst = append(dst, '{')
	for i := range outputs {
		if i > 0 {
			dst = append(dst, ',')
		}
		t := outputs[i]
		dst = append(appendJSONString(dst, t.Name), ':')
		if rows > 1 && len(t.Shape) > 0 && t.Shape[0] == int64(rows) {
			t.Shape = append([]int64{1}, t.Shape[1:]...)
		}
		if m.signature.Outputs[i].Maps && len(t.Shape) == 2 {
			dst = m.appendMaps(dst, &t)
		} else {
			dst = appendTensor(dst, &t)
		}
	}
	return append(dst, '}')
}

// appendMaps writes a sequence of maps as the graph means it: one object per row.
func (m *model) appendMaps(dst []byte, t *onnx.Tensor) []byte {
	dst = append(dst, '[')
	width := int(t.Shape[1])
	for row := range int(t.Shape[0]) {
		if row > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, '{')
		for i := range width {
			if i > 0 {
				dst = append(dst, ',')
			}
			switch keys := t.MapKeys.(type) {
			case []string:
				dst = append(appendJSONString(dst, keys[i]), ':')
			case []int64:
				dst = append(strconv.AppendInt(append(dst, '"'), keys[i], 10), `":`...)
			default:
				dst = m.appendLabelKey(dst, i)
			}
			dst = appendElement(dst, t, row*width+i, true)
		}
		dst = append(dst, '}')
	}
	return append(dst, ']')
}
