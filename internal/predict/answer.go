package predict

import (
	"encoding/json"
	"math"
	"strconv"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/rowcast"
	"github.com/rowcast/rowcast/internal/tensorjson"
)

// An answer reads one row of a run's outputs and writes it. outputs are in the order of the signature.
type answer struct {
	model   *model
	call    *rowcast.Call
	outputs []onnx.Tensor
	rows    int // of the run
	row     int // that is read
}

// label is a class, a cluster, or an anomaly's -1 or 1.
type label struct {
	text    string
	number  int64
	textual bool
}

func (a *answer) write(dst []byte) ([]byte, error) {
	switch a.call.Verb {
	case rowcast.VerbPredict:
		return a.predict(dst)
	case rowcast.VerbLabel:
		return a.label(dst)
	case rowcast.VerbProba:
		return a.probabilities(dst)
	case rowcast.VerbJSON:
		return a.json(dst)
	}
	return dst, rowcast.Errorf(rowcast.CodeProtocol, "unknown verb %q", a.call.Verb)
}

// port returns the output at an index of the signature and how many elements a row of it has; nil where the model has no such output.
func (a *answer) port(i int) (*onnx.Tensor, int) {
	if i < 0 || i >= len(a.outputs) {
		return nil, 0
	}
	t := &a.outputs[i]
	n := onnx.DataLen(t.Data)
	if n%a.rows != 0 {
		return t, -1
	}
	return t, n / a.rows
}

// refuse says beforehand that a model of this signature has no answer to the verb, so that no run is spent on it.
func (m *model) refuse(c *rowcast.Call) error {
	sig := m.signature
	switch c.Verb {
	case rowcast.VerbJSON:
		return nil
	case rowcast.VerbPredict:
		switch {
		case sig.Task == rowcast.TaskTensors, sig.Task == rowcast.TaskRegression && sig.ValueOutput < 0:
			return severalValues(c, "no single value")
		case sig.Task == rowcast.TaskRegression && sig.Outputs[sig.ValueOutput].DType == rowcast.String:
			return about(c, rowcast.CodeResultType, "gives text, not a number").WithHint("Call predict_json.")
		case m.textLabels():
			return textLabel(c)
		}
		return nil
	case rowcast.VerbLabel:
		switch sig.Task {
		case rowcast.TaskRegression:
			return about(c, rowcast.CodeResultType, "is a regression: it has no labels").WithHint("Call predict for its value.")
		case rowcast.TaskTensors:
			return about(c, rowcast.CodeResultType, "has no labels").WithHint("predict_json carries all outputs of a row, ml.infer the tensors.")
		}
		return nil
	case rowcast.VerbProba:
		const other = "gives no probabilities: its task is %s"
		switch {
		case sig.Task == rowcast.TaskRegression:
			return about(c, rowcast.CodeResultType, other, sig.Task).WithHint("Call predict for its value.")
		case sig.Task != rowcast.TaskClassification:
			return about(c, rowcast.CodeResultType, other, sig.Task).WithHint("predict_json carries all outputs of a row.")
		case sig.ProbabilityOutput < 0:
			return about(c, rowcast.CodeResultType, "gives labels without probabilities").WithHint("Call predict_label.")
		}
		return nil
	}
	return rowcast.Errorf(rowcast.CodeProtocol, "unknown verb %q", c.Verb)
}

// textLabels reports whether the label is text whatever the row.
func (m *model) textLabels() bool {
	sig := m.signature
	return sig.Task != rowcast.TaskRegression && (sig.TextLabels() || sig.LabelOutput >= 0 && sig.Outputs[sig.LabelOutput].DType == rowcast.String)
}

func textLabel(c *rowcast.Call) error {
	return about(c, rowcast.CodeResultType, "gives text labels, not numbers").
		WithHint("Call predict_label for the label, predict_proba for the probabilities.")
}

func severalValues(c *rowcast.Call, got string) error {
	return about(c, rowcast.CodeResultType, "gives %s per row, not one number", got).
		WithHint("predict_json carries all outputs of a row, ml.infer the tensors.")
}

