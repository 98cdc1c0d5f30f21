package main

import (
	"context"
	"fmt"
	"time"

	ort "github.com/yalue/onnxruntime_go" //nolint:depguard // the baseline is the binding as anybody would use it

	"github.com/rowcast/rowcast/internal/measure"
	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/postgres"
)

// measureScalar compares predict of a small model, one session, one row a call, with what a call costs at the very least: a gateway call that does
// nothing, and ONNX Runtime called from Go on the same row.
func (b *bench) measureScalar(ctx context.Context) ([]measure.Result, error) {
	loops := []struct{ name, sql string }{
		{"array", "SELECT sum(ml.predict('" + small + "', features)) FROM bench.one"},
		{"noop", "SELECT count(" + b.dblink + ".dblink_exec('rowcast', ml_private.sign(g.key, 'N'), false)) FROM bench.one, ml_private.gateway g"},
		{"noop by function", "SELECT count(ml_private.exchange(g.key, 'N', false)) FROM bench.one, ml_private.gateway g"},
		{"noop, signed beforehand", "WITH c AS MATERIALIZED (SELECT ml_private.sign(g.key, 'N') AS call FROM ml_private.gateway g) " +
			"SELECT count(" + b.dblink + ".dblink_exec('rowcast', (SELECT call FROM c), false)) FROM bench.one"},
		{"record", "SELECT sum(ml.predict('" + small + "', t)) FROM bench.typed t"},
		{"jsonb", "SELECT sum(ml.predict('" + small + "', object)) FROM bench.one"},
		{"text", "SELECT sum(ml.predict('" + small + "', literal)) FROM bench.one"},
	}
	rows, err := b.smallRows(ctx)
	if err != nil {
		return nil, err
	}
	direct, err := newDirect(b.smallModel, len(rows[0]))
	if err != nil {
		return nil, err
	}
	defer direct.close()
	pooled, err := b.Runtime.NewSession(b.smallModel)
	if err != nil {
		return nil, err
	}
	defer func() { _ = pooled.Close() }()
	samples := map[string][]float64{}
	take := func(name string, d time.Duration) {
		samples[name] = append(samples[name], micros(d)/float64(len(rows)))
	}
	for round := range b.rounds + 1 {
		for _, l := range loops {
			d, err := b.Clock(ctx, l.sql)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", l.name, err)
			}
			if round > 0 { // the first opens the connection and fills caches
				take(l.name, d)
			}
		}
		began := time.Now()
		for _, row := range rows {
			if err := direct.run(row); err != nil {
				return nil, err
			}
		}
		if round > 0 {
			take("direct", time.Since(began))
		}
		began = time.Now()
		for _, row := range rows {
			if err := runPooled(ctx, pooled, row); err != nil {
				return nil, err
			}
		}
		if round > 0 {
			take("pooled", time.Since(began))
		}
	}
	us := map[string]float64{}
	for name, s := range samples {
		us[name] = measure.Median(s)
	}
	// How two things compare is the median over the rounds of their ratio in one round: a round is short, so that what else the machine does slows
	// both sides of it.
	against := func(name string, floor ...string) float64 {
		ratios := make([]float64, b.rounds)
		for i := range ratios {
			sum := 0.0
			for _, f := range floor {
				sum += samples[f][i]
			}
			ratios[i] = samples[name][i] / sum
		}
		return measure.Median(ratios)
	}
	numbers := map[string]float64{
		"predict_us": us["array"], "noop_us": us["noop"], "noop_signed_beforehand_us": us["noop, signed beforehand"], "onnxruntime_us": us["direct"],
		"noop_by_function_us": us["noop by function"], "onnxruntime_pooled_us": us["pooled"], "record_us": us["record"], "jsonb_us": us["jsonb"], "text_us": us["text"],
	}
	results := []measure.Result{measure.Result{
		What:     "scalar predict, by array, against no-op call + ONNX Runtime",
		Measured: fmt.Sprintf("%.1f µs against %.1f + %.1f µs", us["array"], us["noop"], us["direct"]),
		Ratio:    against("array", "noop", "direct"), Numbers: numbers,
		Notes: []string{
			fmt.Sprintf("a no-op call is %s.dblink_exec() on a signed body, in SQL without a function around it", b.dblink),
			fmt.Sprintf("made by ml_private.exchange(), as SQL functions make calls, it takes %.1f µs: ratio %.2f",
				us["noop by function"], against("array", "noop by function", "direct")),
			fmt.Sprintf("with a code computed beforehand it takes %.1f µs, and ONNX Runtime by Rowcast's pooled tensors %.1f µs: ratio %.2f",
				us["noop, signed beforehand"], us["pooled"], against("array", "noop, signed beforehand", "pooled")),
		},
	}.AtMost(1.25, "")}
	for _, form := range []string{"record", "jsonb", "text"} {
		results = append(results, measure.Result{
			What:     "  the same by " + form,
			Measured: fmt.Sprintf("%.1f µs", us[form]), Ratio: against(form, "noop", "direct"),
		})
	}
	return results, nil
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// smallRows are the rows that the SQL loops use.
func (b *bench) smallRows(ctx context.Context) ([][]float32, error) {
	rows, err := b.Conn.Query(ctx, "SELECT features::real[] FROM bench.one")
	if err != nil {
		return nil, postgres.Error(err)
	}
	var list [][]float32
	for rows.Next() {
		var row []float32
		if err := rows.Scan(&row); err != nil {
			rows.Close()
			return nil, postgres.Error(err)
		}
		list = append(list, row)
	}
	return list, postgres.Error(rows.Err())
}

// direct is ONNX Runtime through its Go binding as its documentation shows it: new tensors for every run, freed afterwards.
type direct struct{ session *ort.DynamicAdvancedSession }

func newDirect(model []byte, features int) (*direct, error) {
	g, err := onnx.Inspect(model)
	if err != nil {
		return nil, err
	}
	session, err := ort.NewDynamicAdvancedSessionWithONNXData(model, []string{g.Inputs[0].Name}, []string{g.Outputs[0].Name, g.Outputs[1].Name}, nil)
	if err != nil {
		return nil, err
	}
	d := &direct{session: session}
	return d, d.run(make([]float32, features))
}

func (d *direct) run(row []float32) error {
	input, err := ort.NewTensor(ort.NewShape(1, int64(len(row))), row)
	if err != nil {
		return err
	}
	defer func() { _ = input.Destroy() }()
	outputs := []ort.Value{nil, nil} // ONNX Runtime allocates them
	if err := d.session.Run([]ort.Value{input}, outputs); err != nil {
		return err
	}
	for _, o := range outputs {
		if err := o.Destroy(); err != nil {
			return err
		}
	}
	return nil
}

func (d *direct) close() { _ = d.session.Destroy() }

func runPooled(ctx context.Context, s *onnx.Session, row []float32) error {
	binding, err := s.Acquire(1)
	if err != nil {
		return err
	}
	defer s.Release(binding)
	copy(binding.Inputs()[0].Data.([]float32), row)
	return binding.Run(ctx)
}
