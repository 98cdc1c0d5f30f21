package onnx

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/rowcast/rowcast/internal/rowcast"
	ort "github.com/yalue/onnxruntime_go"
)

// Session is a loaded model. Its methods may be called from many goroutines.
type Session struct {
	inputs, outputs []border
	outputNames     int // names that a run asks for; flattened outputs take two
	bytes           int

	mu      sync.RWMutex // held for reading by every run, so that Close waits for them
	session *ort.DynamicAdvancedSession

	pool    bindingPool
	dynamic atomic.Bool // the shape of an output depends on more than the number of rows, so outputs can't be bound ahead
}

// NewSession loads a model into ONNX Runtime. inputs, which may be nil, are ports that say more than the graph does (the width of a matrix that the
// graph leaves open); names that the graph lacks are ignored. Errors: CodeArtifactRefused for what Inspect or ONNX Runtime does not accept,
// CodeOutOfMemory.
func (r *Runtime) NewSession(model []byte, inputs ...rowcast.Port) (*Session, error) {
	g, err := Inspect(model)
	if err != nil {
		return nil, err
	}
	return r.newSession(model, g, inputs)
}

func (r *Runtime) newSession(model []byte, g *Graph, known []rowcast.Port) (*Session, error) {
	adapted, err := adapt(model, g)
	if err != nil {
		return nil, err
	}
	s := &Session{inputs: adapted.inputs, outputs: adapted.outputs, bytes: len(model)}
	inputNames := make([]string, len(s.inputs))
	for i := range s.inputs {
		b := &s.inputs[i]
		inputNames[i] = b.name
		if p, ok := Port(known, b.port.Name); ok && p.Shape != nil && !b.flat {
			b.port.Shape = p.Shape
		}
	}
	var outputNames []string
	for _, b := range s.outputs {
		outputNames = append(outputNames, b.name)
		if b.shape != "" {
			outputNames = append(outputNames, b.shape)
		}
	}
	s.outputNames = len(outputNames)
	options, err := r.sessionOptions()
	if err != nil {
		return nil, rowcast.Errorf(rowcast.CodeInternal, "can't set ONNX Runtime's session options").WithCause(err)
	}
	defer func() { _ = options.Destroy() }()
	s.session, err = ort.NewDynamicAdvancedSessionWithONNXData(adapted.model, inputNames, outputNames, options)
	if err != nil {
		return nil, r.loadError(err)
	}
	if len(model) > 1<<20 {
		trimHeap() // loading holds the parsed file beside the weights for a while
	}
	return s, nil
}

// sessionOptions: one thread per run unless configured, no spinning, and no arena, so that memory goes back to the system after a large batch and after
// Close.
func (r *Runtime) sessionOptions() (*ort.SessionOptions, error) {
	o, err := ort.NewSessionOptions()
	if err != nil {
		return nil, err
	}
	err = errors.Join(
		o.SetIntraOpNumThreads(r.threads), o.SetInterOpNumThreads(1), o.SetExecutionMode(ort.ExecutionModeSequential),
		o.SetCpuMemArena(false), o.SetMemPattern(false), o.SetLogSeverityLevel(ort.LoggingLevelFatal),
		o.AddSessionConfigEntry("session.intra_op.allow_spinning", "0"),
		o.AddSessionConfigEntry("session.inter_op.allow_spinning", "0"),
	)
	if err != nil {
		_ = o.Destroy()
		return nil, err
	}
	return o, nil
}

// Inputs are the ports as callers fill them.
func (s *Session) Inputs() []rowcast.Port { return ports(s.inputs) }

// Outputs are the ports as a run returns them: Maps is true only for a sequence of maps that could not be rewritten to its tensor. An output whose Maps
// is true in Inspect's Graph and false here comes as [rows, labels] of float32, in the order of the labels.
func (s *Session) Outputs() []rowcast.Port { return ports(s.outputs) }

func ports(borders []border) []rowcast.Port {
	list := make([]rowcast.Port, len(borders))
	for i, b := range borders {
		list[i] = b.port
	}
	return list
}

// Close waits for running runs, frees the model and its bindings. A second call does nothing.
func (s *Session) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pool.close()
	if s.session == nil {
		return nil
	}
	err := s.session.Destroy()
	s.session = nil
	trimHeap()
	if err != nil {
		return rowcast.Errorf(rowcast.CodeInternal, "can't free the model").WithCause(err)
	}
	return nil
}

// Run runs the graph once on any tensors. Inputs are found by name; every input of the graph must be there. The outputs are copies. A ctx that ends stops
// the run through ONNX Runtime's terminate flag; the error then carries context.Cause(ctx).
func (s *Session) Run(ctx context.Context, inputs []Tensor) ([]Tensor, error) {
	values, err := s.inputValues(inputs)
	defer destroyAll(values)
	if err != nil {
		return nil, err
	}
	w, err := newWatch()
	if err != nil {
		return nil, err
	}
	defer w.destroy()
	outputs := make([]ort.Value, s.outputNames)
	if err := s.run(ctx, w, values, outputs); err != nil {
		return nil, err
	}
	defer destroyAll(outputs)
	return s.read(outputs, nil)
}

