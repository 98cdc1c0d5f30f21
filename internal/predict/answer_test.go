package predict

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/rowcast"
)

func labels(list ...string) (raw []json.RawMessage) {
	for _, l := range list {
		text, _ := json.Marshal(l)
		raw = append(raw, text)
	}
	return raw
}

func TestSeveralValuesPerRow(t *testing.T) {
	artifact, sig := tiny(t, "several_values", rowcast.Signature{Task: rowcast.TaskTensors, Layout: rowcast.LayoutMatrix, Features: reals("a", "b")})
	f := newFixture(t, "several", artifact, sig)
	for _, verb := range []rowcast.Verb{p, l, rowcast.VerbProba} {
		f.refuses(rowcast.CodeResultType, verb, array, sent(1, 2), "predict_json")
	}
	require.Equal(t, `{"model":"several","version":3,"outputs":{"y":[[6,9,12]]}}`, f.must(j, array, sent(1, 2)))
	require.Equal(t, `{"y":[[6,9,12]]}`, f.must(rowcast.VerbInfer, object, `{"x":[[1,2]]}`))

	// The graph looks like a regression, but a row shows three values.
	sig.Task, sig.ValueOutput = rowcast.TaskRegression, 0
	f = newFixture(t, "several", artifact, sig)
	f.refuses(rowcast.CodeResultType, p, array, sent(1, 2), "3 values per row", "predict_json", "ml.infer")
}

func TestProbabilitiesWithoutALabelOutput(t *testing.T) {
	artifact, sig := tiny(t, "softmax", rowcast.Signature{Task: rowcast.TaskClassification, Layout: rowcast.LayoutMatrix, Features: reals("a", "b"),
		Labels: labels("low", "mid", "high")})
	sig.LabelOutput, sig.ProbabilityOutput = -1, 0
	f := newFixture(t, "softmax", artifact, sig)
	require.Equal(t, "high", f.must(l, array, sent(1, 0)))
	require.Equal(t, "low", f.must(l, array, sent(-1, 0)))
	require.Regexp(t, `^\{0\.09\d*,0\.24\d*,0\.66\d*\}$`, f.must(rowcast.VerbProba, array, sent(1, 0)))
	require.Contains(t, f.must(j, array, sent(1, 0)), `"label":"high","probabilities":{"low":0.09`)

	sig.Labels = []json.RawMessage{json.RawMessage("10"), json.RawMessage("20"), json.RawMessage("-30")}
	f = newFixture(t, "softmax", artifact, sig)
	require.Equal(t, "-30", f.must(p, array, sent(1, 0)))
	require.Equal(t, "-30", f.must(l, array, sent(1, 0)))
	require.Contains(t, f.must(j, array, sent(1, 0)), `"value":-30,"label":-30,"probabilities":{"10":0.09`)

	sig.Labels = sig.Labels[:2]
	f = newFixture(t, "softmax", artifact, sig)
	f.refuses(rowcast.CodeModelFailed, p, array, sent(1, 0), "has 2 labels but gave 3 probabilities")
}

func TestLabelsOfAnyAlphabetAndLength(t *testing.T) {
	sig := rowcast.Signature{Task: rowcast.TaskClassification, Layout: rowcast.LayoutMatrix, Features: reals("a", "b")}
	artifact, sig := tiny(t, "zipmap_text", sig)
	sig.Labels = nil
	g, err := onnx.Inspect(artifact)
	require.NoError(t, err)
	sig.Labels = g.Labels
	require.Len(t, sig.Labels, 3)
	f := newFixture(t, "odd", artifact, sig)
	seen := map[string]bool{}
	for _, row := range [][]any{{1, 2}, {-1, 2}, {1, -2}, {-1, -2}, {3, 0}, {0, 3}, {-3, 0}, {0, -3}} {
		label := f.must(l, array, sent(row...))
		seen[label] = true
		var got struct {
			Label         string
			Probabilities map[string]float64
			Outputs       struct{ Maps []map[string]float64 }
		}
		require.NoError(t, json.Unmarshal([]byte(f.must(j, array, sent(row...))), &got))
		require.Equal(t, label, got.Label)
		require.Equal(t, got.Probabilities, got.Outputs.Maps[0])
		for _, other := range got.Probabilities {
			require.LessOrEqual(t, other, got.Probabilities[label])
		}
	}
	require.Greater(t, len(seen), 1)
}

