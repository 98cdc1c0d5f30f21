package onnx

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rowcast/rowcast/internal/rowcast"
	"github.com/stretchr/testify/require"
)

// frameworkTolerance is how far a number may be from the framework's, as a share of the number itself, or of 1 where that is smaller.
const frameworkTolerance = 2e-6

// Every row of every real model gives what the framework that trained it gave: in batches and alone.
func TestRealModelsAgreeWithTheirFrameworks(t *testing.T) {
	dir := sharedModels()
	if dir == "" {
		t.Skip("no shared models beside the repository")
	}
	paths, err := filepath.Glob(filepath.Join(dir, "*", "expected.csv"))
	require.NoError(t, err)
	for _, path := range paths {
		folder := filepath.Dir(path)
		if _, err := os.Stat(filepath.Join(folder, "model.onnx")); err != nil {
			continue // models of other formats
		}
		t.Run(filepath.Base(folder), func(t *testing.T) {
			model := readModel(t, filepath.Join(folder, "model.onnx"))
			g, err := Inspect(model)
			require.NoError(t, err)
			s, err := openRuntime(t).NewSession(model)
			require.NoError(t, err)
			defer func() { require.NoError(t, s.Close()) }()
			data, expected := readCSV(t, filepath.Join(folder, "data.csv")), readCSV(t, filepath.Join(folder, "expected.csv"))
			rows := len(data["id"])
			together := compareRows(t, s, g, data, expected, 0, rows)
			for i := 0; i < rows; i += max(1, rows/100) {
				alone := compareRows(t, s, g, data, expected, i, i+1)
				require.LessOrEqual(t, alone, frameworkTolerance)
			}
			t.Logf("%d rows: largest difference %.1e", rows, together)
			require.LessOrEqual(t, together, frameworkTolerance)
		})
	}
}

func readCSV(t *testing.T, path string) map[string][]string {
	file, err := os.Open(path)
	require.NoError(t, err)
	defer func() { _ = file.Close() }()
	lines, err := csv.NewReader(file).ReadAll()
	require.NoError(t, err)
	columns := map[string][]string{}
	for c, name := range lines[0] {
		for _, line := range lines[1:] {
			columns[name] = append(columns[name], line[c])
		}
		columns[""] = append(columns[""], name) // the header, in order
	}
	return columns
}

// compareRows runs rows from to to (exclusive) and returns how far the numbers are from the framework's; labels must be equal.
func compareRows(t *testing.T, s *Session, g *Graph, data, expected map[string][]string, from, to int) float64 {
	b, err := s.Acquire(to - from)
	require.NoError(t, err)
	defer s.Release(b)
	for _, in := range b.Inputs() {
		names := []string{in.Name}
		if len(b.Inputs()) == 1 && in.DType != rowcast.String {
			names = data[""][1 : 1+in.Shape[1]]
		}
		for r := from; r < to; r++ {
			for c, name := range names {
				fill(t, in.Data, (r-from)*len(names)+c, data[name][r])
			}
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	require.NoError(t, b.Run(ctx))
	worst := 0.0
	for i, out := range b.Outputs() {
		columns := numberColumns(g, s.Outputs()[i].Name, expected, i)
		for r := from; r < to; r++ {
			width := DataLen(out.Data) / (to - from)
			if columns == nil {
				require.Equal(t, expected["label"][r], element(out.Data, r-from), "row %d", r)
				continue
			}
			require.Equal(t, len(columns), width)
			for c, name := range columns {
				want, err := strconv.ParseFloat(expected[name][r], 64)
				require.NoError(t, err)
				got, err := strconv.ParseFloat(element(out.Data, (r-from)*width+c), 64)
				require.NoError(t, err)
				worst = math.Max(worst, math.Abs(got-want)/math.Max(1, math.Abs(want)))
			}
		}
	}
	return worst
}

// numberColumns are the columns of expected.csv that an output stands for; nil for the label.
func numberColumns(g *Graph, output string, expected map[string][]string, index int) []string {
	switch {
	case expected["value"] != nil:
		return []string{"value"}
	case index == 0:
		return nil
	case output == g.ProbabilityOutput:
		var names []string
		for _, raw := range g.Labels {
			var label any
			_ = json.Unmarshal(raw, &label)
			if text, ok := label.(string); ok {
				names = append(names, "probability_"+text)
			} else {
				names = append(names, "probability_"+string(raw))
			}
		}
		return names
	}
	return []string{"score"}
}

func fill(t *testing.T, data any, i int, text string) {
	number := math.NaN()
	if text != "" {
		number, _ = strconv.ParseFloat(text, 64)
	}
	switch d := data.(type) {
	case []float32:
		d[i] = float32(number)
	case []float64:
		d[i] = number
	case []int64:
		d[i] = int64(number)
	case []bool:
		d[i] = text == "True"
	case []string:
		if d[i] = text; text == "" {
			d[i] = "unknown"
		}
	default:
		t.Fatalf("%T", data)
	}
}

func element(data any, i int) string {
	switch d := data.(type) {
	case []float32:
		return strconv.FormatFloat(float64(d[i]), 'g', -1, 32)
	case []float64:
		return strconv.FormatFloat(d[i], 'g', -1, 64)
	case []int64:
		return strconv.FormatInt(d[i], 10)
	case []string:
		return d[i]
	}
	return ""
}
