package predict

import (
	"strconv"
	"unicode/utf8"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/tensorjson"
)

// appendElement writes element i outside JSON: no quotes, and booleans are 1 and 0, since a number was asked for.
func appendElement(dst []byte, t *onnx.Tensor, i int) []byte {
	switch d := t.Data.(type) {
	case []string:
		return appendText(dst, d[i])
	case []bool:
		return strconv.AppendInt(dst, boolInt(d[i]), 10)
	case []float32:
		return tensorjson.AppendDecimal(dst, float64(d[i]), 32)
	case []float64:
		return tensorjson.AppendDecimal(dst, d[i], 64)
	case []uint16:
		v, bits := onnx.FloatAt(d, t.DType, i)
		return tensorjson.AppendDecimal(dst, v, bits)
	}
	return tensorjson.AppendElement(dst, t, i)
}

// appendText appends s as a text value of PostgreSQL: valid UTF-8 without NUL.
func appendText(dst []byte, s string) []byte {
	for _, r := range s { // ranging over invalid UTF-8 yields U+FFFD
		if r == 0 {
			r = utf8.RuneError
		}
		dst = utf8.AppendRune(dst, r)
	}
	return dst
}

// appendOutputs writes every output by name. Of a batch that a row was repeated to fill, rows says its size, only the first row is written.
func (m *model) appendOutputs(dst []byte, outputs []onnx.Tensor, rows int) []byte {
	dst = append(dst, '{')
	for i := range outputs {
		if i > 0 {
			dst = append(dst, ',')
		}
		t := outputs[i]
		dst = append(tensorjson.AppendString(dst, t.Name), ':')
		if rows > 1 && len(t.Shape) > 0 && t.Shape[0] == int64(rows) {
			t.Shape = append([]int64{1}, t.Shape[1:]...)
		}
		if m.signature.Outputs[i].Maps && len(t.Shape) == 2 {
			dst = m.appendMaps(dst, &t)
		} else {
			dst = tensorjson.AppendTensor(dst, &t)
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
				dst = append(tensorjson.AppendString(dst, keys[i]), ':')
			case []int64:
				dst = append(strconv.AppendInt(append(dst, '"'), keys[i], 10), `":`...)
			default:
				dst = m.appendLabelKey(dst, i)
			}
			dst = tensorjson.AppendElement(dst, t, row*width+i)
		}
		dst = append(dst, '}')
	}
	return append(dst, ']')
}
