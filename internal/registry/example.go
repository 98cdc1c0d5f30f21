package registry

import (
	"encoding/json"
	"errors"
	"strings"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/rowcast"
	"github.com/rowcast/rowcast/internal/tensorjson"
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

// readTensors reads one object of tensors. Their shapes are left to the run: what a graph declares is not always so.
func readTensors(text json.RawMessage, ports []rowcast.Port, kind string) ([]onnx.Tensor, error) {
	if text[0] != '{' {
		return nil, rowcast.Errorf(rowcast.CodeInvalidArgument, "the example's %ss must be an object of keys and values", kind)
	}
	r := tensorjson.Reader{Ports: ports, Kind: kind, AnyShape: true, Nearest: func(name string, names []string) string {
		near, _ := nearest(name, names)
		return near
	}}
	tensors, err := r.Read(text)
	var wrong *rowcast.Error
	if errors.As(err, &wrong) {
		wrong.Code = rowcast.CodeInvalidArgument
		if strings.HasPrefix(wrong.Message, kind) {
			wrong.Message = "the example's " + wrong.Message
		} else {
			wrong.Message = "the example's " + kind + "s: " + wrong.Message
		}
	}
	return tensors, err
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
			f := featureAt(sig, i, e)
			if f == nil || len(f.Default) == 0 || !tensorjson.SetElement(&t, e, f.Default) {
				onnx.SetInt(t.Data, p.DType, e, 1) // text stays empty
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
		value := raw
		switch {
		case len(raw) > 0 && string(raw) != "null":
		case len(f.Default) > 0:
			continue // madeUp has put it there
		case f.Missing:
			value = json.RawMessage(`"NaN"`)
		default:
			return nil, rowcast.Errorf(rowcast.CodeInvalidArgument, "the example has no value for the feature %q", clip(f.Name))
		}
		input, width, column := 0, len(sig.Features), i
		if sig.Layout == rowcast.LayoutColumns {
			input, width, column = columnOf(sig, i), 1, 0
		}
		t := &tensors[input]
		if t.DType != rowcast.Bool {
			switch string(value) {
			case "true":
				value = json.RawMessage("1")
			case "false":
				value = json.RawMessage("0")
			}
		}
		for r := range rows {
			if !tensorjson.SetElement(t, r*width+column, value) {
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
		// Other rows of another size show whether a row's answer depends on them.
		for r, factor := range []float64{1, 3, -7} {
			for e := range width {
				if isFloat(t.DType) {
					v, _ := onnx.FloatAt(t.Data, t.DType, e)
					if onnx.SetFloat(copyOf.Data, t.DType, r*width+e, v*factor) == onnx.OutOfRange {
						onnx.SetFloat(copyOf.Data, t.DType, r*width+e, 0)
					}
				} else {
					tensorjson.SetElement(&copyOf, r*width+e, tensorjson.AppendElement(nil, &t, e))
				}
			}
		}
		out[i] = copyOf
	}
	return out
}
