package predict

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// testRuntime is ONNX Runtime, of which a process has one.
var testRuntime *onnx.Runtime

func TestMain(m *testing.M) {
	os.Exit(func() int {
		rt, err := onnx.Open(onnx.Config{})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		testRuntime = rt
		defer func() { _ = rt.Close() }()
		return m.Run()
	}())
}

// store is a Source in memory.
type store struct {
	mu        sync.Mutex
	specs     map[string]*rowcast.Spec
	artifacts map[[sha256.Size]byte][]byte
	fetches   int
	gate      chan struct{} // where set, Artifact waits for it
	fail      error         // where set, Artifact returns it
	wrong     error         // what verifying the bytes says
}

func newStore() *store {
	return &store{specs: map[string]*rowcast.Spec{}, artifacts: map[[sha256.Size]byte][]byte{}}
}

func (s *store) add(spec *rowcast.Spec, artifact []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.specs[spec.Key], s.artifacts[spec.SHA256] = spec, artifact
}

func (s *store) Spec(_ context.Context, key string) (*rowcast.Spec, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if spec := s.specs[key]; spec != nil {
		return spec, nil
	}
	return nil, rowcast.Errorf(rowcast.CodeNotFound, "no version has the spec %s", key)
}

func (s *store) Artifact(ctx context.Context, sha [sha256.Size]byte, _ int64) ([]byte, func() error, error) {
	s.mu.Lock()
	s.fetches++
	gate, err, wrong := s.gate, s.fail, s.wrong
	s.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
	if err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.artifacts[sha], func() error { return wrong }, nil
}

// fixture is one model, ready to be called.
type fixture struct {
	t      testing.TB
	name   string
	spec   *rowcast.Spec
	engine *Engine
}

func newFixture(t testing.TB, name string, artifact []byte, sig rowcast.Signature) *fixture {
	t.Helper()
	src := newStore()
	spec := newSpec(artifact, sig)
	src.add(spec, artifact)
	e := NewEngine(testRuntime, src, EngineOptions{})
	t.Cleanup(func() { require.NoError(t, e.Close(context.Background())) })
	return &fixture{t: t, name: name, spec: spec, engine: e}
}

func newSpec(artifact []byte, sig rowcast.Signature) *rowcast.Spec {
	sha := sha256.Sum256(artifact)
	text, _ := json.Marshal(sig)
	key := sha256.Sum256(append(sha[:], text...))
	return &rowcast.Spec{Key: hex.EncodeToString(key[:16]), SHA256: sha, Size: int64(len(artifact)), Signature: sig}
}

func (f *fixture) call(verb rowcast.Verb, format rowcast.Format, payload string) (string, error) {
	f.t.Helper()
	c := &rowcast.Call{Verb: verb, Spec: f.spec.Key, Model: f.name, Version: 3, Format: format, Payload: []byte(payload)}
	out, err := f.engine.Do(context.Background(), c, []byte("before "))
	require.True(f.t, strings.HasPrefix(string(out), "before "))
	if err != nil {
		require.Equal(f.t, "before ", string(out))
		var e *rowcast.Error
		require.ErrorAs(f.t, err, &e)
		require.Contains(f.t, e.Message, fmt.Sprintf("model %q version 3", f.name))
	}
	return string(out[len("before "):]), err
}

func (f *fixture) must(verb rowcast.Verb, format rowcast.Format, payload string) string {
	f.t.Helper()
	out, err := f.call(verb, format, payload)
	require.NoError(f.t, err, payload)
	return out
}

// refuses checks the code of an error and that its message or detail or hint holds each of the words.
func (f *fixture) refuses(code rowcast.Code, verb rowcast.Verb, format rowcast.Format, payload string, words ...string) {
	f.t.Helper()
	out, err := f.call(verb, format, payload)
	require.Error(f.t, err, "%s gave %s", payload, out)
	var e *rowcast.Error
	require.ErrorAs(f.t, err, &e)
	require.Equal(f.t, code, e.Code, "%s: %s", payload, e)
	all := e.Message + " | " + e.Detail + " | " + e.Hint
	for _, w := range words {
		require.Contains(f.t, all, w, payload)
	}
}

// sent is array_send(double precision[]) in hexadecimal. A nil is NULL.
func sent(values ...any) string {
	raw := binary.BigEndian.AppendUint32(nil, 1)
	raw = binary.BigEndian.AppendUint32(raw, 1)
	raw = binary.BigEndian.AppendUint32(raw, float8OID)
	raw = binary.BigEndian.AppendUint32(raw, uint32(len(values)))
	raw = binary.BigEndian.AppendUint32(raw, 1)
	for _, v := range values {
		f, ok := v.(float64)
		if n, isInt := v.(int); isInt {
			f, ok = float64(n), true
		}
		if !ok {
			raw = binary.BigEndian.AppendUint32(raw, math.MaxUint32)
			continue
		}
		raw = binary.BigEndian.AppendUint32(raw, 8)
		raw = binary.BigEndian.AppendUint64(raw, math.Float64bits(f))
	}
	return hex.EncodeToString(raw)
}