// run calls ONNX Runtime. Where it fails, outputs that were nil are nil again.
func (s *Session) run(ctx context.Context, w *watch, inputs, outputs []ort.Value) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.session == nil {
		return rowcast.Errorf(rowcast.CodeModelUnavailable, "the model was unloaded")
	}
	if ctx.Done() == nil {
		if err := s.session.RunWithOptions(inputs, outputs, w.options); err != nil {
			return runtimeError(rowcast.CodeModelFailed, "run the model on this input", err)
		}
		return nil
	}
	if ctx.Err() != nil {
		return canceled(ctx)
	}
	stop := context.AfterFunc(ctx, w.terminate)
	err := s.session.RunWithOptions(inputs, outputs, w.options)
	if !stop() {
		w.spend()
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return canceled(ctx)
	}
	return runtimeError(rowcast.CodeModelFailed, "run the model on this input", err)
}

func (s *Session) inputValues(inputs []Tensor) ([]ort.Value, error) {
	values := make([]ort.Value, 0, len(s.inputs))
	for i := range s.inputs {
		b := &s.inputs[i]
		t := find(inputs, b.port.Name)
		if t == nil {
			return values, rowcast.Errorf(rowcast.CodeMissingFeature, "input %q is missing", b.port.Name)
		}
		if err := b.check(t); err != nil {
			return values, err
		}
		shape, data := t.Shape, t.Data
		if b.flat {
			shape = []int64{1}
		}
		if b.half {
			wide := make([]float32, DataLen(data))
			widen(b.port.DType, wide, data.([]uint16))
			data = wide
		}
		v, err := newValue(shape, data)
		if err != nil {
			return values, rowcast.Errorf(rowcast.CodeInvalidArgument, "input %q can't become a tensor", b.port.Name).WithCause(err)
		}
		values = append(values, v)
	}
	if len(inputs) > len(s.inputs) {
		for _, t := range inputs {
			if _, ok := Port(s.Inputs(), t.Name); !ok {
				return values, rowcast.Errorf(rowcast.CodeUnknownFeature, "the model has no input %q", t.Name)
			}
		}
	}
	return values, nil
}

func find(tensors []Tensor, name string) *Tensor {
	for i := range tensors {
		if tensors[i].Name == name {
			return &tensors[i]
		}
	}
	return nil
}

// check compares a tensor with the port that it is meant for.
func (b *border) check(t *Tensor) error {
	if t.DType != b.port.DType {
		return rowcast.Errorf(rowcast.CodeFeatureType, "input %q takes %s, not %s", b.port.Name, b.port.DType, t.DType)
	}
	want := Len(t.Shape)
	native := t.DType
	if half(native) {
		native = rowcast.Uint16
	}
	if dtypeOf(t.Data) != native || want < 0 || int64(DataLen(t.Data)) != want {
		return rowcast.Errorf(rowcast.CodeDimensions, "input %q has shape %v but %d elements of %T", b.port.Name, t.Shape, DataLen(t.Data), t.Data)
	}
	if b.port.Shape == nil {
		return nil
	}
	if len(t.Shape) != len(b.port.Shape) {
		return rowcast.Errorf(rowcast.CodeDimensions, "input %q takes %d dimensions, not %d", b.port.Name, len(b.port.Shape), len(t.Shape)).
			WithDetail("The graph declares %v (-1: any size), the value has %v.", b.port.Shape, t.Shape)
	}
	for i, d := range b.port.Shape {
		if d >= 0 && d != t.Shape[i] {
			return rowcast.Errorf(rowcast.CodeDimensions, "input %q takes %d in dimension %d, not %d", b.port.Name, d, i+1, t.Shape[i]).
				WithDetail("The graph declares %v (-1: any size), the value has %v.", b.port.Shape, t.Shape)
		}
	}
	return nil
}

// read turns what a run returned into tensors, into reuse where it is of the right length. Numbers share the values' memory.
func (s *Session) read(outputs []ort.Value, reuse []Tensor) ([]Tensor, error) {
	tensors := reuse
	if tensors == nil {
		tensors = make([]Tensor, len(s.outputs))
	}
	next := 0
	for i := range s.outputs {
		b := &s.outputs[i]
		t := &tensors[i]
		t.Name, t.DType = b.port.Name, b.port.DType
		v := outputs[next]
		next++
		if sequence, ok := v.(*ort.Sequence); ok {
			if err := readMaps(t, sequence); err != nil {
				return nil, err
			}
			continue
		}
		data, err := contents(v)
		if err != nil {
			return nil, rowcast.Errorf(rowcast.CodeModelFailed, "output %q can't be read", b.port.Name).WithCause(err)
		}
		t.Shape = v.GetShape()
		if b.shape != "" {
			dims, err := contents(outputs[next])
			next++
			list, ok := dims.([]int64)
			if err != nil || !ok {
				return nil, rowcast.Errorf(rowcast.CodeModelFailed, "the shape of output %q can't be read", b.port.Name).WithCause(err)
			}
			t.Shape = list
		}
		if b.half {
			wide, _ := data.([]float32)
			bits, _ := t.Data.([]uint16)
			if len(bits) != len(wide) {
				bits = make([]uint16, len(wide))
			}
			narrow(b.port.DType, bits, wide)
			data = bits
		}
		t.Data = data
		t.DType = b.port.DType
		if native := dtypeOf(data); !b.half && native != t.DType {
			t.DType = native // the declared type can be wrong
		}
	}
	return tensors, nil
}

func destroyAll(values []ort.Value) {
	for _, v := range values {
		if v != nil {
			_ = v.Destroy()
		}
	}
}
