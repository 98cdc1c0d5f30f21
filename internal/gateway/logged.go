package gateway

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// Recorder keeps predictions whose model is logged.
type Recorder interface {
	// Record returns when the prediction is sure to be written unless the process dies; it waits while there is no room, and returns the context's cause
	// where that ends first.
	Record(ctx context.Context, p *rowcast.Prediction) error
}

// parseLogged parses HEADER LF CALL, what follows the verb of a call that is logged. The request is that of the call.
func parseLogged(rest string) (request, *rowcast.Error) {
	header, body, found := strings.Cut(rest, "\n")
	if !found || body == "" || strings.IndexByte("plQJI", body[0]) < 0 {
		return request{verb: verbLogged}, malformed("call that is logged")
	}
	r, err := parseBody(verb(body[0]), body[1:])
	r.log = header
	return r, err
}

// logRequest reads a header: A or T, the route's object, and the caller as a JSON string. Calls of a session mostly repeat it.
func (s *session) logRequest(header string) (*rowcast.LogRequest, *rowcast.Error) {
	if header == s.logHeader && s.log != nil {
		return s.log, nil
	}
	if header == "" || header[0] != 'A' && header[0] != 'T' {
		return nil, malformed("log policy")
	}
	l := &rowcast.LogRequest{Transactional: header[0] == 'T'}
	d := json.NewDecoder(strings.NewReader(header[1:]))
	if d.Decode(l) != nil || d.Decode(&l.Caller) != nil || d.More() || l.ModelID == 0 {
		return nil, malformed("log policy")
	}
	s.logHeader, s.log = strings.Clone(header), l
	return l, nil
}

// observe makes the flight one whose prediction is logged, or not, as the sample decides.
func (f *flight) observe(l *rowcast.LogRequest) {
	if l.Sample < 1 && rand.Float64() >= l.Sample { //nolint:gosec // a sample, no secret
		return
	}
	f.log = l
	f.call.Observe, f.call.Key = &rowcast.Observation{}, l.Key
}

// keep logs the prediction of a flight that has its answer: it hands the row to the recorder, or to the caller with the answer.
func (g *Gateway) keep(f *flight, dst, out []byte) ([]byte, error) {
	p := &rowcast.Prediction{
		Observation: *f.call.Observe, Request: f.log, Version: f.call.Version, At: time.Now(), Latency: time.Since(f.began),
	}
	if f.log.Transactional {
		return appendRow(dst, p, string(out))
	}
	if g.o.Recorder == nil {
		return dst, rowcast.Errorf(rowcast.CodeUnavailable, "%s: its predictions are logged, and this sidecar keeps no log", f.subject())
	}
	f.recording.Store(true)
	defer f.recording.Store(false)
	if err := g.o.Recorder.Record(f.ctx, p); err != nil {
		return dst, err
	}
	return out, nil
}

// row is a prediction as the SQL functions insert it. Floats are text, so that those that are no number can travel.
type row struct {
	Answer        string          `json:"answer"`
	Version       int             `json:"version"`
	SHA256        string          `json:"sha256"`
	InputHash     string          `json:"input_hash"`
	Inputs        json.RawMessage `json:"inputs,omitempty"`
	Value         *string         `json:"value,omitempty"`
	Label         *string         `json:"label,omitempty"`
	Probability   *string         `json:"probability,omitempty"`
	Probabilities *string         `json:"probabilities,omitempty"`
	Outputs       json.RawMessage `json:"outputs,omitempty"`
	Key           *string         `json:"key,omitempty"`
	Latency       float64         `json:"latency_ms"`
}

func appendRow(dst []byte, p *rowcast.Prediction, answer string) ([]byte, error) {
	r := row{
		Answer: answer, Version: p.Version, SHA256: hex.EncodeToString(p.SHA256[:]), InputHash: hex.EncodeToString(p.InputHash[:]),
		Outputs: p.Outputs, Latency: float64(p.Latency) / float64(time.Millisecond),
	}
	if p.Request.Inputs {
		r.Inputs = p.Inputs
	}
	if p.HasValue {
		r.Value = floatText(p.Value)
	}
	if p.HasLabel {
		r.Label = &p.Label
	}
	if p.HasKey {
		r.Key = &p.Key
	}
	if len(p.Probabilities) > 0 {
		all := make([]string, len(p.Probabilities))
		for i, v := range p.Probabilities {
			all[i] = *floatText(v)
		}
		array := "{" + strings.Join(all, ",") + "}"
		r.Probabilities = &array
		if p.Probability == p.Probability {
			r.Probability = floatText(p.Probability)
		}
	}
	text, err := json.Marshal(r)
	if err != nil {
		return dst, err
	}
	return append(dst, text...), nil
}

// floatText writes a float as PostgreSQL reads it.
func floatText(v float64) *string {
	text := strconv.FormatFloat(v, 'g', -1, 64)
	switch {
	case math.IsInf(v, 1):
		text = "Infinity"
	case math.IsInf(v, -1):
		text = "-Infinity"
	}
	return &text
}