// folder is a model of the shared kind: model.onnx, model.yaml, data.csv, expected.csv.
type folder struct {
	name     string
	artifact []byte
	sig      rowcast.Signature
	data     []map[string]string
	expected []map[string]string
}

// folders are the models beside the repository where they exist, else the copies in testdata.
func folders(t testing.TB) []string {
	root := filepath.Join("..", "..", "..", "shared", "models")
	if _, err := os.Stat(root); err != nil {
		root = filepath.Join("testdata", "models")
	}
	list, err := filepath.Glob(filepath.Join(root, "*", "model.yaml"))
	require.NoError(t, err)
	require.NotEmpty(t, list)
	for i, p := range list {
		list[i] = filepath.Dir(p)
	}
	return list
}

func own(name string) string { return filepath.Join("testdata", "models", name) }

func readFolder(t testing.TB, dir string) *folder {
	t.Helper()
	artifact, err := os.ReadFile(filepath.Join(dir, "model.onnx"))
	require.NoError(t, err)
	text, err := os.ReadFile(filepath.Join(dir, "model.yaml"))
	require.NoError(t, err)
	var y struct {
		Task, Inputs string
		Labels       []any
		Features     []struct {
			Name, Type string
			Missing    bool
			Default    any
		}
	}
	require.NoError(t, yaml.Unmarshal(text, &y))
	sig := rowcast.Signature{Task: rowcast.Task(y.Task), Layout: rowcast.Layout(y.Inputs)}
	for _, f := range y.Features {
		feature := rowcast.Feature{Name: f.Name, Type: rowcast.FeatureType(f.Type), Missing: f.Missing}
		if f.Default != nil {
			feature.Default, _ = json.Marshal(f.Default)
		}
		sig.Features = append(sig.Features, feature)
	}
	for _, l := range y.Labels {
		raw, _ := json.Marshal(l)
		sig.Labels = append(sig.Labels, raw)
	}
	g, err := onnx.Inspect(artifact)
	require.NoError(t, err)
	return &folder{
		name: filepath.Base(dir), artifact: artifact, sig: withPorts(sig, g),
		data: readCSV(t, filepath.Join(dir, "data.csv")), expected: readCSV(t, filepath.Join(dir, "expected.csv")),
	}
}

// withPorts adds the graph's ports and what the outputs mean, by their position as the converters write them.
func withPorts(sig rowcast.Signature, g *onnx.Graph) rowcast.Signature {
	sig.Inputs, sig.Outputs = g.Inputs, g.Outputs
	sig.LabelOutput, sig.ProbabilityOutput, sig.ScoreOutput, sig.ValueOutput = -1, -1, -1, -1
	switch sig.Task {
	case rowcast.TaskClassification:
		sig.LabelOutput, sig.ProbabilityOutput = 0, 1
		if len(sig.Labels) == 0 {
			sig.Labels = g.Labels
		}
	case rowcast.TaskAnomaly, rowcast.TaskClustering:
		sig.LabelOutput, sig.ScoreOutput = 0, 1
	case rowcast.TaskRegression:
		sig.ValueOutput = 0
	}
	return sig
}

// tiny returns a model of package onnx's test data.
func tiny(t testing.TB, name string, sig rowcast.Signature) ([]byte, rowcast.Signature) {
	t.Helper()
	artifact, err := os.ReadFile(filepath.Join("..", "onnx", "testdata", name+".onnx"))
	require.NoError(t, err)
	g, err := onnx.Inspect(artifact)
	require.NoError(t, err)
	return artifact, withPorts(sig, g)
}

func reals(names ...string) (list []rowcast.Feature) {
	for _, n := range names {
		list = append(list, rowcast.Feature{Name: n, Type: rowcast.TypeReal})
	}
	return list
}

func readCSV(t testing.TB, path string) []map[string]string {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	rows, err := csv.NewReader(f).ReadAll()
	require.NoError(t, err)
	list := make([]map[string]string, 0, len(rows)-1)
	for _, row := range rows[1:] {
		m := map[string]string{}
		for i, name := range rows[0] {
			m[name] = row[i]
		}
		list = append(list, m)
	}
	return list
}

// trialInputs are one row's tensors without a session.
func trialInputs(sig *rowcast.Signature) []onnx.Tensor {
	inputs := make([]onnx.Tensor, len(sig.Inputs))
	for i, in := range sig.Inputs {
		inputs[i] = onnx.Tensor{Name: in.Name, DType: in.DType, Data: onnx.MakeData(in.DType, int(-in.Shape[0]*in.Shape[len(in.Shape)-1]))}
		if len(in.Shape) == 1 {
			inputs[i].Data = onnx.MakeData(in.DType, 1)
		}
	}
	return inputs
}
