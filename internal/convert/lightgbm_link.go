package convert

import (
	"slices"
	"strconv"
	"strings"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// lightgbmObjective is what the trees' sum means.
type lightgbmObjective struct {
	name    string // as in the file; empty for a model that was trained with a function of the user
	link    string // one of the links below
	sigmoid float64
	square  bool // trained on the square root of the target
}

// Links: from the sum of the trees to what LightGBM predicts.
const (
	linkNone     = ""
	linkExp      = "exp"
	linkLogistic = "logistic" // a number between 0 and 1
	linkBinary   = "binary"   // the probability of the second of two classes
	linkSoftmax  = "softmax"
	linkOneVsAll = "one against all"
	linkSoftplus = "softplus"
)

// objective reads the header's line, such as "binary sigmoid:1" or "regression sqrt".
func (f *lightgbmFile) objective() (lightgbmObjective, error) {
	o := lightgbmObjective{sigmoid: 1}
	list := words(f.header["objective"])
	if len(list) == 0 {
		return o, nil
	}
	o.name = list[0]
	root := slices.Contains(list, "sqrt")
	switch o.name {
	case "none", "null", "custom", "na":
		o.name = ""
	case "regression", "regression_l1", "fair", "quantile", "mape":
		o.square = root
	case "huber", "lambdarank", "rank_xendcg":
	case "poisson", "gamma", "tweedie":
		o.link = linkExp
	case "binary":
		o.link = linkBinary
	case "multiclass":
		o.link = linkSoftmax
	case "multiclassova":
		o.link = linkOneVsAll
	case "cross_entropy", "xentropy":
		o.link = linkLogistic
	case "cross_entropy_lambda", "xentlambda":
		o.link = linkSoftplus
	default:
		return o, refused("the LightGBM model has the unknown objective %q, line %d", clip(o.name), f.lines["objective"]).
			WithDetail("What its sums mean is not known, so its predictions can't be reproduced.").
			WithHint("Export the model to ONNX in Python, for example with onnxmltools.")
	}
	for _, setting := range list[1:] {
		text, ok := strings.CutPrefix(setting, "sigmoid:")
		if !ok || o.link != linkBinary && o.link != linkOneVsAll {
			continue
		}
		v, err := strconv.ParseFloat(text, 64)
		if err != nil || v <= 0 || v-v != 0 {
			return o, damaged(f.lines["objective"], "the objective's sigmoid is %q, not a number above 0", clip(text))
		}
		o.sigmoid = v
	}
	return o, nil
}

// classes checks the numbers of classes and trees against the objective and returns the trees of one iteration, each of which adds to its own sum.
func (f *lightgbmFile) classes(o lightgbmObjective) (int, error) {
	classes, err := f.integer("num_class", 1)
	if err != nil {
		return 0, err
	}
	sums, err := f.integer("num_tree_per_iteration", classes)
	if err != nil {
		return 0, err
	}
	several := o.link == linkSoftmax || o.link == linkOneVsAll
	switch {
	case sums < 1 || sums > maxLightGBMClasses:
		return 0, damaged(f.lines["num_tree_per_iteration"], "num_tree_per_iteration is %d", sums)
	case several && (sums < 2 || classes != sums), !several && o.name != "" && sums != 1:
		return 0, damaged(f.lines["num_tree_per_iteration"], "%d trees per iteration and %d classes do not fit the objective %q", sums,
			classes, o.name)
	case len(f.trees)%sums != 0:
		return 0, damaged(f.lines["tree_sizes"], "%d trees can't be iterations of %d", len(f.trees), sums)
	}
	return sums, nil
}

// outputs writes what follows the trees and says in res what comes out. sum is [N, sums].
func (o lightgbmObjective) outputs(b *lightgbmBuilder, sum string, sums int) {
	g, res := &b.graph, b.result
	switch o.link {
	case linkBinary, linkSoftmax, linkOneVsAll:
		o.classification(b, sum, sums)
		return
	case linkExp:
		sum = b.apply("Exp", sum)
	case linkLogistic:
		sum = o.logistic(b, sum)
	case linkSoftplus:
		sum = b.softplus(sum)
	}
	if o.square {
		sum = b.apply("Mul", sum, b.apply("Abs", sum)) // the square with the sign of the sum
	}
	if sums == 1 {
		res.Task = rowcast.TaskRegression
		res.Outputs.Value = b.output("value", rowcast.Float64, -1, 1)
		g.node("Identity", []string{sum}, []string{res.Outputs.Value})
		return
	}
	res.Task = rowcast.TaskTensors
	g.node("Identity", []string{sum}, []string{b.output("values", rowcast.Float64, -1, int64(sums))})
	res.Warnings = append(res.Warnings, strconv.Itoa(sums)+
		" values a row without a meaning that the file tells: the model was trained with its own objective. Its raw sums are what it predicts.")
}

// softplus is log(1+exp(x)). ONNX Runtime has no Softplus of float64; taking back what rounding 1+exp(x) added keeps small results exact.
func (b *lightgbmBuilder) softplus(x string) string {
	b.scalar("one", 1)
	e := b.apply("Exp", x)
	u := b.apply("Add", e, b.name("one"))
	added := b.apply("Sub", b.apply("Sub", u, b.name("one")), e)
	return b.apply("Sub", b.apply("Log", u), b.apply("Div", added, u))
}

// classification gives probabilities alone: the label is the most probable class, the first of several, for LightGBM as for whoever reads the output.
// One more output with its operators would cost every call a microsecond.
func (o lightgbmObjective) classification(b *lightgbmBuilder, sum string, sums int) {
	res := b.result
	res.Task = rowcast.TaskClassification
	res.Labels = countedLabels(max(sums, 2))
	res.Outputs.Probability = b.output("probabilities", rowcast.Float64, -1, int64(sums))
	if o.link == linkSoftmax {
		b.graph.node("Softmax", []string{sum}, []string{res.Outputs.Probability}, intAttribute("axis", 1))
		return
	}
	b.graph.node("Identity", []string{o.logistic(b, sum)}, []string{res.Outputs.Probability})
}

// mirrored reports whether the trees give their sum with the other sign, as logistic wants it.
func (o lightgbmObjective) mirrored() bool {
	return o.sigmoid == 1 && (o.link == linkBinary || o.link == linkOneVsAll || o.link == linkLogistic)
}

// logistic is 1/(1+exp(-x)) in LightGBM's own steps. ONNX Runtime's Sigmoid of float64 loses small results: below 1e-16 it gives 0.
func (o lightgbmObjective) logistic(b *lightgbmBuilder, sum string) string {
	if !o.mirrored() {
		b.scalar("slope", -o.sigmoid)
		sum = b.apply("Mul", sum, b.name("slope"))
	}
	b.scalar("one", 1)
	return b.apply("Reciprocal", b.apply("Add", b.apply("Exp", sum), b.name("one")))
}
