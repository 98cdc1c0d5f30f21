package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/measure"
)

func TestWithoutDatabaseItSaysHowToRun(t *testing.T) {
	t.Setenv("DATABASE_URL", "")
	var errOut strings.Builder
	require.Equal(t, measure.ExitBroken, run(t.Context(), nil, &bytes.Buffer{}, &errOut))
	require.Contains(t, errOut.String(), "make bench-batch")
}

func TestPartsAddUpTurnByTurn(t *testing.T) {
	x := turns{}
	for _, s := range []float64{1, 2} {
		x.add("a", s)
		x.add("b", 10*s)
	}
	require.Equal(t, []float64{11, 22}, x.sum("a", "b"))
}

// The bounds are those of the README, whatever was measured.
func TestJobsAreJudged(t *testing.T) {
	b := &bench{settings: settings{rows: 1_000_000}, python: &python{}}
	x := turns{}
	for range 3 {
		for name, seconds := range map[string]float64{
			"job": 2, gradeExpert: 4, gradeCopy: 5, "copy out": 1e-9, "model": 1e-9, "copy in": 1e-9, "copy out wall": 1, "model wall": 1, "copy in wall": 1,
		} {
			x.add(name, seconds)
		}
	}
	results := b.judgeJob(trees, x, 1e-7)
	require.Len(t, results, 3)
	for i, want := range []struct {
		wanted string
		pass   bool
	}{{"at most 1.3", false}, {"at least 1.7", true}, {"at least 3", false}} {
		require.Equal(t, want.wanted, results[i].Wanted)
		require.Equal(t, want.pass, *results[i].Pass, results[i].What)
	}
	require.InDelta(t, 2, results[1].Ratio, 1e-9)
	require.Equal(t, "500000 against 250000 rows/s", results[1].Measured)

	b.python, b.absent = nil, "the script is not there"
	results = b.judgeJob(linear, turns{"job": {2}, "copy out": {1}, "model": {1}, "copy in": {1}}, 0)
	require.Len(t, results, 3)
	require.Equal(t, "skipped: the script is not there", results[1].Measured)
	require.Nil(t, results[1].Pass)
}

func TestPythonThatCannotBeUsedIsExplained(t *testing.T) {
	b := &bench{settings: settings{script: filepath.Join(t.TempDir(), "python_batch.py")}}
	_, err := findPython(t.Context(), b)
	require.ErrorContains(t, err, "python_batch.py is not there")
}

func TestTheReadmesTableIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "README.md")
	r := &measure.Report{Machine: measure.Machine{CPU: "Xeon", Cores: 2}, Results: []measure.Result{
		measure.Result{What: "speed", Measured: "10 against 9", Ratio: 1.111}.AtMost(1.25, ""),
		measure.Result{What: "rate", Measured: "1 against 9", Ratio: 0.111}.AtLeast(0.9, 0),
		{What: "against Python", Measured: "skipped: no Python"},
		{What: "plot", Measured: "drawn in docs"},
		{What: "rows", Error: errors.New("gone").Error()},
	}}
	require.NoError(t, os.WriteFile(path, []byte("before\n"+readmeBegin+"\nold\n"+readmeEnd+"\nafter\n"), 0o600))
	for range 2 { // a second time changes nothing
		require.NoError(t, writeReadme(path, r))
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, "before\n"+readmeBegin+`

| what | wanted | measured | ratio | |
|---|---|---|---|---|
| speed | at most 1.25 | 10 against 9 | 1.11 | met |
| rate | at least 0.9 | 1 against 9 | 0.11 | missed |
| against Python |  | skipped: no Python |  |  |
| rows |  | gone |  | not measured |

Machine: Xeon, 2 cores, 0 GB, Linux ; PostgreSQL , ONNX Runtime , ; load average  before and  after.

`+readmeEnd+"\nafter\n", string(text))
	}
	require.NoError(t, os.WriteFile(path, []byte("no marks"), 0o600))
	require.ErrorContains(t, writeReadme(path, r), "BENCH BATCH BEGIN")
}

// A plot is one SVG file that refers to nothing outside.
func TestPlotsAreSelfContained(t *testing.T) {
	p := &plot{
		title: "Rows per second", across: "rows", labels: []string{short(1), short(1000), short(1_000_000)}, names: []string{"job", "predict"},
		rates: [][]float64{{1000, 200_000, 400_000}, {20_000, 21_000, missing()}},
	}
	svg, err := p.svg()
	require.NoError(t, err)
	text := string(svg)
	for _, part := range []string{"Rows per second", "job", "predict", "1 k", "1 M", "rows/s", "400 k"} {
		require.Contains(t, text, part)
	}
	d := xml.NewDecoder(bytes.NewReader(svg))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		if e, ok := token.(xml.StartElement); ok {
			require.NotContains(t, []string{"image", "script", "link", "use", "foreignObject"}, e.Name.Local)
			for _, a := range e.Attr {
				require.NotContains(t, []string{"href", "src"}, a.Name.Local)
				require.NotContains(t, a.Value, "url(")
			}
		}
	}
}
