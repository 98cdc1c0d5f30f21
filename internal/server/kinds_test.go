package server_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The kinds of model that the tables of real data don't cover, each registered from its bytes alone.
func TestEveryKindOfModel(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	add := func(name string, options ...string) {
		t.Helper()
		exec(t, conn, "SELECT ml.register_model($1, $2, $3)", name, mustRead(t, "../onnx/testdata/"+name+".onnx"), append(options, "{}")[0])
	}
	t.Run("a fixed number of rows is padded", func(t *testing.T) {
		add("fixed_batch")
		require.InDelta(t, 6.5, one[float64](t, conn, "SELECT predict('fixed_batch', ARRAY[1, 2, 3.5])"), 1e-6)
		require.InDelta(t, 6.5, one[float64](t, conn, `SELECT predict('fixed_batch', '{"f0": 1, "f1": 2, "f2": 3.5}')`), 1e-6)
	})
	t.Run("several values a row", func(t *testing.T) {
		add("several_values")
		e := refused(t, conn, "42804", "SELECT predict('several_values', ARRAY[1, 2])")
		require.Contains(t, e.Hint, "predict_json")
		require.Contains(t, e.Hint, "ml.infer")
		require.JSONEq(t, `{"y": [[6, 9, 12]]}`, one[string](t, conn, "SELECT (predict_json('several_values', ARRAY[1, 2]) -> 'outputs')::text"))
		require.JSONEq(t, `{"y": [[6, 9, 12], [3, 4, 5]]}`, one[string](t, conn, `SELECT ml.infer('several_values', '{"x": [[1, 2], [0, 1]]}')::text`))
	})
	t.Run("a network whose labels only the options name", func(t *testing.T) {
		add("softmax", `{"task": "classification", "labels": ["low", "middle", "high"]}`)
		require.Equal(t, "high", one[string](t, conn, "SELECT predict_label('softmax', ARRAY[1, 2])"))
		require.InDelta(t, 1, one[float64](t, conn, "SELECT sum(p) FROM unnest(predict_proba('softmax', ARRAY[1, 2])) p"), 1e-6)
	})
	t.Run("clusters", func(t *testing.T) {
		add("kmeans")
		require.Equal(t, "clustering", one[string](t, conn, "SELECT task FROM ml.models WHERE model = 'kmeans'"))
		require.Equal(t, []string{"0", "1", "2"}, one[[]string](t, conn,
			"SELECT array_agg(predict_label('kmeans', ARRAY[x, y]) ORDER BY i) FROM (VALUES (1, 0, 0), (2, 5, 0), (3, 0, 5)) v(i, x, y)"))
		require.InDelta(t, 2, one[float64](t, conn, "SELECT predict('kmeans', ARRAY[0, 5])"), 0)
	})
	t.Run("a label of a wrong declared shape", func(t *testing.T) {
		add("wrong_shape")
		require.True(t, one[bool](t, conn, "SELECT predict('wrong_shape', ARRAY[1, 1]) IN (0, 1)"))
		require.Equal(t, 2, one[int](t, conn, "SELECT cardinality(predict_proba('wrong_shape', ARRAY[1, 1]))"))
	})
	t.Run("dynamic quantisation gives a row its own answer", func(t *testing.T) {
		add("quantized")
		require.True(t, one[bool](t, conn, "SELECT bool_and(a = b) FROM (SELECT predict('quantized', ARRAY[i, 1, 2, 3]) a, predict('quantized', ARRAY[i, 1, 2, 3]) b FROM generate_series(1, 50) i) x"))
		require.True(t, one[bool](t, conn, "SELECT (signature ->> 'batch_dependent')::boolean FROM ml.versions WHERE model = 'quantized'"))
	})
	t.Run("one column a feature, names that need quoting", func(t *testing.T) {
		add("columns")
		require.InDelta(t, 5, one[float64](t, conn, `SELECT predict('columns', t) FROM (SELECT 2 AS "Größe (cm)", 3 AS "a ""b""", 'x' AS other) t`), 0)
		require.InDelta(t, 5, one[float64](t, conn, `SELECT predict('columns', ARRAY[2, 3])`), 0)
	})
	t.Run("feature names from the file's metadata", func(t *testing.T) {
		add("named")
		require.Equal(t, []string{"width", "height", "depth"}, one[[]string](t, conn, "SELECT features FROM ml.versions WHERE model = 'named'"))
	})
	t.Run("half precision and rank 0", func(t *testing.T) {
		add("half")
		require.JSONEq(t, `{"twice": [[1, -3]], "minus": [-2]}`, one[string](t, conn, `SELECT ml.infer('half', '{"x": [[0.5, -1.5]], "b": [2]}')::text`))
		add("scalars")
		require.JSONEq(t, `{"twice": 3, "same": "é", "htwice": 1, "total": "NaN", "open": [["NaN", 1, "-Infinity"]], "minus": -9007199254740993}`, one[string](t, conn,
			`SELECT ml.infer('scalars', '{"x": 1.5, "word": "é", "h": 0.5, "list": [["NaN", 1, "-Infinity"]], "i": 9007199254740993}')::text`))
	})
	t.Run("text that needs a locale which the machine lacks", func(t *testing.T) {
		e := refused(t, conn, "22000", "SELECT ml.register_model('locale', $1)", mustRead(t, "../onnx/testdata/locale.onnx"))
		require.Contains(t, e.Hint, "xx_XX")
	})
}
