// Command benchbatch measures what the README promises about batches: scoring jobs from table to table, and predict_rows, against the programs that
// people write today and against what PostgreSQL and ONNX Runtime need alone. `make bench-batch` runs it inside `rowcast dev`, whose database and
// sidecar it uses; it makes a schema bench_batch there and registers two models. It ends with status 1 where a bound is missed, and 2 where something
// could not be measured.
//
// Whatever is compared is measured in turns (A B C A B C …) in one run, and the median of the turns' ratios counts, because the speed of a machine
// drifts. What Python needs is fetched by build/fetch-bench-python.sh; without it, or without ../shared, those lines say so and the rest is measured.
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
	rows      int // of the main comparisons
	largeRows int // of the long job; 0: none
	rounds    int // turns of each comparison
	script    string
	docs      string // folder for the plots; "" for none
	readme    string // file whose table is written; "" for none
}

func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	flags := flag.NewFlagSet("benchbatch", flag.ContinueOnError)
	flags.SetOutput(errOut)
	var s settings
	asJSON := flags.Bool("json", false, "print JSON")
	only := flags.String("only", "", "comma-separated parts to measure: trees, linear, rows, large, plots")
	flags.IntVar(&s.rows, "rows", 1_000_000, "rows of the comparisons")
	flags.IntVar(&s.largeRows, "large-rows", 10_000_000, "rows of the long job, whose rate and memory are looked at; 0 for none")
	flags.IntVar(&s.rounds, "rounds", 3, "turns of each comparison")
	flags.StringVar(&s.script, "script", "../shared/bench/python_batch.py", "the programs that people write today")
	flags.StringVar(&s.docs, "docs", "", "folder that gets the plots as SVG files (docs); part plots needs it")
	flags.StringVar(&s.readme, "readme", "", "file whose table between the BENCH BATCH marks is replaced (README.md)")
	if err := flags.Parse(args); err != nil {
		return measure.ExitBroken
	}
	status, err := measureAll(ctx, s, *only, *asJSON, out, errOut)
	if err != nil {
		_, _ = fmt.Fprintf(errOut, "bench-batch: %s\n", measure.Message(err))
		return measure.ExitBroken
	}
	return status
}

func measureAll(ctx context.Context, s settings, only string, asJSON bool, out, errOut io.Writer) (int, error) {
	b, err := newBench(ctx, s, errOut)
	if err != nil {
		return 0, err
	}
	defer b.Close()
	parts := []measure.Part{
		{Name: "trees", Measure: b.measureTrees}, {Name: "linear", Measure: b.measureLinear}, {Name: "rows", Measure: b.measureRows},
	}
	if s.largeRows > 0 {
		parts = append(parts, measure.Part{Name: "large", Measure: b.measureLarge})
	}
	if s.docs != "" {
		parts = append(parts, measure.Part{Name: "plots", Measure: b.measurePlots})
	}
	if only != "" {
		wanted := strings.Split(only, ",")
		parts = slices.DeleteFunc(parts, func(p measure.Part) bool { return !slices.Contains(wanted, p.Name) })
	}
	r, err := b.Measure(ctx, parts)
	if err != nil {
		return 0, err
	}
	if s.readme != "" {
		if err := writeReadme(s.readme, r); err != nil {
			return 0, err
		}
	}
	return r.Status(), r.Write(out, asJSON)
}
