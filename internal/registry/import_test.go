package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rowcast/rowcast/internal/convert"
	"github.com/rowcast/rowcast/internal/rowcast"
	"github.com/stretchr/testify/require"
)

func imported(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "convert", "testdata", path))
	require.NoError(t, err)
	return data
}

// The child converts, runs what came of it, and hands the bytes back with the report.
func TestAConvertedArtifactComesBackWithItsReport(t *testing.T) {
	artifact := imported(t, "mlflow/lightgbm_text/model.lgb")
	r, err := Validate(context.Background(), artifact, Options{}, Limits{})
	require.NoError(t, err)
	given, made := sha256.Sum256(artifact), sha256.Sum256(r.Converted)
	require.Equal(t, &Source{Format: convert.FormatLightGBM, SHA256: hex.EncodeToString(given[:]), Size: int64(len(artifact))}, r.Source)
	require.Equal(t, hex.EncodeToString(made[:]), r.SHA256)
	require.EqualValues(t, len(r.Converted), r.Size)
	require.Equal(t, SpecKey(made, r.Signature), r.Key)
	require.Equal(t, rowcast.TaskClassification, r.Signature.Task)
	require.Equal(t, []string{"amount", "hour", "score"}, names(r.Signature.Features))
	require.NotEmpty(t, r.Example)
	require.Contains(t, r.Metadata["trained_with"], "LightGBM")

	again, err := Validate(context.Background(), r.Converted, Options{}, Limits{})
	require.NoError(t, err)
	require.Nil(t, again.Source)
	require.Nil(t, again.Converted, "ONNX stays as it is")
	require.Equal(t, r.SHA256, again.SHA256)
}

func names(features []rowcast.Feature) []string {
	var list []string
	for _, f := range features {
		list = append(list, f.Name)
	}
	return list
}

// A file that would not end, or not fit, is the child's trouble alone.
func TestAHostileImportIsRefusedByItsLimits(t *testing.T) {
	artifact := imported(t, "mlflow/lightgbm_text/model.lgb")
	_, err := Validate(context.Background(), artifact[:len(artifact)/2], Options{}, quick())
	require.Equal(t, rowcast.CodeArtifactRefused, refusal(t, err).Code)

	// Deeper than a stack: 20 million brackets.
	deep := `{"learner": ` + strings.Repeat("[", 20<<20)
	_, err = Validate(context.Background(), []byte(deep), Options{}, Limits{Memory: 256 << 20, CPU: 20 * time.Second, Wall: 20 * time.Second})
	require.Equal(t, rowcast.CodeArtifactRefused, refusal(t, err).Code)
	t.Log(err)
}

func TestWhatAPersonSaysWinsOverTheFile(t *testing.T) {
	found := foundOptions(&convert.Import{
		Result: convert.Result{
			Task: rowcast.TaskClassification, Labels: parsed(t, "[0, 1]"), TrainedWith: "XGBoost 3.2.0",
			Features: []rowcast.Feature{{Name: "a", Type: rowcast.TypeReal, Missing: true}, {Name: "b", Type: rowcast.TypeText}},
			Outputs:  convert.Outputs{Label: "label", Probability: "probabilities"},
		},
		Example: []byte(`[1, "x"]`),
	})
	o := Options{}.over(found)
	require.Equal(t, found.Features, o.Features)
	require.Equal(t, found.Labels, o.Labels)
	require.Equal(t, OutputNames{Label: "label", Probability: "probabilities"}, o.Outputs)
	require.JSONEq(t, `[1, "x"]`, string(o.Example))

	o = Options{
		Features: []rowcast.Feature{{Name: "c"}, {Name: "d", Type: rowcast.TypeText, Missing: false}}, Labels: parsed(t, `["stays", "leaves"]`),
		Example: []byte(`[2, "y"]`), Outputs: OutputNames{Label: "l"},
	}.over(found)
	require.Equal(t, []rowcast.Feature{{Name: "c", Type: rowcast.TypeReal}, {Name: "d", Type: rowcast.TypeText}}, o.Features, "a list counts as a whole")
	require.Equal(t, parsed(t, `["stays", "leaves"]`), o.Labels)
	require.JSONEq(t, `[2, "y"]`, string(o.Example))
	require.Equal(t, OutputNames{Label: "l"}, o.Outputs)
	require.Empty(t, Options{Task: rowcast.TaskTensors}.over(found).Outputs, "another task than the file's")
}

func TestWhatIsKeptIsTextThatTheDatabaseTakes(t *testing.T) {
	require.Equal(t, "a\uFFFDb\uFFFD", storable("a\x00b\xff"))
	require.Equal(t, map[string]any{"a\uFFFD": "x\uFFFD"}, storableTags(map[string]any{"a\x00": "x\x00"}))
	require.Nil(t, storableTags(nil))
}
