package registry

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/rowcast"
	"github.com/stretchr/testify/require"
)

// The test binary is the validating child too. With the race detector a process sleeps for a second before it ends, unless told not to.
func init() {
	if os.Getenv("GORACE") == "" {
		_ = os.Setenv("GORACE", "atexit_sleep_ms=0")
	}
	if len(os.Args) > 1 && os.Args[1] == ChildArgument {
		os.Exit(ValidateChild(os.Stdin, os.Stdout))
	}
}

const (
	tinyModels = "../onnx/testdata"
	realModels = "../../../shared/models"
)

func tiny(t testing.TB, name string) []byte {
	t.Helper()
	model, err := os.ReadFile(filepath.Join(tinyModels, name+".onnx"))
	require.NoError(t, err)
	return model
}

func needRealModels(t testing.TB) {
	t.Helper()
	if _, err := os.Stat(realModels); err != nil {
		t.Skip("no shared models beside the repository")
	}
}

func quick() Limits {
	return Limits{Memory: 1 << 30, CPU: 20 * time.Second, Wall: 2 * time.Second}
}

func refusal(t testing.TB, err error) *rowcast.Error {
	t.Helper()
	var e *rowcast.Error
	require.ErrorAs(t, err, &e)
	return e
}

func TestEveryBadFileIsRefusedForItsOwnReason(t *testing.T) {
	needRealModels(t)
	for name, reason := range map[string]string{
		"empty":            "the file is empty",
		"text":             "the file is no ONNX model",
		"truncated":        "the file is truncated or damaged",
		"flipped":          "damaged",
		"unknown_operator": "the operator no.such.domain:Frobnicate, which ONNX Runtime 1.32.0 does not know",
		"future_opset":     "version 999 of the ONNX operators",
		"cycle":            "the model's graph has a cycle",
		"external_data":    `outside its file, in "../../../../etc/passwd"`,
		"memory_bomb":      "more memory than it may have",
		"endless_loop":     "did not finish one run within 2s",
	} {
		t.Run(name, func(t *testing.T) {
			artifact, err := os.ReadFile(filepath.Join(realModels, "bad", name+".onnx"))
			require.NoError(t, err)
			_, err = Validate(context.Background(), artifact, Options{}, quick())
			e := refusal(t, err)
			t.Logf("%s | %s | %s", e.Message, e.Detail, e.Hint)
			require.Contains(t, e.Message, reason)
			require.Equal(t, rowcast.CodeArtifactRefused, e.Code)
		})
	}
}

func TestEveryRealModelIsAcceptedWithAndWithoutItsYAML(t *testing.T) {
	needRealModels(t)
	folders, err := filepath.Glob(filepath.Join(realModels, "*", "model.onnx"))
	require.NoError(t, err)
	require.NotEmpty(t, folders)
	for _, path := range folders {
		name := filepath.Base(filepath.Dir(path))
		t.Run(name, func(t *testing.T) {
			artifact, err := os.ReadFile(path)
			require.NoError(t, err)
			bare, err := Validate(context.Background(), artifact, Options{}, Limits{})
			require.NoError(t, err)
			t.Logf("%+v", bare.Signature)
			t.Logf("%s %v %v ms %v ms", clip(string(bare.Example)), bare.Warnings, bare.LoadMS, bare.RunMS)
			require.NotEmpty(t, bare.Example)
			text, err := os.ReadFile(filepath.Join(filepath.Dir(path), "model.yaml"))
			if errors.Is(err, os.ErrNotExist) {
				require.Equal(t, rowcast.TaskTensors, bare.Signature.Task)
				require.Equal(t, rowcast.LayoutTensors, bare.Signature.Layout)
				return
			}
			require.NoError(t, err)
			o, err := ParseYAML(text)
			require.NoError(t, err)
			full, err := Validate(context.Background(), artifact, o, Limits{})
			require.NoError(t, err)
			require.Equal(t, o.Task, full.Signature.Task)
			require.Equal(t, o.Inputs, full.Signature.Layout)
			require.Equal(t, o.Features, full.Signature.Features)
			require.Equal(t, o.Labels, full.Signature.Labels)
			require.Empty(t, full.Warnings)
			require.False(t, full.Signature.BatchDependent)
			// The graph alone says the same, but for names and what only people know.
			require.Equal(t, full.Signature.Task, bare.Signature.Task)
			require.Equal(t, full.Signature.Layout, bare.Signature.Layout)
			require.Equal(t, full.Signature.Labels, bare.Signature.Labels)
			require.Len(t, bare.Signature.Features, len(full.Signature.Features))
			for i, f := range bare.Signature.Features {
				require.Equal(t, full.Signature.Features[i].Type, f.Type)
				if full.Signature.Layout == rowcast.LayoutMatrix {
					require.Equal(t, "f"+strconv.Itoa(i), f.Name)
				} else {
					require.Equal(t, full.Signature.Features[i].Name, f.Name)
				}
			}
			for _, pair := range [][2]int{
				{full.Signature.LabelOutput, bare.Signature.LabelOutput}, {full.Signature.ProbabilityOutput, bare.Signature.ProbabilityOutput},
				{full.Signature.ScoreOutput, bare.Signature.ScoreOutput}, {full.Signature.ValueOutput, bare.Signature.ValueOutput},
			} {
				require.Equal(t, pair[0], pair[1])
			}
			require.NotEqual(t, "", full.Key)
			require.Len(t, full.Key, 32)
			if full.Signature.Task == rowcast.TaskClassification {
				require.GreaterOrEqual(t, full.Signature.ProbabilityOutput, 0)
			}
		})
	}
}

