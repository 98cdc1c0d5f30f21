package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/rowcast/rowcast/internal/measure"
	"github.com/rowcast/rowcast/internal/postgres"
)

const (
	cycleModel  = "bench_cycle"
	cycleWidth  = 512 // two layers of it make 2 MB
	warmCycles  = 10
	settleAfter = 10 * time.Second // what Go gives back to the system, it gives back slowly
)

// measureMemory registers, calls and drops a model of 2 MB again and again, each time another one, and compares the memory of the sidecar's worker
// before and after.
func (b *bench) measureMemory(ctx context.Context) ([]measure.Result, error) {
	seed := uint64(0)
	cycle := func(n int) error {
		for range n {
			seed++
			if err := b.cycle(ctx, network(cycleWidth, 2, seed)); err != nil {
				return err
			}
		}
		return nil
	}
	if err := cycle(warmCycles); err != nil {
		return nil, err
	}
	before, err := b.settledMemory(ctx)
	if err != nil {
		return nil, err
	}
	if err := cycle(b.cycles); err != nil {
		return nil, err
	}
	after, err := b.settledMemory(ctx)
	if err != nil {
		return nil, err
	}
	return []measure.Result{measure.Result{
		What:     fmt.Sprintf("sidecar's memory after %d cycles of register, predict, drop: growth in MB", b.cycles),
		Measured: fmt.Sprintf("%.0f MB after %d cycles, then %.0f MB", before, warmCycles, after),
		Ratio:    after - before, Numbers: map[string]float64{"before_mb": before, "after_mb": after},
	}.AtMost(50, " MB")}, nil
}

func (b *bench) cycle(ctx context.Context, model []byte) error {
	for _, step := range []struct {
		sql  string
		args []any
	}{
		{"SELECT ml.register_model($1, $2::bytea)", []any{cycleModel, model}},
		{"SELECT ml.predict($1, $2::double precision[])", []any{cycleModel, make([]float64, networkFeatures)}},
		{"SELECT ml.drop_model($1)", []any{cycleModel}},
	} {
		if _, err := b.Conn.Exec(ctx, step.sql, step.args...); err != nil {
			return postgres.Error(err)
		}
	}
	return nil
}

// settledMemory is the resident memory of the sidecar's worker in MB (10^6 bytes), some time after the last call.
func (b *bench) settledMemory(ctx context.Context) (float64, error) {
	select {
	case <-time.After(settleAfter):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	text := measure.ProcField("/proc/"+strconv.Itoa(b.Worker)+"/status", "VmRSS")
	kilobytes, err := strconv.ParseFloat(strings.TrimSuffix(text, " kB"), 64)
	if err != nil {
		return 0, fmt.Errorf("the sidecar's worker (process %d) has ended", b.Worker)
	}
	return kilobytes * 1024 / 1e6, nil
}
