package onnx

import (
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/rowcast/rowcast/internal/rowcast"
	ort "github.com/yalue/onnxruntime_go"
)

// Binding is a set of tensors for a fixed number of rows. One goroutine uses it at a time. The first run lets ONNX Runtime allocate the outputs; later
// runs write into the same memory.
type Binding struct {
	session *Session
	rows    int

	inputs  []Tensor    // live
	values  []ort.Value // what ONNX Runtime sees of them
	staging [][]float32 // per input: the float32 form of a float16 input, else nil
	text    []bool      // per input: its strings are copied at each run

	outputs []Tensor
	bound   []ort.Value // nil elements: ONNX Runtime allocates

	watch *watch
	bytes int
}

// Acquire returns a binding for that many rows, from the pool where there is one. Errors: CodeDimensions where the graph fixes another number of rows or
// leaves open a dimension that nothing else tells.
func (s *Session) Acquire(rows int) (*Binding, error) {
	if b := s.pool.take(rows); b != nil {
		return b, nil
	}
	if rows < 0 {
		return nil, rowcast.Errorf(rowcast.CodeDimensions, "a run can't have %d rows", rows)
	}
	w, err := newWatch()
	if err != nil {
		return nil, err
	}
	b := &Binding{
		session: s, rows: rows, watch: w, bound: make([]ort.Value, s.outputNames), staging: make([][]float32, len(s.inputs)),
		text: make([]bool, len(s.inputs)),
	}
	for i := range s.inputs {
		if err := b.bindInput(i, &s.inputs[i]); err != nil {
			b.destroy()
			return nil, err
		}
	}
	return b, nil
}

func (b *Binding) bindInput(i int, port *border) error {
	shape, err := rowShape(port.port, b.rows)
	if err != nil {
		return err
	}
	n := Len(shape)
	if n < 0 || n > 1<<31 {
		return rowcast.Errorf(rowcast.CodeTooLarge, "%d rows are too many for input %q", b.rows, port.port.Name)
	}
	t := Tensor{Name: port.port.Name, DType: port.port.DType, Shape: shape, Data: MakeData(port.port.DType, int(n))}
	data := t.Data
	if port.half {
		b.staging[i] = make([]float32, n)
		data = b.staging[i]
	}
	outside := shape
	if port.flat {
		outside = []int64{1}
	}
	v, err := newValue(outside, data)
	if err != nil {
		return rowcast.Errorf(rowcast.CodeInternal, "input %q can't become a tensor", t.Name).WithCause(err)
	}
	b.text[i] = t.DType == rowcast.String
	b.inputs, b.values = append(b.inputs, t), append(b.values, v)
	b.bytes += t.Bytes()
	return nil
}

// rowShape puts the number of rows into a port's first dimension.
func rowShape(p rowcast.Port, rows int) ([]int64, error) {
	if p.Shape == nil {
		return nil, rowcast.Errorf(rowcast.CodeDimensions, "input %q has no declared shape: name its tensor with ml.infer", p.Name)
	}
	shape := append([]int64{}, p.Shape...)
	for i, d := range shape {
		switch {
		case i == 0 && d < 0:
			shape[0] = int64(rows)
		case i == 0 && d != int64(rows):
			return nil, rowcast.Errorf(rowcast.CodeDimensions, "input %q takes %d rows per run, not %d", p.Name, d, rows)
		case d < 0:
			return nil, rowcast.Errorf(rowcast.CodeDimensions, "input %q leaves its dimension %d open: name its tensor with ml.infer", p.Name, i+1)
		}
	}
	return shape, nil
}

// Rows is the number of rows that the binding was acquired for.
func (b *Binding) Rows() int { return b.rows }

// Inputs are live: fill their Data in place, element by element.
func (b *Binding) Inputs() []Tensor { return b.inputs }

// Outputs are valid until the next Run or Release.
func (b *Binding) Outputs() []Tensor { return b.outputs }