func TestTinyModels(t *testing.T) {
	for name, want := range map[string]struct {
		task   rowcast.Task
		layout rowcast.Layout
		batch  int
	}{
		"zipmap_text":    {rowcast.TaskClassification, rowcast.LayoutMatrix, 0},
		"wrong_shape":    {rowcast.TaskClassification, rowcast.LayoutMatrix, 0},
		"fixed_batch":    {rowcast.TaskRegression, rowcast.LayoutMatrix, 8},
		"several_values": {rowcast.TaskTensors, rowcast.LayoutMatrix, 0},
		"softmax":        {rowcast.TaskTensors, rowcast.LayoutMatrix, 0},
		"kmeans":         {rowcast.TaskClustering, rowcast.LayoutMatrix, 0},
		"quantized":      {rowcast.TaskRegression, rowcast.LayoutMatrix, 0},
		"columns":        {rowcast.TaskRegression, rowcast.LayoutColumns, 0},
		"named":          {rowcast.TaskRegression, rowcast.LayoutMatrix, 0},
		"divide":         {rowcast.TaskRegression, rowcast.LayoutColumns, 0},
		"open_width":     {rowcast.TaskTensors, rowcast.LayoutTensors, 0},
		"scalars":        {rowcast.TaskTensors, rowcast.LayoutTensors, 0},
		"half":           {rowcast.TaskTensors, rowcast.LayoutTensors, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Validate(context.Background(), tiny(t, name), Options{}, Limits{})
			require.NoError(t, err)
			t.Logf("%+v %s %q", r.Signature, r.Example, r.Warnings)
			require.Equal(t, want.task, r.Signature.Task)
			require.Equal(t, want.layout, r.Signature.Layout)
			require.Equal(t, want.batch, r.Signature.Batch)
			require.NotEmpty(t, r.Example)
		})
	}
}

func TestWhatTheGraphAloneTells(t *testing.T) {
	validate := func(name string, o Options) rowcast.Signature {
		r, err := Validate(context.Background(), tiny(t, name), o, Limits{})
		require.NoError(t, err)
		return r.Signature
	}
	sig := validate("zipmap_text", Options{})
	require.True(t, sig.TextLabels())
	require.JSONEq(t, `"日本語, \\ {brace}"`, string(sig.Labels[1]))
	require.Equal(t, 1, sig.ProbabilityOutput)
	require.True(t, sig.Outputs[1].Maps)

	sig = validate("named", Options{})
	require.Equal(t, "height", sig.Features[1].Name)

	sig = validate("columns", Options{})
	require.Equal(t, "Größe (cm)", sig.Features[0].Name)
	require.Equal(t, `a "b"`, sig.Features[1].Name)

	sig = validate("kmeans", Options{})
	require.Equal(t, 0, sig.LabelOutput)
	require.Equal(t, 1, sig.ScoreOutput)
	require.Len(t, sig.Labels, 3)

	require.True(t, validate("quantized", Options{}).BatchDependent)

	sig = validate("softmax", Options{Labels: parsed(t, `["a", "b", "c"]`)})
	require.Equal(t, rowcast.TaskClassification, sig.Task)
	require.Equal(t, 0, sig.ProbabilityOutput)
	require.Equal(t, -1, sig.LabelOutput)

	sig = validate("open_width", Options{Features: []rowcast.Feature{{Name: "a"}, {Name: "b"}, {Name: "c"}}})
	require.Equal(t, []int64{-1, 3}, sig.Inputs[0].Shape)
	require.Equal(t, rowcast.TaskRegression, sig.Task)
}

