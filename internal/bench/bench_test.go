package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/measure"
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

func TestWithoutDatabaseItSaysHowToRun(t *testing.T) {
	t.Setenv("DATABASE_URL", "")
	var errOut strings.Builder
	require.Equal(t, measure.ExitBroken, run(t.Context(), nil, &bytes.Buffer{}, &errOut))
	require.Contains(t, errOut.String(), "make bench")
}
