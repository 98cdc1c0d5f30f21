package convert

// ensemble collects trees that compare and add in float32, in the lists of ai.onnx.ml.TreeEnsembleRegressor of version 3. Its operator sums a row's
// leaves in the order of the trees.
//
// A tree is started with begin; its first node is its root. A branch is added before its children are known, and join leads to them. Where nodes of a
// tree share a child, it must be the child of the true side: ONNX Runtime lays the false child right behind its parent.
type ensemble struct {
	targets int

	trees, nodes     []int64 // number of the tree, number of the node in it
	features         []int64
	modes            []string
	values           []float32 // thresholds
	whenTrue, isElse []int64
	missing          []int64 // 1: NaN goes where true goes

	leafTrees, leafNodes, leafTargets []int64
	weights                           []float32

	tree, start int64
}

// What a node does: go to the true side where the feature is less than the threshold, or end.
const (
	modeLess = "BRANCH_LT"
	modeLeaf = "LEAF"
)

// edge is one side of a branch that was added.
type edge struct {
	branch   int
	whenTrue bool
}

func newEnsemble(targets int) *ensemble {
	return &ensemble{targets: targets, tree: -1}
}

// begin starts the next tree.
func (e *ensemble) begin() {
	e.tree++
	e.start = int64(len(e.nodes))
}

func (e *ensemble) add(mode string, feature int, threshold float32, missingTrue bool) int {
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
func (e *ensemble) branch(feature int, threshold float32, missingTrue bool) int {
	return e.add(modeLess, feature, threshold, missingTrue)
}

// join lets edges lead to a node.
func (e *ensemble) join(from []edge, node int) {
	for _, f := range from {
		if at := e.start + int64(f.branch); f.whenTrue {
			e.whenTrue[at] = int64(node)
		} else {
			e.isElse[at] = int64(node)
		}
	}
}

// leaf adds a leaf that adds weight to a target and returns its number in the tree. A first tree that is a single leaf is a base value that is added
// first, as XGBoost does; ONNX Runtime adds its own base values last, which rounds differently.
func (e *ensemble) leaf(target int, weight float32) int {
	id := e.add(modeLeaf, 0, 0, false)
	e.leafTrees = append(e.leafTrees, e.tree)
	e.leafNodes = append(e.leafNodes, int64(id))
	e.leafTargets = append(e.leafTargets, int64(target))
	e.weights = append(e.weights, weight)
	return id
}

// write adds the operator: input [N, F] and output [N, targets], both float32. postTransform is NONE, SOFTMAX or another of the operator's.
func (e *ensemble) write(g *graph, input, output, postTransform string) {
	g.domainNode(domainML, "TreeEnsembleRegressor", []string{input}, []string{output},
		intAttribute("n_targets", int64(e.targets)),
		stringAttribute("aggregate_function", "SUM"),
		stringAttribute("post_transform", postTransform),
		intsAttribute("nodes_treeids", e.trees),
		intsAttribute("nodes_nodeids", e.nodes),
		intsAttribute("nodes_featureids", e.features),
		stringsAttribute("nodes_modes", e.modes),
		floatsAttribute("nodes_values", e.values),
		intsAttribute("nodes_truenodeids", e.whenTrue),
		intsAttribute("nodes_falsenodeids", e.isElse),
		intsAttribute("nodes_missing_value_tracks_true", e.missing),
		intsAttribute("target_treeids", e.leafTrees),
		intsAttribute("target_nodeids", e.leafNodes),
		intsAttribute("target_ids", e.leafTargets),
		floatsAttribute("target_weights", e.weights))
}
