package main

import (
	"context"
	"fmt"
	"time"

	"github.com/rowcast/rowcast/internal/measure"
	"github.com/rowcast/rowcast/internal/postgres"
)

// rowWise is how many rows are predicted one by one: their rate does not depend on how many they are.
const rowWise = 20_000

// fetch runs a query, takes every row as the driver gets it, in binary, and returns how long that took and how many there were.
func (b *bench) fetch(ctx context.Context, sql string) (seconds float64, count int, err error) {
	began := time.Now()
	rows, err := b.Conn.Query(ctx, sql)
	if err != nil {
		return 0, 0, postgres.Error(err)
	}
	defer rows.Close()
	for rows.Next() {
		count++
	}
	return time.Since(began).Seconds(), count, postgres.Error(rows.Err())
}

// predictRows is the statement that predicts for the rows of a table.
func predictRows(model, table string) string {
	return fmt.Sprintf("SELECT key, prediction FROM ml.predict_rows('%s', '%s', NULL::bigint)", model, query(table))
}

// measureRows compares predict_rows with predict row by row, and with what it cannot do without: its query, whose rows somebody takes, and ONNX Runtime
// on these rows with as many threads as one call has in the sidecar.
func (b *bench) measureRows(ctx context.Context) ([]measure.Result, error) {
	matrix, err := b.matrix(ctx)
	if err != nil {
		return nil, err
	}
	var results []measure.Result
	for _, model := range []string{trees, linear} {
		t := turns{}
		for range b.rounds {
			seconds, n, err := b.fetch(ctx, predictRows(model, source))
			if err != nil {
				return nil, err
			}
			if n != b.rows {
				return nil, fmt.Errorf("predict_rows gave %d rows instead of %d", n, b.rows)
			}
			t.add("rows", seconds)
			d, err := b.Clock(ctx, fmt.Sprintf("SELECT sum(ml.predict('%s', ARRAY[f0, f1, f2, f3, f4, f5, f6, f7, f8, f9])) FROM (SELECT * FROM %s LIMIT %d) x",
				model, source, rowWise))
			if err != nil {
				return nil, err
			}
			t.add("one by one", d.Seconds()*float64(b.rows)/rowWise)
			if seconds, _, err = b.fetch(ctx, query(source)); err != nil {
				return nil, err
			}
			t.add("query", seconds)
			u, err := b.runModel(ctx, model, matrix, modelBatch, 1)
			if err != nil {
				return nil, err
			}
			t.add("model", u.wall)
		}
		rate := func(name string) float64 { return float64(b.rows) / measure.Median(t[name]) }
		results = append(results,
			measure.Result{
				What:     model + ": predict_rows against predict row by row",
				Measured: fmt.Sprintf("%.0f against %.0f rows/s", rate("rows"), rate("one by one")),
				Ratio:    measure.MedianRatio(t["one by one"], t["rows"]),
				Numbers:  map[string]float64{"predict_rows_per_s": rate("rows"), "row_by_row_per_s": rate("one by one")},
			}.AtLeast(5, 0),
			measure.Result{
				What:     model + ": predict_rows against its query alone + ONNX Runtime",
				Measured: fmt.Sprintf("%.2f s against %.2f + %.2f s", measure.Median(t["rows"]), measure.Median(t["query"]), measure.Median(t["model"])),
				Ratio:    measure.MedianRatio(t["rows"], t.sum("query", "model")),
				Numbers: map[string]float64{
					"predict_rows_s": measure.Median(t["rows"]), "query_s": measure.Median(t["query"]), "model_s": measure.Median(t["model"]),
				},
			}.AtMost(3, ", aim 2"))
	}
	return results, nil
}