// Run runs the graph on what Inputs hold. See Session.Run for ctx and errors.
func (b *Binding) Run(ctx context.Context) error {
	if err := b.stage(); err != nil {
		return err
	}
	if b.session.dynamic.Load() {
		b.unbind()
	}
	bound := b.bound[0] != nil
	err := b.session.run(ctx, b.watch, b.values, b.bound)
	if b.watch.spent {
		if err := b.renew(); err != nil {
			return err
		}
	}
	if err != nil && bound && shapeDisagrees(err) {
		b.session.dynamic.Store(true)
		return b.Run(ctx)
	}
	if err != nil {
		return err
	}
	b.outputs, err = b.session.read(b.bound, b.outputs)
	return err
}

// stage copies what ONNX Runtime can't see in place: text, and float16 as float32.
func (b *Binding) stage() error {
	for i := range b.inputs {
		switch {
		case b.text[i]:
			if err := setStrings(b.values[i], b.inputs[i].Data.([]string)); err != nil {
				return rowcast.Errorf(rowcast.CodeFeatureType, "input %q can't take this text", b.inputs[i].Name).WithCause(err)
			}
		case b.staging[i] != nil:
			widen(b.inputs[i].DType, b.staging[i], b.inputs[i].Data.([]uint16))
		}
	}
	return nil
}

func setStrings(v ort.Value, list []string) error {
	return v.(*ort.StringTensor).SetContents(list)
}

// shapeDisagrees recognises ONNX Runtime's refusal to write into an output of another shape than it makes now.
func shapeDisagrees(err error) bool {
	var e *rowcast.Error
	return errors.As(err, &e) && (strings.Contains(e.Detail, "pre-allocated output OrtValues") || strings.Contains(e.Detail, "Got invalid dimensions for output") ||
		strings.Contains(e.Detail, "shape verification failed"))
}

func (b *Binding) unbind() {
	destroyAll(b.bound)
	clear(b.bound)
}

func (b *Binding) renew() error {
	w, err := newWatch()
	if err != nil {
		return err
	}
	b.watch.destroy()
	b.watch = w
	return nil
}

func (b *Binding) destroy() {
	destroyAll(b.values)
	b.unbind()
	b.values = nil
	b.watch.destroy()
}

// Release gives the binding back. Its tensors must not be used any more.
func (s *Session) Release(b *Binding) {
	if b == nil {
		return
	}
	if s.dynamic.Load() {
		b.unbind()
	}
	if !s.pool.put(b) {
		b.destroy()
	}
}

// Bounds of what a session keeps for the next call.
const (
	maxPooledRowCounts = 16
	maxPooledBytes     = 8 << 20 // of input tensors
	maxPooledPerCount  = 64
)

// bindingPool keeps bindings by their number of rows.
type bindingPool struct {
	mu     sync.Mutex
	free   map[int][]*Binding
	bytes  int
	closed bool
}

func (p *bindingPool) take(rows int) *Binding {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.free[rows]
	if len(list) == 0 {
		return nil
	}
	b := list[len(list)-1]
	p.free[rows] = list[:len(list)-1]
	p.bytes -= b.bytes
	return b
}

func (p *bindingPool) put(b *Binding) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.bytes+b.bytes > maxPooledBytes || len(p.free[b.rows]) >= maxPooledPerCount {
		return false
	}
	if _, known := p.free[b.rows]; !known && len(p.free) >= maxPooledRowCounts && !p.evict() {
		return false
	}
	if p.free == nil {
		p.free = map[int][]*Binding{}
	}
	p.free[b.rows] = append(p.free[b.rows], b)
	p.bytes += b.bytes
	return true
}

// evict forgets one number of rows that nobody holds ready, so that a new one finds room.
func (p *bindingPool) evict() bool {
	for rows, list := range p.free {
		if rows == 1 {
			continue
		}
		for _, b := range list {
			p.bytes -= b.bytes
			b.destroy()
		}
		delete(p.free, rows)
		return true
	}
	return false
}

func (p *bindingPool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, list := range p.free {
		for _, b := range list {
			b.destroy()
		}
	}
	p.free, p.closed = nil, true
}