// predict writes the regression's value or the class as a number.
func (a *answer) predict(dst []byte) ([]byte, error) {
	sig := a.model.signature
	switch sig.Task {
	case rowcast.TaskRegression:
		t, width := a.port(sig.ValueOutput)
		if t == nil {
			return dst, severalValues(a.call, "no single value")
		}
		if width != 1 {
			return dst, severalValues(a.call, plural(width, "value"))
		}
		return appendElement(dst, t, a.row), nil
	case rowcast.TaskClassification, rowcast.TaskAnomaly, rowcast.TaskClustering:
		l, err := a.class()
		if err != nil {
			return dst, err
		}
		if l.textual {
			return dst, textLabel(a.call)
		}
		return strconv.AppendInt(dst, l.number, 10), nil
	}
	return dst, severalValues(a.call, "several values")
}

// label writes the class as text.
func (a *answer) label(dst []byte) ([]byte, error) {
	l, err := a.class()
	if err != nil {
		return dst, err
	}
	if l.textual {
		return appendText(dst, l.text), nil
	}
	return strconv.AppendInt(dst, l.number, 10), nil
}

// probabilities writes an array literal in the order of the version's labels.
func (a *answer) probabilities(dst []byte) ([]byte, error) {
	start := len(dst)
	n, err := a.eachProbability(func(i int, p float64, bits int) {
		dst = append(dst, "{,"[min(i, 1)])
		dst = tensorjson.AppendDecimal(dst, p, bits)
	})
	switch {
	case err != nil:
		return dst[:start], err
	case n == 0:
		return dst, severalValues(a.call, "no probability")
	}
	return append(dst, '}'), nil
}

// eachProbability calls visit for every label in order with its probability and the size of the float it was. It returns how many there were,
// 0 for a model without probabilities.
func (a *answer) eachProbability(visit func(i int, p float64, bits int)) (int, error) {
	sig := a.model.signature
	if sig.Task != rowcast.TaskClassification {
		return 0, nil
	}
	t, width := a.port(sig.ProbabilityOutput)
	if t == nil {
		return 0, nil
	}
	labels := len(sig.Labels)
	if labels == 2 && width == 1 {
		// A sigmoid's single column is the probability of the second label. Its complement keeps the column's precision.
		p, bits := onnx.FloatAt(t.Data, t.DType, a.row)
		q := 1 - p
		if bits == 32 {
			q = float64(1 - float32(p))
		}
		visit(0, q, bits)
		visit(1, p, bits)
		return 2, nil
	}
	if labels > 0 && width != labels || width < 1 {
		return 0, about(a.call, rowcast.CodeModelFailed, "has %s but gave %s", plural(labels, "label"), probabilityCount(width)).
			WithHint("Register the model again with the labels that it really has.")
	}
	for i := range width {
		at := i
		if t.MapKeys != nil {
			if at = keyIndex(t.MapKeys, sig.Labels[i]); at < 0 {
				return 0, about(a.call, rowcast.CodeModelFailed, "gave no probability for the label %s", sig.Labels[i])
			}
		}
		p, bits := onnx.FloatAt(t.Data, t.DType, a.row*width+at)
		visit(i, p, bits)
	}
	return width, nil
}

func probabilityCount(n int) string {
	if n == 1 {
		return "1 probability"
	}
	return strconv.Itoa(n) + " probabilities"
}

// keyIndex finds a label among the keys of a map.
func keyIndex(keys any, name json.RawMessage) int {
	switch keys := keys.(type) {
	case []string:
		for i, k := range keys {
			if string(tensorjson.AppendString(nil, k)) == string(name) || k == labelText(name) {
				return i
			}
		}
	case []int64:
		for i, k := range keys {
			if strconv.FormatInt(k, 10) == labelText(name) {
				return i
			}
		}
	}
	return -1
}

// labelText is a declared label as text: a JSON string's contents, or the digits of an integer.
func labelText(raw json.RawMessage) string {
	v, err := tensorjson.ParseValue(raw)
	if err != nil {
		return string(raw)
	}
	return string(v.Text)
}

