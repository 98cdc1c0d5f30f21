package onnx

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rowcast/rowcast/internal/rowcast"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
)

func TestInspectReadsWhatTheGraphSays(t *testing.T) {
	g, err := Inspect(readModel(t, "testdata/named.onnx"))
	require.NoError(t, err)
	require.Equal(t, "rowcast-test", g.Producer)
	require.Equal(t, int64(8), g.IRVersion)
	require.Equal(t, map[string]int64{"": 17}, g.Opsets)
	require.JSONEq(t, `["width", "height", "depth"]`, g.Metadata["feature_names"])
	require.Equal(t, []rowcast.Port{{Name: "x", DType: rowcast.Float32, Shape: []int64{-1, 3}}}, g.Inputs)
	require.Equal(t, map[string]int{":ReduceSum": 1}, g.Ops)
	require.Nil(t, g.Labels)

	g, err = Inspect(readModel(t, "testdata/loop.onnx"))
	require.NoError(t, err)
	require.Equal(t, 1, g.Ops[":Identity"], "operators of subgraphs count")

	g, err = Inspect(readModel(t, "testdata/scalars.onnx"))
	require.NoError(t, err)
	open, ok := Port(g.Outputs, "open")
	require.True(t, ok)
	require.Nil(t, open.Shape)
	twice, _ := Port(g.Outputs, "twice")
	require.Equal(t, []int64{}, twice.Shape)

	g, err = Inspect(readModel(t, "testdata/zipmap_text.onnx"))
	require.NoError(t, err)
	require.Equal(t, "label", g.LabelOutput)
	require.Equal(t, "maps", g.ProbabilityOutput)
	require.Len(t, g.Labels, 3)
	require.True(t, g.Outputs[1].Maps)
}

func TestInspectFindsTheLabelsOfRealModels(t *testing.T) {
	dir := sharedModels()
	if dir == "" {
		t.Skip("no shared models beside the repository")
	}
	for name, want := range map[string]string{
		"iris": `["setosa" "versicolor" "virginica"]`, "iris_v2": `["setosa" "versicolor" "virginica"]`, "digits": "[0 1 2 3 4 5 6 7 8 9]",
		"penguins": `["Adelie" "Chinstrap" "Gentoo"]`, "segments": "[0 1 2]", "breast_forest": "[0 1]", "tickets": `["billing" "login" "shipping"]`,
		"diabetes": "[]", "pump": "[]", "tensors": "[]",
	} {
		g, err := Inspect(readModel(t, filepath.Join(dir, name, "model.onnx")))
		require.NoError(t, err)
		got := make([]string, len(g.Labels))
		for i, label := range g.Labels {
			got[i] = string(label)
		}
		require.Equal(t, want, "["+strings.Join(got, " ")+"]", name)
	}
}

func TestInspectRefusesWithTheReason(t *testing.T) {
	good := readModel(t, "testdata/several_values.onnx")
	port := valueInfo(rowcast.Port{Name: "x", DType: rowcast.Float32, Shape: []int64{1}})
	model := func(graph []byte) []byte { return appendMessage(appendInt(nil, 1, 8), 7, graph) }
	deep := []byte{}
	for range 40 {
		deep = appendMessage(nil, 1, appendMessage(nil, 5, appendMessage(nil, 6, deep)))
	}
	external := appendMessage(nil, 5, appendMessage(appendInt(appendString(nil, 8, "w"), 14, 1), 13, appendString(appendString(nil, 1, "location"), 2, "/etc/passwd")))
	hidden := appendMessage(nil, 1, appendMessage(nil, 5, appendMessage(nil, 5, appendMessage(nil, 13, nil))))
	for _, c := range []struct {
		reason string
		model  []byte
	}{
		{"the file is empty", nil},
		{"no ONNX model", []byte("This is not a model.\n")},
		{"no ONNX model", []byte(`{"learner": {}}`)},
		{"no ONNX model", make([]byte, 100)},
		{"ONNX Runtime's own format", append([]byte{24, 0, 0, 0}, "ORTM........"...)},
		{"truncated or damaged", good[:len(good)/2]},
		{"no valid protobuf", append(append([]byte{}, good...), 0xff, 0xff, 0xff)},
		{"it holds no graph", appendInt(nil, 1, 8)},
		{"it holds 2 graphs", append(append([]byte{}, good...), good...)},
		{"no input", model(appendMessage(nil, 12, port))},
		{"no output", model(appendMessage(nil, 11, port))},
		{"of the same name", model(appendMessage(appendMessage(appendMessage(nil, 11, port), 11, port), 12, port))},
		{"more than 32 deep", model(deep)},
		{`outside its file, in "/etc/passwd"`, model(external)},
		{"outside its file", model(hidden)},
		{`input "x" of the model is of a type`, model(appendMessage(appendMessage(nil, 11, appendString(nil, 1, "x")), 12, port))},
		{`output "y" of the model is of a type`, model(appendMessage(appendMessage(nil, 11, port), 12, appendString(nil, 1, "y")))},
	} {
		_, err := Inspect(c.model)
		require.Equal(t, rowcast.CodeArtifactRefused, rowcast.CodeOf(err), c.reason)
		require.ErrorContains(t, err, c.reason)
	}
}

func TestTheRewrittenGraphKeepsTheRest(t *testing.T) {
	model := readModel(t, "testdata/several_values.onnx")
	g, err := Inspect(model)
	require.NoError(t, err)
	a, err := adapt(model, g)
	require.NoError(t, err)
	require.Equal(t, &model[0], &a.model[0], "nothing to change, nothing copied")

	model = readModel(t, "testdata/zipmap_text.onnx")
	g, err = Inspect(model)
	require.NoError(t, err)
	a, err = adapt(model, g)
	require.NoError(t, err)
	edited, err := Inspect(a.model)
	require.NoError(t, err)
	require.Equal(t, map[string]int{"ai.onnx.ml:LinearClassifier": 1, ":Identity": 1}, edited.Ops)
	require.Equal(t, g.Opsets["ai.onnx.ml"], edited.Opsets["ai.onnx.ml"])
	require.Contains(t, edited.Opsets, "")
	require.Equal(t, []int64{-1, 3}, edited.Outputs[1].Shape)
	require.False(t, edited.Outputs[1].Maps)
}

func FuzzInspect(f *testing.F) {
	paths, _ := filepath.Glob("testdata/*.onnx")
	for _, path := range append(paths, "selftest.onnx") {
		if model, err := os.ReadFile(path); err == nil {
			f.Add(model)
			f.Add(model[:len(model)/2])
		}
	}
	f.Add(protowire.AppendTag(nil, 7, protowire.BytesType))
	f.Fuzz(func(t *testing.T, model []byte) {
		g, err := Inspect(model)
		if err != nil {
			require.Equal(t, rowcast.CodeArtifactRefused, rowcast.CodeOf(err))
			return
		}
		require.NotEmpty(t, g.Inputs)
		require.NotEmpty(t, g.Outputs)
		// What is accepted can be rewritten, and the result can be read again with the ports that it is bound by.
		a, err := adapt(model, g)
		require.NoError(t, err)
		edited, err := Inspect(a.model)
		require.NoError(t, err)
		for _, b := range a.inputs {
			_, ok := Port(edited.Inputs, b.name)
			require.True(t, ok, b.name)
		}
		for _, b := range a.outputs {
			_, ok := Port(edited.Outputs, b.name)
			require.True(t, ok, b.name)
		}
	})
}
