package predict

import (
	"slices"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/rowcast"
	"github.com/rowcast/rowcast/internal/tensorjson"
)

// A plan is what a signature says about turning one row into tensors, worked out once per model.
type plan struct {
	features []feature
	index    map[string]int // position of a feature by its name
	rows     int            // rows per run: 1, or what the graph fixes
	tensors  bool           // the model takes no row of features at all
	rawText  bool           // the only feature is text: the text overload is its value
	text     int            // position of the first text feature, -1 where there is none
	optional bool           // every feature can be absent
	infinity bool           // infinities are welcome
	float32s bool           // one float32 matrix, numbers only: the short way in for arrays
	float64s bool           // likewise float64
}

// feature is where one feature goes and what it accepts.
type feature struct {
	name     string
	kind     rowcast.FeatureType
	dtype    rowcast.DType
	input    int // index of its tensor
	column   int // index of its element in the first row
	missing  bool
	fallback cell // what stands for NULL; cellAbsent where there is no default
}

// newPlan works out the plan of a signature. A signature that contradicts itself is an error with CodeModelUnavailable, since registration
// should have refused it.
func newPlan(sig *rowcast.Signature) (*plan, error) {
	p := &plan{index: make(map[string]int, len(sig.Features)), rows: max(sig.Batch, 1), text: -1, optional: true, infinity: sig.AllowInfinity}
	switch {
	case sig.Layout == rowcast.LayoutTensors || len(sig.Features) == 0:
		p.tensors = true
		return p, nil
	case sig.Layout == rowcast.LayoutMatrix && len(sig.Inputs) != 1, sig.Layout == rowcast.LayoutColumns && len(sig.Inputs) != len(sig.Features):
		return nil, broken("%d inputs do not fit %d features in the layout %q", len(sig.Inputs), len(sig.Features), sig.Layout)
	}
	byName := sig.Layout == rowcast.LayoutColumns && namedAlike(sig)
	for i, declared := range sig.Features {
		f := feature{name: declared.Name, kind: declared.Type, missing: declared.Missing, column: i}
		if sig.Layout == rowcast.LayoutColumns {
			f.input, f.column = i, 0
			if byName {
				f.input = slices.IndexFunc(sig.Inputs, func(in rowcast.Port) bool { return in.Name == f.name })
			}
		}
		f.dtype = sig.Inputs[f.input].DType
		if (f.kind == rowcast.TypeText) != (f.dtype == rowcast.String) {
			return nil, broken("feature %q is %s but its tensor is %s", f.name, f.kind, f.dtype)
		}
		if _, twice := p.index[f.name]; twice {
			return nil, broken("two features are named %q", f.name)
		}
		if len(declared.Default) > 0 && string(declared.Default) != "null" {
			v, err := tensorjson.ParseValue(declared.Default)
			if err != nil {
				return nil, broken("the default of feature %q is not JSON", f.name)
			}
			f.fallback = jsonCell(v)
		}
		if f.kind == rowcast.TypeText && p.text < 0 {
			p.text = i
		}
		p.optional = p.optional && (f.missing || f.fallback.kind != cellAbsent)
		p.index[f.name] = i
		p.features = append(p.features, f)
	}
	p.rawText = len(p.features) == 1 && p.text == 0
	p.float32s, p.float64s = p.numbersOnly(sig, rowcast.Float32), p.numbersOnly(sig, rowcast.Float64)
	return p, p.checkDefaults(sig)
}

// namedAlike reports whether the inputs carry the names of the features, in whatever order. Where somebody renamed the features they go by
// position.
func namedAlike(sig *rowcast.Signature) bool {
	for _, f := range sig.Features {
		if !slices.ContainsFunc(sig.Inputs, func(in rowcast.Port) bool { return in.Name == f.Name }) {
			return false
		}
	}
	return true
}

func (p *plan) numbersOnly(sig *rowcast.Signature, dtype rowcast.DType) bool {
	if sig.Layout != rowcast.LayoutMatrix || sig.Inputs[0].DType != dtype {
		return false
	}
	return !slices.ContainsFunc(p.features, func(f feature) bool { return f.kind != rowcast.TypeReal && f.kind != rowcast.TypeDouble })
}

// checkDefaults stores every default once, so that a wrong one is found when the model is loaded and not in the first row with a NULL.
func (p *plan) checkDefaults(sig *rowcast.Signature) error {
	trial := filler{plan: p, call: &rowcast.Call{}, inputs: make([]onnx.Tensor, len(sig.Inputs))}
	for i, in := range sig.Inputs {
		trial.inputs[i].Data = onnx.MakeData(in.DType, len(p.features))
	}
	for i := range p.features {
		f := &p.features[i]
		if f.fallback.kind == cellAbsent {
			continue
		}
		if f.fallback.isNaN() {
			return broken("the default of feature %q is NaN: declare it missing instead", f.name)
		}
		if err := trial.store(f, f.fallback); err != nil {
			return broken("the default of feature %q, %s, is no %s", f.name, f.fallback.describe(), f.kind)
		}
	}
	return nil
}

func broken(format string, args ...any) *rowcast.Error {
	return rowcast.Errorf(rowcast.CodeModelUnavailable, "signature: "+format, args...)
}
