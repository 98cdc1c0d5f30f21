package convert_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/csv"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rowcast/rowcast/internal/convert"
	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/predict"
	"github.com/rowcast/rowcast/internal/registry"
	"github.com/rowcast/rowcast/internal/rowcast"
	"github.com/stretchr/testify/require"
)

// one is a registry of one version.
type one struct {
	spec     rowcast.Spec
	artifact []byte
}

func (o *one) Spec(context.Context, string) (*rowcast.Spec, error) { return &o.spec, nil }

func (o *one) Artifact(context.Context, [sha256.Size]byte, int64) ([]byte, error) {
	return o.artifact, nil
}

// engineOf registers a converted model as its Result says, and returns what calls it.
func engineOf(t *testing.T, res *convert.Result) func(verb rowcast.Verb, row string) string {
	t.Helper()
	g, err := onnx.Inspect(res.ONNX)
	require.NoError(t, err)
	sig, err := registry.Infer(g, registry.Options{
		Task: res.Task, Features: res.Features, Labels: res.Labels,
		Outputs: registry.OutputNames{Label: res.Outputs.Label, Probability: res.Outputs.Probability, Value: res.Outputs.Value},
	})
	require.NoError(t, err)
	sha := sha256.Sum256(res.ONNX)
	source := &one{rowcast.Spec{Key: registry.SpecKey(sha, sig), SHA256: sha, Size: int64(len(res.ONNX)), Signature: sig}, res.ONNX}
	r, err := convert.Opened()
	require.NoError(t, err)
	e := predict.NewEngine(r, source, predict.EngineOptions{})
	t.Cleanup(func() { require.NoError(t, e.Close(context.Background())) })
	return func(verb rowcast.Verb, row string) string {
		out, err := e.Do(context.Background(), &rowcast.Call{Verb: verb, Spec: source.spec.Key, Model: "m", Version: 1, Format: rowcast.FormatRecord,
			Payload: []byte(row)}, nil)
		require.NoError(t, err, row)
		return string(out)
	}
}

func csvRows(t *testing.T, name string) []map[string]string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "lightgbm", name))
	require.NoError(t, err)
	lines, err := csv.NewReader(bytes.NewReader(data)).ReadAll()
	require.NoError(t, err)
	var rows []map[string]string
	for _, line := range lines[1:] {
		row := map[string]string{}
		for c, name := range lines[0] {
			row[name] = line[c]
		}
		rows = append(rows, row)
	}
	return rows
}

// From the file to the answer of predict and predict_proba, with the features, defaults and outputs that the conversion tells.
func TestLightGBMIsAnsweredByTheEngine(t *testing.T) {
	model, err := os.ReadFile("testdata/lightgbm/pandas.txt")
	require.NoError(t, err)
	res, err := convert.LightGBM(model)
	require.NoError(t, err)
	call := engineOf(t, res)
	expected := csvRows(t, "pandas_expected.csv")
	for i, row := range csvRows(t, "pandas_data.csv") {
		object := map[string]any{}
		for _, f := range res.Features {
			switch v := row[f.Name]; {
			case v == "":
				object[f.Name] = nil
			case f.Type == rowcast.TypeText:
				object[f.Name] = v
			default:
				object[f.Name] = json.RawMessage(strings.ToLower(v))
			}
		}
		text, err := json.Marshal(object)
		require.NoError(t, err)
		want, err := strconv.ParseFloat(expected[i]["pandas"], 64)
		require.NoError(t, err)
		label := "0"
		if want > 0.5 {
			label = "1"
		}
		require.Equal(t, label, call(rowcast.VerbPredict, string(text)), "row %d", i)
		pair := strings.Split(strings.Trim(call(rowcast.VerbProba, string(text)), "{}"), ",")
		require.Len(t, pair, 2)
		got, err := strconv.ParseFloat(pair[1], 64)
		require.NoError(t, err)
		require.LessOrEqual(t, math.Abs(got-want), 1e-12*want, "row %d", i)
	}
}

// A matrix, with NULL where the model takes it; one value, and several classes.
func TestLightGBMMatricesAreAnsweredByTheEngine(t *testing.T) {
	for _, name := range []string{"poisson", "multiclass"} {
		model, err := os.ReadFile("testdata/lightgbm/" + name + ".txt")
		require.NoError(t, err)
		res, err := convert.LightGBM(model)
		require.NoError(t, err)
		call := engineOf(t, res)
		expected := csvRows(t, "expected.csv")
		for i, row := range csvRows(t, "data.csv") {
			object, asked := map[string]any{}, true
			for _, f := range res.Features {
				v := row[f.Name]
				asked = asked && !strings.Contains(v, "inf") && (v != "" || f.Missing)
				object[f.Name] = json.RawMessage(v)
				if v == "" {
					object[f.Name] = nil
				}
			}
			if !asked {
				continue // the engine refuses infinities, and NULL where the model does not know it
			}
			text, err := json.Marshal(object)
			require.NoError(t, err)
			if name == "poisson" {
				want, err := strconv.ParseFloat(expected[i][name], 64)
				require.NoError(t, err)
				got, err := strconv.ParseFloat(call(rowcast.VerbPredict, string(text)), 64)
				require.NoError(t, err)
				require.LessOrEqual(t, math.Abs(got-want), 1e-12*want, "row %d", i)
				continue
			}
			best, most := "", -1.0
			for _, k := range []string{"0", "1", "2"} {
				p, err := strconv.ParseFloat(expected[i][name+":"+k], 64)
				require.NoError(t, err)
				if p > most {
					best, most = k, p
				}
			}
			require.Equal(t, best, call(rowcast.VerbPredict, string(text)), "row %d", i)
		}
	}
}
