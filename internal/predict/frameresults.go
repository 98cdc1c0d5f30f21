package predict

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// rowsPerRun is how many rows go through a graph at once where it leaves that open.
const rowsPerRun = 1024

// Results are the answers to the rows of a Frame, in their order. They are valid until the Frame's next Run or Close.
type Results struct {
	Rows   int
	Values []float64 // the regression's value or the class as a number, as predict answers; nil where the labels are text
	Labels []string  // the class as text, as predict_label answers; nil for a regression

	// Probabilities has Width values per row, in the order of the signature's labels, as predict_proba answers; nil unless WantProbabilities
	// was called.
	Probabilities []float64
	Width         int
}

// WantProbabilities makes runs return probabilities. A model without them is an error, that of predict_proba.
func (f *Frame) WantProbabilities() error {
	call := f.call
	call.Verb = rowcast.VerbProba
	if err := f.model.refuse(&call); err != nil {
		return err
	}
	f.wants = true
	return nil
}

// RowError is an error that one row of a run caused.
type RowError struct {
	Row int // its position in the Frame, from 0
	Err *rowcast.Error
}

// Error is that of the row.
func (e *RowError) Error() string { return e.Err.Error() }

// Unwrap returns the error of the row.
func (e *RowError) Unwrap() error { return e.Err }

