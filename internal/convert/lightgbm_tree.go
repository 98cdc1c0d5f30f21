package convert

import (
	"bytes"
	"math"
)

// lightgbmTree is one tree. Child c of a split is split c where c >= 0, else leaf ^c. A split goes left where the value is at most its threshold, or
// in its set of categories.
type lightgbmTree struct {
	features    []int32
	thresholds  []float64 // of a categorical split: the index of its set
	decisions   []int32
	left, right []int32
	leaves      []float64

	boundaries []int32  // set i is words boundaries[i] to boundaries[i+1] of sets
	sets       []uint32 // bit c%32 of word c/32 is set where category c goes left
}

// Bits of a split's decision_type.
const (
	decisionCategorical = 1
	decisionDefaultLeft = 2
	decisionMissing     = 3 << 2
	missingZero         = 1 << 2 // zero and NaN are missing
	missingNaN          = 2 << 2 // NaN is missing; with neither bit NaN counts as zero
)

// readTree reads the lines after Tree=, up to an empty one.
func (r *lightgbmReader) readTree(number int) (lightgbmTree, error) {
	start := r.line
	fields := map[string][]byte{}
	lines := map[string]int{}
	for {
		line, more := r.next()
		if !more || len(line) == 0 {
			break
		}
		key, value, _ := bytes.Cut(line, []byte("="))
		if len(fields) > 64 {
			return lightgbmTree{}, r.fail("tree %d has too many fields", number)
		}
		fields[string(key)], lines[string(key)] = value, r.line
	}
	end := r.line
	t := lightgbmTree{}
	err := r.treeFields(&t, func(key string) ([]byte, error) {
		value, ok := fields[key]
		if !ok {
			r.line = start
			return nil, r.fail("tree %d has no %s", number, key)
		}
		r.line = lines[key]
		return value, nil
	}, fields["is_linear"])
	if err == nil {
		r.line = start
		err = r.checkShape(&t, number)
	}
	r.line = end
	return t, err
}

// treeFields reads a tree's lists. field returns a field and makes its line the current one.
func (r *lightgbmReader) treeFields(t *lightgbmTree, field func(string) ([]byte, error), linear []byte) error {
	if linear = bytes.TrimSpace(linear); len(linear) > 0 && string(linear) != "0" {
		return refused("the LightGBM model has linear trees, which ONNX can't express").
			WithDetail("The tree at line %d has a linear model in each leaf (linear_tree=true).", r.line).
			WithHint("Train without linear_tree.")
	}
	count := func(key string) (int, error) {
		text, err := field(key)
		if err != nil {
			return 0, err
		}
		list, err := lightgbmIntegers[int32](r, key, bytes.TrimSpace(text), 1)
		if err != nil {
			return 0, err
		}
		return int(list[0]), nil
	}
	leaves, err := count("num_leaves")
	if err != nil {
		return err
	}
	if leaves < 1 {
		return r.fail("num_leaves is %d, a tree has at least one", leaves)
	}
	if r.nodes += 2*leaves - 1; r.nodes > maxLightGBMNodes {
		return refused("the LightGBM model has too many nodes").WithDetail("At most %d are read.", maxLightGBMNodes)
	}
	text, err := field("leaf_value")
	if err != nil {
		return err
	}
	if t.leaves, err = r.floats64("leaf_value", text, leaves, false); err != nil || leaves == 1 {
		return err
	}
	splits := leaves - 1
	if text, err = field("threshold"); err != nil {
		return err
	}
	if t.thresholds, err = r.floats64("threshold", text, splits, true); err != nil {
		return err
	}
	for _, list := range []struct {
		key  string
		into *[]int32
	}{{"split_feature", &t.features}, {"decision_type", &t.decisions}, {"left_child", &t.left}, {"right_child", &t.right}} {
		if text, err = field(list.key); err != nil {
			return err
		}
		if *list.into, err = lightgbmIntegers[int32](r, list.key, text, splits); err != nil {
			return err
		}
	}
	categorical, err := count("num_cat")
	if err != nil || categorical == 0 {
		return err
	}
	return r.treeSets(t, categorical, field)
}

