package onnx

import (
	"encoding/binary"
	"encoding/json"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// trace follows each output back through operators that keep its meaning, until one tells what it is: a classifier's labels, a ZipMap, the classes that
// an arg-max picks from, a nearest centre.
func (g *Graph) trace() {
	makers := map[string]int{}
	for i, n := range g.nodes {
		for _, out := range n.outputs {
			makers[out] = i
		}
	}
	var zipMapLabels, labels []json.RawMessage
	for _, p := range g.Outputs {
		source, slot, ok := g.source(makers, p.Name)
		if !ok {
			continue
		}
		n := g.nodes[source]
		switch n.op {
		case "ZipMap":
			g.ProbabilityOutput = p.Name
			zipMapLabels = n.labels
		case "LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier":
			if slot == 0 {
				g.LabelOutput = p.Name
			} else if g.ProbabilityOutput == "" {
				g.ProbabilityOutput = p.Name
			}
			if labels == nil {
				labels = n.labels
			}
		case "ArrayFeatureExtractor", "Gather":
			if classes := g.constantLabels(makers, n.inputs[0]); classes != nil && isLabel(p) {
				g.LabelOutput, labels = p.Name, classes
			}
		case "LabelEncoder":
			if n.labels != nil && isLabel(p) {
				g.LabelOutput, labels = p.Name, n.labels
			}
		case "ArgMin", "TopK":
			if isLabel(p) && g.LabelOutput == "" {
				g.LabelOutput = p.Name
				g.Clusters = g.clusters(p.Name)
			}
		case "ArgMax":
			if isLabel(p) && g.LabelOutput == "" {
				g.LabelOutput = p.Name
			}
		case "Softmax":
			g.SoftmaxOutput = p.Name
			if g.ProbabilityOutput == "" && p.DType != rowcast.Int64 {
				g.ProbabilityOutput = p.Name
			}
		}
	}
	if g.Labels = zipMapLabels; g.Labels == nil {
		// A ZipMap's labels name the probability columns themselves; a classifier's are in the same order.
		g.Labels = labels
	}
	if g.LabelOutput == "" && g.Labels == nil {
		// A softmax alone may be an attention weight as well as a probability: the caller says which.
		g.ProbabilityOutput = ""
	}
}

func isLabel(p rowcast.Port) bool {
	return p.DType == rowcast.Int64 || p.DType == rowcast.Int32 || p.DType == rowcast.String
}

// source walks back from a value to the operator that gives it its meaning, and says which of that operator's outputs it is.
func (g *Graph) source(makers map[string]int, name string) (index, slot int, ok bool) {
	for range 64 { // a cycle ends too
		i, made := makers[name]
		if !made {
			return 0, 0, false
		}
		n := g.nodes[i]
		if len(n.inputs) == 0 {
			return 0, 0, false
		}
		switch n.op {
		case "Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Normalizer":
			name = n.inputs[0]
		case "Mul": // LightGBM multiplies its probabilities by one
			if len(n.inputs) != 2 || !g.constant(makers, n.inputs[1]) {
				return i, 0, true
			}
			name = n.inputs[0]
		default:
			for s, out := range n.outputs {
				if out == name {
					slot = s
				}
			}
			return i, slot, true
		}
	}
	return 0, 0, false
}

func (g *Graph) constant(makers map[string]int, name string) bool {
	if _, ok := g.initializers[name]; ok {
		return true
	}
	i, ok := makers[name]
	return ok && g.nodes[i].op == "Constant"
}

// constantLabels reads the classes that an arg-max picks from.
func (g *Graph) constantLabels(makers map[string]int, name string) []json.RawMessage {
	t, ok := g.initializers[name]
	if !ok {
		i, made := makers[name]
		if !made || g.nodes[i].value == nil {
			return nil
		}
		t = *g.nodes[i].value
	}
	switch t.dtype {
	case 8:
		list := make([]string, len(t.strings))
		for i, s := range t.strings {
			list[i] = text(s)
		}
		if len(list) == 0 {
			return nil
		}
		return textLabels(list)
	case 6, 7:
		ints := t.ints
		if width := map[int64]int{6: 4, 7: 8}[t.dtype]; len(ints) == 0 && len(t.raw)/width <= maxLabels {
			for raw := t.raw; len(raw) >= width; raw = raw[width:] {
				if width == 4 {
					ints = append(ints, int64(int32(binary.LittleEndian.Uint32(raw))))
				} else {
					ints = append(ints, int64(binary.LittleEndian.Uint64(raw)))
				}
			}
		}
		for i, v := range ints {
			if t.dtype == 6 {
				ints[i] = int64(int32(v))
			}
		}
		return integerLabels(ints)
	}
	return nil
}

// clusters is the width of the distances beside a cluster label, 0 where the graph does not declare it.
func (g *Graph) clusters(label string) int {
	for _, p := range g.Outputs {
		if p.Name != label && len(p.Shape) == 2 && p.Shape[1] > 0 && p.DType != rowcast.String {
			return int(p.Shape[1])
		}
	}
	return 0
}
