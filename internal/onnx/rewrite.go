package onnx

import (
	"fmt"

	"github.com/rowcast/rowcast/internal/rowcast"
	"google.golang.org/protobuf/encoding/protowire"
)

// border says how one port of the model crosses between Go and ONNX Runtime.
type border struct {
	port  rowcast.Port // as callers see it
	name  string       // the name in the loaded graph
	shape string       // second output that carries the shape of a flattened one; empty where not needed
	half  bool         // crosses as float32
	flat  bool         // crosses as one dimension
}

// adaptation is a graph as it is loaded.
type adaptation struct {
	model           []byte
	inputs, outputs []border
}

// castOpset is the first version of the standard operators whose Cast and Reshape have the form that is written here.
const castOpset = 7

// adapt plans the ports and, where one needs it, writes a new graph: a ZipMap becomes an Identity on its tensor; float16 and bfloat16 get a Cast to
// float32; XGBoost's base value becomes its first tree (see leadWithBase); rank 0 and undeclared rank get a Reshape to one dimension, with a Shape beside an output. The Go binding carries none of these. An output
// declared with a fixed number of rows where no input has one (every LightGBM export) is declared open, or bound outputs would be refused.
// Everything else of the file is copied as it is.
func adapt(model []byte, g *Graph) (*adaptation, error) {
	a := &adaptation{model: model}
	w := graphWriter{names: map[string]bool{}}
	for _, n := range g.nodes {
		for _, out := range n.outputs {
			w.names[out] = true
		}
		w.forests = w.forests || n.op == "TreeEnsembleRegressor"
	}
	for name := range g.initializers {
		w.names[name] = true
	}
	for _, p := range g.Inputs {
		w.names[p.Name] = true
	}
	editable := true
	if version, ok := g.Opsets[""]; ok && version < castOpset {
		editable = false
	}
	for _, p := range g.Inputs {
		b := border{port: p, name: p.Name}
		if editable {
			w.input(&b)
		}
		a.inputs = append(a.inputs, b)
	}
	zipMaps := g.zipMaps()
	open := openBatch(g.Inputs)
	for _, p := range g.Outputs {
		declared := p
		if open && !p.Maps && len(p.Shape) > 0 && p.Shape[0] >= 0 {
			p.Shape = append([]int64{-1}, p.Shape[1:]...)
		}
		b := border{port: p, name: p.Name}
		if source, ok := zipMaps[p.Name]; ok {
			w.unzip(p.Name, source)
			b.port = rowcast.Port{Name: p.Name, DType: rowcast.Float32, Shape: []int64{-1, int64(len(g.Labels))}}
			w.outputs = append(w.outputs, editedPort{from: p.Name, port: b.port})
		} else if editable {
			w.output(&b)
		}
		if b.name == p.Name && len(p.Shape) > 0 && p.Shape[0] != declared.Shape[0] {
			w.outputs = append(w.outputs, editedPort{from: p.Name, port: p})
		}
		a.outputs = append(a.outputs, b)
	}
	if !w.edited() {
		return a, nil
	}
	edited, err := w.rewrite(model, g)
	a.model = edited
	return a, err
}

// openBatch reports whether the graph leaves the number of rows open.
func openBatch(inputs []rowcast.Port) bool {
	for _, p := range inputs {
		if len(p.Shape) == 0 || p.Shape[0] >= 0 {
			return false
		}
	}
	return true
}

// zipMaps maps each output that a ZipMap makes to the tensor it is made from.
func (g *Graph) zipMaps() map[string]string {
	found := map[string]string{}
	for _, n := range g.nodes {
		if n.op == "ZipMap" && n.domain == "ai.onnx.ml" && len(n.inputs) == 1 && len(n.outputs) == 1 {
			found[n.outputs[0]] = n.inputs[0]
		}
	}
	for _, n := range g.nodes {
		for _, in := range n.inputs {
			delete(found, in) // something else in the graph reads the maps
		}
	}
	return found
}

// editedPort is a ValueInfo of the graph that is written anew.
type editedPort struct {
	from string
	port rowcast.Port
}

// graphWriter collects edits and applies them in one pass over the file.
type graphWriter struct {
	names           map[string]bool
	first, last     [][]byte // nodes before and after those of the file
	inputs, outputs []editedPort
	added           []rowcast.Port // outputs
	dropped         map[string]bool
	forests         bool // may hold a forest whose base value goes first
}

