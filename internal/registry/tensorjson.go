package registry

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// An example is kept in the form of ml.infer: {"inputs": {name: nested arrays}, "outputs": {…}}. A bare value is a tensor of rank 0; what nesting can't say
// is {"shape": […], "data": […]}; NaN and the infinities are strings, as PostgreSQL writes them; int64 is exact.

func wrongExample(format string, args ...any) *rowcast.Error {
	return rowcast.Errorf(rowcast.CodeInvalidArgument, "the example's "+format, args...)
}

// readTensors reads one object of tensors. Every port must be there and nothing else.
func readTensors(text json.RawMessage, ports []rowcast.Port, kind string) ([]onnx.Tensor, error) {
	fields, err := object(text, "the example's "+kind+"s")
	if err != nil {
		return nil, err
	}
	tensors := make([]onnx.Tensor, len(ports))
	for i, p := range ports {
		value, ok := fields[p.Name]
		if !ok {
			return nil, wrongExample("%s %q is missing", kind, p.Name).WithDetail("The %ss are %s.", kind, describePorts(ports))
		}
		delete(fields, p.Name)
		if tensors[i], err = readTensor(value, p, kind); err != nil {
			return nil, err
		}
	}
	for name := range fields {
		return nil, wrongExample("%s %q is none of the model's", kind, clip(name)).WithDetail("The %ss are %s.", kind, describePorts(ports))
	}
	return tensors, nil
}

func readTensor(value json.RawMessage, p rowcast.Port, kind string) (onnx.Tensor, error) {
	t := onnx.Tensor{Name: p.Name, DType: p.DType, Shape: []int64{}}
	d := json.NewDecoder(bytes.NewReader(value))
	d.UseNumber()
	var tree any
	if err := d.Decode(&tree); err != nil {
		return t, wrongExample("%s %q is no JSON", kind, p.Name).WithCause(err)
	}
	var flat []any
	if shaped, ok := tree.(map[string]any); ok {
		dims, _ := shaped["shape"].([]any)
		flat, ok = shaped["data"].([]any)
		if !ok || len(shaped) != 2 {
			return t, wrongExample("%s %q must be arrays, or {\"shape\": […], \"data\": […]}", kind, p.Name)
		}
		for _, dim := range dims {
			n, err := strconv.ParseInt(numberText(dim), 10, 64)
			if err != nil || n < 0 {
				return t, wrongExample("%s %q has no shape", kind, p.Name)
			}
			t.Shape = append(t.Shape, n)
		}
	} else {
		for level := tree; ; {
			list, isList := level.([]any)
			if !isList {
				break
			}
			t.Shape = append(t.Shape, int64(len(list)))
			if len(list) == 0 {
				break
			}
			level = list[0]
		}
		var rectangular bool
		if flat, rectangular = flatten(tree, t.Shape, nil); !rectangular {
			return t, wrongExample("%s %q is not rectangular", kind, p.Name)
		}
	}
	if n := onnx.Len(t.Shape); n != int64(len(flat)) {
		return t, wrongExample("%s %q has %d elements, its shape asks for %d", kind, p.Name, len(flat), n)
	}
	t.Data = onnx.MakeData(p.DType, len(flat))
	for i, v := range flat {
		if !setElement(t.DType, t.Data, i, v) {
			text, _ := json.Marshal(v)
			return t, wrongExample("%s %q takes %s, not %s", kind, p.Name, p.DType, clip(string(text)))
		}
	}
	return t, nil
}

func numberText(v any) string {
	n, _ := v.(json.Number)
	return string(n)
}

func flatten(v any, shape []int64, into []any) ([]any, bool) {
	list, isList := v.([]any)
	if len(shape) == 0 {
		return append(into, v), !isList
	}
	if !isList || int64(len(list)) != shape[0] {
		return into, false
	}
	for _, e := range list {
		var ok bool
		if into, ok = flatten(e, shape[1:], into); !ok {
			return into, false
		}
	}
	return into, true
}

// setElement stores a JSON scalar; false where it can't be the type.
func setElement(dtype rowcast.DType, data any, i int, v any) bool {
	switch d := data.(type) {
	case []string:
		s, ok := v.(string)
		d[i] = s
		return ok
	case []bool:
		b, ok := v.(bool)
		d[i] = b
		return ok
	case []float32:
		f, ok := float(v, 32)
		d[i] = float32(f)
		return ok
	case []float64:
		f, ok := float(v, 64)
		d[i] = f
		return ok
	case []int8:
		return setInt(d, i, v, 8)
	case []int16:
		return setInt(d, i, v, 16)
	case []int32:
		return setInt(d, i, v, 32)
	case []int64:
		return setInt(d, i, v, 64)
	case []uint8:
		return setUint(d, i, v, 8)
	case []uint16:
		if dtype == rowcast.Float16 || dtype == rowcast.BFloat16 {
			f, ok := float(v, 32)
			d[i] = onnx.HalfFromFloat32(dtype, float32(f))
			return ok
		}
		return setUint(d, i, v, 16)
	case []uint32:
		return setUint(d, i, v, 32)
	case []uint64:
		return setUint(d, i, v, 64)
	}
	return false
}

