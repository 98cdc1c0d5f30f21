package predict

import (
	"fmt"
	"slices"
	"strings"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// readTensors reads {"name": value, ...} where a value is nested arrays, a bare value for rank 0, or {"shape": [...], "data": [...]}. kind is
// "input" or "output", for messages. Every port must be there once and nothing else, and come back in the order of ports.
func readTensors(text []byte, ports []rowcast.Port, kind string) ([]onnx.Tensor, error) {
	s := &scanner{text: text}
	if s.peek() != '{' {
		v, err := s.value()
		if err != nil {
			return nil, err
		}
		return nil, rowcast.Errorf(rowcast.CodeInvalidText, "ml.infer takes a JSON object with one array per %s, got %s", kind, v.describe()).
			WithHint("The %ss are %s.", kind, portList(ports))
	}
	tensors := make([]onnx.Tensor, len(ports))
	err := s.object(func(key []byte) error {
		i := slices.IndexFunc(ports, func(p rowcast.Port) bool { return p.Name == string(key) })
		if i < 0 {
			return unknownPort(string(key), ports, kind)
		}
		if tensors[i].Data != nil {
			return rowcast.Errorf(rowcast.CodeInvalidText, "%s %q is given twice", kind, key)
		}
		r := tensorReader{scanner: s, port: &ports[i], kind: kind}
		err := r.read()
		tensors[i] = onnx.Tensor{Name: ports[i].Name, DType: ports[i].DType, Shape: r.shape, Data: r.data}
		return err
	})
	if err == nil {
		err = s.end()
	}
	if err != nil {
		return nil, err
	}
	for i, p := range ports {
		if tensors[i].Data == nil {
			return nil, rowcast.Errorf(rowcast.CodeMissingFeature, "%s %q is missing", kind, p.Name).
				WithDetail("The %ss are %s.", kind, portList(ports))
		}
	}
	return tensors, nil
}

func unknownPort(key string, ports []rowcast.Port, kind string) error {
	names := make([]string, len(ports))
	for i, p := range ports {
		names[i] = p.Name
	}
	e := rowcast.Errorf(rowcast.CodeUnknownFeature, "no %s is named %q", kind, excerpt([]byte(key))).
		WithDetail("The %ss are %s.", kind, portList(ports))
	if near := nearest(key, names); near != "" {
		return e.WithHint("Perhaps you mean %q.", near)
	}
	return e
}

func portList(ports []rowcast.Port) string {
	names := make([]string, len(ports))
	for i, p := range ports {
		names[i] = fmt.Sprintf("%q %s%s", p.Name, p.DType, shapeText(p.Shape))
	}
	return listed(names)
}

// shapeText writes [N,4]: N is a dimension that the graph leaves open.
func shapeText(shape []int64) string {
	parts := make([]string, len(shape))
	for i, d := range shape {
		parts[i] = fmt.Sprint(d)
		if d < 0 {
			parts[i] = "N"
		}
	}
	return "[" + strings.Join(parts, ",") + "]"
}

// tensorReader reads one tensor in two passes over its text: the first finds the shape, so that the second fills memory of the right size.
type tensorReader struct {
	*scanner
	port  *rowcast.Port
	kind  string
	shape []int64
	data  any
}

func (r *tensorReader) errorf(code rowcast.Code, format string, args ...any) *rowcast.Error {
	return rowcast.Errorf(code, "%s %q %s", r.kind, r.port.Name, fmt.Sprintf(format, args...))
}

func (r *tensorReader) read() error {
	if r.peek() == '{' {
		return r.readShaped()
	}
	start := r.pos
	if err := r.measure(0); err != nil {
		return err
	}
	end := r.pos
	if r.shape == nil {
		r.shape = []int64{}
	}
	if err := r.checkShape(); err != nil {
		return err
	}
	r.pos = start
	if err := r.fill(); err != nil {
		return err
	}
	r.pos = end
	return nil
}

// readShaped reads {"shape": [...], "data": [...]}, the data flat, the last dimension fastest.
func (r *tensorReader) readShaped() error {
	at := -1
	var flat []int64
	shaped := false
	err := r.object(func(key []byte) error {
		switch string(key) {
		case "shape":
			shaped = true
			r.shape = []int64{}
			return r.array(func() error { return r.dimension() })
		case "data":
			r.peek()
			at = r.pos
			inner := tensorReader{scanner: r.scanner, port: r.port, kind: r.kind}
			err := inner.measure(0)
			flat = inner.shape
			return err
		}
		return r.errorf(rowcast.CodeInvalidText, "has the key %q; an object for a tensor has shape and data", excerpt(key))
	})
	switch {
	case err != nil:
		return err
	case !shaped || at < 0:
		return r.errorf(rowcast.CodeInvalidText, "is an object, which must have shape and data")
	case len(flat) != 1:
		return r.errorf(rowcast.CodeDimensions, "has data that is no flat array")
	}
	if n := onnx.Len(r.shape); n != flat[0] {
		return r.errorf(rowcast.CodeDimensions, "has %d elements, its shape %s says otherwise", flat[0], shapeText(r.shape))
	}
	if err := r.checkShape(); err != nil {
		return err
	}
	end := r.pos
	r.pos = at
	if err := r.fill(); err != nil {
		return err
	}
	r.pos = end
	return nil
}

func (r *tensorReader) dimension() error {
	v, err := r.value()
	if err != nil {
		return err
	}
	n, fraction, exceeds, known := v.integer()
	if v.kind != cellNumber || !known || fraction || exceeds || n < 0 || len(r.shape) >= jsonDepth {
		return r.errorf(rowcast.CodeDimensions, "has %s in its shape", v.describe())
	}
	r.shape = append(r.shape, n)
	return nil
}

// measure passes over a value and finds its shape.
func (r *tensorReader) measure(depth int) error {
	if depth > jsonDepth {
		return rowcast.Errorf(rowcast.CodeTooLarge, "JSON nests deeper than %d levels", jsonDepth)
	}
	if r.peek() != '[' {
		keep := len(r.buf)
		_, err := r.value()
		r.buf = r.buf[:keep]
		return err
	}
	known := depth < len(r.shape)
	if !known {
		r.shape = append(r.shape, 0)
	}
	n := int64(0)
	err := r.array(func() error {
		switch nested := r.peek() == '['; {
		case nested && depth+1 == len(r.shape) && (known || n > 0), !nested && depth+1 < len(r.shape):
			return r.errorf(rowcast.CodeDimensions, "mixes arrays and values at one level")
		}
		n++
		return r.measure(depth + 1)
	})
	if err != nil {
		return err
	}
	if known && r.shape[depth] != n {
		return r.errorf(rowcast.CodeDimensions, "is ragged: arrays of %d and of %d elements at one level", r.shape[depth], n)
	}
	r.shape[depth] = n
	return nil
}

// checkShape compares the shape with what the graph declares.
func (r *tensorReader) checkShape() error {
	declared := r.port.Shape
	if declared == nil {
		return nil
	}
	fits := len(declared) == len(r.shape)
	for i := 0; fits && i < len(declared); i++ {
		fits = declared[i] < 0 || declared[i] == r.shape[i]
	}
	if fits {
		return nil
	}
	e := r.errorf(rowcast.CodeDimensions, "takes the shape %s, got %s", shapeText(declared), shapeText(r.shape))
	if slices.Contains(r.shape, 0) {
		return e.WithHint(`Nesting can't say the shape of an empty tensor: write {"shape": [0, 3], "data": []}.`)
	}
	return e
}

// fill reads the values that measure has counted. Brackets and commas are known to be right.
func (r *tensorReader) fill() error {
	n := int(onnx.Len(r.shape))
	r.data = onnx.MakeData(r.port.DType, n)
	if r.data == nil {
		return r.errorf(rowcast.CodeInvalidArgument, "has elements of %q, which Rowcast can't carry", r.port.DType)
	}
	for i := range n {
		for c := r.peek(); c == '[' || c == ']' || c == ','; c = r.peek() {
			r.pos++
		}
		keep := len(r.buf)
		v, err := r.value()
		if err == nil {
			err = r.set(i, v)
		}
		if err != nil {
			return err
		}
		r.buf = r.buf[:keep]
	}
	return nil
}

// set stores one value. Here NaN and the infinities are values like others, as strings.
func (r *tensorReader) set(i int, v cell) error {
	if v.kind == cellNull {
		return r.errorf(rowcast.CodeNullFeature, "is NULL at %s", r.place(i))
	}
	switch r.port.DType {
	case rowcast.String:
		if v.kind != cellString {
			return r.wrongType(i, v)
		}
		r.data.([]string)[i] = string(v.text)
	case rowcast.Bool:
		b, known := v.boolean()
		if v.kind == cellString || !known {
			return r.wrongType(i, v)
		}
		r.data.([]bool)[i] = b
	case rowcast.Float16, rowcast.BFloat16, rowcast.Float32, rowcast.Float64:
		x, exceeds, known := v.number()
		if !known {
			return r.wrongType(i, v)
		}
		if exceeds || setFloat(r.data, r.port.DType, i, x) != setDone {
			return r.outOfRange(i, v)
		}
	case rowcast.Uint64:
		magnitude, negative, fraction, exceeds := uint64(0), false, true, false
		if v.kind == cellNumber {
			magnitude, negative, fraction, exceeds = parseInteger(v.text)
		}
		switch {
		case fraction:
			return r.wrongType(i, v)
		case exceeds, negative && magnitude > 0:
			return r.outOfRange(i, v)
		}
		r.data.([]uint64)[i] = magnitude
	default:
		n, fraction, exceeds, known := v.integer()
		switch {
		case v.kind != cellNumber, !known, fraction:
			return r.wrongType(i, v)
		case exceeds, !setInt(r.data, r.port.DType, i, n):
			return r.outOfRange(i, v)
		}
	}
	return nil
}

func (r *tensorReader) wrongType(i int, v cell) error {
	return r.errorf(rowcast.CodeFeatureType, "takes %s, got %s at %s", r.port.DType, v.describe(), r.place(i))
}

func (r *tensorReader) outOfRange(i int, v cell) error {
	return r.errorf(rowcast.CodeFeatureRange, "takes %s, which cannot hold %s at %s", r.port.DType, v.describe(), r.place(i))
}

// place writes the indexes of element i, counted from zero as JSON counts.
func (r *tensorReader) place(i int) string {
	at := make([]int64, len(r.shape))
	rest := int64(i)
	for d := len(at) - 1; d >= 0; d-- {
		at[d], rest = rest%r.shape[d], rest/r.shape[d]
	}
	return shapeText(at)
}
