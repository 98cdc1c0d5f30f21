package server_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// Largest difference from the framework's own output: relative for values above 1, absolute below.
const tolerance = 1e-5

func TestEveryRowOfEveryModelEqualsItsFramework(t *testing.T) {
	s := start(t)
	for _, folder := range folders(t) {
		if _, err := os.Stat(filepath.Join(folder, "data.csv")); err != nil {
			continue // tensors has no table, see TestInferNamesTensors
		}
		t.Run(filepath.Base(folder), func(t *testing.T) {
			t.Parallel()
			conn := s.Conn(t)
			o := options(t, folder)
			name := filepath.Base(folder)
			s.register(t, folder, name)
			types := map[string]string{"id": "bigint"}
			numeric := true
			var features []string
			for _, f := range o.Features {
				types[f.Name] = string(f.Type)
				features = append(features, pgx.Identifier{f.Name}.Sanitize())
				numeric = numeric && f.Type != rowcast.TypeText
			}
			load(t, conn, name, filepath.Join(folder, "data.csv"), types)
			expected := readCSV(t, filepath.Join(folder, "expected.csv"))

			forms := map[string]string{"row": "t", "JSON": jsonObject(o.Features), "text": "(" + jsonObject(o.Features) + ")::text"}
			if len(o.Features) == 1 && o.Features[0].Type == rowcast.TypeText {
				forms["text"] = features[0]
			}
			if numeric {
				forms["array"] = "ARRAY[" + casts(o.Features) + "]::double precision[]"
			}
			for form, features := range forms {
				t.Run(form, func(t *testing.T) { compare(t, conn, name, features, expected) })
			}
		})
	}
}

// jsonObject builds the row's JSON object in pieces: a function takes at most 100 arguments.
func jsonObject(features []rowcast.Feature) string {
	var parts []string
	for from := 0; from < len(features); from += 40 {
		var args []string
		for _, f := range features[from:min(from+40, len(features))] {
			args = append(args, fmt.Sprintf("'%s', %s", f.Name, pgx.Identifier{f.Name}.Sanitize()))
		}
		parts = append(parts, "jsonb_build_object("+strings.Join(args, ", ")+")")
	}
	return strings.Join(parts, " || ")
}

// casts writes the features as numbers; PostgreSQL has no cast from boolean to double precision.
func casts(features []rowcast.Feature) string {
	var out []string
	for _, f := range features {
		c := pgx.Identifier{f.Name}.Sanitize()
		if f.Type == rowcast.TypeBoolean {
			c += "::integer"
		}
		out = append(out, c)
	}
	return strings.Join(out, ", ")
}

// compare predicts every row in one form and compares label, probabilities, score and value with the framework's.
func compare(t *testing.T, conn *pgx.Conn, model, features string, expected table) {
	rows, err := conn.Query(context.Background(), fmt.Sprintf("SELECT predict_json($1, %s) FROM %s t ORDER BY id", features, pgx.Identifier{model}.Sanitize()), model)
	require.NoError(t, err)
	answers, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Len(t, answers, len(expected.rows))
	for i, text := range answers {
		var got struct {
			Value         *float64
			Label         any
			Probabilities map[string]float64
			Score         *float64
		}
		require.NoError(t, json.Unmarshal([]byte(text), &got))
		for j, column := range expected.columns {
			want := expected.rows[i][j]
			switch column {
			case "id":
			case "label":
				require.Equal(t, want, fmt.Sprint(got.Label), "row %d", i)
			case "value":
				near(t, want, got.Value, i, column)
			case "score":
				near(t, want, got.Score, i, column)
			default:
				p, ok := got.Probabilities[strings.TrimPrefix(column, "probability_")]
				require.True(t, ok, "row %d has no %s: %s", i, column, text)
				near(t, want, &p, i, column)
			}
		}
	}
}

func near(t *testing.T, want string, got *float64, row int, column string) {
	t.Helper()
	require.NotNil(t, got, "row %d: %s", row, column)
	var w float64
	_, err := fmt.Sscan(want, &w)
	require.NoError(t, err)
	if d := math.Abs(*got-w) / math.Max(1, math.Abs(w)); !(d <= tolerance) {
		t.Fatalf("row %d: %s is %v, the framework says %v", row, column, *got, w)
	}
}

func TestTheFourFunctionsAgree(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	s.register(t, demo("iris_v2"), "iris")
	s.register(t, demo("diabetes"))
	row := "ARRAY[6.3, 2.5, 4.9, 1.5]"
	answer := one[map[string]any](t, conn, "SELECT predict_json('iris', "+row+")")
	require.Equal(t, "iris", answer["model"])
	require.EqualValues(t, 1, answer["version"])
	require.Equal(t, answer["label"], one[string](t, conn, "SELECT predict_label('iris', "+row+")"))
	p := one[[]float64](t, conn, "SELECT predict_proba('iris', "+row+")")
	labels := one[[]string](t, conn, "SELECT labels FROM ml.versions WHERE model = 'iris'")
	for i, l := range labels {
		require.InDelta(t, answer["probabilities"].(map[string]any)[l], p[i], 0)
	}
	require.Contains(t, answer["outputs"], "label")
	features := "ARRAY[0.038, 0.05, 0.06, 0.02, -0.04, -0.03, -0.04, -0.002, 0.02, -0.017]"
	require.InDelta(t, one[map[string]any](t, conn, "SELECT predict_json('diabetes', "+features+")")["value"],
		one[float64](t, conn, "SELECT predict('diabetes', "+features+")"), 0)
	for _, text := range []string{"NULL::text", "NULL::double precision[]", "NULL::jsonb", "NULL::pg_class"} {
		require.True(t, one[bool](t, conn, "SELECT predict('diabetes', "+text+") IS NULL AND predict_json('iris', "+text+") IS NULL"))
	}
	require.True(t, one[bool](t, conn, "SELECT predict(NULL, "+features+") IS NULL"))
}

func TestInferNamesTensors(t *testing.T) {
	folder := filepath.Join("..", "..", "..", "shared", "models", "tensors")
	if _, err := os.Stat(folder); err != nil {
		folder = filepath.Join("..", "predict", "testdata", "models", "tensors")
	}
	s := start(t)
	conn := s.Conn(t)
	s.register(t, folder)
	text, err := os.ReadFile(filepath.Join(folder, "example.json"))
	require.NoError(t, err)
	var example struct{ Inputs, Outputs json.RawMessage }
	require.NoError(t, json.Unmarshal(text, &example))
	got := one[string](t, conn, "SELECT ml.infer('tensors', $1)::text", string(example.Inputs))
	require.JSONEq(t, string(example.Outputs), got)
	require.Contains(t, got, "9007199254741248", "int64 is exact")
	empty := one[string](t, conn, `SELECT ml.infer('tensors', '{"half": {"shape": [0, 2], "data": []}, "whole": [], "flag": [],
		"word": {"shape": [0, 1], "data": []}, "cube": {"shape": [0, 2, 3], "data": []}, "byte": []}')::text`)
	require.Contains(t, empty, `"whole_plus_byte": []`)
}
