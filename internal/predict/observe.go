package predict

import (
	"cmp"
	"crypto/sha256"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/rowcast"
	"github.com/rowcast/rowcast/internal/tensorjson"
)

// written is the order in which jsonb keeps the features: by the length of the name, then by its bytes.
func (p *plan) written() []int {
	order := make([]int, len(p.features))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		x, y := p.features[a].name, p.features[b].name
		return cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(x, y))
	})
	return order
}

// observe notes what the run of a row read and gave, for the log of predictions. What an answer of this kind has not is left out: the prediction
// itself has succeeded.
func (a *answer) observe(o *rowcast.Observation, inputs []onnx.Tensor) {
	p, sig := a.model.plan, a.model.signature
	o.Inputs = append(o.Inputs[:0], '{')
	for n, i := range a.model.observed {
		if n > 0 {
			o.Inputs = append(o.Inputs, ", "...)
		}
		f := &p.features[i]
		o.Inputs = append(appendJSONB(o.Inputs, f.name), ": "...)
		o.Inputs = appendObserved(o.Inputs, f, &inputs[f.input])
	}
	o.Inputs = append(o.Inputs, '}')
	o.InputHash = sha256.Sum256(o.Inputs)
	switch sig.Task {
	case rowcast.TaskRegression:
		if t, width := a.port(sig.ValueOutput); t != nil && width == 1 && t.DType != rowcast.String {
			o.Value, o.HasValue = decimal(t, 0), true
		}
	case rowcast.TaskClassification, rowcast.TaskAnomaly, rowcast.TaskClustering:
		if l, err := a.class(); err == nil {
			a.observeClass(o, l)
		}
	}
	if !o.HasValue && !o.HasLabel {
		o.Outputs = a.model.appendOutputs(nil, a.outputs, p.rows)
	}
}

func (a *answer) observeClass(o *rowcast.Observation, l label) {
	o.HasLabel = true
	if l.textual {
		o.Label = string(appendText(nil, l.text))
	} else {
		o.Label = strconv.FormatInt(l.number, 10)
		o.Value, o.HasValue = float64(l.number), true
	}
	o.Probabilities = o.Probabilities[:0]
	_, err := a.eachProbability(func(_ int, p float64, bits int) { o.Probabilities = append(o.Probabilities, shortest(p, bits)) })
	if err != nil {
		o.Probabilities = nil
	}
	o.Probability = math.NaN()
	at := int(l.number)
	if len(a.model.labels) > 0 || l.textual {
		at = slices.IndexFunc(a.model.labels, func(m label) bool {
			return l.textual && m.text == l.text || !l.textual && !m.textual && m.number == l.number
		})
	}
	if at >= 0 && at < len(o.Probabilities) {
		o.Probability = o.Probabilities[at]
	}
}

// decimal is element i as predict answers it: a float32's shortest decimal, read as a float64.
func decimal(t *onnx.Tensor, i int) float64 {
	v, bits := onnx.FloatAt(t.Data, t.DType, i)
	return shortest(v, bits)
}

func shortest(v float64, bits int) float64 {
	if bits == 64 || v-v != 0 {
		return v
	}
	var text [32]byte
	d, _ := strconv.ParseFloat(string(strconv.AppendFloat(text[:0], v, 'g', -1, bits)), 64)
	return d
}

// appendObserved writes what a feature's tensor holds for the first row.
func appendObserved(dst []byte, f *feature, t *onnx.Tensor) []byte {
	if d, ok := t.Data.([]string); ok {
		return appendJSONB(dst, d[f.column])
	}
	v, bits := onnx.FloatAt(t.Data, t.DType, f.column)
	switch {
	case v != v:
		return append(dst, "null"...)
	case v-v != 0:
		return tensorjson.AppendFloat(dst, v, bits)
	case f.kind == rowcast.TypeBoolean:
		return strconv.AppendBool(dst, v != 0)
	case v == 0:
		return append(dst, '0') // numeric knows no -0
	}
	switch t.Data.(type) {
	case []int64, []uint64: // beyond what a float64 can hold
		return tensorjson.AppendElement(dst, t, f.column)
	}
	return strconv.AppendFloat(dst, v, 'f', -1, bits)
}

// appendJSONB writes a JSON string with the escapes that jsonb's output has.
func appendJSONB(dst []byte, s string) []byte {
	if strings.IndexByte(s, '\b') < 0 && strings.IndexByte(s, '\f') < 0 {
		return tensorjson.AppendString(dst, s)
	}
	dst = append(dst, '"')
	for s != "" {
		n := strings.IndexAny(s, "\b\f")
		part := s
		if n >= 0 {
			part = s[:n]
		}
		quoted := tensorjson.AppendString(nil, part)
		dst = append(dst, quoted[1:len(quoted)-1]...)
		if n < 0 {
			break
		}
		dst = append(dst, '\\', map[byte]byte{'\b': 'b', '\f': 'f'}[s[n]])
		s = s[n+1:]
	}
	return append(dst, '"')
}

// observeKey finds the column of a record that is the key. A number keeps the digits that PostgreSQL wrote.
func observeKey(o *rowcast.Observation, record []byte, column string) {
	var s tensorjson.Scanner
	s.Reset(record)
	if s.Peek() != '{' {
		return
	}
	s.Advance()
	for s.Peek() == '"' {
		name, err := s.Str()
		if err != nil || s.Peek() != ':' {
			return
		}
		wanted := string(name) == column
		s.Advance()
		v, err := s.Value()
		if err != nil {
			return
		}
		if wanted {
			switch v.Kind {
			case tensorjson.Number, tensorjson.String:
				o.Key, o.HasKey = string(v.Text), true
			case tensorjson.True, tensorjson.False:
				o.Key, o.HasKey = strconv.FormatBool(v.Kind == tensorjson.True), true
			}
			return
		}
		if s.Peek() != ',' {
			return
		}
		s.Advance()
	}
}
