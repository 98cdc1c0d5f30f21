package convert

import "math"

// forest collects trees in the lists of ai.onnx.ml.TreeEnsemble, version 5, with everything in float64: input, thresholds, weights, sums and output.
// The operator of version 3, which ensemble writes, gives its sums as float32 whatever it added in.
//
// Splits and leaves are numbered on their own, each over all trees.
type forest struct {
	roots              []int64
	features, missing  []int64 // missing: 1 where NaN goes to the true side
	modes              []byte
	splits             []float64
	whenTrue, isElse   []int64
	trueLeaf, elseLeaf []int64   // 1 where that child is a leaf
	members            []float64 // of every split by membership in order, NaN after each
	targets            []int64
	weights            []float64
}

// The modes of a split, and the ways to bring the trees' values together, as numbers of TreeEnsemble.
const (
	forestLEQ     = 0
	forestMember  = 6
	forestAverage = 0
	forestSum     = 1
)

// opsetForest is the version of domainML that has TreeEnsemble.
const opsetForest = 5

// forestNode is a split or a leaf.
type forestNode struct {
	at   int64
	leaf bool
}

// split adds a comparison, x <= threshold, or with members whether x is among them. missingTrue says where NaN goes.
func (f *forest) split(feature int, threshold float64, members []float64, missingTrue bool) forestNode {
	mode := byte(forestLEQ)
	if len(members) > 0 {
		mode = forestMember
		f.members = append(append(f.members, members...), math.NaN())
	}
	f.features = append(f.features, int64(feature))
	f.modes = append(f.modes, mode)
	f.splits = append(f.splits, threshold)
	f.missing = append(f.missing, flag(missingTrue))
	f.whenTrue, f.isElse = append(f.whenTrue, 0), append(f.isElse, 0)
	f.trueLeaf, f.elseLeaf = append(f.trueLeaf, 0), append(f.elseLeaf, 0)
	return forestNode{at: int64(len(f.features) - 1)}
}

// child says where a split leads.
func (f *forest) child(split forestNode, whenTrue bool, child forestNode) {
	to, leaf := f.isElse, f.elseLeaf
	if whenTrue {
		to, leaf = f.whenTrue, f.trueLeaf
	}
	to[split.at], leaf[split.at] = child.at, flag(child.leaf)
}

// leaf adds a leaf that adds weight to a target.
func (f *forest) leaf(target int, weight float64) forestNode {
	f.targets = append(f.targets, int64(target))
	f.weights = append(f.weights, weight)
	return forestNode{at: int64(len(f.weights) - 1), leaf: true}
}

// root ends a tree. One that is a leaf alone is written as the operator wants it: a split with that leaf on both sides.
func (f *forest) root(n forestNode) {
	if n.leaf {
		s := f.split(0, 0, nil, false)
		f.child(s, true, n)
		f.child(s, false, n)
		n = s
	}
	f.roots = append(f.roots, n.at)
}

// write adds the operator: input [N, F], output [N, targets], both float64. The graph needs opsetForest.
func (f *forest) write(g *graph, input, output string, targets, aggregate int64) {
	attributes := [][]byte{
		intAttribute("n_targets", targets),
		intAttribute("aggregate_function", aggregate),
		intAttribute("post_transform", 0), // none: the operator's own work in float32
		intsAttribute("tree_roots", f.roots),
		intsAttribute("nodes_featureids", f.features),
		tensorAttribute("nodes_modes", rawTensor(elementUint8, f.modes, []int64{int64(len(f.modes))})),
		doublesAttribute("nodes_splits", f.splits),
		intsAttribute("nodes_truenodeids", f.whenTrue),
		intsAttribute("nodes_falsenodeids", f.isElse),
		intsAttribute("nodes_trueleafs", f.trueLeaf),
		intsAttribute("nodes_falseleafs", f.elseLeaf),
		intsAttribute("nodes_missing_value_tracks_true", f.missing),
		intsAttribute("leaf_targetids", f.targets),
		doublesAttribute("leaf_weights", f.weights),
	}
	if len(f.members) > 0 {
		attributes = append(attributes, doublesAttribute("membership_values", f.members))
	}
	g.domainNode(domainML, "TreeEnsemble", []string{input}, []string{output}, attributes...)
}

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
