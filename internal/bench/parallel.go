package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/rowcast/rowcast/internal/measure"
	"github.com/rowcast/rowcast/internal/postgres"
)

const (
	parallelWorkers = 2
	parallelRounds  = 3
)

// measureParallel compares a sum of predictions over a large table, two parallel workers, with the same in one process.
func (b *bench) measureParallel(ctx context.Context) ([]measure.Result, error) {
	const sql = "SELECT sum(ml.predict('" + small + "', features)) FROM bench.bulk"
	samples := map[int][]float64{}
	for range parallelRounds {
		for _, workers := range []int{0, parallelWorkers} {
			if _, err := b.Conn.Exec(ctx, fmt.Sprintf("SET max_parallel_workers_per_gather = %d", workers)); err != nil {
				return nil, postgres.Error(err)
			}
			if workers > 0 {
				if err := b.checkParallel(ctx, sql); err != nil {
					return nil, err
				}
			}
			d, err := b.Clock(ctx, sql)
			if err != nil {
				return nil, err
			}
			samples[workers] = append(samples[workers], d.Seconds())
		}
	}
	if _, err := b.Conn.Exec(ctx, "RESET max_parallel_workers_per_gather"); err != nil {
		return nil, postgres.Error(err)
	}
	serial, parallel := measure.Median(samples[0]), measure.Median(samples[parallelWorkers])
	return []measure.Result{measure.Result{
		What:     fmt.Sprintf("sum(predict) of %d rows, %d parallel workers against serial", b.bulkRows, parallelWorkers),
		Measured: fmt.Sprintf("%s against %s", seconds(parallel), seconds(serial)),
		Ratio:    measure.MedianRatio(samples[0], samples[parallelWorkers]), Numbers: map[string]float64{"parallel_s": parallel, "serial_s": serial},
	}.AtLeast(1.7, 0)}, nil
}

func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(10 * time.Millisecond).String()
}

// checkParallel makes sure that the planner chose a parallel plan that predicts in the workers.
func (b *bench) checkParallel(ctx context.Context, sql string) error {
	rows, err := b.Conn.Query(ctx, "EXPLAIN (COSTS off) "+sql)
	if err != nil {
		return postgres.Error(err)
	}
	var plan strings.Builder
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			rows.Close()
			return postgres.Error(err)
		}
		plan.WriteString(line + "\n")
	}
	if err := rows.Err(); err != nil {
		return postgres.Error(err)
	}
	if !strings.Contains(plan.String(), "Partial Aggregate") {
		return errors.New("the plan is not parallel: " + plan.String())
	}
	return nil
}
