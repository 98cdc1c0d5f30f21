package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/onnx"
)

func TestNetworkIsAModelOfTheSizeAskedFor(t *testing.T) {
	model := network(256, 3, 1)
	require.InDelta(t, 4*256*256*3, len(model), 4*256*(networkFeatures+2)+2000)
	require.Equal(t, model, network(256, 3, 1))
	require.NotEqual(t, model, network(256, 3, 2))
	g, err := onnx.Inspect(model)
	require.NoError(t, err)
	require.Equal(t, []int64{-1, networkFeatures}, g.Inputs[0].Shape)
	require.Equal(t, []int64{-1, 1}, g.Outputs[0].Shape)
}

func TestNetworkRunsInONNXRuntime(t *testing.T) {
	runtime, err := onnx.Open(onnx.Config{})
	require.NoError(t, err)
	session, err := runtime.NewSession(network(32, 2, 1))
	require.NoError(t, err)
	defer func() { _ = session.Close() }()
	require.NoError(t, runPooled(t.Context(), session, make([]float32, networkFeatures)))
}

func TestReportJudges(t *testing.T) {
	r := &Report{Results: []Result{
		Result{What: "speed", Measured: "10 against 9", Ratio: 1.1}.atMost(1.25, ""),
		{What: "for information", Measured: "3 µs", Ratio: 2},
	}}
	require.Equal(t, 0, r.status())
	r.Results = append(r.Results, Result{What: "rate", Ratio: 0.19}.atLeast(0.20, 0.25))
	require.Equal(t, exitMissed, r.status())
	r.Results = append(r.Results, Result{What: "pgbench", Error: errNoPgbench.Error()})
	require.Equal(t, exitBroken, r.status())

	var table, object bytes.Buffer
	require.NoError(t, r.write(&table, false))
	for _, line := range []string{"at most 1.25", "pass", "FAIL", "at least 0.2, aim 0.25", "pgbench is not installed", "NOT MEASURED"} {
		require.Contains(t, table.String(), line)
	}
	require.NoError(t, r.write(&object, true))
	require.Contains(t, object.String(), `"pass": false`)
}

func TestWithoutDatabaseItSaysHowToRun(t *testing.T) {
	t.Setenv("DATABASE_URL", "")
	var errOut strings.Builder
	require.Equal(t, exitBroken, run(t.Context(), nil, &bytes.Buffer{}, &errOut))
	require.Contains(t, errOut.String(), "make bench")
}

func TestMedian(t *testing.T) {
	require.InDelta(t, 2.0, median([]float64{9, 1, 2}), 0)
	require.InDelta(t, 2.5, median([]float64{1, 2, 3, 4}), 0)
	require.Zero(t, median(nil))
}