func parsed(t testing.TB, labels string) []json.RawMessage {
	list, err := parseLabels(json.RawMessage(labels))
	require.NoError(t, err)
	return list
}

func TestAModelThatKillsItsProcessIsRefusedWithTheSignal(t *testing.T) {
	_, err := Validate(context.Background(), tiny(t, "divide"), Options{Example: json.RawMessage(`[-9223372036854775808, -1]`)}, quick())
	e := refusal(t, err)
	require.Equal(t, rowcast.CodeArtifactRefused, e.Code)
	require.Contains(t, e.Message, "SIGFPE")
}

func TestALoopStopsAtTheWallLimit(t *testing.T) {
	start := time.Now()
	_, err := Validate(context.Background(), tiny(t, "loop"), Options{}, Limits{Wall: time.Second})
	require.Contains(t, refusal(t, err).Message, "did not finish one run within 1s")
	require.Less(t, time.Since(start), 3*time.Second)

	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	_, err = Validate(ctx, tiny(t, "loop"), Options{}, Limits{})
	require.Equal(t, rowcast.CodeCanceled, rowcast.CodeOf(err))
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestExamples(t *testing.T) {
	validate := func(name, example string) (*Report, error) {
		return Validate(context.Background(), tiny(t, name), Options{Example: json.RawMessage(example)}, Limits{})
	}
	for _, example := range []string{`[1, 2, 3]`, `{"width": 1, "height": 2, "depth": 3}`, `{"inputs": {"x": [[1, 2, 3]]}}`, `{"inputs": {"x": [[1, 2, 3]]}, "outputs": {"y": [[6]]}}`} {
		r, err := validate("named", example)
		require.NoError(t, err)
		require.JSONEq(t, `{"inputs": {"x": [[1, 2, 3]]}, "outputs": {"y": [[6]]}}`, string(r.Example))
	}
	for example, reason := range map[string]string{
		`[1, 2]`: "2 features, the model takes 3", `{"width": 1, "height": 2}`: `no value for the feature "depth"`,
		`{"width": 1, "height": 2, "depth": 3, "x": 1}`: `the key "x"`, `{"inputs": {"z": 1}}`: `the example's inputs: no input is named "z"`,
		`{"inputs": {}}`: `the example's input "x" is missing`, `{"inputs": {"x": [[1, 2, "a"]]}}`: `the example's input "x" takes float32, got the text "a" at [0,2]`,
		`{"inputs": {"x": [[1, 2, 3]]}, "outputs": 6}`:            "the example's outputs must be an object of keys and values",
		`{"inputs": {"x": [[1, 2, 3]]}, "outputs": {"y": [[7]]}}`: "not give what its example says", `[1, 2, "a"]`: `can't be "a"`,
		`{"inputs": {"x": [[1, 2], [3]]}}`: `the example's input "x" is ragged`, `{"inputs": {"x": [1, 2, 3]}}`: "fails on its example", `5`: "the example must be",
	} {
		_, err := validate("named", example)
		require.ErrorContains(t, err, reason, example)
		code := rowcast.CodeOf(err)
		require.True(t, code == rowcast.CodeInvalidArgument || code == rowcast.CodeArtifactRefused, code)
	}
	needRealModels(t)
	example, err := os.ReadFile(filepath.Join(realModels, "tensors", "example.json"))
	require.NoError(t, err)
	artifact, err := os.ReadFile(filepath.Join(realModels, "tensors", "model.onnx"))
	require.NoError(t, err)
	r, err := Validate(context.Background(), artifact, Options{Example: example}, Limits{})
	require.NoError(t, err)
	require.JSONEq(t, strings.ReplaceAll(string(example), "\n", ""), string(r.Example))
	require.Contains(t, string(r.Example), "9007199254741248")
}

func TestOptionsThatContradictTheGraph(t *testing.T) {
	for _, c := range []struct{ model, options, reason, hint string }{
		{"named", `{"features": ["a", "b"]}`, "2 features are declared, but the model takes 3", ""},
		{"named", `{"features": [{"name": "a", "type": "text"}, "b", "c"]}`, `feature "a" can't be text: its tensor is float32`, "real"},
		{"columns", `{"features": ["Größe (cm)", "a b"]}`, `no input for the feature "a b"`, `a \"b\"`},
		{"columns", `{"inputs": "matrix"}`, "needs a graph of one input", ""},
		{"half", `{"inputs": "columns"}`, "needs inputs of one column", ""},
		{"half", `{"features": ["a", "b"]}`, "take no row of features", ""},
		{"divide", `{"features": [{"name": "a", "missing": true}, "b"]}`, "int64, which has no NaN", "default"},
		{"divide", `{"features": [{"name": "a", "default": 1.5}, "b"]}`, `the default of feature "a", 1.5, is no bigint`, ""},
		{"divide", `{"features": [{"name": "a", "type": "real"}, "b"]}`, `can't be real: its tensor is int64`, "bigint"},
		{"zipmap_text", `{"labels": ["a", "b"]}`, "2 labels are declared, but the model has 3", ""},
		{"zipmap_text", `{"labels": ["a", "b", "c"]}`, "are not the model's", ""},
		{"softmax", `{"labels": ["a", "b"]}`, "2 labels are declared, but the model gives 3 probabilities", ""},
		{"several_values", `{"task": "regression"}`, "one number per row", "tensors"},
		{"several_values", `{"task": "classification", "outputs": {"label": "z"}}`, `names "z", which is no output`, ""},
		{"several_values", `{"task": "anomaly"}`, "needs an output with labels", ""},
		{"named", `{"task": "classification", "labels": ["a", "b", "c"]}`, "3 labels are declared, but the model gives 1", ""},
		{"named", `{"labels": ["a", "b"], "task": "regression"}`, "has no labels", ""},
	} {
		o, err := ParseJSON([]byte(c.options))
		require.NoError(t, err, c.options)
		_, err = Validate(context.Background(), tiny(t, c.model), o, Limits{})
		e := refusal(t, err)
		require.Contains(t, e.Message, c.reason, "%s %s", c.model, c.options)
		require.Contains(t, e.Hint, c.hint)
		require.Equal(t, rowcast.CodeInvalidArgument, e.Code)
	}
}

func TestLabelsOfEitherKind(t *testing.T) {
	g, err := onnx.Inspect(tiny(t, "wrong_shape"))
	require.NoError(t, err)
	labels := func(o string) (rowcast.Signature, error) {
		options, err := ParseJSON([]byte(o))
		require.NoError(t, err)
		return Infer(g, options)
	}
	for _, o := range []string{`{}`, `{"labels": [0, 1]}`, `{"labels": ["0", "1"]}`, `{"labels": [0.0, 1.0]}`} {
		sig, err := labels(o)
		require.NoError(t, err)
		require.Equal(t, parsed(t, "[0, 1]"), sig.Labels, o)
		require.False(t, sig.TextLabels())
	}
	sig, err := labels(`{"labels": ["good", "bad"]}`)
	require.NoError(t, err)
	require.True(t, sig.TextLabels())
	_, err = labels(`{"labels": [1, 0]}`)
	require.ErrorContains(t, err, "are not the model's")
}

func TestALabelIsFoundHoweverItIsWritten(t *testing.T) {
	v := validation{sig: rowcast.Signature{Task: rowcast.TaskClassification, Labels: parsed(t, `["<a> & é", "b"]`)}}
	require.NoError(t, v.checkLabel([]onnx.Tensor{{DType: rowcast.String, Shape: []int64{1}, Data: []string{"<a> & é"}}}))
	require.ErrorContains(t, v.checkLabel([]onnx.Tensor{{DType: rowcast.String, Shape: []int64{1}, Data: []string{"a"}}}), `gives the label "a", which is none`)
}

func TestSpecKeyDependsOnTheBytesAndTheSignature(t *testing.T) {
	sig := rowcast.Signature{Task: rowcast.TaskRegression, Features: []rowcast.Feature{{Name: "a", Type: rowcast.TypeReal}}}
	a := SpecKey([32]byte{1}, sig)
	require.Regexp(t, "^[0-9a-f]{32}$", a)
	require.Equal(t, a, SpecKey([32]byte{1}, sig))
	require.NotEqual(t, a, SpecKey([32]byte{2}, sig))
	sig.Features[0].Missing = true
	require.NotEqual(t, a, SpecKey([32]byte{1}, sig))
}
