package predict

import (
	"context"
	"encoding/json"
	"math"
	"slices"
	"strconv"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/rowcast"
	"github.com/rowcast/rowcast/internal/tensorjson"
)

// model is a loaded version: an ONNX Runtime session and all that is worked out once from the signature. It does not change after loadModel.
type model struct {
	session   *onnx.Session
	signature *rowcast.Signature
	plan      *plan
	labels    []label
	order     []int // position of each of the signature's outputs among the session's; nil where they are the same
	observed  []int // the features in the order in which a logged prediction names them
}

// loadModel makes a session and checks that it is what the signature says.
func loadModel(rt *onnx.Runtime, spec *rowcast.Spec, artifact []byte) (*model, error) {
	sig := &spec.Signature
	p, err := newPlan(sig)
	if err != nil {
		return nil, err
	}
	session, err := rt.NewSession(artifact, sig.Inputs...)
	if err != nil {
		return nil, err
	}
	m := &model{session: session, signature: sig, plan: p, observed: p.written()}
	for _, raw := range sig.Labels {
		l := label{text: labelText(raw), textual: raw[0] == '"'}
		if !l.textual {
			if l.number, err = strconv.ParseInt(l.text, 10, 64); err != nil {
				break
			}
		}
		m.labels = append(m.labels, l)
	}
	if err != nil || len(m.labels) != len(sig.Labels) {
		_ = session.Close()
		return nil, broken("a label is neither text nor an integer")
	}
	if err := m.matchPorts(); err != nil {
		_ = session.Close()
		return nil, err
	}
	return m, nil
}

// matchPorts finds the signature's outputs among the session's, and makes sure that the inputs are the ones that the plan writes to.
func (m *model) matchPorts() error {
	sig := m.signature
	inputs, outputs := m.session.Inputs(), m.session.Outputs()
	if len(inputs) != len(sig.Inputs) || len(outputs) != len(sig.Outputs) {
		return broken("it names %d inputs and %d outputs, the graph has %d and %d", len(sig.Inputs), len(sig.Outputs), len(inputs), len(outputs))
	}
	for i, in := range sig.Inputs {
		if inputs[i].Name != in.Name || inputs[i].DType != in.DType {
			return broken("input %d is %q (%s) there and %q (%s) in the graph", i, in.Name, in.DType, inputs[i].Name, inputs[i].DType)
		}
	}
	for _, at := range []int{sig.LabelOutput, sig.ProbabilityOutput, sig.ScoreOutput, sig.ValueOutput} {
		if at >= len(sig.Outputs) {
			return broken("it names output %d of %d", at, len(sig.Outputs))
		}
	}
	straight := true
	m.order = make([]int, len(sig.Outputs))
	for i, out := range sig.Outputs {
		m.order[i] = slices.IndexFunc(outputs, func(p rowcast.Port) bool { return p.Name == out.Name })
		if m.order[i] < 0 {
			return broken("the graph has no output %q", out.Name)
		}
		straight = straight && m.order[i] == i
	}
	if straight {
		m.order = nil
	}
	return nil
}

// inOrder sorts a run's outputs into the signature's order.
func (m *model) inOrder(outputs []onnx.Tensor) []onnx.Tensor {
	if m.order == nil {
		return outputs
	}
	sorted := make([]onnx.Tensor, len(m.order))
	for i, at := range m.order {
		sorted[i] = outputs[at]
	}
	return sorted
}

// predict runs one row and appends the answer.
func (m *model) predict(ctx context.Context, c *rowcast.Call, s *scratch, dst []byte) ([]byte, error) {
	if err := m.refuse(c); err != nil {
		return dst, err
	}
	b, err := m.session.Acquire(m.plan.rows)
	if err != nil {
		return dst, withModel(c, err)
	}
	defer m.session.Release(b)
	r := filler{plan: m.plan, call: c, inputs: b.Inputs(), scratch: s}
	if err := r.fill(); err != nil {
		return dst, err
	}
	if err := b.Run(ctx); err != nil {
		return dst, withModel(c, err)
	}
	a := answer{model: m, call: c, outputs: m.inOrder(b.Outputs()), rows: m.plan.rows}
	if dst, err = a.write(dst); err == nil && c.Observe != nil {
		a.observe(c.Observe, b.Inputs())
		if c.Key != "" && c.Format == rowcast.FormatRecord {
			observeKey(c.Observe, c.Payload, c.Key)
		}
	}
	return dst, err
}

// infer runs the tensors that the payload names and appends every output by name.
func (m *model) infer(ctx context.Context, payload, dst []byte) ([]byte, error) {
	inputs, err := m.readInputs(payload)
	if err != nil {
		return dst, err
	}
	outputs, err := m.session.Run(ctx, inputs)
	if err != nil {
		return dst, err
	}
	return m.appendOutputs(dst, m.inOrder(outputs), 1), nil
}

func (m *model) readInputs(text []byte) ([]onnx.Tensor, error) {
	r := tensorjson.Reader{Ports: m.signature.Inputs, Kind: "input", Nearest: nearest}
	return r.Read(text)
}

