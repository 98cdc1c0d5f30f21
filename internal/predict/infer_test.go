package predict

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/rowcast"
)

func tensorsModel(t testing.TB) (*fixture, example) {
	t.Helper()
	artifact, err := os.ReadFile(filepath.Join(own("tensors"), "model.onnx"))
	require.NoError(t, err)
	raw, err := os.ReadFile(filepath.Join(own("tensors"), "example.json"))
	require.NoError(t, err)
	g, err := onnx.Inspect(artifact)
	require.NoError(t, err)
	sig := withPorts(rowcast.Signature{Task: rowcast.TaskTensors, Layout: rowcast.LayoutTensors}, g)
	f := newFixture(t, "tensors", artifact, sig)
	f.spec.Example = raw
	var e example
	require.NoError(t, json.Unmarshal(raw, &e))
	return f, e
}

func TestInferCarriesTensorsOfEveryKindExactly(t *testing.T) {
	f, e := tensorsModel(t)
	got := f.must(rowcast.VerbInfer, object, string(e.Inputs))
	require.JSONEq(t, string(e.Outputs), got)
	require.Contains(t, got, "9007199254741248")

	// Integers beyond 2^53 stay what they are, the non-finite travel as strings.
	got = f.must(rowcast.VerbInfer, object, `{"half":[["NaN","-Infinity"]],"whole":[9223372036854775807],"flag":[true],"word":[["a\"\n\u0001"]],
		"cube":[[[1e300,0,0],[0,0,0.1]]],"byte":[0]}`)
	require.Equal(t, `{"half_twice":[["NaN","-Infinity"]],"whole_plus_byte":[9223372036854775807],"not_flag":[false],"same_word":[["a\"\n\u0001"]],"cube_sum":[1e+300]}`, got)

	// No rows: nesting can't say it.
	got = f.must(rowcast.VerbInfer, object, `{"half":{"shape":[0,2],"data":[]},"whole":[],"flag":[],"word":{"data":[],"shape":[0,1]},"cube":{"shape":[0,2,3],"data":[]},"byte":[]}`)
	require.Equal(t, `{"half_twice":{"shape":[0,2],"data":[]},"whole_plus_byte":[],"not_flag":[],"same_word":{"shape":[0,1],"data":[]},"cube_sum":[]}`, got)
	shaped := strings.Replace(string(e.Inputs), `[[0.5, 1.5], [2, -3]]`, `{"shape": [2, 2], "data": [0.5, 1.5, 2, -3]}`, 1)
	require.JSONEq(t, string(e.Outputs), f.must(rowcast.VerbInfer, object, shaped))
}

// What is wrong with a tensor is package tensorjson's to test; here that the model is named and the codes arrive.
func TestInferRefuses(t *testing.T) {
	f, e := tensorsModel(t)
	f.refuses(rowcast.CodeMissingFeature, rowcast.VerbInfer, object, `{}`, `model "tensors" version 3: input "half" is missing`, `"cube" float64[N,2,3]`)
	f.refuses(rowcast.CodeUnknownFeature, rowcast.VerbInfer, object, `{"hall":1}`, `no input is named "hall"`, `Perhaps you mean "half".`)
	f.refuses(rowcast.CodeDimensions, rowcast.VerbInfer, object, `{"half":[1,2]}`, `version 3: input "half" takes the shape [N,2], got [2]`)
	f.refuses(rowcast.CodeInvalidText, rowcast.VerbInfer, object, `[1]`, "version 3: ml.infer takes a JSON object with one array per input, got a JSON array")
	f.refuses(rowcast.CodeModelFailed, rowcast.VerbInfer, object, strings.Replace(string(e.Inputs), `"byte": [255, 0]`, `"byte": [1, 2, 3]`, 1))
	f.refuses(rowcast.CodeResultType, p, object, `{}`, "ml.infer")
	f.refuses(rowcast.CodeInvalidArgument, j, object, `{}`, "ml.infer")
}

func TestInferOfScalars(t *testing.T) {
	artifact, sig := tiny(t, "scalars", rowcast.Signature{Task: rowcast.TaskTensors, Layout: rowcast.LayoutTensors})
	f := newFixture(t, "scalars", artifact, sig)
	got := f.must(rowcast.VerbInfer, object, `{"x":0.1,"word":"w","h":2,"list":[[1,2,3],[4,5,6]],"i":-9007199254740993}`)
	require.Equal(t, `{"twice":0.2,"same":"w","htwice":4,"total":21,"open":[[1,2,3],[4,5,6]],"minus":9007199254740993}`, got)
	f.refuses(rowcast.CodeDimensions, rowcast.VerbInfer, object, `{"x":[0.1],"word":"w","h":2,"list":[[1,2,3]],"i":1}`, "takes the shape [], got [1]")
}

func TestInferOfMapsAndMatrices(t *testing.T) {
	m := readFolder(t, own("iris"))
	f := newFixture(t, "iris", m.artifact, m.sig)
	got := f.must(rowcast.VerbInfer, object, `{"X":[[5.1,3.5,1.4,0.2],[6.5,3,5.8,2.2]]}`)
	var out struct {
		Label []string             `json:"output_label"`
		Maps  []map[string]float64 `json:"output_probability"`
	}
	require.NoError(t, json.Unmarshal([]byte(got), &out))
	require.Equal(t, []string{"setosa", "virginica"}, out.Label)
	require.Len(t, out.Maps, 2)
	require.InDelta(t, 1, out.Maps[0]["setosa"], 1e-6)
}
