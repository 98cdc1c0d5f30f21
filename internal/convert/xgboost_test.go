package convert

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/rowcast"
	"github.com/stretchr/testify/require"
)

// xgboostTolerance is how far a number may be from XGBoost's, as a share of the number itself. Sums are equal to the last bit; what differs is the
// last bits of exp.
const xgboostTolerance = 1e-6

func xgboostFixture(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "xgboost", name))
	require.NoError(t, err)
	return data
}

// Every row of each model, in one batch and alone, gives what XGBoost itself gave.
func TestXGBoostModelsPredictAsTheLibraryDoes(t *testing.T) {
	data := readTable(t, xgboostFixture(t, "data.csv"))
	frame := readTable(t, xgboostFixture(t, "frame_data.csv"))
	files, err := os.ReadDir(filepath.Join("testdata", "xgboost"))
	require.NoError(t, err)
	models := 0
	for _, file := range files {
		name, kind, _ := strings.Cut(file.Name(), ".")
		if kind != "json" && kind != "ubj" || strings.HasPrefix(name, "refused") {
			continue
		}
		models++
		t.Run(file.Name(), func(t *testing.T) {
			rows := data
			if name == "frame" {
				rows = frame
			}
			expected := readTable(t, xgboostFixture(t, name+".csv"))
			compareXGBoost(t, xgboostFixture(t, file.Name()), rows, expected, expected.names)
		})
	}
	require.GreaterOrEqual(t, models, 45)
}

func TestXGBoostSharedModelsPredictAsTheLibraryDoes(t *testing.T) {
	for file, columns := range map[string][]string{
		"xgb_regression.json": {"xgb_regression"}, "xgb_binary.ubj": {"xgb_binary"}, "xgb_categorical.json": {"xgb_categorical"},
		"xgb_multiclass.json": {"xgb_multiclass_0", "xgb_multiclass_1", "xgb_multiclass_2"},
	} {
		t.Run(file, func(t *testing.T) {
			model := sharedModel(t, file)
			compareXGBoost(t, model, readTable(t, sharedModel(t, "data.csv")), readTable(t, sharedModel(t, "expected.csv")), columns)
		})
	}
}

// compareXGBoost converts a model and compares each row with the columns of expected.
func compareXGBoost(t *testing.T, model []byte, rows, expected table, columns []string) {
	t.Helper()
	res, err := XGBoost(model)
	require.NoError(t, err)
	_, err = onnx.Inspect(res.ONNX)
	require.NoError(t, err)
	if !strings.Contains(rows.names[0], res.Features[0].Name) && res.Features[0].Name == "f0" {
		rows = numbered(rows, len(res.Features))
	}
	for i, f := range res.Features {
		if f.Type == rowcast.TypeText { // NULL reaches the tensor as the default
			var absent string
			require.NoError(t, json.Unmarshal(f.Default, &absent))
			for r, text := range rows.columns[f.Name] {
				if text == "" {
					rows.columns[f.Name][r] = absent
				}
			}
			continue
		}
		require.True(t, f.Missing, i)
	}
	s := newSession(t, res.ONNX)
	got := run(t, s, res, rows, 0, rows.rows)
	width := len(got) / rows.rows
	require.Equal(t, len(columns), width)
	worst := 0.0
	for r := range rows.rows {
		want := make([]float64, width)
		for c, name := range columns {
			want[c] = float64(float32(number(t, expected.columns[name][r]))) // XGBoost gives float32
			worst = max(worst, relative(got[r*width+c], want[c]))
		}
		if res.Task == rowcast.TaskClassification && res.Outputs.Label == "" {
			require.Equal(t, mostProbable(want), mostProbable(got[r*width:(r+1)*width]), "the label of row %d", r)
		}
		if r%7 == 0 {
			require.Equal(t, got[r*width:(r+1)*width], run(t, s, res, rows, r, r+1), "row %d alone", r)
		}
	}
	t.Logf("%d rows: largest difference %.1e", rows.rows, worst)
	require.LessOrEqual(t, worst, xgboostTolerance)
	if res.Parameters["objective"] == "reg:squarederror" {
		require.Zero(t, worst, "sums in the library's order are the library's")
	}
}

// numbered renames the columns to XGBoost's own names, f0 and so on, leaving out a column named id.
func numbered(rows table, features int) table {
	out := table{columns: map[string][]string{}, rows: rows.rows}
	for _, name := range rows.names {
		if name == "id" || len(out.names) == features {
			continue
		}
		as := "f" + string(rune('0'+len(out.names)))
		out.names = append(out.names, as)
		out.columns[as] = rows.columns[name]
	}
	return out
}