func float(v any, bits int) (float64, bool) {
	switch v := v.(type) {
	case json.Number:
		f, err := strconv.ParseFloat(string(v), bits)
		return f, err == nil
	case string:
		switch v {
		case "NaN":
			return math.NaN(), true
		case "Infinity":
			return math.Inf(1), true
		case "-Infinity":
			return math.Inf(-1), true
		}
	}
	return 0, false
}

func setInt[T int8 | int16 | int32 | int64](d []T, i int, v any, bits int) bool {
	n, err := strconv.ParseInt(numberText(v), 10, bits)
	d[i] = T(n)
	return err == nil
}

func setUint[T uint8 | uint16 | uint32 | uint64](d []T, i int, v any, bits int) bool {
	n, err := strconv.ParseUint(numberText(v), 10, bits)
	d[i] = T(n)
	return err == nil
}

// appendTensors writes an object of tensors.
func appendTensors(dst []byte, tensors []onnx.Tensor) []byte {
	dst = append(dst, '{')
	for i := range tensors {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendText(dst, tensors[i].Name)
		dst = append(dst, ':')
		dst = appendTensor(dst, &tensors[i])
	}
	return append(dst, '}')
}

func appendTensor(dst []byte, t *onnx.Tensor) []byte {
	if onnx.Len(t.Shape) != 0 {
		at := 0
		return appendNested(dst, t, t.Shape, &at)
	}
	dst = append(dst, `{"shape":[`...)
	for i, d := range t.Shape {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendInt(dst, d, 10)
	}
	return append(dst, `],"data":[]}`...)
}

func appendNested(dst []byte, t *onnx.Tensor, shape []int64, at *int) []byte {
	if len(shape) == 0 {
		dst = appendElement(dst, t, *at)
		*at++
		return dst
	}
	dst = append(dst, '[')
	for i := range shape[0] {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendNested(dst, t, shape[1:], at)
	}
	return append(dst, ']')
}

func appendElement(dst []byte, t *onnx.Tensor, i int) []byte {
	switch d := t.Data.(type) {
	case []string:
		return appendText(dst, d[i])
	case []bool:
		return strconv.AppendBool(dst, d[i])
	case []float32:
		return appendFloat(dst, float64(d[i]), 32)
	case []float64:
		return appendFloat(dst, d[i], 64)
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
	case []uint16:
		if t.DType == rowcast.Float16 || t.DType == rowcast.BFloat16 {
			return appendFloat(dst, float64(onnx.HalfToFloat32(t.DType, d[i])), 32)
		}
		return strconv.AppendUint(dst, uint64(d[i]), 10)
	case []uint32:
		return strconv.AppendUint(dst, uint64(d[i]), 10)
	case []uint64:
		return strconv.AppendUint(dst, d[i], 10)
	}
	return append(dst, "null"...)
}

func appendFloat(dst []byte, f float64, bits int) []byte {
	switch {
	case math.IsNaN(f):
		return append(dst, `"NaN"`...)
	case math.IsInf(f, 1):
		return append(dst, `"Infinity"`...)
	case math.IsInf(f, -1):
		return append(dst, `"-Infinity"`...)
	}
	return strconv.AppendFloat(dst, f, 'g', -1, bits)
}

func appendText(dst []byte, s string) []byte {
	text, _ := json.Marshal(s) // a string always marshals
	return append(dst, text...)
}

// firstDifference compares what a run gave with what an example says, relatively for floats. It returns where they differ, "" where they don't.
func firstDifference(got, want []onnx.Tensor, tolerance float64) string {
	for i := range want {
		g, w := &got[i], &want[i]
		if len(g.Shape) != len(w.Shape) {
			return "output " + strconv.Quote(w.Name) + " has another shape"
		}
		for d := range g.Shape {
			if g.Shape[d] != w.Shape[d] {
				return "output " + strconv.Quote(w.Name) + " has another shape"
			}
		}
		for n := range int(onnx.Len(w.Shape)) {
			a, b := appendElement(nil, g, n), appendElement(nil, w, n)
			if bytes.Equal(a, b) || closeNumbers(a, b, tolerance) {
				continue
			}
			return "output " + strconv.Quote(w.Name) + " is " + clip(string(a)) + ", not " + clip(string(b)) + ", at element " + strconv.Itoa(n)
		}
	}
	return ""
}

func closeNumbers(a, b []byte, tolerance float64) bool {
	x, err := strconv.ParseFloat(string(a), 64)
	if err != nil {
		return false
	}
	y, err := strconv.ParseFloat(string(b), 64)
	return err == nil && math.Abs(x-y) <= tolerance*math.Max(1, math.Max(math.Abs(x), math.Abs(y)))
}
