package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/rowcast/rowcast/internal/measure"
	"github.com/rowcast/rowcast/internal/postgres"
)

const (
	clients       = 8
	pgbenchRounds = 7
)

var errNoPgbench = errors.New("pgbench is not installed: on Debian it comes with postgresql-client-common and postgresql-NN; " +
	"ROWCAST_PG_BIN may name a folder that has it")

// measurePgbench compares the rate of prepared predictions with that of SELECT 1, eight clients each.
func (b *bench) measurePgbench(ctx context.Context) ([]measure.Result, error) {
	program, err := findPgbench(ctx)
	if err != nil {
		return nil, err
	}
	scripts := []struct{ name, sql string }{
		{"select 1", "SELECT 1;\n"},
		{"predict", "SELECT predict('" + small + "', ARRAY[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]);\n"},
	}
	rates := map[string][]float64{}
	for range pgbenchRounds {
		for _, s := range scripts {
			rate, err := b.pgbench(ctx, program, s.name, s.sql)
			if err != nil {
				return nil, err
			}
			rates[s.name] = append(rates[s.name], rate)
		}
	}
	predict, one := measure.Median(rates["predict"]), measure.Median(rates["select 1"])
	return []measure.Result{measure.Result{
		What:     fmt.Sprintf("pgbench, %d clients, prepared predict against SELECT 1", clients),
		Measured: fmt.Sprintf("%.0f against %.0f a second", predict, one),
		Ratio:    measure.MedianRatio(rates["predict"], rates["select 1"]), Numbers: map[string]float64{"predict_tps": predict, "select_1_tps": one},
	}.AtLeast(0.20, 0.25)}, nil
}

func (b *bench) pgbench(ctx context.Context, program, name, script string) (rate float64, err error) {
	file := filepath.Join(b.Dir, strings.ReplaceAll(name, " ", "_")+".sql")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		return 0, err
	}
	out, err := exec.CommandContext(ctx, program,
		"--no-vacuum", "--client="+strconv.Itoa(clients), "--jobs=2", "--protocol=prepared", "--time="+strconv.Itoa(b.seconds), "--file="+file).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("pgbench: %w: %s", err, out)
	}
	m := regexp.MustCompile(`tps = ([0-9.]+) \(without initial connection time\)`).FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("pgbench printed no rate: %s", out)
	}
	return strconv.ParseFloat(string(m[1]), 64)
}

// findPgbench looks beside psql, in the server's folder, and on PATH.
func findPgbench(ctx context.Context) (string, error) {
	var dirs []string
	if server, err := postgres.FindServer(ctx); err == nil {
		dirs = append(dirs, server.BinDir, filepath.Dir(server.Psql()))
	}
	for _, dir := range dirs {
		path := filepath.Join(dir, "pgbench")
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path, nil
		}
	}
	if path, err := exec.LookPath("pgbench"); err == nil {
		return path, nil
	}
	return "", errNoPgbench
}
