// Command bench measures what the README promises, as ratios: everything is compared with something measured on the same machine in the same minutes,
// because times alone say little about another machine. `make bench` runs it inside `rowcast dev`, whose database and sidecar it uses; it registers
// models and makes tables there. It ends with status 1 where a bound is missed, and 2 where something could not be measured.
//
// Pairs are measured in turns (A B A B …), and the median of the turns' ratios counts, so that a machine whose speed drifts does not favour either. On
// a machine that does other work at the same time the numbers are wrong all the same: the report shows the load.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/rowcast/rowcast/internal/measure"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// settings are how much is measured.
type settings struct {
	rounds   int // repeats of each side of a comparison
	rows     int // calls of one repeat of the scalar comparison
	bulkRows int // rows of the parallel sum
	seconds  int // of one pgbench run
	coldRuns int
	cycles   int // register, predict, drop
}

func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(errOut)
	asJSON := flags.Bool("json", false, "print JSON")
	only := flags.String("only", "", "comma-separated parts to measure: scalar, pgbench, parallel, cold, memory")
	var s settings
	flags.IntVar(&s.rounds, "rounds", 41, "repeats of the scalar comparison")
	flags.IntVar(&s.rows, "rows", 500, "calls in one repeat of the scalar comparison")
	flags.IntVar(&s.bulkRows, "bulk-rows", 200_000, "rows of the parallel sum")
	flags.IntVar(&s.seconds, "seconds", 1, "length of one pgbench run")
	flags.IntVar(&s.coldRuns, "cold-runs", 5, "cold loads")
	flags.IntVar(&s.cycles, "cycles", 100, "register, predict, drop cycles")
	load := flags.String("load", "", "only load this model file in this process and print how long that took; for the cold part's own use")
	if err := flags.Parse(args); err != nil {
		return measure.ExitBroken
	}
	if *load != "" {
		if err := printLoad(*load, out); err != nil {
			_, _ = fmt.Fprintf(errOut, "bench: %v\n", err)
			return measure.ExitBroken
		}
		return 0
	}
	b, err := newBench(ctx, s, errOut)
	if err != nil {
		_, _ = fmt.Fprintf(errOut, "bench: %v\n", err)
		return measure.ExitBroken
	}
	defer b.Close()
	parts := []measure.Part{
		{Name: "scalar", Measure: b.measureScalar}, {Name: "pgbench", Measure: b.measurePgbench}, {Name: "parallel", Measure: b.measureParallel},
		{Name: "cold", Measure: b.measureCold}, {Name: "memory", Measure: b.measureMemory},
	}
	if *only != "" {
		wanted := strings.Split(*only, ",")
		parts = slices.DeleteFunc(parts, func(p measure.Part) bool { return !slices.Contains(wanted, p.Name) })
	}
	r, err := b.Measure(ctx, parts)
	if err != nil {
		_, _ = fmt.Fprintf(errOut, "bench: %v\n", err)
		return measure.ExitBroken
	}
	if err := r.Write(out, *asJSON); err != nil {
		_, _ = fmt.Fprintf(errOut, "bench: %v\n", err)
		return measure.ExitBroken
	}
	return r.Status()
}
