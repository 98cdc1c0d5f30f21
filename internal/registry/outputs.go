package registry

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// outputs finds what each output means, then the task.
func (i *inference) outputs() error {
	if err := i.namedOutputs(); err != nil {
		return err
	}
	i.guessOutputs()
	sig := i.sig
	sig.Task = i.options.Task
	if sig.Task == "" {
		sig.Task = i.task()
	}
	var err error
	switch sig.Task {
	case rowcast.TaskClassification:
		err = i.classification()
	case rowcast.TaskRegression:
		err = i.regression()
	case rowcast.TaskAnomaly, rowcast.TaskClustering:
		err = i.labelled()
	default:
		sig.LabelOutput, sig.ProbabilityOutput, sig.ScoreOutput, sig.ValueOutput = -1, -1, -1, -1
		if len(i.options.Labels) > 0 {
			return contradiction("labels are declared, but no output of the model is known to carry them").
				WithDetail("The outputs are %s.", describePorts(i.graph.Outputs)).
				WithHint("Say task: classification, and outputs: {label: NAME, probability: NAME}.")
		}
	}
	return err
}

// namedOutputs takes what the options say.
func (i *inference) namedOutputs() error {
	for _, named := range []struct {
		key, name string
		into      *int
	}{
		{"label", i.options.Outputs.Label, &i.sig.LabelOutput}, {"probability", i.options.Outputs.Probability, &i.sig.ProbabilityOutput},
		{"score", i.options.Outputs.Score, &i.sig.ScoreOutput}, {"value", i.options.Outputs.Value, &i.sig.ValueOutput},
	} {
		if named.name == "" {
			continue
		}
		n := i.output(named.name)
		if n < 0 {
			names := make([]string, len(i.graph.Outputs))
			for o, p := range i.graph.Outputs {
				names[o] = p.Name
			}
			e := contradiction("outputs.%s names %q, which is no output of the model", named.key, clip(named.name)).
				WithDetail("The outputs are %s.", describePorts(i.graph.Outputs))
			if near, ok := nearest(named.name, names); ok {
				return e.WithHint("Perhaps you mean %q.", near)
			}
			return e
		}
		*named.into = n
	}
	return nil
}

func (i *inference) output(name string) int {
	return slices.IndexFunc(i.graph.Outputs, func(p rowcast.Port) bool { return p.Name == name && name != "" })
}

// guessOutputs fills what the options leave open from the operators that make each output, then from types and names.
func (i *inference) guessOutputs() {
	sig := i.sig
	if sig.ValueOutput >= 0 && i.options.Task == "" && sig.LabelOutput < 0 && sig.ProbabilityOutput < 0 {
		return // somebody said that it is a regression
	}
	if sig.LabelOutput < 0 {
		sig.LabelOutput = i.output(i.graph.LabelOutput)
	}
	if sig.LabelOutput < 0 {
		sig.LabelOutput = slices.IndexFunc(sig.Outputs, func(p rowcast.Port) bool {
			return isLabelType(p.DType) && !p.Maps && strings.Contains(strings.ToLower(p.Name), "label") && !wide(p)
		})
	}
	if sig.ProbabilityOutput < 0 {
		sig.ProbabilityOutput = i.output(i.graph.ProbabilityOutput)
	}
	if sig.ProbabilityOutput < 0 {
		sig.ProbabilityOutput = slices.IndexFunc(sig.Outputs, func(p rowcast.Port) bool {
			return (p.Maps || isFloat(p.DType)) && strings.Contains(strings.ToLower(p.Name), "prob")
		})
	}
	if sig.ProbabilityOutput < 0 && i.options.Task == rowcast.TaskClassification {
		sig.ProbabilityOutput = i.onlyFloat()
	}
	if sig.ScoreOutput < 0 && sig.LabelOutput >= 0 && sig.ProbabilityOutput < 0 {
		sig.ScoreOutput = i.onlyFloat()
	}
}

func isLabelType(d rowcast.DType) bool {
	return d == rowcast.Int64 || d == rowcast.Int32 || d == rowcast.String
}

// wide is an output with more than one value per row, as declared.
func wide(p rowcast.Port) bool {
	for _, d := range p.Shape[min(1, len(p.Shape)):] {
		if d > 1 {
			return true
		}
	}
	return false
}

// onlyFloat is the one output of floats that means nothing else yet, -1 where there is none or are several.
func (i *inference) onlyFloat() int {
	found := -1
	for n, p := range i.sig.Outputs {
		if !isFloat(p.DType) || p.Maps || n == i.sig.ValueOutput {
			continue
		}
		if found >= 0 {
			return -1
		}
		found = n
	}
	return found
}

