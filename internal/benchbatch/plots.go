package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-analyze/charts"

	"github.com/rowcast/rowcast/internal/jobclient"
	"github.com/rowcast/rowcast/internal/measure"
)

// plot is a line chart over categories: what goes up by factors needs no scale.
type plot struct {
	file, title, across string
	labels              []string
	names               []string
	rates               [][]float64 // rows/s, one list for each name; missing where not measured
}

// missing is a point that was not measured.
func missing() float64 { return charts.GetNullValue() }

// measurePlots measures the rate against the number of rows and against the size of a batch, and draws both.
func (b *bench) measurePlots(ctx context.Context) ([]measure.Result, error) {
	sizes, err := b.plotRows(ctx)
	if err != nil {
		return nil, err
	}
	batches, err := b.plotBatches(ctx)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(b.docs, 0o755); err != nil {
		return nil, err
	}
	var results []measure.Result
	for _, p := range []*plot{sizes, batches} {
		svg, err := p.svg()
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(b.docs, p.file), svg, 0o644); err != nil { //nolint:gosec // documentation for everybody
			return nil, err
		}
		r := measure.Result{What: p.title, Measured: "drawn in " + filepath.Join(b.docs, p.file), Numbers: map[string]float64{}}
		for i, name := range p.names {
			for j, rate := range p.rates[i] {
				if rate != missing() {
					r.Numbers[name+", "+p.labels[j]] = rate
				}
			}
		}
		results = append(results, r)
	}
	return results, nil
}

// median runs what gives seconds for so many rows, and returns the median rate.
func (b *bench) median(rows int, run func() (float64, error)) (float64, error) {
	var rates []float64
	for range b.rounds {
		seconds, err := run()
		if err != nil {
			return 0, err
		}
		rates = append(rates, float64(rows)/seconds)
	}
	return measure.Median(rates), nil
}

func (b *bench) plotRows(ctx context.Context) (*plot, error) {
	p := &plot{
		file: "rate-by-rows.svg", title: "Rows per second against the number of rows (" + trees + ")", across: "rows",
		names: []string{"job", "predict_rows", "predict, row by row"}, rates: make([][]float64, 3),
	}
	const table = schema + ".some"
	for n := 1000; n <= b.rows; n *= 10 {
		p.labels = append(p.labels, short(n))
		if err := b.Exec(ctx, "DROP TABLE IF EXISTS "+table, fmt.Sprintf("CREATE TABLE %s AS SELECT * FROM %s WHERE id <= %d", table, source, n),
			"ALTER TABLE "+table+" ADD PRIMARY KEY (id)", "VACUUM (ANALYZE) "+table); err != nil {
			return nil, err
		}
		for i, run := range []func() (float64, error){
			func() (float64, error) { return b.score(ctx, trees, table, jobclient.Options{}) },
			func() (float64, error) {
				seconds, _, err := b.fetch(ctx, predictRows(trees, table))
				return seconds, err
			},
			func() (float64, error) {
				d, err := b.Clock(ctx, fmt.Sprintf("SELECT sum(ml.predict('%s', ARRAY[f0, f1, f2, f3, f4, f5, f6, f7, f8, f9])) FROM %s", trees, table))
				return d.Seconds(), err
			},
		} {
			rate := missing()
			if i < 2 || n <= rowWise*5 {
				var err error
				if rate, err = b.median(n, run); err != nil {
					return nil, err
				}
			}
			p.rates[i] = append(p.rates[i], rate)
		}
	}
	return p, nil
}

func (b *bench) plotBatches(ctx context.Context) (*plot, error) {
	p := &plot{
		file: "rate-by-batch.svg", title: "Rows per second against the rows of a batch (" + trees + ")", across: "rows of one run or of one chunk",
		names: []string{"ONNX Runtime alone, one thread", "job, by chunk_rows"}, rates: make([][]float64, 2),
	}
	matrix, err := b.matrix(ctx)
	if err != nil {
		return nil, err
	}
	for n := 1; n <= b.rows; n *= 10 {
		p.labels = append(p.labels, short(n))
		some := matrix[:features*min(b.rows, max(n, 20_000))] // one by one a million takes too long
		rate, err := b.median(len(some)/features, func() (float64, error) {
			u, err := b.runModel(ctx, trees, some, n, 1)
			return u.wall, err
		})
		if err != nil {
			return nil, err
		}
		p.rates[0] = append(p.rates[0], rate)
		rate = missing()
		if n >= 1000 {
			if rate, err = b.median(b.rows, func() (float64, error) { return b.score(ctx, trees, source, jobclient.Options{ChunkRows: int64(n)}) }); err != nil {
				return nil, err
			}
		}
		p.rates[1] = append(p.rates[1], rate)
	}
	return p, nil
}

// short writes a power of ten.
func short(n int) string {
	switch {
	case n >= 1_000_000:
		return fmt.Sprintf("%d M", n/1_000_000)
	case n >= 1000:
		return fmt.Sprintf("%d k", n/1000)
	}
	return itoa(n)
}

func (p *plot) svg() ([]byte, error) {
	o := charts.NewLineChartOptionWithData(p.rates)
	o.Theme = charts.GetTheme(charts.ThemeLight)
	o.Title.Text = p.title
	o.Title.FontStyle.FontSize = 14
	o.XAxis.Labels = p.labels
	o.XAxis.Title = p.across
	o.YAxis = []charts.YAxisOption{{Min: charts.Ptr(0.0), Title: "rows/s"}}
	o.Legend.SeriesNames = p.names
	o.Legend.Offset = charts.OffsetStr{Top: "28"}
	o.Symbol.Shape = charts.SymbolCircle
	o.LineStrokeWidth = 2
	o.ValueFormatter = func(v float64) string {
		if v < 1000 {
			return fmt.Sprintf("%.0f", v)
		}
		return strings.TrimSuffix(fmt.Sprintf("%.1f", v/1000), ".0") + " k"
	}
	painter := charts.NewPainter(charts.PainterOptions{OutputFormat: charts.ChartOutputSVG, Width: 760, Height: 380})
	if err := painter.LineChart(o); err != nil {
		return nil, err
	}
	return painter.Bytes()
}