// Run runs the rows that the Frame holds; they stay until Reset. A ctx that ends stops it through ONNX Runtime's terminate flag. Where the model
// fails on a row or has no answer for it the error is a *RowError.
func (f *Frame) Run(ctx context.Context) (*Results, error) {
	r, err := f.begin()
	if err != nil {
		return nil, err
	}
	slot := f.engine.tracker.Enter(f.entry.sha)
	defer f.engine.tracker.Leave(slot)
	for from := 0; from < f.rows; from += f.perRun {
		if err := f.runPart(ctx, from, min(f.perRun, f.rows-from)); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// runWide is Run on the cores that no other batch has taken. It gives no probabilities. Where answers depend on the rows of the same run they are
// those of Run: the parts are the same.
func (f *Frame) runWide(ctx context.Context) (*Results, error) {
	parts := (f.rows + f.perRun - 1) / f.perRun
	helpers := 0
	for helpers < parts-1 && f.engine.help() {
		helpers++
	}
	if helpers == 0 {
		return f.Run(ctx)
	}
	r, err := f.begin()
	if err != nil {
		f.engine.thank(helpers)
		return nil, err
	}
	var next atomic.Int64
	var failed atomic.Bool
	errs := make([]error, parts)
	work := func() {
		slot := f.engine.tracker.Enter(f.entry.sha)
		defer f.engine.tracker.Leave(slot)
		for part := int(next.Add(1)) - 1; part < parts && !failed.Load(); part = int(next.Add(1)) - 1 {
			from := part * f.perRun
			if errs[part] = f.runPart(ctx, from, min(f.perRun, f.rows-from)); errs[part] != nil {
				failed.Store(true)
			}
		}
	}
	var wg sync.WaitGroup
	for range helpers {
		wg.Go(func() {
			defer f.engine.thank(1)
			work()
		})
	}
	work()
	wg.Wait()
	for _, err := range errs { // parts are taken in order, so the first error is that of the first row
		if err != nil {
			return nil, err
		}
	}
	return r, nil
}

// help takes a core where one is free.
func (e *Engine) help() bool {
	select {
	case e.helpers <- struct{}{}:
		return true
	default:
		return false
	}
}

// thank gives cores back.
func (e *Engine) thank(n int) {
	for range n {
		<-e.helpers
	}
}

// begin makes room for answers: a slice is nil where the model has no such answer, or it is not wanted, and not where there are no rows.
func (f *Frame) begin() (*Results, error) {
	if err := f.usable(); err != nil {
		return nil, err
	}
	r := &f.results
	r.Rows, r.Width = f.rows, 0
	if !f.model.textLabels() {
		r.Values = slices.Grow(r.Values[:0], f.rows+1)[:f.rows]
	}
	if f.model.signature.Task != rowcast.TaskRegression {
		r.Labels = slices.Grow(r.Labels[:0], f.rows+1)[:f.rows]
	}
	if f.wants {
		r.Probabilities = slices.Grow(r.Probabilities[:0], f.rows+1)
	}
	return r, nil
}

// runPart runs n rows from a position on and reads their answers. What a graph's fixed batch has left over is filled with the last row.
func (f *Frame) runPart(ctx context.Context, from, n int) error {
	size := n
	if f.model.signature.Batch > 0 {
		size = f.perRun
	}
	b, err := f.model.session.Acquire(size)
	if err != nil {
		return withModel(&f.call, err)
	}
	defer f.model.session.Release(b)
	for i := range b.Inputs() {
		f.copyRows(b.Inputs()[i].Data, f.filler.inputs[i].Data, f.filler.widths[i], from, n, size)
	}
	if err := b.Run(ctx); err != nil {
		if n > 1 && rowcast.CodeOf(err) == rowcast.CodeModelFailed {
			return f.blame(ctx, from, n, err)
		}
		return f.rowError(from, n, err)
	}
	a := answer{model: f.model, call: &f.call, outputs: f.model.inOrder(b.Outputs()), rows: size}
	return f.read(&a, from, n)
}

func (f *Frame) rowError(from, n int, err error) error {
	err = withModel(&f.call, err)
	var e *rowcast.Error
	if n == 1 && errors.As(err, &e) && e.Code == rowcast.CodeModelFailed {
		return &RowError{Row: from, Err: e}
	}
	return err
}

// blame finds the row that made a run fail, by running rows alone. Where none fails by itself, the rows together did.
func (f *Frame) blame(ctx context.Context, from, n int, whole error) error {
	probabilities := len(f.results.Probabilities)
	defer func() { f.results.Probabilities = f.results.Probabilities[:probabilities] }()
	for i := range n {
		if err := f.runPart(ctx, from+i, 1); err != nil {
			return err
		}
	}
	return withModel(&f.call, whole)
}

// copyRows copies n rows into a run's tensor of size rows and repeats the last.
func (f *Frame) copyRows(dst, src any, width, from, n, size int) {
	switch d := dst.(type) {
	case []float32:
		copyRows(d, src.([]float32), width, from, n, size)
	case []float64:
		copyRows(d, src.([]float64), width, from, n, size)
	case []int8:
		copyRows(d, src.([]int8), width, from, n, size)
	case []int16:
		copyRows(d, src.([]int16), width, from, n, size)
	case []int32:
		copyRows(d, src.([]int32), width, from, n, size)
	case []int64:
		copyRows(d, src.([]int64), width, from, n, size)
	case []uint8:
		copyRows(d, src.([]uint8), width, from, n, size)
	case []uint16:
		copyRows(d, src.([]uint16), width, from, n, size)
	case []uint32:
		copyRows(d, src.([]uint32), width, from, n, size)
	case []uint64:
		copyRows(d, src.([]uint64), width, from, n, size)
	case []bool:
		copyRows(d, src.([]bool), width, from, n, size)
	case []string:
		copyRows(d, src.([]string), width, from, n, size)
	}
}

func copyRows[T any](dst, src []T, width, from, n, size int) {
	copy(dst, src[from*width:(from+n)*width])
	for i := n; i < size; i++ {
		copy(dst[i*width:(i+1)*width], src[(from+n-1)*width:])
	}
}

// read reads the answers of a run's first n rows.
func (f *Frame) read(a *answer, from, n int) error {
	r := &f.results
	if f.wants {
		if err := f.readProbabilities(a, from, n); err != nil {
			return err
		}
	}
	sig := f.model.signature
	if sig.Task == rowcast.TaskRegression {
		t, width := a.port(sig.ValueOutput)
		if width != 1 {
			return severalValues(a.call, plural(width, "value"))
		}
		readValues(r.Values[from:from+n], t)
		return nil
	}
	for a.row = range n {
		l, err := a.class()
		if err != nil {
			return f.rowError(from+a.row, 1, err)
		}
		if !l.textual {
			l.text = strconv.FormatInt(l.number, 10)
			if r.Values != nil {
				r.Values[from+a.row] = float64(l.number)
			}
		} else if f.call.Verb == rowcast.VerbPredict {
			return textLabel(a.call)
		}
		r.Labels[from+a.row] = storable(l.text)
	}
	return nil
}

// readValues reads numbers as the doubles that PostgreSQL makes of their decimals.
func readValues(dst []float64, t *onnx.Tensor) {
	switch d := t.Data.(type) {
	case []float64:
		copy(dst, d)
	case []float32:
		for i := range dst {
			dst[i] = decimal32(d[i])
		}
	default:
		for i := range dst {
			v, bits := onnx.FloatAt(d, t.DType, i)
			if bits == 32 {
				v = decimal32(float32(v))
			}
			dst[i] = v
		}
	}
}

func (f *Frame) readProbabilities(a *answer, from, n int) error {
	r := &f.results
	for a.row = range n {
		width, err := a.eachProbability(func(_ int, p float64, bits int) {
			if bits == 32 {
				p = decimal32(float32(p))
			}
			r.Probabilities = append(r.Probabilities, p)
		})
		switch {
		case err != nil:
			return f.rowError(from+a.row, 1, err)
		case width == 0:
			return severalValues(a.call, "no probability")
		}
		r.Width = width
	}
	return nil
}

// storable is text as PostgreSQL can hold it, see appendText.
func storable(s string) string {
	if utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 {
		return s
	}
	return string(appendText(nil, s))
}
