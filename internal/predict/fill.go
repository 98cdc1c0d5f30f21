package predict

import (
	"math"
	"slices"

	"github.com/rowcast/rowcast/internal/rowcast"
	"github.com/rowcast/rowcast/internal/tensorjson"
)

// scratch is what reading a row needs besides the tensors; pooled.
type scratch struct {
	seen    []bool // features that a JSON object has named
	scanner tensorjson.Scanner
	literal literal
}

// fill reads the call's payload into the tensors. Errors name the model, the feature, what was expected and what came.
func (r *filler) fill() error {
	if r.plan.tensors {
		return r.errorf(rowcast.CodeInvalidArgument, "takes named tensors, not a row of features").
			WithHint("Call ml.infer(model, inputs jsonb) with one array per input.")
	}
	var err error
	switch payload := r.call.Payload; r.call.Format {
	case rowcast.FormatArray:
		err = r.fillSent(payload)
	case rowcast.FormatText:
		err = r.fillText(payload)
	case rowcast.FormatJSON, rowcast.FormatRecord:
		err = r.fillJSON(payload)
	default:
		err = rowcast.Errorf(rowcast.CodeProtocol, "unknown format %q", r.call.Format)
	}
	if err == nil && r.plan.rows > 1 {
		r.repeat()
	}
	return err
}

// fillText reads the text overload: the feature itself where it is the model's only one and text, else an array literal or a JSON object.
func (r *filler) fillText(payload []byte) error {
	if r.plan.rawText {
		return r.store(&r.plan.features[0], cell{kind: cellText, text: payload})
	}
	var s tensorjson.Scanner
	s.Reset(payload)
	switch s.Peek() {
	case '{':
		s.Advance()
		switch s.Peek() {
		case '"':
			// {"a": 1} is an object, {"1"} and {"1","2"} are arrays of quoted elements. What follows the string tells.
			if _, err := s.Str(); err == nil && s.Peek() == ':' {
				return r.fillJSON(payload)
			}
		case '}':
			// An object where that makes sense, else an empty array.
			if r.plan.optional {
				return r.fillJSON(payload)
			}
		}
		return r.fillLiteral(payload)
	case '[':
		return r.fillLiteral(payload)
	}
	return r.notARow(payload)
}

// fillSent reads array_send(double precision[]).
func (r *filler) fillSent(payload []byte) error {
	a, err := readSentArray(payload)
	if err != nil {
		return err
	}
	if err := r.checkArray(a.dims[:a.rank]); err != nil {
		return err
	}
	features := r.plan.features
	if a.plain && r.plan.float32s && r.sentFloat32(a.elements) || a.plain && r.plan.float64s && r.sentFloat64(a.elements) {
		return nil
	}
	for i := range features {
		bits, null, err := a.next()
		if err != nil {
			return err
		}
		v := cell{kind: cellFloat, float: math.Float64frombits(bits)}
		if null {
			v = cell{kind: cellNull}
		}
		if err := r.store(&features[i], v); err != nil {
			return err
		}
	}
	if len(a.elements) > 0 {
		return protocolFault("text after the last element")
	}
	return nil
}

// sentFloat32 is the short way for a float32 matrix. It gives up on the first element that is not plain and finite, for store to judge.
func (r *filler) sentFloat32(elements []byte) bool {
	row := r.inputs[0].Data.([]float32)
	for i := range r.plan.features {
		bits, ok := plainElement(elements[24*i:])
		v := float32(math.Float64frombits(bits))
		if !ok || v-v != 0 { // NaN or infinite
			return false
		}
		row[i] = v
	}
	return true
}

func (r *filler) sentFloat64(elements []byte) bool {
	row := r.inputs[0].Data.([]float64)
	for i := range r.plan.features {
		bits, ok := plainElement(elements[24*i:])
		v := math.Float64frombits(bits)
		if !ok || v-v != 0 {
			return false
		}
		row[i] = v
	}
	return true
}

