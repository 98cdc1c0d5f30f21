package main

import (
	"context"
	"fmt"
	"runtime"

	"github.com/rowcast/rowcast/internal/jobclient"
	"github.com/rowcast/rowcast/internal/measure"
	"github.com/rowcast/rowcast/internal/postgres"
)

const (
	scores   = schema + ".scores"
	byPython = "by_python" // found by the script through its search_path
)

// score runs a job from a table into a new one and returns the seconds from ml.score() to its end, by the database's clock.
func (b *bench) score(ctx context.Context, model, from string, o jobclient.Options) (float64, error) {
	if err := b.Exec(ctx, "DROP TABLE IF EXISTS "+scores, "CHECKPOINT"); err != nil {
		return 0, err
	}
	id, err := b.jobs.Score(ctx, jobclient.Request{
		Model: model, Source: from, Target: scores, Key: "id", Mode: jobclient.ModeCreate, OnError: jobclient.OnErrorStop, Options: o,
	})
	if err != nil {
		return 0, err
	}
	j, err := b.jobs.Watch(ctx, id, func(jobclient.Update) {})
	if err != nil {
		return 0, err
	}
	if j.State != jobclient.StateDone {
		return 0, fmt.Errorf("job %d is %s: %s %s", j.ID, j.State, j.Error, j.Hint)
	}
	return j.FinishedAt.Sub(j.CreatedAt).Seconds(), nil
}

// turns are the seconds of each thing in each turn.
type turns map[string][]float64

func (t turns) add(name string, seconds float64) { t[name] = append(t[name], seconds) }

// sum adds things up turn by turn.
func (t turns) sum(names ...string) []float64 {
	total := make([]float64, len(t[names[0]]))
	for _, n := range names {
		for i, s := range t[n] {
			total[i] += s
		}
	}
	return total
}

func (b *bench) measureTrees(ctx context.Context) ([]measure.Result, error) {
	return b.measureJob(ctx, trees, []string{gradeExpert, gradeCopy, gradePandas})
}

func (b *bench) measureLinear(ctx context.Context) ([]measure.Result, error) {
	return b.measureJob(ctx, linear, []string{gradeExpert, gradeCopy})
}

// measureJob compares a job with Python's grades, and with the processor time that its three parts need when each is done alone, by the simplest
// means: COPY of the source to nowhere, ONNX Runtime over the same rows in one thread, COPY of the finished target into a table.
func (b *bench) measureJob(ctx context.Context, model string, grades []string) ([]measure.Result, error) {
	if b.python == nil {
		grades = nil
	}
	t := turns{}
	matrix, err := b.matrix(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := b.score(ctx, model, source, jobclient.Options{}); err != nil { // the model is loaded, caches are filled
		return nil, err
	}
	differs := 0.0
	for round := range b.rounds {
		seconds, err := b.score(ctx, model, source, jobclient.Options{})
		if err != nil {
			return nil, err
		}
		t.add("job", seconds)
		for _, grade := range grades {
			if grade == gradePandas && round > 0 { // it takes a minute and is told for comparison only
				continue
			}
			if seconds, err = b.python.run(ctx, b, model, grade); err != nil {
				return nil, err
			}
			t.add(grade, seconds)
			if round == 0 && grade == gradeExpert {
				if differs, err = b.compare(ctx); err != nil {
					return nil, err
				}
			}
		}
		for _, cost := range []struct {
			name    string
			measure func() (used, error)
		}{
			{"copy out", func() (used, error) { return b.copyOut(ctx, source) }},
			{"model", func() (used, error) { return b.runModel(ctx, model, matrix, modelBatch, 1) }},
			{"copy in", func() (used, error) { return b.copyIn(ctx) }},
		} {
			u, err := cost.measure()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", cost.name, err)
			}
			t.add(cost.name, u.processor)
			t.add(cost.name+" wall", u.wall)
		}
	}
	return b.judgeJob(model, t, differs), nil
}

