package convert

import (
	"strconv"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// LightGBM converts LightGBM's text model, as booster.save_model writes it. The graph takes and gives float64: LightGBM compares, adds and answers in
// it.
//
// A feature may be missing where a split on it says how it treats missing values, or where no split asks for it. Categories that pandas knew by a
// text are taken as that text. Labels are the numbers of the classes: the file does not know what LGBMClassifier was trained with. A file saved after
// early stopping ends with the best iteration, unless it was saved with num_iteration=-1.
//
// Errors have CodeArtifactRefused and name the line.
func LightGBM(data []byte) (*Result, error) {
	f, err := readLightGBM(data)
	if err != nil {
		return nil, err
	}
	objective, err := f.objective()
	if err != nil {
		return nil, err
	}
	sums, err := f.classes(objective)
	if err != nil {
		return nil, err
	}
	features, err := f.features()
	if err != nil {
		return nil, err
	}
	b := &lightgbmBuilder{
		graph:  graph{opsetML: opsetForest},
		result: &Result{TrainedWith: "LightGBM", Parameters: f.settings(), Warnings: features.warnings},
	}
	if v := f.header["version"]; v != "" {
		b.result.TrainedWith = "LightGBM (model format " + clip(v) + ")"
	}
	matrix := b.inputs(features)
	b.trees(f, features, matrix, sums, objective)
	b.result.ONNX = b.graph.model("LightGBM", clip(f.header["version"]), b.metadata(features))
	return b.result, nil
}

// settings are the parameters of the training that say how the model came about, not where its files lay or on how many cores.
func (f *lightgbmFile) settings() map[string]string {
	kept := map[string]string{}
	if v := f.header["objective"]; v != "" {
		kept["objective"] = clip(v)
	}
	for _, key := range []string{
		"boosting", "num_iterations", "learning_rate", "num_leaves", "max_depth", "min_data_in_leaf", "min_sum_hessian_in_leaf", "bagging_fraction",
		"bagging_freq", "feature_fraction", "lambda_l1", "lambda_l2", "min_gain_to_split", "drop_rate", "max_bin", "is_unbalance", "scale_pos_weight",
		"use_missing", "zero_as_missing", "early_stopping_round", "monotone_constraints", "seed",
	} {
		if v := f.parameters[key]; v != "" {
			kept[key] = clip(v)
		}
	}
	kept["trees"] = strconv.Itoa(len(f.trees))
	return kept
}

// lightgbmBuilder writes the graph.
type lightgbmBuilder struct {
	graph  graph
	result *Result
	last   int // number of the last name that apply gave
}

// name is a name of the graph's own, which no feature has.
func (b *lightgbmBuilder) name(base string) string { return b.graph.unused("rowcast:" + base) }

// scalar adds a constant.
func (b *lightgbmBuilder) scalar(base string, v float64) {
	b.graph.floats64(b.name(base), []float64{v})
}

// apply adds an operator of one output and returns its name.
func (b *lightgbmBuilder) apply(op string, inputs ...string) string {
	b.last++
	out := b.name(strconv.Itoa(b.last))
	b.graph.node(op, inputs, []string{out})
	return out
}

// output declares an output and returns its name: base, unless a feature has it.
func (b *lightgbmBuilder) output(base string, dtype rowcast.DType, shape ...int64) string {
	name := b.graph.unused(base)
	b.graph.outputs = append(b.graph.outputs, rowcast.Port{Name: name, DType: dtype, Shape: shape})
	return name
}

// trees writes all trees and what makes predictions of their sums.
func (b *lightgbmBuilder) trees(f *lightgbmFile, features *lightgbmFeatures, matrix string, sums int, o lightgbmObjective) {
	var all forest
	for i := range f.trees {
		all.root(f.trees[i].plant(&all, features, i%sums))
	}
	if o.mirrored() {
		for i := range all.weights {
			all.weights[i] = -all.weights[i]
		}
	}
	_, averaged := f.header["average_output"]
	aggregate := int64(forestSum)
	if averaged && sums == 1 {
		aggregate = forestAverage
	}
	sum := b.name("sum")
	all.write(&b.graph, matrix, sum, int64(sums), aggregate)
	if averaged && sums > 1 {
		b.scalar("iterations", float64(len(f.trees)/sums))
		sum = b.apply("Div", sum, b.name("iterations"))
	}
	o.outputs(b, sum, sums)
}

// plant adds the tree and returns its root. It keeps its own stack: trees grow deep.
func (t *lightgbmTree) plant(all *forest, features *lightgbmFeatures, target int) forestNode {
	if len(t.features) == 0 {
		return all.leaf(target, t.leaves[0])
	}
	type step struct {
		child    int32
		parent   forestNode
		whenTrue bool
	}
	root := forestNode{at: -1}
	stack := []step{{parent: root}}
	for len(stack) > 0 {
		s := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		var n forestNode
		switch {
		case s.child < 0:
			n = all.leaf(target, t.leaves[^s.child])
		case t.decisions[s.child]&decisionCategorical != 0:
			members := t.members(int(s.child))
			if len(members) == 0 { // nothing is in an empty set
				stack = append(stack, step{t.right[s.child], s.parent, s.whenTrue})
				continue
			}
			n = all.split(features.column(t, int(s.child)), 0, members, false)
		default:
			n = all.split(features.column(t, int(s.child)), bound(t.thresholds[s.child]), nil, t.missingLeft(int(s.child)))
		}
		if s.parent.at < 0 {
			root = n
		} else {
			all.child(s.parent, s.whenTrue, n)
		}
		if !n.leaf {
			stack = append(stack, step{t.right[s.child], n, false}, step{t.left[s.child], n, true})
		}
	}
	return root
}
