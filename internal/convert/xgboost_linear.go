package convert

// linear writes a gblinear booster: the bias and the base score, then each feature times its weight, in the order of the features and in float32. A
// running sum (CumSum) adds in just that order, where a matrix product would not. Missing features add nothing.
func (m *xgboost) linear(g *graph, input, output, transform string, negate bool) {
	sign := float32(1)
	if negate {
		sign = -1
	}
	features, groups := int64(m.features), int64(m.groups)
	weights := make([]float32, len(m.weights))
	for i, w := range m.weights {
		weights[i] = sign * w
	}
	start := make([]float32, m.groups)
	for group := range start {
		// XGBoost (3.2) starts every class of a linear booster from the first base score.
		start[group] = weights[m.features*m.groups+group] + sign*m.base[0]
	}
	n := g.unused
	g.floats32(n("/nothing"), []float32{0})
	g.floats32(n("/weights"), weights[:m.features*m.groups], 1, features, groups)
	g.floats32(n("/start"), start, 1, 1, groups)
	g.ints64(n("/wide"), []int64{-1, features, 1}, 3)
	g.ints64(n("/axis"), []int64{1})
	g.ints64(n("/last"), []int64{features})
	g.node("IsNaN", []string{input}, []string{n("/missing")})
	g.node("Where", []string{n("/missing"), n("/nothing"), input}, []string{n("/known")})
	g.node("Reshape", []string{n("/known"), n("/wide")}, []string{n("/column")})
	g.node("Mul", []string{n("/column"), n("/weights")}, []string{n("/terms")})
	// A start for each row: the first term times nothing, plus the start.
	g.ints64(n("/from"), []int64{0}, 1)
	g.ints64(n("/to"), []int64{1}, 1)
	g.ints64(n("/axes"), []int64{1}, 1)
	g.node("Slice", []string{n("/terms"), n("/from"), n("/to"), n("/axes")}, []string{n("/first")})
	g.node("Mul", []string{n("/first"), n("/nothing")}, []string{n("/empty")})
	g.node("Add", []string{n("/empty"), n("/start")}, []string{n("/starts")})
	g.node("Concat", []string{n("/starts"), n("/terms")}, []string{n("/all")}, intAttribute("axis", 1))
	g.node("CumSum", []string{n("/all"), n("/axis")}, []string{n("/sums")})
	sum := output
	if transform == "SOFTMAX" {
		sum = n("/sum")
	}
	g.node("Gather", []string{n("/sums"), n("/last")}, []string{sum}, intAttribute("axis", 1))
	if transform == "SOFTMAX" {
		g.node("Softmax", []string{sum}, []string{output}, intAttribute("axis", 1))
	}
}
