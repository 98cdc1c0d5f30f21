package convert

import (
	"math"
	"slices"
	"strconv"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// xgboostTree is one tree in XGBoost's lists, which have an entry per node. A leaf has no left child and its value in conditions.
type xgboostTree struct {
	group                  int
	left, right            []float64
	features, conditions   []float64
	defaultLeft            []float64
	splitTypes             []float64 // nil where no split is categorical
	categories             []float64
	categoryNodes          []float64
	categoryStart, ofNodes []float64 // where a node's categories start, and how many they are
}

// Bounds that keep a hostile file from exhausting ONNX Runtime, which lays out a tree by recursion.
const (
	maxTreeDepth = 2000    // nodes on a path, unrolled categories included
	maxCategory  = 1 << 24 // XGBoost's own: codes from here on belong to no set
)

func (m *xgboost) readBooster(learner object) error {
	booster, err := learner.object("gradient_booster")
	if err != nil {
		return err
	}
	if m.booster, err = booster.text("name"); err != nil {
		return err
	}
	m.parameters["booster"] = readable(m.booster)
	switch m.booster {
	case "gbtree":
		return m.readForest(booster)
	case "dart":
		inner, err := booster.object("gbtree")
		if err != nil {
			return err
		}
		if err := m.readForest(inner); err != nil {
			return err
		}
		return m.readWeights(booster, "weight_drop", len(m.trees))
	case "gblinear":
		inner, err := booster.object("model")
		if err != nil {
			return err
		}
		return m.readWeights(inner, "weights", (m.features+1)*m.groups)
	}
	return refused("the model's booster %q is not known", clip(m.booster)).WithDetail("Known are gbtree, dart and gblinear.")
}

func (m *xgboost) readWeights(o object, key string, count int) error {
	weights, err := o.numbers(key)
	if err != nil {
		return err
	}
	if len(weights) != count {
		return damagedXGBoost("%s has %d entries, expected are %d", key, len(weights), count)
	}
	m.weights = narrowed(weights)
	return nil
}

func (m *xgboost) readForest(booster object) error {
	model, err := booster.object("model")
	if err != nil {
		return err
	}
	trees, err := model.list("trees")
	if err != nil {
		return err
	}
	groups, err := model.numbers("tree_info")
	if err != nil {
		return err
	}
	if len(groups) != len(trees) {
		return damagedXGBoost("it has %d trees and %d entries of tree_info", len(trees), len(groups))
	}
	m.trees = make([]xgboostTree, len(trees))
	placed := make([]bool, len(trees))
	for i, tree := range trees {
		fields, _ := tree.(map[string]any)
		o := object{path: "trees[" + strconv.Itoa(i) + "]", fields: fields}
		at := i
		if id, ok := o.fields["id"].(float64); ok {
			if at, ok = index(id, 0, len(trees)-1); !ok {
				at = i
			}
		}
		if placed[at] {
			return damagedXGBoost("tree %d is there twice", at)
		}
		placed[at] = true
		if err := m.trees[at].read(o); err != nil {
			return err
		}
		group, ok := index(groups[at], 0, m.groups-1)
		if !ok {
			return damagedXGBoost("tree %d belongs to output %v of %d", at, groups[at], m.groups)
		}
		m.trees[at].group = group
	}
	if err := m.readRounds(model); err != nil {
		return err
	}
	return m.readCategories(model)
}

// readRounds finds the trees that count: those up to the best iteration, where training stopped early.
func (m *xgboost) readRounds(model object) error {
	m.rounds = len(m.trees)
	parallel := 1
	if parameters, err := model.object("gbtree_model_param"); err == nil && parameters.has("num_parallel_tree") {
		if parallel, err = counted(parameters, "num_parallel_tree", 0, math.MaxInt32); err != nil {
			return err
		}
		m.parameters["num_parallel_tree"] = strconv.Itoa(parallel)
	}
	starts, err := model.optionalNumbers("iteration_indptr")
	if err != nil {
		return err
	}
	limit := len(m.trees)
	if best, err := strconv.Atoi(m.attributes["best_iteration"]); err == nil && best >= 0 && best < len(m.trees) {
		limit = (best + 1) * m.groups * max(parallel, 1)
		if best+1 < len(starts) {
			limit, _ = index(starts[best+1], 0, len(m.trees))
		}
	} else if best, err := strconv.Atoi(m.attributes["best_ntree_limit"]); err == nil && best > 0 && best < len(m.trees) {
		limit = best * m.groups // files of before 1.4
	}
	if limit > 0 && limit < m.rounds {
		m.rounds = limit
		m.dropped = len(m.trees) - limit
	}
	return nil
}

func (t *xgboostTree) read(o object) (err error) {
	if parameters, err := o.object("tree_param"); err == nil && parameters.has("size_leaf_vector") {
		if size, err := counted(parameters, "size_leaf_vector", 0, math.MaxInt32); err != nil {
			return err
		} else if size > 1 {
			return refused("the model's trees have leaves of %d values (multi_strategy=multi_output_tree)", size).
				WithDetail("Rowcast converts trees with one value per leaf.").
				WithHint("Train with multi_strategy=one_output_per_tree, or one model per target.")
		}
	}
	for _, list := range []struct {
		key      string
		into     *[]float64
		optional bool
	}{
		{"left_children", &t.left, false}, {"right_children", &t.right, false}, {"split_indices", &t.features, false},
		{"split_conditions", &t.conditions, false}, {"default_left", &t.defaultLeft, false}, {"split_type", &t.splitTypes, true},
		{"categories", &t.categories, true}, {"categories_nodes", &t.categoryNodes, true}, {"categories_segments", &t.categoryStart, true},
		{"categories_sizes", &t.ofNodes, true},
	} {
		read := o.numbers
		if list.optional {
			read = o.optionalNumbers
		}
		if *list.into, err = read(list.key); err != nil {
			return err
		}
	}
	n := len(t.left)
	if n == 0 || len(t.right) != n || len(t.features) != n || len(t.conditions) != n || len(t.defaultLeft) != n ||
		len(t.splitTypes) != 0 && len(t.splitTypes) != n || len(t.categoryStart) != len(t.categoryNodes) || len(t.ofNodes) != len(t.categoryNodes) {
		return damagedXGBoost("the lists of %s are empty or differ in length", o.path)
	}
	return nil
}

// ensemble writes the trees. The base scores are a first tree each: XGBoost adds leaves in float32 in the order of the trees, beginning with them.
func (m *xgboost) ensemble(negate bool) (*ensemble, error) {
	e := newEnsemble(m.groups)
	sign := float32(1)
	if negate {
		sign = -1
	}
	for group, base := range m.base {
		e.begin()
		e.leaf(group, sign*base)
	}
	for i := range m.trees[:m.rounds] {
		t := &m.trees[i]
		if err := t.write(e, m.features, func(leaf float32) float32 { return sign * m.leaf(i, leaf) }); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// leaf is what a tree's leaf adds to the sum: its value, which a dart booster scales.
func (m *xgboost) leaf(tree int, value float32) float32 {
	if m.booster != "dart" {
		return value
	}
	return value * m.weights[tree]
}

// step is a node yet to be written, with the branches that lead to it.
type step struct {
	node, depth int
	from        []edge
}

// write adds the tree to e. Every node is visited once at most, so that no cycle can hold it.
func (t *xgboostTree) write(e *ensemble, features int, leaf func(float32) float32) error {
	e.begin()
	seen := make([]bool, len(t.left))
	sets, err := t.sets()
	if err != nil {
		return err
	}
	todo := []step{{}}
	for len(todo) > 0 {
		s := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[s.node] {
			return damagedXGBoost("node %d of a tree has two parents", s.node)
		}
		if s.depth > maxTreeDepth {
			return refused("a tree of the model is deeper than %d nodes, with its sets of categories written as comparisons", maxTreeDepth).
				WithHint("Train with a smaller max_depth, or with fewer categories.")
		}
		seen[s.node] = true
		if t.left[s.node] == -1 {
			e.join(s.from, e.leaf(t.group, leaf(float32(t.conditions[s.node]))))
			continue
		}
		left, ok := index(t.left[s.node], 1, len(t.left)-1)
		right, ok2 := index(t.right[s.node], 1, len(t.left)-1)
		feature, ok3 := index(t.features[s.node], 0, features-1)
		if !ok || !ok2 || !ok3 {
			return damagedXGBoost("node %d of a tree names a node or feature that does not exist", s.node)
		}
		bounds := []float32{float32(t.conditions[s.node])}
		if len(t.splitTypes) > 0 && t.splitTypes[s.node] == 1 {
			if bounds, err = t.bounds(s.node, sets); err != nil {
				return err
			}
		}
		l, r := e.compare(s.from, feature, bounds, t.defaultLeft[s.node] != 0)
		depth := s.depth + len(bounds)
		todo = append(todo, step{right, depth, r}, step{left, depth, l})
	}
	return nil
}

// compare writes a split and returns the edges to its left and right side. One bound is a threshold: what is below goes left. Several are the bounds
// of a set of categories, which goes right: what is below the first is outside, what is between the first and the second inside, and so on. They
// become a chain of comparisons, all of one kind, which ONNX Runtime walks faster than a mixture; unlike comparisons for equality they treat every
// number as XGBoost does, which cuts codes to integers and puts codes below 0 and above all sets to the left.
func (e *ensemble) compare(from []edge, feature int, bounds []float32, defaultLeft bool) (left, right []edge) {
	for i, bound := range bounds {
		inside := i%2 == 1
		// NaN leaves the chain at the first comparison whose true side is the default.
		b := e.branch(feature, bound, defaultLeft != inside)
		e.join(from, b)
		if inside {
			right = append(right, edge{b, true})
		} else {
			left = append(left, edge{b, true})
		}
		from = []edge{{b, false}}
	}
	if len(bounds) == 1 {
		return left, from
	}
	return append(left, from...), right
}

// sets finds the entry of a node in the lists of categories. Together the sets are no longer than the list, so that no part of it is read twice.
func (t *xgboostTree) sets() (map[int]int, error) {
	if len(t.categoryNodes) == 0 {
		return nil, nil
	}
	sets := make(map[int]int, len(t.categoryNodes))
	left := len(t.categories)
	for i, node := range t.categoryNodes {
		n, ok := index(node, 0, len(t.left)-1)
		size, ok2 := index(t.ofNodes[i], 0, left)
		if !ok || !ok2 {
			return nil, damagedXGBoost("a tree's sets of categories do not fit its nodes or its list")
		}
		sets[n] = i
		left -= size
	}
	return sets, nil
}

// bounds are the codes at which membership in a node's set of categories changes, in ascending order.
func (t *xgboostTree) bounds(node int, sets map[int]int) ([]float32, error) {
	at, ok := sets[node]
	if !ok {
		return nil, damagedXGBoost("node %d of a tree splits by category and has no set of categories", node)
	}
	start, ok := index(t.categoryStart[at], 0, len(t.categories))
	size, ok2 := 0, false
	if ok {
		size, ok2 = index(t.ofNodes[at], 0, len(t.categories)-start)
	}
	if !ok2 {
		return nil, damagedXGBoost("the categories of node %d of a tree are not in its list", node)
	}
	codes := slices.Clone(t.categories[start : start+size])
	slices.Sort(codes)
	bounds := make([]float32, 0, 2)
	for _, code := range codes {
		if _, ok := index(code, 0, maxCategory-1); !ok {
			return nil, damagedXGBoost("node %d of a tree has the category %v", node, code)
		}
		switch n := len(bounds); {
		case n > 0 && float64(bounds[n-1]) == code:
			bounds[n-1] = float32(code + 1)
		case n > 0 && float64(bounds[n-1]) == code+1: // the same code twice
		default:
			bounds = append(bounds, float32(code), float32(code+1))
		}
		if len(bounds) > maxTreeDepth {
			return nil, tooManyCategories()
		}
	}
	if len(bounds) == 0 {
		// No category goes right; only a missing value can.
		bounds = append(bounds, float32(math.Inf(1)))
	}
	return bounds, nil
}

func tooManyCategories() *rowcast.Error {
	return refused("a split of the model has a set of categories that is too scattered").
		WithDetail("Written as comparisons it takes more than %d nodes.", maxTreeDepth).
		WithHint("Train with fewer categories, or with codes that put categories of the same kind side by side.")
}

func narrowed(list []float64) []float32 {
	out := make([]float32, len(list))
	for i, v := range list {
		out[i] = float32(v)
	}
	return out
}
