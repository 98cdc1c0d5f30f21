package onnx

import (
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// XGBoost adds up a row's leaves in float32, beginning with the base score. Its ONNX form states the base score beside the trees, and ONNX Runtime adds
// it last, which rounds differently: of 5000 rows of a forest whose sums reach 271, all but a few differ and 13 by more than 1e-5. Written as a first
// tree that is a single leaf, the base score comes first and every row equals XGBoost's to the last bit. Only XGBoost's trees branch on < and are
// treated so; other libraries add in float64, to which either order is equally close.

// baseTree is the number of the added tree. Converters count from 0.
const baseTree = -1

// leadWithBase rewrites a TreeEnsembleRegressor node so that its base value is its first tree. It returns node itself where the node is another one,
// or its forest is not XGBoost's, has several targets, or no base value.
func leadWithBase(node []byte) []byte {
	var op string
	f := forest{}
	if eachField(node, "an operator", func(part field) error {
		switch part.number {
		case 4:
			op = text(part.bytes)
		case 5:
			return f.attribute(part.bytes)
		}
		return nil
	}) != nil || op != "TreeEnsembleRegressor" || !f.xgboost() {
		return node
	}
	out := make([]byte, 0, len(node)+512)
	_ = eachField(node, "an operator", func(part field) error {
		if part.number == 5 {
			if name := attributeName(part.bytes); name == "base_values" {
				return nil
			} else if first := f.first(name); first != nil {
				// Values of a repeated field may come in pieces, in order.
				part.bytes = append(append(appendString(make([]byte, 0, len(part.bytes)+64), 1, name), first...), part.bytes...)
			}
		}
		out = appendField(out, part)
		return nil
	})
	return out
}

// forest is what decides whether a node is rewritten.
type forest struct {
	base                   []float32
	targets                int64
	lessThan, otherBranch  bool
	weights, postTransform bool // has float32 weights; transforms the sum
	otherSum               bool
}

func (f *forest) xgboost() bool {
	return len(f.base) == 1 && f.base[0] != 0 && f.targets == 1 && f.lessThan && !f.otherBranch && f.weights && !f.postTransform && !f.otherSum
}

func attributeName(attribute []byte) (name string) {
	_ = eachField(attribute, "an attribute", func(f field) error {
		if f.number == 1 {
			name = text(f.bytes)
		}
		return nil
	})
	return name
}

func (f *forest) attribute(attribute []byte) error {
	name := attributeName(attribute)
	return eachField(attribute, "an attribute", func(part field) error {
		switch {
		case name == "base_values" && part.number == 7:
			f.base = append(f.base, floats(part)...)
		case name == "target_weights" && part.number == 7:
			f.weights = true
		case name == "n_targets" && part.number == 3:
			f.targets = int64(part.varint)
		case name == "post_transform" && part.number == 4:
			f.postTransform = text(part.bytes) != "NONE"
		case name == "aggregate_function" && part.number == 4:
			f.otherSum = text(part.bytes) != "SUM"
		case name == "nodes_modes" && part.number == 9:
			switch text(part.bytes) {
			case "BRANCH_LT":
				f.lessThan = true
			case "LEAF":
			default:
				f.otherBranch = true
			}
		}
		return nil
	})
}

// first is the added tree's entry in an attribute: one node, which is a leaf that weighs the base value.
func (f *forest) first(name string) []byte {
	tree := int64(baseTree)
	switch name {
	case "nodes_treeids", "target_treeids":
		return appendInt(nil, 8, tree)
	case "nodes_nodeids", "nodes_featureids", "nodes_truenodeids", "nodes_falsenodeids", "nodes_missing_value_tracks_true", "target_nodeids", "target_ids":
		return appendInt(nil, 8, 0)
	case "nodes_values", "nodes_hitrates":
		return appendFloat(nil, 7, 0)
	case "target_weights":
		return appendFloat(nil, 7, f.base[0])
	case "nodes_modes":
		return appendString(nil, 9, "LEAF")
	}
	return nil
}

func appendFloat(out []byte, number protowire.Number, v float32) []byte {
	return protowire.AppendFixed32(protowire.AppendTag(out, number, protowire.Fixed32Type), math.Float32bits(v))
}

// floats reads a piece of a repeated float field: one value, or many packed.
func floats(f field) []float32 {
	if f.kind == protowire.Fixed32Type {
		return []float32{math.Float32frombits(uint32(f.varint))}
	}
	var list []float32
	for rest := f.bytes; len(rest) >= 4; rest = rest[4:] {
		v, _ := protowire.ConsumeFixed32(rest)
		list = append(list, math.Float32frombits(v))
	}
	return list
}
