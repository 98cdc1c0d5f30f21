package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/rowcast/rowcast/internal/jobclient"
	"github.com/rowcast/rowcast/internal/measure"
)

const largeSource = schema + ".source_large"

// measureLarge compares the rate of a job over ten times as many rows, and looks at how much memory the sidecar used at most.
func (b *bench) measureLarge(ctx context.Context) ([]measure.Result, error) {
	b.Say("making a table of %d rows", b.largeRows)
	if err := b.Exec(ctx,
		"DROP TABLE IF EXISTS "+largeSource,
		"CREATE TABLE "+largeSource+" (LIKE "+source+")",
		fmt.Sprintf("INSERT INTO %s SELECT id + n * %d::bigint, f0, f1, f2, f3, f4, f5, f6, f7, f8, f9 FROM generate_series(0, %d) AS n, %s WHERE id + n * %d::bigint <= %d",
			largeSource, b.rows, (b.largeRows-1)/b.rows, source, b.rows, b.largeRows),
		"ALTER TABLE "+largeSource+" ADD PRIMARY KEY (id)",
		"VACUUM (ANALYZE) "+largeSource,
	); err != nil {
		return nil, err
	}
	supervisor, _ := measure.ProcessStat(b.Worker)
	for _, pid := range []int{b.Worker, supervisor} {
		if err := resetPeak(pid); err != nil {
			return nil, fmt.Errorf("the sidecar's peak of memory cannot be measured: %w", err)
		}
	}
	var small []float64
	once := func() error {
		seconds, err := b.score(ctx, trees, source, jobclient.Options{})
		small = append(small, float64(b.rows)/seconds)
		return err
	}
	if err := once(); err != nil {
		return nil, err
	}
	b.Say("scoring %d rows", b.largeRows)
	seconds, err := b.score(ctx, trees, largeSource, jobclient.Options{})
	if err != nil {
		return nil, err
	}
	peak := 0.0
	for _, pid := range []int{b.Worker, supervisor} {
		mb, err := peakMemory(pid)
		if err != nil {
			return nil, err
		}
		peak += mb
	}
	for range 2 {
		if err := once(); err != nil {
			return nil, err
		}
	}
	if err := b.Exec(ctx, "DROP TABLE "+largeSource, "DROP TABLE IF EXISTS "+scores); err != nil {
		return nil, err
	}
	large := float64(b.largeRows) / seconds
	return []measure.Result{
		measure.Result{
			What:     fmt.Sprintf("%s: rate of a job over %d rows against one over %d", trees, b.largeRows, b.rows),
			Measured: fmt.Sprintf("%.0f against %.0f rows/s", large, measure.Median(small)),
			Ratio:    large / measure.Median(small),
			Numbers:  map[string]float64{"large_rows_per_s": large, "small_rows_per_s": measure.Median(small), "large_s": seconds},
		}.AtLeast(0.9, 0),
		measure.Result{
			What:     fmt.Sprintf("sidecar's memory at its peak during the job over %d rows, in MB", b.largeRows),
			Measured: fmt.Sprintf("%.0f MB", peak), Ratio: peak, Numbers: map[string]float64{"peak_mb": peak},
		}.AtMost(300, " MB"),
	}, nil
}

// peakMemory is the most resident memory that a process had, in MB (10^6 bytes).
func peakMemory(pid int) (float64, error) {
	text := measure.ProcField("/proc/"+itoa(pid)+"/status", "VmHWM")
	kilobytes, err := strconv.ParseFloat(strings.TrimSuffix(text, " kB"), 64)
	if err != nil {
		return 0, fmt.Errorf("process %d of the sidecar has ended", pid)
	}
	return kilobytes * 1024 / 1e6, nil
}

func itoa(n int) string { return strconv.Itoa(n) }
