package measure

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReportJudges(t *testing.T) {
	r := &Report{Results: []Result{
		Result{What: "speed", Measured: "10 against 9", Ratio: 1.1}.AtMost(1.25, ""),
		{What: "for information", Measured: "3 µs", Ratio: 2},
	}}
	require.Equal(t, 0, r.Status())
	r.Results = append(r.Results, Result{What: "rate", Ratio: 0.19}.AtLeast(0.20, 0.25))
	require.Equal(t, ExitMissed, r.Status())
	r.Results = append(r.Results, Result{What: "pgbench", Error: "pgbench is not installed"})
	require.Equal(t, ExitBroken, r.Status())

	var table, object bytes.Buffer
	require.NoError(t, r.Write(&table, false))
	for _, line := range []string{"at most 1.25", "pass", "FAIL", "at least 0.2, aim 0.25", "pgbench is not installed", "NOT MEASURED"} {
		require.Contains(t, table.String(), line)
	}
	require.NoError(t, r.Write(&object, true))
	require.Contains(t, object.String(), `"pass": false`)
}

func TestMedian(t *testing.T) {
	require.InDelta(t, 2.0, Median([]float64{9, 1, 2}), 0)
	require.InDelta(t, 2.5, Median([]float64{1, 2, 3, 4}), 0)
	require.Zero(t, Median(nil))
}
