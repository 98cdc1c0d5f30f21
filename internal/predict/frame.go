package predict

import (
	"context"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// Column is one column of the rows that a Frame takes.
type Column struct {
	Name string
	OID  uint32 // of its type
}

// A Frame gathers rows and runs them through a model together. Values come in PostgreSQL's binary format and go straight into tensors; what a
// feature accepts, its defaults and its missing values are those of a single row, and so are the answers: a row's answer equals that of predict
// with a record of the same columns.
//
// One goroutine uses a Frame at a time; any number may have one of the same model. The model stays loaded until Close, so an Engine that closes
// waits for that.
//
// Where a model's answers depend on the rows of the same run (Signature.BatchDependent: a dynamically quantised network) they differ a little from
// those of single rows. Never put rows of different callers into one Frame of such a model.
type Frame struct {
	engine  *Engine
	entry   *entry
	model   *model
	call    rowcast.Call // for messages
	filler  filler
	sources []source
	columns int

	capacity int
	rows     int
	perRun   int // rows per run of the graph
	wants    bool
	results  Results
	numeric  numericText
}

// maxFrameBytes bounds the memory of a Frame's tensors.
const maxFrameBytes = 1 << 30

// NewFrame returns a Frame for rows of columns, of which it takes capacity. spec is the key of the version's Spec; model and version go into
// messages. Columns that are no feature are ignored. Errors, beside those of loading a model: CodeMissingFeature where a feature has no column and
// no default, CodeFeatureType where a column's type can't be read, CodeResultType where a row of the model has no single answer.
func (e *Engine) NewFrame(ctx context.Context, spec, model string, version int, columns []Column, capacity int) (*Frame, error) {
	en, err := e.acquire(ctx, spec)
	c := &rowcast.Call{Spec: spec, Model: model, Version: version}
	if err != nil {
		return nil, withModel(c, err)
	}
	return e.frameOf(en, c, columns, capacity)
}

// frameOf makes a Frame of a loaded model, whose entry it takes over.
func (e *Engine) frameOf(en *entry, c *rowcast.Call, columns []Column, capacity int) (*Frame, error) {
	f := &Frame{
		engine: e, entry: en, model: en.model, capacity: max(capacity, 1), columns: len(columns),
		call: rowcast.Call{Verb: rowcast.VerbPredict, Spec: c.Spec, Model: c.Model, Version: c.Version, Format: rowcast.FormatRecord},
	}
	if err := f.prepare(columns); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (f *Frame) prepare(columns []Column) error {
	m := f.model
	if m.textLabels() {
		f.call.Verb = rowcast.VerbLabel
	}
	if err := m.refuse(&f.call); err != nil {
		return err
	}
	f.filler = filler{plan: m.plan, call: &f.call}
	if m.plan.tensors {
		return f.filler.fill() // which says so
	}
	if err := f.bind(columns); err != nil {
		return err
	}
	if err := f.allocate(); err != nil {
		return err
	}
	f.quicken()
	return f.presetAbsent()
}

// allocate makes the tensors that rows are gathered in. A run gets a copy of a part of them: that costs a hundredth of a small model's run and
// lets runs be as large as the graph or the processor's cache likes.
func (f *Frame) allocate() error {
	sig := f.model.signature
	f.perRun = rowsPerRun
	if sig.Batch > 0 {
		f.perRun = sig.Batch
	}
	probe, err := f.model.session.Acquire(max(sig.Batch, 1))
	if err != nil {
		return withModel(&f.call, err)
	}
	defer f.model.session.Release(probe)
	bytes := 0
	for _, t := range probe.Inputs() {
		bytes += onnx.DataLen(t.Data) / probe.Rows() * f.capacity * 8
	}
	if bytes > maxFrameBytes {
		return about(&f.call, rowcast.CodeTooLarge, "cannot take %d rows at once", f.capacity).WithHint("Take fewer rows at a time.")
	}
	for _, t := range probe.Inputs() {
		width := onnx.DataLen(t.Data) / probe.Rows()
		f.filler.widths = append(f.filler.widths, width)
		f.filler.inputs = append(f.filler.inputs, onnx.Tensor{Name: t.Name, DType: t.DType, Data: onnx.MakeData(t.DType, f.capacity*width)})
	}
	return nil
}

// presetAbsent writes what stands for features without a column into every row, once: no row overwrites it.
func (f *Frame) presetAbsent() error {
	if len(f.sources) == 0 {
		return f.filler.stranger()
	}
	seen := make([]bool, len(f.model.plan.features))
	for i := range f.sources {
		seen[f.sources[i].at] = true
	}
	for i := range f.model.plan.features {
		if seen[i] {
			continue
		}
		feature := &f.model.plan.features[i]
		if feature.fallback.kind == cellAbsent && !feature.missing {
			return f.filler.absent(seen)
		}
		for f.filler.row = range f.capacity {
			if err := f.filler.store(feature, cell{kind: cellAbsent}); err != nil {
				return err
			}
		}
	}
	return nil
}

// Append takes a row: its values in the order of the columns, in PostgreSQL's binary format, nil for NULL. The values may be overwritten afterwards.
// An error names the feature, and the Frame is as it was before.
func (f *Frame) Append(row [][]byte) error {
	switch {
	case len(row) != f.columns:
		return about(&f.call, rowcast.CodeProtocol, ": a row of %s came where there are %d columns", plural(len(row), "value"), f.columns)
	case f.rows == f.capacity:
		return about(&f.call, rowcast.CodeInternal, ": a frame of %s is full", plural(f.capacity, "row"))
	}
	f.filler.row = f.rows
	for i := range f.sources {
		s := &f.sources[i]
		if err := f.take(s, row[s.column]); err != nil {
			return err
		}
	}
	f.rows++
	return nil
}

// take stores one value. What is most common goes by without a look at the rules, since they have nothing to say about a finite number.
func (f *Frame) take(s *source, value []byte) error {
	if s.quick && value != nil {
		x, ok := s.number(value)
		switch at := f.rows*s.width + s.feature.column; {
		case !ok:
		case s.float32s != nil:
			if v := float32(x); v-v == 0 {
				s.float32s[at] = v
				return nil
			}
		case x-x == 0:
			s.float64s[at] = x
			return nil
		}
	}
	c, err := f.cell(s, value)
	if err != nil {
		return err
	}
	return f.filler.store(s.feature, c)
}

// Len is the number of rows that were taken since the last Reset.
func (f *Frame) Len() int { return f.rows }

// Reset empties the Frame.
func (f *Frame) Reset() { f.rows = 0 }

// Signature is that of the model. It must not be changed.
func (f *Frame) Signature() *rowcast.Signature { return f.model.signature }

// Close lets go of the model. A second call does nothing.
func (f *Frame) Close() {
	if f.entry != nil {
		f.engine.release(f.entry)
		f.entry = nil
	}
}

// usable reports whether the model may still run: it may have been quarantined since the Frame was made.
func (f *Frame) usable() error {
	if f.entry == nil {
		return about(&f.call, rowcast.CodeInternal, ": its frame is closed")
	}
	if !f.entry.dropped.Load() {
		return nil
	}
	f.engine.mu.RLock()
	defer f.engine.mu.RUnlock()
	if reason, ok := f.engine.quarantine[f.entry.sha]; ok {
		return withModel(&f.call, quarantined(f.entry.sha, reason))
	}
	return nil
}
