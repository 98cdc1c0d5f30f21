package convert

import (
	"math"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// link says what an objective makes of the sums of a model.
type link struct {
	labels  int  // classes that the objective itself fixes: 2 or 0
	classes bool // as many classes as groups
	write   func(g *graph, groups int, sums sumWriter, r *Result)
}

// sumWriter adds the operators that sum a row's leaves to a value named output, [N, groups]. transform is a TreeEnsembleRegressor's post_transform;
// negate turns the sign of every leaf, which changes no rounding.
type sumWriter func(output, transform string, negate bool)

// linkOf returns what XGBoost's objective of that name does.
func linkOf(objective string) (link, bool) {
	switch objective {
	case "reg:squarederror", "reg:linear", "reg:squaredlogerror", "reg:pseudohubererror", "reg:absoluteerror", "reg:quantileerror",
		"binary:logitraw", "rank:pairwise", "rank:ndcg", "rank:map":
		return link{write: writeIdentity}, true
	case "reg:logistic":
		return link{write: writeSigmoid}, true
	case "binary:logistic":
		return link{labels: 2, write: writeBinary}, true
	case "binary:hinge":
		return link{labels: 2, write: writeHinge}, true
	case "count:poisson", "reg:gamma", "reg:tweedie", "survival:cox", "survival:aft":
		return link{write: writeExp}, true
	case "multi:softprob":
		return link{classes: true, write: writeSoftmax}, true
	case "multi:softmax":
		return link{classes: true, write: writeArgMax}, true
	}
	return link{}, false
}

// baseMargin turns the base score, which the file states on the scale of the predictions, into what the sums start from. It is false for a score that
// has no finite counterpart.
func baseMargin(objective string, score float32) (float32, bool) {
	margin := score
	switch objective {
	case "reg:logistic", "binary:logistic":
		margin = -float32(math.Log(float64(1/score - 1)))
	case "count:poisson", "reg:gamma", "reg:tweedie", "survival:cox", "survival:aft":
		margin = float32(math.Log(float64(score)))
	}
	return margin, !math.IsNaN(float64(margin)) && !math.IsInf(float64(margin), 0)
}

const (
	valueOutput       = "value"
	labelOutput       = "label"
	probabilityOutput = "probability"
	marginValue       = "/margin"
)

// regression declares the output of a regression: one value a row, or several, which only the calls that carry tensors can give.
func regression(g *graph, groups int, r *Result) {
	g.outputs = []rowcast.Port{{Name: g.unused(valueOutput), DType: rowcast.Float32, Shape: []int64{-1, int64(groups)}}}
	r.Task = rowcast.TaskRegression
	r.Outputs.Value = g.unused(valueOutput)
	if groups > 1 {
		r.Task = rowcast.TaskTensors
		r.Outputs.Value = ""
	}
}

func writeIdentity(g *graph, groups int, sums sumWriter, r *Result) {
	sums(g.unused(valueOutput), "NONE", false)
	regression(g, groups, r)
}

func writeExp(g *graph, groups int, sums sumWriter, r *Result) {
	sums(g.unused(marginValue), "NONE", false)
	g.node("Exp", []string{g.unused(marginValue)}, []string{g.unused(valueOutput)})
	regression(g, groups, r)
}

func writeSigmoid(g *graph, groups int, sums sumWriter, r *Result) {
	sigmoid(g, sums, g.unused(valueOutput))
	regression(g, groups, r)
}

// sigmoid writes 1 / (1 + exp(-margin)) in operators: ONNX Runtime's own Sigmoid and LOGISTIC lose the digits of small probabilities.
func sigmoid(g *graph, sums sumWriter, output string) {
	sums(g.unused(marginValue), "NONE", true)
	g.floats32(g.unused("/one"), []float32{1})
	g.node("Exp", []string{g.unused(marginValue)}, []string{g.unused("/exp")})
	g.node("Add", []string{g.unused("/exp"), g.unused("/one")}, []string{g.unused("/odds")})
	g.node("Reciprocal", []string{g.unused("/odds")}, []string{output})
}

// writeBinary gives the probability of class 1 alone, from which the label and the other probability follow.
func writeBinary(g *graph, _ int, sums sumWriter, r *Result) {
	sigmoid(g, sums, g.unused(probabilityOutput))
	g.outputs = []rowcast.Port{{Name: g.unused(probabilityOutput), DType: rowcast.Float32, Shape: []int64{-1, 1}}}
	r.Task = rowcast.TaskClassification
	r.Labels = countedLabels(2)
	r.Outputs.Probability = g.unused(probabilityOutput)
}

// writeHinge gives class 1 where the sum is above 0; a hinge has no probabilities.
func writeHinge(g *graph, _ int, sums sumWriter, r *Result) {
	sums(g.unused(marginValue), "NONE", false)
	g.floats32(g.unused("/zero"), []float32{0})
	g.node("Greater", []string{g.unused(marginValue), g.unused("/zero")}, []string{g.unused("/above")})
	g.node("Cast", []string{g.unused("/above")}, []string{g.unused(labelOutput)}, intAttribute("to", elementInt64))
	g.outputs = []rowcast.Port{{Name: g.unused(labelOutput), DType: rowcast.Int64, Shape: []int64{-1, 1}}}
	r.Task = rowcast.TaskClassification
	r.Labels = countedLabels(2)
	r.Outputs.Label = g.unused(labelOutput)
}

func writeSoftmax(g *graph, groups int, sums sumWriter, r *Result) {
	sums(g.unused(probabilityOutput), "SOFTMAX", false)
	g.outputs = []rowcast.Port{{Name: g.unused(probabilityOutput), DType: rowcast.Float32, Shape: []int64{-1, int64(groups)}}}
	r.Task = rowcast.TaskClassification
	r.Labels = countedLabels(groups)
	r.Outputs.Probability = g.unused(probabilityOutput)
}

// writeArgMax takes the class from the sums themselves, as multi:softmax does, and gives the probabilities beside it.
func writeArgMax(g *graph, groups int, sums sumWriter, r *Result) {
	sums(g.unused(marginValue), "NONE", false)
	g.node("ArgMax", []string{g.unused(marginValue)}, []string{g.unused(labelOutput)}, intAttribute("axis", 1), intAttribute("keepdims", 1))
	g.node("Softmax", []string{g.unused(marginValue)}, []string{g.unused(probabilityOutput)}, intAttribute("axis", 1))
	g.outputs = []rowcast.Port{
		{Name: g.unused(labelOutput), DType: rowcast.Int64, Shape: []int64{-1, 1}},
		{Name: g.unused(probabilityOutput), DType: rowcast.Float32, Shape: []int64{-1, int64(groups)}},
	}
	r.Task = rowcast.TaskClassification
	r.Labels = countedLabels(groups)
	r.Outputs.Label, r.Outputs.Probability = g.unused(labelOutput), g.unused(probabilityOutput)
}