func (b *bench) judgeJob(model string, t turns, differs float64) []measure.Result {
	rate := func(name string) float64 { return float64(b.rows) / measure.Median(t[name]) }
	cores := float64(runtime.NumCPU())
	needed := t.sum("copy out", "model", "copy in")
	for i := range needed {
		needed[i] /= cores
	}
	results := []measure.Result{measure.Result{
		What:     fmt.Sprintf("%s: job, table to table, against the processor time of its parts alone, on all cores", model),
		Measured: fmt.Sprintf("%.2f s against %.2f s", measure.Median(t["job"]), measure.Median(needed)),
		Ratio:    measure.MedianRatio(t["job"], needed),
		Numbers: map[string]float64{
			"job_s": measure.Median(t["job"]), "job_rows_per_s": rate("job"), "copy_out_cpu_s": measure.Median(t["copy out"]),
			"model_cpu_s": measure.Median(t["model"]), "copy_in_cpu_s": measure.Median(t["copy in"]), "copy_out_s": measure.Median(t["copy out wall"]),
			"model_s": measure.Median(t["model wall"]), "copy_in_s": measure.Median(t["copy in wall"]),
		},
		Notes: []string{fmt.Sprintf("%.0f rows/s; processor seconds: COPY out %.2f, ONNX Runtime %.2f, COPY in %.2f",
			rate("job"), measure.Median(t["copy out"]), measure.Median(t["model"]), measure.Median(t["copy in"]))},
	}.AtMost(1.3, "")}
	bounds := map[string]float64{gradeExpert: 1.7, gradeCopy: 3}
	for _, grade := range []string{gradeExpert, gradeCopy, gradePandas} {
		r := measure.Result{What: fmt.Sprintf("%s: job against Python, %s", model, gradeNames[grade])}
		switch {
		case b.python == nil && grade != gradePandas:
			r.Measured = "skipped: " + b.absent
			results = append(results, r)
			continue
		case len(t[grade]) == 0:
			continue
		}
		rows := b.rows
		if grade == gradePandas {
			rows = min(rows, pandasRows)
		}
		theirs := make([]float64, len(t[grade]))
		for i, s := range t[grade] {
			theirs[i] = s * float64(b.rows) / float64(rows)
		}
		r.Ratio = measure.MedianRatio(theirs, t["job"])
		r.Measured = fmt.Sprintf("%.0f against %.0f rows/s", rate("job"), float64(b.rows)/measure.Median(theirs))
		r.Numbers = map[string]float64{"python_rows_per_s": float64(b.rows) / measure.Median(theirs), "largest_difference": differs}
		if bound := bounds[grade]; bound > 0 {
			r = r.AtLeast(bound, 0)
		}
		if grade == gradeExpert {
			r.Notes = []string{fmt.Sprintf("the largest difference (relative; absolute below 1) between the two sides' predictions is %.1e", differs)}
		}
		results = append(results, r)
	}
	return results
}

// agree is how far the two sides may be apart: Python runs XGBoost's file as it is, which adds the base score last; Rowcast adds it first, as XGBoost
// itself does, and single precision rounds the two differently.
const agree = 1e-4

// compare makes sure that the job and Python's last run gave the same answers to the same rows, and returns the largest difference (relative; absolute
// below 1).
func (b *bench) compare(ctx context.Context) (float64, error) {
	var rows int
	var largest float64
	err := b.Conn.QueryRow(ctx, "SELECT count(*), coalesce(max(abs(a.prediction - b.prediction) / greatest(1, abs(b.prediction))), 'NaN') FROM "+scores+" a JOIN "+
		schema+"."+byPython+" b USING (id)").Scan(&rows, &largest)
	if err != nil {
		return 0, postgres.Error(err)
	}
	if rows != b.rows || !(largest < agree) {
		return 0, fmt.Errorf("the job's predictions are not Python's: %d common rows of %d, largest difference %g", rows, b.rows, largest)
	}
	return largest, nil
}