func (w *graphWriter) edited() bool {
	return w.forests || len(w.inputs)+len(w.outputs)+len(w.first)+len(w.last) > 0
}

func (w *graphWriter) fresh(name, suffix string) string {
	for i := 0; ; i++ {
		candidate := fmt.Sprintf("%s/rowcast_%s%d", name, suffix, i)
		if !w.names[candidate] {
			w.names[candidate] = true
			return candidate
		}
	}
}

func (w *graphWriter) input(b *border) {
	b.half = half(b.port.DType)
	b.flat = b.port.Shape != nil && len(b.port.Shape) == 0
	if !b.half && !b.flat {
		return
	}
	b.name = w.fresh(b.port.Name, "input")
	outside := b.port
	outside.Name = b.name
	if b.half {
		outside.DType = rowcast.Float32
	}
	from := b.name
	if b.flat {
		outside.Shape = []int64{1}
		to := b.port.Name
		if b.half {
			to = w.fresh(b.port.Name, "scalar")
		}
		empty := w.fresh(b.port.Name, "shape")
		w.first = append(w.first, constantNode(empty, nil), operator("Reshape", []string{from, empty}, []string{to}, nil))
		from = to
	}
	if b.half {
		w.first = append(w.first, castNode(from, b.port.Name, b.port.DType))
	}
	w.inputs = append(w.inputs, editedPort{from: b.port.Name, port: outside})
}

func (w *graphWriter) output(b *border) {
	if b.port.Maps {
		return
	}
	b.half = half(b.port.DType)
	b.flat = len(b.port.Shape) == 0
	if !b.half && !b.flat {
		return
	}
	outside := b.port
	from := b.port.Name
	if b.half {
		outside.DType = rowcast.Float32
		to := w.fresh(b.port.Name, "float")
		w.last = append(w.last, castNode(from, to, rowcast.Float32))
		from = to
	}
	if b.flat {
		b.shape = w.fresh(b.port.Name, "shape")
		w.last = append(w.last, operator("Shape", []string{b.port.Name}, []string{b.shape}, nil))
		w.added = append(w.added, rowcast.Port{Name: b.shape, DType: rowcast.Int64, Shape: []int64{-1}})
		all, to := w.fresh(b.port.Name, "all"), w.fresh(b.port.Name, "flat")
		w.last = append(w.last, constantNode(all, []int64{-1}), operator("Reshape", []string{from, all}, []string{to}, nil))
		outside.Shape = []int64{-1}
		from = to
	}
	b.name = from
	outside.Name = from
	w.outputs = append(w.outputs, editedPort{from: b.port.Name, port: outside})
}

func (w *graphWriter) unzip(output, source string) {
	if w.dropped == nil {
		w.dropped = map[string]bool{}
	}
	w.dropped[output] = true
	w.last = append(w.last, operator("Identity", []string{source}, []string{output}, nil))
}

// rewrite writes the model with all edits.
func (w *graphWriter) rewrite(model []byte, g *Graph) ([]byte, error) {
	out := make([]byte, 0, len(model)+4096)
	err := eachField(model, "the model", func(f field) error {
		if f.number != 7 || f.kind != protowire.BytesType {
			out = appendField(out, f)
			return nil
		}
		graph, err := w.graph(f.bytes)
		out = protowire.AppendTag(out, 7, protowire.BytesType)
		out = protowire.AppendBytes(out, graph)
		return err
	})
	if _, ok := g.Opsets[""]; !ok { // a graph of ai.onnx.ml operators alone imports nothing else
		var opset []byte
		opset = protowire.AppendTag(opset, 2, protowire.VarintType)
		opset = protowire.AppendVarint(opset, 13)
		out = protowire.AppendTag(out, 8, protowire.BytesType)
		out = protowire.AppendBytes(out, opset)
	}
	return out, err
}

