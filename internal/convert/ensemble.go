package convert

// ensemble collects trees in the lists of ai.onnx.ml.TreeEnsembleRegressor. Version 3 of the operator, not the newer TreeEnsemble: ONNX Runtime turns
// the newer into the older when it loads, and takes some of its roots for leaves (microsoft/onnxruntime issue 24679).
//
// A tree is started with begin; its first node is its root. Branches are added before their children are known and get them by children. In double mode
// thresholds and weights are float64 and the operator takes float64 and adds in it; else both are float32.
//
// Where nodes of a tree share a child, it must be the child of the true side: ONNX Runtime lays the false child right behind its parent.
type ensemble struct {
	targets int
	double  bool

	trees, nodes     []int64 // number of the tree, number of the node in it
	features         []int64
	modes            []string
	values           []float64 // thresholds
	whenTrue, isElse []int64
	missing          []int64 // 1: NaN goes where true goes

	leafTrees, leafNodes, leafTargets []int64
	weights                           []float64

	tree, start int64
}

// Branch modes: how the feature's value compares with the threshold where it goes to the true side.
const (
	branchLT  = "BRANCH_LT"
	branchLEQ = "BRANCH_LEQ"
	branchEQ  = "BRANCH_EQ"
	modeLeaf  = "LEAF"
)

func newEnsemble(targets int, double bool) *ensemble {
	return &ensemble{targets: targets, double: double, tree: -1}
}

// begin starts the next tree.
func (e *ensemble) begin() {
	e.tree++
	e.start = int64(len(e.nodes))
}

func (e *ensemble) add(mode string, feature int, threshold float64, missingTrue bool) int {
	id := int64(len(e.nodes)) - e.start
	e.trees = append(e.trees, e.tree)
	e.nodes = append(e.nodes, id)
	e.modes = append(e.modes, mode)
	e.features = append(e.features, int64(feature))
	e.values = append(e.values, threshold)
	e.whenTrue = append(e.whenTrue, 0)
	e.isElse = append(e.isElse, 0)
	var tracks int64
	if missingTrue {
		tracks = 1
	}
	e.missing = append(e.missing, tracks)
	return int(id)
}

// branch adds a comparison and returns its number in the tree.
func (e *ensemble) branch(mode string, feature int, threshold float64, missingTrue bool) int {
	return e.add(mode, feature, threshold, missingTrue)
}

// children says where a branch of the current tree leads.
func (e *ensemble) children(branch, whenTrue, otherwise int) {
	e.whenTrue[e.start+int64(branch)] = int64(whenTrue)
	e.isElse[e.start+int64(branch)] = int64(otherwise)
}

// leaf adds a leaf that adds weight to a target and returns its number in the tree. A first tree that is a single leaf is a base value that is added
// first, as XGBoost does; ONNX Runtime adds its own base values last, which rounds differently.
func (e *ensemble) leaf(target int, weight float64) int {
	id := e.add(modeLeaf, 0, 0, false)
	e.leafTrees = append(e.leafTrees, e.tree)
	e.leafNodes = append(e.leafNodes, int64(id))
	e.leafTargets = append(e.leafTargets, int64(target))
	e.weights = append(e.weights, weight)
	return id
}

// write adds the operator: input [N, F] of float32 (float64 in double mode), output [N, targets] of float32. postTransform is NONE, SOFTMAX or another
// of the operator's; aggregate is SUM or AVERAGE.
func (e *ensemble) write(g *graph, input, output, aggregate, postTransform string) {
	attributes := [][]byte{
		intAttribute("n_targets", int64(e.targets)),
		stringAttribute("aggregate_function", aggregate),
		stringAttribute("post_transform", postTransform),
		intsAttribute("nodes_treeids", e.trees),
		intsAttribute("nodes_nodeids", e.nodes),
		intsAttribute("nodes_featureids", e.features),
		stringsAttribute("nodes_modes", e.modes),
		intsAttribute("nodes_truenodeids", e.whenTrue),
		intsAttribute("nodes_falsenodeids", e.isElse),
		intsAttribute("nodes_missing_value_tracks_true", e.missing),
		intsAttribute("target_treeids", e.leafTrees),
		intsAttribute("target_nodeids", e.leafNodes),
		intsAttribute("target_ids", e.leafTargets),
	}
	if e.double {
		attributes = append(attributes, doublesAttribute("nodes_values_as_tensor", e.values), doublesAttribute("target_weights_as_tensor", e.weights))
	} else {
		attributes = append(attributes, floatsAttribute("nodes_values", narrowed(e.values)), floatsAttribute("target_weights", narrowed(e.weights)))
	}
	g.domainNode(domainML, "TreeEnsembleRegressor", []string{input}, []string{output}, attributes...)
}

func narrowed(list []float64) []float32 {
	out := make([]float32, len(list))
	for i, v := range list {
		out[i] = float32(v)
	}
	return out
}