// task reads the task off the outputs.
func (i *inference) task() rowcast.Task {
	sig := i.sig
	switch {
	case sig.Layout == rowcast.LayoutTensors && i.options.Outputs == OutputNames{}:
		return rowcast.TaskTensors
	case sig.ProbabilityOutput >= 0, len(i.graph.Labels) > 0 && sig.LabelOutput >= 0:
		return rowcast.TaskClassification
	case sig.LabelOutput >= 0 && len(i.options.Labels) > 0 && !isAnomaly(i.options.Labels):
		return rowcast.TaskClassification
	case sig.LabelOutput >= 0 && i.graph.Clusters > 0:
		return rowcast.TaskClustering
	case sig.LabelOutput >= 0 && sig.ScoreOutput >= 0 && wide(sig.Outputs[sig.ScoreOutput]):
		return rowcast.TaskClustering
	case sig.LabelOutput >= 0 && sig.ScoreOutput >= 0:
		return rowcast.TaskAnomaly
	case sig.LabelOutput >= 0:
		return rowcast.TaskClassification
	case i.softmaxOfLabels() >= 0:
		sig.ProbabilityOutput = i.softmaxOfLabels()
		return rowcast.TaskClassification
	case sig.ValueOutput >= 0, len(sig.Outputs) == 1 && isNumber(sig.Outputs[0].DType) && !wide(sig.Outputs[0]) && !sig.Outputs[0].Maps:
		return rowcast.TaskRegression
	}
	return rowcast.TaskTensors
}

// softmaxOfLabels is a network's only output, where the options give the labels that its columns stand for.
func (i *inference) softmaxOfLabels() int {
	if len(i.options.Labels) == 0 || len(i.sig.Outputs) != 1 || !isFloat(i.sig.Outputs[0].DType) {
		return -1
	}
	return 0
}

func isAnomaly(labels []json.RawMessage) bool {
	return len(labels) == 2 && string(labels[0]) == "-1" && string(labels[1]) == "1"
}

func isNumber(d rowcast.DType) bool { return d != rowcast.String && d != rowcast.Bool }

func (i *inference) classification() error {
	sig := i.sig
	if sig.LabelOutput < 0 && sig.ProbabilityOutput < 0 {
		return contradiction("task: classification needs an output with labels or probabilities").
			WithDetail("The outputs are %s.", describePorts(i.graph.Outputs)).
			WithHint("Say which: outputs: {label: NAME, probability: NAME}.")
	}
	sig.ScoreOutput, sig.ValueOutput = -1, -1
	if err := i.checkLabelOutput(); err != nil {
		return err
	}
	if n := sig.ProbabilityOutput; n >= 0 && !isFloat(sig.Outputs[n].DType) && !sig.Outputs[n].Maps {
		return contradiction("output %q can't be probabilities: it is %s", sig.Outputs[n].Name, sig.Outputs[n].DType)
	}
	if err := i.labels(); err != nil {
		return err
	}
	width := i.probabilities()
	if len(sig.Labels) == 0 && width > 1 && (sig.LabelOutput < 0 || sig.Outputs[sig.LabelOutput].DType != rowcast.String) {
		sig.Labels = countedLabels(width)
	}
	return checkLabelCount(sig, width)
}

func (i *inference) checkLabelOutput() error {
	n := i.sig.LabelOutput
	if n < 0 {
		return nil
	}
	if p := i.sig.Outputs[n]; p.Maps || p.DType == rowcast.Bool || wide(p) {
		return contradiction("output %q can't be the label: it is %s", p.Name, describePort(p))
	}
	return nil
}

// probabilities is the declared number of columns, 0 where none is declared.
func (i *inference) probabilities() int {
	n := i.sig.ProbabilityOutput
	if n < 0 {
		return 0
	}
	p := i.sig.Outputs[n]
	if p.Maps {
		return len(i.graph.Labels)
	}
	if len(p.Shape) == 2 && p.Shape[1] > 0 {
		return int(p.Shape[1])
	}
	return 0
}

// checkLabelCount compares labels with columns. One column beside two labels is a sigmoid: the probability of the second.
func checkLabelCount(sig *rowcast.Signature, width int) error {
	if n := len(sig.Labels); width > 0 && n > 0 && n != width && (n != 2 || width != 1) {
		return contradiction("%d labels are declared, but the model gives %d probabilities", n, width).
			WithDetail("They are in output %q.", sig.Outputs[sig.ProbabilityOutput].Name)
	}
	return nil
}

func countedLabels(n int) []json.RawMessage {
	list := make([]json.RawMessage, n)
	for i := range list {
		list[i] = strconv.AppendInt(nil, int64(i), 10)
	}
	return list
}