// treeSets reads the sets of categorical splits.
func (r *lightgbmReader) treeSets(t *lightgbmTree, n int, field func(string) ([]byte, error)) error {
	text, err := field("cat_boundaries")
	if err != nil {
		return err
	}
	if n < 0 || n > len(t.features) {
		return r.fail("num_cat is %d, but the tree has %d splits", n, len(t.features))
	}
	if t.boundaries, err = lightgbmIntegers[int32](r, "cat_boundaries", text, n+1); err != nil {
		return err
	}
	for i, b := range t.boundaries {
		if i == 0 && b != 0 || i > 0 && b < t.boundaries[i-1] {
			return r.fail("number %d of cat_boundaries is %d: they must start at 0 and never fall", i+1, b)
		}
	}
	if text, err = field("cat_threshold"); err != nil {
		return err
	}
	t.sets, err = lightgbmIntegers[uint32](r, "cat_threshold", text, int(t.boundaries[n]))
	return err
}

// checkShape walks the tree from its root: no node may be reached twice, so that there is no cycle and nothing shared.
func (r *lightgbmReader) checkShape(t *lightgbmTree, number int) error {
	splits, leaves := len(t.features), len(t.leaves)
	if splits == 0 {
		return nil
	}
	seen := make([]bool, splits+leaves)
	used := make([]bool, max(len(t.boundaries)-1, 0))
	type step struct {
		child int32
		depth int
	}
	stack := []step{{}}
	for len(stack) > 0 {
		s := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		at := int(s.child)
		if s.child < 0 {
			at = splits + int(^s.child)
		}
		if s.child >= 0 && at >= splits || at >= len(seen) {
			return r.fail("tree %d has a child %d, which is none of its nodes", number, s.child)
		}
		if seen[at] {
			return r.fail("tree %d reaches its node %d twice", number, s.child)
		}
		seen[at] = true
		if s.child < 0 {
			continue
		}
		if s.depth >= maxLightGBMDepth {
			return refused("tree %d of the LightGBM model is too deep", number).WithDetail("At most %d levels are read.", maxLightGBMDepth).
				WithHint("Train with max_depth.")
		}
		if t.decisions[at]&^(decisionCategorical|decisionDefaultLeft|decisionMissing) != 0 || t.decisions[at]&decisionMissing == decisionMissing {
			return r.fail("tree %d has a split of the unknown decision_type %d", number, t.decisions[at])
		}
		if t.decisions[at]&decisionCategorical != 0 {
			set := t.thresholds[at]
			if set != math.Trunc(set) || set < 0 || set >= float64(len(used)) || used[int(set)] {
				return r.fail("tree %d has a categorical split with the set %v, which is none of its %d sets or is used twice", number, set,
					len(used))
			}
			used[int(set)] = true
			r.members += len(t.members(at))
		}
		stack = append(stack, step{t.right[at], s.depth + 1}, step{t.left[at], s.depth + 1})
	}
	if r.members > maxLightGBMMembers {
		return refused("the LightGBM model has too many categories").WithDetail("At most %d in all splits are read.", maxLightGBMMembers)
	}
	return nil
}

// members lists the categories that a categorical split sends left, in order.
func (t *lightgbmTree) members(split int) []float64 {
	var list []float64
	set := int(t.thresholds[split])
	for i, word := range t.sets[t.boundaries[set]:t.boundaries[set+1]] {
		for bit := range 32 {
			if word>>bit&1 != 0 {
				list = append(list, float64(32*i+bit))
			}
		}
	}
	return list
}

// zeroThreshold is LightGBM's bound of what counts as zero: 1e-35 as float32.
const zeroThreshold = float64(float32(1e-35))

// bound is the threshold that a value is compared with. LightGBM turns a value within zeroThreshold of zero into zero before it compares; moving the
// thresholds in that range to its ends does the same without touching the values.
func bound(threshold float64) float64 {
	switch {
	case threshold >= 0 && threshold < zeroThreshold:
		return zeroThreshold
	case threshold < 0 && threshold >= -zeroThreshold:
		return math.Nextafter(-zeroThreshold, math.Inf(-1))
	}
	return threshold
}

// missingLeft says where NaN goes at a numerical split.
func (t *lightgbmTree) missingLeft(split int) bool {
	if t.decisions[split]&decisionMissing == 0 {
		return t.thresholds[split] >= 0 // NaN counts as zero
	}
	return t.decisions[split]&decisionDefaultLeft != 0
}
