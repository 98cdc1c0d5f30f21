package registry

import (
	"bytes"
	"encoding/json"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// trial is what a new artifact is run on.
type trial struct {
	inputs  []onnx.Tensor
	outputs []onnx.Tensor // what the example says; nil where it does not
	given   bool          // somebody gave the row, so that an error of the model refuses it
}

// newTrial reads the example of the options, or makes a row up.
func newTrial(sig *rowcast.Signature, outputs []rowcast.Port, example json.RawMessage) (*trial, error) {
	if len(example) == 0 {
		return &trial{inputs: madeUp(sig, max(1, sig.Batch))}, nil
	}
	t := &trial{given: true}
	var err error
	if example[0] == '{' {
		fields, ferr := object(example, "the example")
		if ferr != nil {
			return nil, ferr
		}
		if inputs, ok := fields["inputs"]; ok && len(fields) <= 2 && (len(fields) == 1 || fields["outputs"] != nil) && inputs[0] == '{' {
			if t.inputs, err = readTensors(inputs, sig.Inputs, "input"); err == nil && fields["outputs"] != nil {
				t.outputs, err = readTensors(fields["outputs"], outputs, "output")
			}
			return t, err
		}
		t.inputs, err = rowByName(sig, fields)
		return t, err
	}
	var row []json.RawMessage
	if json.Unmarshal(example, &row) != nil {
		return nil, rowcast.Errorf(rowcast.CodeInvalidArgument, "the example must be {\"inputs\": {…}}, or one row of features as an array or an object")
	}
	t.inputs, err = rowInOrder(sig, row)
	return t, err
}

// madeUp fills a row with defaults and ones: zero would divide by zero in an integer model, and kill the process that tries it.
func madeUp(sig *rowcast.Signature, rows int) []onnx.Tensor {
	tensors := make([]onnx.Tensor, len(sig.Inputs))
	for i, p := range sig.Inputs {
		shape := make([]int64, len(p.Shape))
		for d, size := range p.Shape {
			switch {
			case size >= 0:
				shape[d] = size
			case d == 0:
				shape[d] = int64(rows)
			default:
				shape[d] = 1
			}
		}
		n := int(min(onnx.Len(shape), 1<<24))
		t := onnx.Tensor{Name: p.Name, DType: p.DType, Shape: shape, Data: onnx.MakeData(p.DType, n)}
		for e := range n {
			value := any(json.Number("1"))
			switch p.DType {
			case rowcast.String:
				value = ""
			case rowcast.Bool:
				value = true
			}
			if f := featureAt(sig, i, e); f != nil && len(f.Default) > 0 {
				value = decodeScalar(f.Default)
			}
			if !setElement(p.DType, t.Data, e, value) {
				setElement(p.DType, t.Data, e, json.Number("1"))
			}
		}
		tensors[i] = t
	}
	return tensors
}

// featureAt is the feature of an input's element, nil where there is none.
func featureAt(sig *rowcast.Signature, input, element int) *rowcast.Feature {
	switch sig.Layout {
	case rowcast.LayoutMatrix:
		return &sig.Features[element%len(sig.Features)]
	case rowcast.LayoutColumns:
		for f := range sig.Features {
			if columnOf(sig, f) == input {
				return &sig.Features[f]
			}
		}
	}
	return nil
}

// columnOf is the input of feature f: by name where every feature is named as an input, else by position.
func columnOf(sig *rowcast.Signature, f int) int {
	byPosition := f
	for _, feature := range sig.Features {
		if _, ok := onnx.Port(sig.Inputs, feature.Name); !ok {
			return byPosition
		}
	}
	for i, p := range sig.Inputs {
		if p.Name == sig.Features[f].Name {
			return i
		}
	}
	return byPosition
}

func decodeScalar(raw json.RawMessage) any {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	_ = d.Decode(&v) // checkDefault has read it
	return v
}

func rowByName(sig *rowcast.Signature, fields map[string]json.RawMessage) ([]onnx.Tensor, error) {
	row := make([]json.RawMessage, len(sig.Features))
	for i, f := range sig.Features {
		row[i] = fields[f.Name]
		delete(fields, f.Name)
	}
	for name := range fields {
		return nil, rowcast.Errorf(rowcast.CodeInvalidArgument, "the example has the key %q, which is no feature", clip(name))
	}
	return rowInOrder(sig, row)
}

func rowInOrder(sig *rowcast.Signature, row []json.RawMessage) ([]onnx.Tensor, error) {
	if len(sig.Features) == 0 {
		return nil, rowcast.Errorf(rowcast.CodeInvalidArgument, "the example must name the model's input tensors: {\"inputs\": {…}}").
			WithDetail("They are %s.", describePorts(sig.Inputs))
	}
	if len(row) != len(sig.Features) {
		return nil, rowcast.Errorf(rowcast.CodeInvalidArgument, "the example has %d features, the model takes %d", len(row), len(sig.Features))
	}
	rows := max(1, sig.Batch)
	tensors := madeUp(sig, rows)
	for i, raw := range row {
		f := &sig.Features[i]
		var value any
		switch {
		case len(raw) > 0 && string(raw) != "null":
			value = decodeScalar(raw)
		case len(f.Default) > 0:
			continue // madeUp has put it there
		case f.Missing:
			value = "NaN"
		default:
			return nil, rowcast.Errorf(rowcast.CodeInvalidArgument, "the example has no value for the feature %q", clip(f.Name))
		}
		input, width, column := 0, len(sig.Features), i
		if sig.Layout == rowcast.LayoutColumns {
			input, width, column = columnOf(sig, i), 1, 0
		}
		t := &tensors[input]
		if b, isBool := value.(bool); isBool && t.DType != rowcast.Bool {
			value = json.Number(map[bool]string{false: "0", true: "1"}[b])
		}
		for r := range rows {
			if !setElement(t.DType, t.Data, r*width+column, value) {
				return nil, rowcast.Errorf(rowcast.CodeInvalidArgument, "the example's feature %q can't be %s", clip(f.Name), clip(string(raw)))
			}
		}
	}
	return tensors, nil
}

// repeated puts the first row of inputs and two altered copies under one another, for models whose number of rows is open. It returns nil where it is not.
func repeated(sig *rowcast.Signature, inputs []onnx.Tensor) []onnx.Tensor {
	if sig.Batch != 0 || sig.Layout == rowcast.LayoutTensors {
		return nil
	}
	out := make([]onnx.Tensor, len(inputs))
	for i, t := range inputs {
		width := int(onnx.Len(t.Shape[1:]))
		shape := append([]int64{3}, t.Shape[1:]...)
		copyOf := onnx.Tensor{Name: t.Name, DType: t.DType, Shape: shape, Data: onnx.MakeData(t.DType, 3*width)}
		for r := range 3 {
			for e := range width {
				value := decodeScalar(appendElement(nil, &t, e))
				if f, ok := float(value, 32); ok && r > 0 && isFloat(t.DType) {
					// Other rows of another size show whether a row's answer depends on them.
					value = decodeScalar(appendFloat(nil, f*[]float64{1, 3, -7}[r], 32))
				}
				setElement(t.DType, copyOf.Data, r*width+e, value)
			}
		}
		out[i] = copyOf
	}
	return out
}