// plainElement reads an element whose length is eight bytes.
func plainElement(text []byte) (uint64, bool) {
	if string(text[:8]) != "00000008" {
		return 0, false
	}
	return hex64(text[8:])
}

// fillLiteral reads an array literal.
func (r *filler) fillLiteral(payload []byte) error {
	l := &r.scratch.literal
	if err := l.read(payload); err != nil {
		return r.wrap(err)
	}
	if err := r.checkArray(l.dims); err != nil {
		return err
	}
	for i := range r.plan.features {
		if err := r.store(&r.plan.features[i], l.cells[i]); err != nil {
			return err
		}
	}
	return nil
}

// checkArray checks what an array must be before its elements are looked at.
func (r *filler) checkArray(dims []int) error {
	features := r.plan.features
	switch {
	case r.plan.text >= 0:
		return r.errorf(rowcast.CodeFeatureType, "cannot take an array: feature %q is text", features[r.plan.text].name).
			WithDetail("%s", r.expected()).WithHint("Pass a row of a table or a JSON object.")
	case len(dims) == 0:
		return r.errorf(rowcast.CodeDimensions, "takes %s, got an empty array", plural(len(features), "feature")).WithDetail("%s", r.expected())
	case len(dims) > 1:
		return r.errorf(rowcast.CodeDimensions, "takes one row of %s, got an array of %d dimensions", plural(len(features), "feature"), len(dims)).
			WithDetail("%s The array has %s elements.", r.expected(), times(dims)).
			WithHint("Pass one row at a time; ml.infer takes several rows at once.")
	case dims[0] < len(features):
		return r.errorf(rowcast.CodeFeatureCount, "takes %s, got %d: %s missing", plural(len(features), "feature"), dims[0],
			areNamed(features[dims[0]:])).WithDetail("%s", r.expected())
	case dims[0] > len(features):
		return r.errorf(rowcast.CodeFeatureCount, "takes %s, got %d", plural(len(features), "feature"), dims[0]).WithDetail("%s", r.expected())
	}
	return nil
}

// fillJSON reads an object by feature name, in one pass over the text.
func (r *filler) fillJSON(payload []byte) error {
	s := &r.scratch.scanner
	s.Reset(payload)
	defer s.Reset(nil)
	if s.Peek() != '{' {
		return r.notAnObject(s)
	}
	features := r.plan.features
	seen := r.scratch.seen[:len(features)]
	clear(seen)
	s.Advance()
	next := 0 // keys mostly come in the order of the features
	for more := s.Peek() != '}'; more; {
		key, err := s.Str()
		if err != nil {
			return r.wrap(err)
		}
		if s.Peek() != ':' {
			return r.wrap(s.Fault("expected a colon after a key"))
		}
		s.Advance()
		v, err := s.Value()
		if err != nil {
			return r.wrap(err)
		}
		at, known := next, next < len(features) && features[next].name == string(key)
		if !known {
			at, known = r.plan.index[string(key)]
		}
		switch {
		case known && seen[at]:
			return r.twice(&features[at])
		case known:
			if err := r.store(&features[at], jsonCell(v)); err != nil {
				return err
			}
			seen[at] = true
			next = at + 1
		case r.call.Format != rowcast.FormatRecord:
			return r.unknownKey(string(key))
		}
		switch s.Peek() {
		case ',':
			s.Advance()
		case '}':
			more = false
		default:
			return r.wrap(s.Fault("expected a comma or the end of the object"))
		}
	}
	s.Advance()
	if err := s.End(); err != nil {
		return r.wrap(err)
	}
	if r.call.Format == rowcast.FormatRecord && !slices.Contains(seen, true) {
		return r.stranger() // however much may be missing: it is another table's
	}
	for i := range features {
		if seen[i] {
			continue
		}
		f := &features[i]
		if f.fallback.kind == cellAbsent && !f.missing {
			return r.absent(seen)
		}
		if err := r.store(f, cell{kind: cellAbsent}); err != nil {
			return err
		}
	}
	return nil
}