func TestAFixedBatchIsFilledWithTheRow(t *testing.T) {
	artifact, sig := tiny(t, "fixed_batch", rowcast.Signature{Task: rowcast.TaskRegression, Layout: rowcast.LayoutMatrix, Features: reals("a", "b", "c"), Batch: 8})
	f := newFixture(t, "eight", artifact, sig)
	require.Equal(t, "6", f.must(p, array, sent(1, 2, 3)))
	require.Equal(t, `{"model":"eight","version":3,"value":6,"outputs":{"sum":[[6]]}}`, f.must(j, array, sent(1, 2, 3)))
	f.refuses(rowcast.CodeDimensions, rowcast.VerbInfer, object, `{"x":[[1,2,3]]}`, "[8,3]")
}

func TestClusters(t *testing.T) {
	artifact, sig := tiny(t, "kmeans", rowcast.Signature{Task: rowcast.TaskClustering, Layout: rowcast.LayoutMatrix, Features: reals("a", "b")})
	f := newFixture(t, "kmeans", artifact, sig)
	require.Equal(t, "1", f.must(p, array, sent(4, 0)))
	require.Equal(t, "2", f.must(l, array, sent(0, 3)))
	require.Equal(t, `{"model":"kmeans","version":3,"value":1,"label":1,"score":[4,0,5.656854],"outputs":{"label":[1],"scores":[[4,0,5.656854]]}}`,
		f.must(j, array, sent(4, 0)))
	f.refuses(rowcast.CodeResultType, rowcast.VerbProba, array, sent(1, 2), "task is clustering")
}

func TestALabelWhoseDeclaredShapeIsWrong(t *testing.T) {
	artifact, sig := tiny(t, "wrong_shape", rowcast.Signature{Task: rowcast.TaskClassification, Layout: rowcast.LayoutMatrix, Features: reals("a", "b")})
	f := newFixture(t, "wrong", artifact, sig)
	require.Equal(t, f.must(p, array, sent(4, 0)), f.must(l, array, sent(4, 0)))
	require.Contains(t, f.must(rowcast.VerbInfer, object, `{"X":[[1,2],[3,4],[-5,-6]]}`), `"label":[`)
}

func TestNamesThatNeedQuoting(t *testing.T) {
	artifact, sig := tiny(t, "columns", rowcast.Signature{Task: rowcast.TaskRegression, Layout: rowcast.LayoutColumns, Features: reals(`a "b"`, "Größe (cm)")})
	f := newFixture(t, "columns", artifact, sig)
	require.Equal(t, "3", f.must(p, object, `{"a \"b\"":1,"Gr\u00f6\u00dfe (cm)":2}`))
	require.Equal(t, "3", f.must(p, record, `{"Größe (cm)":2,"id":4,"a \"b\"":1}`))
	require.Equal(t, "3", f.must(p, array, sent(1, 2)))
	f.refuses(rowcast.CodeUnknownFeature, p, object, `{"a b":1}`, `"a \"b\""`)
}

func TestNumbersAgreeInEveryForm(t *testing.T) {
	// 0.1 + 0.2 + 0.4 in float32 is 0.7 and a bit: every form shows the shortest decimal of that float32, none its float64 expansion.
	f := adder(t, nil)
	value := f.must(p, array, sent(0.1, 0.2, 0.4))
	require.LessOrEqual(t, len(value), 11)
	require.Contains(t, f.must(j, array, sent(0.1, 0.2, 0.4)), `"value":`+value+`,`)
	require.Equal(t, `{"y":[[`+value+`]]}`, f.must(rowcast.VerbInfer, object, `{"x":[[0.1,0.2,0.4]]}`))
}