// class reads the label output, or takes the most probable label where the graph has only probabilities.
func (a *answer) class() (label, error) {
	sig := a.model.signature
	t, width := a.port(sig.LabelOutput)
	if t == nil {
		return a.mostProbable()
	}
	if width != 1 {
		return label{}, severalValues(a.call, plural(width, "label"))
	}
	var n int64
	switch d := t.Data.(type) {
	case []string:
		return label{text: d[a.row], textual: true}, nil
	case []int64:
		n = d[a.row]
	case []int32:
		n = int64(d[a.row])
	case []int16:
		n = int64(d[a.row])
	case []int8:
		n = int64(d[a.row])
	case []uint64:
		n = int64(d[a.row])
	case []uint32:
		n = int64(d[a.row])
	case []uint8:
		n = int64(d[a.row])
	case []bool:
		n = boolInt(d[a.row])
	default:
		f, _ := onnx.FloatAt(t.Data, t.DType, a.row)
		if f != math.Trunc(f) || math.Abs(f) > 1<<53 {
			return label{}, about(a.call, rowcast.CodeModelFailed, "gave %s as a label", tensorjson.AppendDecimal(nil, f, 64))
		}
		n = int64(f)
	}
	if sig.Task == rowcast.TaskClassification && sig.TextLabels() {
		// A graph that counts its classes while the version names them.
		if n < 0 || n >= int64(len(sig.Labels)) {
			return label{}, about(a.call, rowcast.CodeModelFailed, "gave class %d, but has %s", n, plural(len(sig.Labels), "label"))
		}
		return a.model.labels[n], nil
	}
	return label{number: n}, nil
}

func (a *answer) mostProbable() (label, error) {
	best, most := -1, math.Inf(-1)
	n, err := a.eachProbability(func(i int, p float64, _ int) {
		if p > most {
			best, most = i, p
		}
	})
	switch {
	case err != nil:
		return label{}, err
	case n == 0:
		return label{}, severalValues(a.call, "no label")
	case best < 0:
		return label{}, about(a.call, rowcast.CodeModelFailed, "gave no probability that is a number")
	case best < len(a.model.labels):
		return a.model.labels[best], nil
	}
	return label{number: int64(best)}, nil
}

// json writes the object of predict_json. Keys that have no meaning for the model are left out.
func (a *answer) json(dst []byte) ([]byte, error) {
	start := len(dst)
	sig := a.model.signature
	dst = append(dst, `{"model":`...)
	dst = tensorjson.AppendString(dst, a.call.Model)
	dst = append(dst, `,"version":`...)
	dst = strconv.AppendInt(dst, int64(a.call.Version), 10)
	switch sig.Task {
	case rowcast.TaskRegression:
		if t, width := a.port(sig.ValueOutput); t != nil && width == 1 {
			dst = append(dst, `,"value":`...)
			dst = tensorjson.AppendElement(dst, t, 0)
		}
	case rowcast.TaskClassification, rowcast.TaskAnomaly, rowcast.TaskClustering:
		l, err := a.class()
		if err != nil {
			return dst[:start], err
		}
		if l.textual {
			dst = append(dst, `,"label":`...)
			dst = tensorjson.AppendString(dst, l.text)
			break
		}
		dst = append(dst, `,"value":`...)
		dst = strconv.AppendInt(dst, l.number, 10)
		dst = append(dst, `,"label":`...)
		dst = strconv.AppendInt(dst, l.number, 10)
	}
	prefix := `,"probabilities":{`
	n, err := a.eachProbability(func(i int, p float64, bits int) {
		dst = append(dst, prefix...)
		dst = a.appendLabelKey(dst, i)
		dst = tensorjson.AppendFloat(dst, p, bits)
		prefix = ","
	})
	if err != nil {
		return dst[:start], err
	}
	if n > 0 {
		dst = append(dst, '}')
	}
	if t, width := a.port(sig.ScoreOutput); t != nil && width >= 1 {
		dst = append(dst, `,"score":`...)
		dst = appendRow(dst, t, width)
	}
	dst = append(dst, `,"outputs":`...)
	return append(a.model.appendOutputs(dst, a.outputs, a.model.plan.rows), '}'), nil
}

func (a *answer) appendLabelKey(dst []byte, i int) []byte {
	return a.model.appendLabelKey(dst, i)
}

// appendLabelKey writes a label as the key of a JSON object, and the colon.
func (m *model) appendLabelKey(dst []byte, i int) []byte {
	switch {
	case i >= len(m.labels):
		dst = append(strconv.AppendInt(append(dst, '"'), int64(i), 10), '"')
	case m.labels[i].textual:
		dst = tensorjson.AppendString(dst, m.labels[i].text)
	default:
		dst = append(strconv.AppendInt(append(dst, '"'), m.labels[i].number, 10), '"')
	}
	return append(dst, ':')
}

// appendRow writes one row: a bare value where it is one.
func appendRow(dst []byte, t *onnx.Tensor, width int) []byte {
	if width == 1 {
		return tensorjson.AppendElement(dst, t, 0)
	}
	for i := range width {
		dst = append(dst, "[,"[min(i, 1)])
		dst = tensorjson.AppendElement(dst, t, i)
	}
	return append(dst, ']')
}
