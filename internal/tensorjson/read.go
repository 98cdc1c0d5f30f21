package tensorjson

import (
	"fmt"
	"slices"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// A Reader reads a model's inputs or outputs from an object that names them.
type Reader struct {
	Ports    []rowcast.Port
	Kind     string                                   // what messages call a port: input or output
	AnyShape bool                                     // take other shapes than Ports declares
	Nearest  func(name string, names []string) string // for a hint: which of names was meant, empty where none is like it
}

// Read reads {"name": tensor, ...}. Every port must be there once and nothing else; they come back in the order of Ports.
func (r *Reader) Read(text []byte) ([]onnx.Tensor, error) {
	s := &Scanner{text: text}
	if s.Peek() != '{' {
		v, err := s.Value()
		if err != nil {
			return nil, err
		}
		return nil, rowcast.Errorf(rowcast.CodeInvalidText, "ml.infer takes a JSON object with one array per %s, got %s", r.Kind, v.Describe()).
			WithHint("The %ss are %s.", r.Kind, portList(r.Ports))
	}
	tensors := make([]onnx.Tensor, len(r.Ports))
	err := s.object(func(key []byte) error {
		i := slices.IndexFunc(r.Ports, func(p rowcast.Port) bool { return p.Name == string(key) })
		if i < 0 {
			return r.unknown(string(key))
		}
		if tensors[i].Data != nil {
			return rowcast.Errorf(rowcast.CodeInvalidText, "%s %q is given twice", r.Kind, key)
		}
		t := tensorReader{Scanner: s, of: r, port: &r.Ports[i]}
		err := t.read()
		tensors[i] = onnx.Tensor{Name: t.port.Name, DType: t.port.DType, Shape: t.shape, Data: t.data}
		return err
	})
	if err == nil {
		err = s.End()
	}
	if err != nil {
		return nil, err
	}
	for i, p := range r.Ports {
		if tensors[i].Data == nil {
			return nil, rowcast.Errorf(rowcast.CodeMissingFeature, "%s %q is missing", r.Kind, p.Name).
				WithDetail("The %ss are %s.", r.Kind, portList(r.Ports))
		}
	}
	return tensors, nil
}

func (r *Reader) unknown(name string) error {
	names := make([]string, len(r.Ports))
	for i, p := range r.Ports {
		names[i] = p.Name
	}
	e := rowcast.Errorf(rowcast.CodeUnknownFeature, "no %s is named %q", r.Kind, Excerpt([]byte(name))).
		WithDetail("The %ss are %s.", r.Kind, portList(r.Ports))
	if near := r.Nearest(name, names); near != "" {
		return e.WithHint("Perhaps you mean %q.", near)
	}
	return e
}

// tensorReader reads one tensor in two passes over its text: the first finds the shape, so that the second fills memory of the right size.
type tensorReader struct {
	*Scanner
	of    *Reader
	port  *rowcast.Port
	shape []int64
	data  any
}

func (r *tensorReader) errorf(code rowcast.Code, format string, args ...any) *rowcast.Error {
	return rowcast.Errorf(code, "%s %q %s", r.of.Kind, r.port.Name, fmt.Sprintf(format, args...))
}

func (r *tensorReader) read() error {
	if r.Peek() == '{' {
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
			r.Peek()
			at = r.pos
			inner := tensorReader{Scanner: r.Scanner, of: r.of, port: r.port}
			err := inner.measure(0)
			flat = inner.shape
			return err
		}
		return r.errorf(rowcast.CodeInvalidText, "has the key %q; an object for a tensor has shape and data", Excerpt(key))
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
	v, err := r.Value()
	if err != nil {
		return err
	}
	n, fraction, exceeds, known := v.Integer()
	if v.Kind != Number || !known || fraction || exceeds || n < 0 || len(r.shape) >= jsonDepth {
		return r.errorf(rowcast.CodeDimensions, "has %s in its shape", v.Describe())
	}
	r.shape = append(r.shape, n)
	return nil
}

// measure passes over a value and finds its shape.
func (r *tensorReader) measure(depth int) error {
	if depth > jsonDepth {
		return rowcast.Errorf(rowcast.CodeTooLarge, "JSON nests deeper than %d levels", jsonDepth)
	}
	if r.Peek() != '[' {
		keep := len(r.buf)
		_, err := r.Value()
		r.buf = r.buf[:keep]
		return err
	}
	known := depth < len(r.shape)
	if !known {
		r.shape = append(r.shape, 0)
	}
	n := int64(0)
	err := r.array(func() error {
		switch nested := r.Peek() == '['; {
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
	if declared == nil || r.of.AnyShape {
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
		for c := r.Peek(); c == '[' || c == ']' || c == ','; c = r.Peek() {
			r.pos++
		}
		keep := len(r.buf)
		v, err := r.Value()
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
func (r *tensorReader) set(i int, v Value) error {
	if v.Kind == Null {
		return r.errorf(rowcast.CodeNullFeature, "is NULL at %s", r.place(i))
	}
	switch store(r.data, r.port.DType, i, v) {
	case wrongType:
		return r.errorf(rowcast.CodeFeatureType, "takes %s, got %s at %s", r.port.DType, v.Describe(), r.place(i))
	case outOfRange:
		return r.errorf(rowcast.CodeFeatureRange, "takes %s, which cannot hold %s at %s", r.port.DType, v.Describe(), r.place(i))
	}
	return nil
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

// SetElement stores text, one JSON value, as element i. It reports whether the tensor can hold it.
func SetElement(t *onnx.Tensor, i int, text []byte) bool {
	v, err := ParseValue(text)
	return err == nil && store(t.Data, t.DType, i, v) == stored
}

// outcome says how storing a value went.
type outcome byte

const (
	stored outcome = iota
	wrongType
	outOfRange
)

// store stores v as element i of a tensor's data.
func store(data any, dtype rowcast.DType, i int, v Value) outcome {
	switch dtype {
	case rowcast.String:
		if v.Kind != String {
			return wrongType
		}
		data.([]string)[i] = string(v.Text)
	case rowcast.Bool:
		b, known := v.Bool()
		if !known {
			return wrongType
		}
		data.([]bool)[i] = b
	case rowcast.Float16, rowcast.BFloat16, rowcast.Float32, rowcast.Float64:
		x, exceeds, known := v.Float()
		if !known {
			return wrongType
		}
		if exceeds || onnx.SetFloat(data, dtype, i, x) != onnx.Fits {
			return outOfRange
		}
	case rowcast.Uint64:
		magnitude, negative, fraction, exceeds := uint64(0), false, true, false
		if v.Kind == Number {
			magnitude, negative, fraction, exceeds = parseInteger(v.Text)
		}
		switch {
		case fraction:
			return wrongType
		case exceeds, negative && magnitude > 0:
			return outOfRange
		}
		data.([]uint64)[i] = magnitude
	default:
		n, fraction, exceeds, known := v.Integer()
		switch {
		case v.Kind != Number, !known, fraction:
			return wrongType
		case exceeds, !onnx.SetInt(data, dtype, i, n):
			return outOfRange
		}
	}
	return stored
}