// labels brings what the options and the graph say together. The order is the graph's; the options may only repeat it, or name the classes 0, 1, ….
func (i *inference) labels() error {
	declared, own := i.options.Labels, i.graph.Labels
	if declared == nil {
		i.sig.Labels = own
		return nil
	}
	if len(own) > 0 && len(own) != len(declared) {
		return contradiction("%d labels are declared, but the model has %d", len(declared), len(own)).WithDetail("Its labels are %s.", joined(own))
	}
	textOutput := len(own) > 0 && own[0][0] == '"'
	if n := i.sig.LabelOutput; n >= 0 && len(own) == 0 {
		textOutput = i.sig.Outputs[n].DType == rowcast.String
	}
	if textOutput {
		// 0 and "0" are the same label where the model itself writes text.
		declared = slices.Clone(declared)
		for n, label := range declared {
			if label[0] != '"' {
				declared[n], _ = json.Marshal(string(label)) // a string always marshals
			}
		}
	} else if asIntegers, ok := integers(declared); ok && i.sig.LabelOutput >= 0 {
		declared = asIntegers
	}
	i.sig.Labels = declared
	if len(own) == 0 || slices.EqualFunc(own, declared, func(a, b json.RawMessage) bool { return bytes.Equal(a, b) }) {
		return nil
	}
	if !textOutput && declared[0][0] == '"' && slices.EqualFunc(own, countedLabels(len(own)), func(a, b json.RawMessage) bool { return bytes.Equal(a, b) }) {
		return nil // names for the classes 0, 1, …
	}
	return contradiction("the labels that are declared are not the model's").
		WithDetail("Declared: %s. The model's, in the order of its probabilities: %s.", joined(declared), joined(own))
}

// integers reads labels such as "0" as the integers that the model writes.
func integers(labels []json.RawMessage) ([]json.RawMessage, bool) {
	out := make([]json.RawMessage, len(labels))
	for i, label := range labels {
		n, err := strconv.ParseInt(strings.Trim(string(label), `"`), 10, 64)
		if err != nil {
			return nil, false
		}
		out[i] = strconv.AppendInt(nil, n, 10)
	}
	return out, true
}

func joined(labels []json.RawMessage) string {
	var list []string
	for _, label := range labels[:min(len(labels), 20)] {
		list = append(list, clip(string(label)))
	}
	if len(labels) > len(list) {
		list = append(list, "…")
	}
	return strings.Join(list, ", ")
}

func (i *inference) regression() error {
	sig := i.sig
	sig.LabelOutput, sig.ProbabilityOutput, sig.ScoreOutput = -1, -1, -1
	if sig.ValueOutput < 0 {
		candidates := 0
		for n, p := range sig.Outputs {
			if isNumber(p.DType) && !p.Maps {
				sig.ValueOutput = n
				candidates++
			}
		}
		if candidates != 1 {
			sig.ValueOutput = -1
			return contradiction("task: regression needs one output of numbers, this model has %d", candidates).
				WithDetail("The outputs are %s.", describePorts(i.graph.Outputs)).WithHint("Say which: outputs: {value: NAME}.")
		}
	}
	p := sig.Outputs[sig.ValueOutput]
	if !isNumber(p.DType) || p.Maps || wide(p) {
		return contradiction("task: regression needs one number per row, output %s gives more", describePort(p)).
			WithHint("Say task: tensors; predict_json and ml.infer carry all values.")
	}
	if len(i.options.Labels) > 0 {
		return contradiction("a regression has no labels").WithHint("Say task: classification, or leave the labels away.")
	}
	return nil
}

// labelled is an anomaly detector or a clusterer.
func (i *inference) labelled() error {
	sig := i.sig
	sig.ProbabilityOutput, sig.ValueOutput = -1, -1
	if sig.LabelOutput < 0 {
		sig.LabelOutput = slices.IndexFunc(sig.Outputs, func(p rowcast.Port) bool { return isLabelType(p.DType) && !p.Maps && !wide(p) })
	}
	if sig.LabelOutput < 0 {
		return contradiction("task: %s needs an output with labels", sig.Task).WithDetail("The outputs are %s.", describePorts(i.graph.Outputs)).
			WithHint("Say which: outputs: {label: NAME, score: NAME}.")
	}
	if sig.ScoreOutput < 0 {
		sig.ScoreOutput = i.onlyFloat()
	}
	if err := i.checkLabelOutput(); err != nil {
		return err
	}
	if err := i.labels(); err != nil {
		return err
	}
	if len(sig.Labels) > 0 {
		return nil
	}
	if sig.Task == rowcast.TaskAnomaly {
		sig.Labels = []json.RawMessage{json.RawMessage("-1"), json.RawMessage("1")}
		return nil
	}
	clusters := i.graph.Clusters
	if sig.ScoreOutput >= 0 {
		if p := sig.Outputs[sig.ScoreOutput]; clusters == 0 && len(p.Shape) == 2 && p.Shape[1] > 0 {
			clusters = int(p.Shape[1])
		}
	}
	if clusters > 0 {
		sig.Labels = countedLabels(clusters)
	}
	return nil
}