// example is what registration ran and what came out.
type example struct {
	Inputs  json.RawMessage `json:"inputs"`
	Outputs json.RawMessage `json:"outputs"`
}

// exampleTolerance is how far an output may be from the stored one, relative to the larger of the two (absolute below one): machines differ in
// the order in which they add.
const exampleTolerance = 1e-4

// replay runs the stored example and compares: a model that answers differently here than where it was registered must not answer at all.
func (m *model) replay(ctx context.Context, raw json.RawMessage) error {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	var e example
	if err := json.Unmarshal(raw, &e); err != nil || len(e.Inputs) == 0 {
		return broken("the stored example is not an object with inputs and outputs")
	}
	inputs, err := m.readInputs(e.Inputs)
	if err != nil {
		return rowcast.Errorf(rowcast.CodeModelUnavailable, "its stored example does not fit").WithCause(err)
	}
	got, err := m.session.Run(ctx, inputs)
	if err != nil {
		return err
	}
	if len(e.Outputs) == 0 || string(e.Outputs) == "null" {
		return nil
	}
	return m.compare(e.Outputs, m.inOrder(got))
}

func (m *model) compare(expected json.RawMessage, got []onnx.Tensor) error {
	var want map[string]json.RawMessage
	if err := json.Unmarshal(expected, &want); err != nil {
		return broken("the outputs of the stored example are no object")
	}
	for i := range got {
		raw, ok := want[got[i].Name]
		if !ok {
			continue
		}
		differs := func() error {
			now := []byte(nil)
			if m.signature.Outputs[i].Maps && len(got[i].Shape) == 2 {
				now = m.appendMaps(now, &got[i])
			} else {
				now = tensorjson.AppendTensor(now, &got[i])
			}
			return rowcast.Errorf(rowcast.CodeModelUnavailable, "its output %q differs from the one at registration", got[i].Name).
				WithDetail("At registration %s, now %s.", tensorjson.Excerpt(raw), tensorjson.Excerpt(now)).
				WithHint("ONNX Runtime or the machine's processor changed: compare with the framework before you register it again.")
		}
		port := rowcast.Port{Name: got[i].Name, DType: got[i].DType, Shape: got[i].Shape}
		if m.signature.Outputs[i].Maps {
			raw = flattenMaps(raw, m, &got[i])
		}
		r := tensorjson.Reader{Ports: []rowcast.Port{port}, Kind: "output", Nearest: nearest}
		tensors, err := r.Read(append(append(append(tensorjson.AppendString([]byte{'{'}, port.Name), ':'), raw...), '}'))
		if err != nil || !alike(&tensors[0], &got[i]) {
			return differs()
		}
	}
	return nil
}

// flattenMaps turns [{"a": 0.1, "b": 0.9}] into [[0.1, 0.9]], in the order of the columns; anything else stays.
func flattenMaps(raw json.RawMessage, m *model, t *onnx.Tensor) json.RawMessage {
	var rows []map[string]json.RawMessage
	if json.Unmarshal(raw, &rows) != nil || len(t.Shape) != 2 {
		return raw
	}
	flat := make([][]json.RawMessage, len(rows))
	for i, row := range rows {
		flat[i] = []json.RawMessage{}
		for column := range int(t.Shape[1]) {
			key := strconv.Itoa(column)
			switch keys := t.MapKeys.(type) {
			case []string:
				key = keys[column]
			case []int64:
				key = strconv.FormatInt(keys[column], 10)
			default:
				if column < len(m.labels) {
					key = m.labels[column].text
				}
			}
			v, ok := row[key]
			if !ok {
				return raw
			}
			flat[i] = append(flat[i], v)
		}
	}
	text, err := json.Marshal(flat)
	if err != nil {
		return raw
	}
	return text
}

// alike compares two tensors of the same type: numbers within exampleTolerance where they are floats, everything else exactly.
func alike(a, b *onnx.Tensor) bool {
	n := onnx.DataLen(a.Data)
	if n != onnx.DataLen(b.Data) || !slices.Equal(a.Shape, b.Shape) {
		return false
	}
	switch x := a.Data.(type) {
	case []float32, []float64, []uint16:
		for i := range n {
			v, _ := onnx.FloatAt(a.Data, a.DType, i)
			w, _ := onnx.FloatAt(b.Data, b.DType, i)
			same := v == w || v != v && w != w
			if !same && !(math.Abs(v-w) <= exampleTolerance*max(1, math.Min(math.Abs(v), math.Abs(w)))) {
				return false
			}
		}
		return true
	case []string:
		return slices.Equal(x, b.Data.([]string))
	case []int64:
		return slices.Equal(x, b.Data.([]int64))
	case []uint64:
		return slices.Equal(x, b.Data.([]uint64))
	}
	for i := range n { // the other integers and booleans are exact as float64
		v, _ := onnx.FloatAt(a.Data, a.DType, i)
		w, _ := onnx.FloatAt(b.Data, b.DType, i)
		if v != w {
			return false
		}
	}
	return true
}