func (w *graphWriter) graph(graph []byte) ([]byte, error) {
	out := make([]byte, 0, len(graph)+4096)
	nodes := func(list [][]byte) {
		for _, n := range list {
			out = protowire.AppendTag(out, 1, protowire.BytesType)
			out = protowire.AppendBytes(out, n)
		}
	}
	nodes(w.first)
	err := eachField(graph, "the graph", func(f field) error {
		switch f.number {
		case 1:
			if w.drops(f.bytes) {
				return nil
			}
			if w.forests {
				f.bytes = leadWithBase(f.bytes)
			}
		case 11, 12:
			edits := w.inputs
			if f.number == 12 {
				edits = w.outputs
			}
			p, err := port(f.bytes)
			if err != nil {
				return err
			}
			for _, edit := range edits {
				if edit.from == p.Name {
					out = protowire.AppendTag(out, f.number, protowire.BytesType)
					out = protowire.AppendBytes(out, valueInfo(edit.port))
					return nil
				}
			}
		}
		out = appendField(out, f)
		return nil
	})
	nodes(w.last)
	for _, p := range w.added {
		out = protowire.AppendTag(out, 12, protowire.BytesType)
		out = protowire.AppendBytes(out, valueInfo(p))
	}
	return out, err
}

// drops reports whether a node makes one of the outputs that are made otherwise now.
func (w *graphWriter) drops(node []byte) bool {
	if len(w.dropped) == 0 {
		return false
	}
	drop := false
	_ = eachField(node, "an operator", func(f field) error {
		drop = drop || (f.number == 2 && w.dropped[text(f.bytes)])
		return nil
	})
	return drop
}

func appendField(out []byte, f field) []byte {
	out = protowire.AppendTag(out, f.number, f.kind)
	switch f.kind {
	case protowire.VarintType:
		return protowire.AppendVarint(out, f.varint)
	case protowire.Fixed32Type:
		return protowire.AppendFixed32(out, uint32(f.varint))
	case protowire.Fixed64Type:
		return protowire.AppendFixed64(out, f.varint)
	default:
		return protowire.AppendBytes(out, f.bytes)
	}
}

func appendString(out []byte, number protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(out, number, protowire.BytesType), s)
}

func appendMessage(out []byte, number protowire.Number, message []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(out, number, protowire.BytesType), message)
}

func appendInt(out []byte, number protowire.Number, v int64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(out, number, protowire.VarintType), uint64(v))
}

// operator writes a NodeProto of the standard domain.
func operator(op string, inputs, outputs []string, attribute []byte) []byte {
	var out []byte
	for _, in := range inputs {
		out = appendString(out, 1, in)
	}
	for _, o := range outputs {
		out = appendString(out, 2, o)
	}
	out = appendString(out, 4, op)
	if attribute != nil {
		out = appendMessage(out, 5, attribute)
	}
	return out
}

func castNode(from, to string, dtype rowcast.DType) []byte {
	attribute := appendString(nil, 1, "to")
	attribute = appendInt(attribute, 3, int64(elementType(dtype)))
	attribute = appendInt(attribute, 20, 2) // AttributeProto.INT
	return operator("Cast", []string{from}, []string{to}, attribute)
}

// constantNode writes a Constant that holds a list of int64.
func constantNode(name string, values []int64) []byte {
	tensor := appendInt(nil, 1, int64(len(values)))
	tensor = appendInt(tensor, 2, 7)
	for _, v := range values {
		tensor = appendInt(tensor, 7, v)
	}
	attribute := appendString(nil, 1, "value")
	attribute = appendMessage(attribute, 5, tensor)
	attribute = appendInt(attribute, 20, 4) // AttributeProto.TENSOR
	return operator("Constant", nil, []string{name}, attribute)
}

func elementType(dtype rowcast.DType) uint64 {
	for number, d := range dtypes() {
		if d == dtype {
			return uint64(number)
		}
	}
	return 0
}

// valueInfo writes a ValueInfoProto of a tensor.
func valueInfo(p rowcast.Port) []byte {
	tensor := appendInt(nil, 1, int64(elementType(p.DType)))
	if p.Shape != nil {
		var shape []byte
		for _, d := range p.Shape {
			var dim []byte
			if d >= 0 {
				dim = appendInt(nil, 1, d)
			}
			shape = appendMessage(shape, 1, dim)
		}
		tensor = appendMessage(tensor, 2, shape)
	}
	out := appendString(nil, 1, p.Name)
	return appendMessage(out, 2, appendMessage(nil, 1, tensor))
}
