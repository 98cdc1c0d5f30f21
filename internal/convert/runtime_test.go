package convert

import (
	"bytes"
	"context"
	"encoding/csv"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/stretchr/testify/require"
)

// opened is the one runtime of the test process.
var opened = sync.OnceValues(func() (*onnx.Runtime, error) { return onnx.Open(onnx.Config{}) })

func newSession(t testing.TB, model []byte) *onnx.Session {
	t.Helper()
	r, err := opened()
	require.NoError(t, err)
	s, err := r.NewSession(model)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// sharedModel reads a file of ../shared/models/native, and skips the test where the folder is not there.
func sharedModel(t testing.TB, name string) []byte {
	t.Helper()
	for _, dir := range []string{os.Getenv("ROWCAST_SHARED_MODELS"), "../../../shared/models"} {
		if data, err := os.ReadFile(filepath.Join(dir, "native", name)); dir != "" && err == nil {
			return data
		}
	}
	t.Skip("no shared models beside the repository")
	return nil
}

// table is a CSV file by column.
type table struct {
	names   []string
	columns map[string][]string
	rows    int
}

func readTable(t testing.TB, data []byte) table {
	t.Helper()
	lines, err := csv.NewReader(bytes.NewReader(data)).ReadAll()
	require.NoError(t, err)
	out := table{names: lines[0], columns: map[string][]string{}, rows: len(lines) - 1}
	for c, name := range lines[0] {
		for _, line := range lines[1:] {
			out.columns[name] = append(out.columns[name], line[c])
		}
	}
	return out
}

// number reads a field; an empty one is NaN.
func number(t testing.TB, text string) float64 {
	t.Helper()
	switch text {
	case "":
		return math.NaN()
	case "True":
		return 1
	case "False":
		return 0
	}
	v, err := strconv.ParseFloat(text, 64)
	require.NoError(t, err)
	return v
}

// run feeds rows from to to (exclusive) and returns the first output. A matrix takes the features of res by name, other inputs theirs.
func run(t testing.TB, s *onnx.Session, res *Result, rows table, from, to int) []float64 {
	t.Helper()
	b, err := s.Acquire(to - from)
	require.NoError(t, err)
	defer s.Release(b)
	matrix := len(b.Inputs()) == 1 && b.Inputs()[0].Name != res.Features[0].Name
	for i, in := range b.Inputs() {
		names := []string{in.Name}
		if matrix {
			names = nil
			for _, f := range res.Features {
				names = append(names, f.Name)
			}
		} else {
			require.Equal(t, res.Features[i].Name, in.Name, "inputs are in the order of the features")
		}
		for r := from; r < to; r++ {
			for c, name := range names {
				at, text := (r-from)*len(names)+c, rows.columns[name][r]
				if list, ok := in.Data.([]string); ok {
					list[at] = text
					continue
				}
				require.Equal(t, onnx.Fits, onnx.SetFloat(in.Data, in.DType, at, number(t, text)))
			}
		}
	}
	require.NoError(t, b.Run(context.Background()))
	out := b.Outputs()[0]
	list := make([]float64, onnx.DataLen(out.Data))
	for i := range list {
		list[i], _ = onnx.FloatAt(out.Data, out.DType, i)
	}
	return list
}

// mostProbable is the label's number as the engine finds it: the first of the largest. One column is the probability of the second class.
func mostProbable(p []float64) int {
	if len(p) == 1 {
		p = []float64{1 - p[0], p[0]}
	}
	best := 0
	for i := range p {
		if p[i] > p[best] {
			best = i
		}
	}
	return best
}

func relative(got, want float64) float64 {
	if got == want {
		return 0
	}
	return math.Abs(got-want) / math.Abs(want)
}
