package convert

import (
	"encoding/binary"
	"math"

	"github.com/rowcast/rowcast/internal/rowcast"
	"google.golang.org/protobuf/encoding/protowire"
)

// graph collects the operators of a model and writes them as an ONNX file.
type graph struct {
	nodes, initializers []byte // fields 1 and 5 of a GraphProto
	inputs, outputs     []rowcast.Port
	taken               map[string]bool // names of inputs
	opsetML             int64           // version of domainML; 0 is the usual one
}

// Versions that the graphs ask for: what the operators here need and ONNX Runtime has read for years.
const (
	irVersion = 8
	opset     = 17
	opsetML   = 3
)

// domainML is the domain of tree ensembles and label encoders.
const domainML = "ai.onnx.ml"

// input adds an input.
func (g *graph) input(p rowcast.Port) {
	if g.taken == nil {
		g.taken = map[string]bool{}
	}
	g.taken[p.Name] = true
	g.inputs = append(g.inputs, p)
}

// unused returns a name for a value that no input of the graph has. It is the same each time, so inputs must be there before.
func (g *graph) unused(name string) string {
	for g.taken[name] {
		name = "/" + name
	}
	return name
}

// node adds an operator of the standard domain.
func (g *graph) node(op string, inputs, outputs []string, attributes ...[]byte) {
	g.domainNode("", op, inputs, outputs, attributes...)
}

// domainNode adds an operator of a domain. Operators must come in the order in which they run.
func (g *graph) domainNode(domain, op string, inputs, outputs []string, attributes ...[]byte) {
	size := 256
	for _, a := range attributes {
		size += len(a) + 16
	}
	message := make([]byte, 0, size)
	for _, in := range inputs {
		message = appendString(message, 1, in)
	}
	for _, out := range outputs {
		message = appendString(message, 2, out)
	}
	message = appendString(message, 4, op)
	for _, a := range attributes {
		message = appendMessage(message, 5, a)
	}
	if domain != "" {
		message = appendString(message, 7, domain)
	}
	g.nodes = appendMessage(g.nodes, 1, message)
}

// floats32 adds a constant tensor; without dims it is a scalar.
func (g *graph) floats32(name string, values []float32, dims ...int64) {
	g.initializers = appendMessage(g.initializers, 5, appendString(floatTensor(values, dims), 8, name))
}

// floats64 adds a constant tensor; without dims it is a scalar.
func (g *graph) floats64(name string, values []float64, dims ...int64) {
	g.initializers = appendMessage(g.initializers, 5, appendString(doubleTensor(values, dims), 8, name))
}

// ints64 adds a constant tensor; without dims it is a scalar.
func (g *graph) ints64(name string, values []int64, dims ...int64) {
	raw := make([]byte, 0, len(values)*8)
	for _, v := range values {
		raw = binary.LittleEndian.AppendUint64(raw, uint64(v))
	}
	g.initializers = appendMessage(g.initializers, 5, appendString(rawTensor(elementInt64, raw, dims), 8, name))
}

// bools adds a constant vector.
func (g *graph) bools(name string, values []byte) {
	g.initializers = appendMessage(g.initializers, 5, appendString(rawTensor(elementBool, values, []int64{int64(len(values))}), 8, name))
}

// Element types of TensorProto that this package writes.
const (
	elementFloat32 = 1
	elementUint8   = 2
	elementInt64   = 7
	elementString  = 8
	elementBool    = 9
	elementFloat64 = 11
)

func elementType(dtype rowcast.DType) int64 {
	switch dtype {
	case rowcast.Int64:
		return elementInt64
	case rowcast.String:
		return elementString
	case rowcast.Bool:
		return elementBool
	case rowcast.Float64:
		return elementFloat64
	}
	return elementFloat32
}

// model writes the file. producer is the library that trained it; metadata may be nil.
func (g *graph) model(producer, version string, metadata []pair) []byte {
	body := make([]byte, 0, len(g.nodes)+len(g.initializers)+4096)
	body = append(body, g.nodes...)
	body = appendString(body, 2, "rowcast")
	body = append(body, g.initializers...)
	for _, p := range g.inputs {
		body = appendMessage(body, 11, valueInfo(p))
	}
	for _, p := range g.outputs {
		body = appendMessage(body, 12, valueInfo(p))
	}
	out := make([]byte, 0, len(body)+4096)
	out = appendInt(out, 1, irVersion)
	out = appendString(out, 2, producer)
	out = appendString(out, 3, version)
	out = appendMessage(out, 7, body)
	out = appendMessage(out, 8, appendInt(nil, 2, opset))
	out = appendMessage(out, 8, appendInt(appendString(nil, 1, domainML), 2, max(g.opsetML, opsetML)))
	for _, p := range metadata {
		out = appendMessage(out, 14, appendString(appendString(nil, 1, p.key), 2, p.value))
	}
	return out
}

// pair is a line of the file's metadata.
type pair struct{ key, value string }

func valueInfo(p rowcast.Port) []byte {
	var shape []byte
	for _, d := range p.Shape {
		dim := appendString(nil, 2, "N")
		if d >= 0 {
			dim = appendInt(nil, 1, d)
		}
		shape = appendMessage(shape, 1, dim)
	}
	tensor := appendMessage(appendInt(nil, 1, elementType(p.DType)), 2, shape)
	return appendMessage(appendString(nil, 1, p.Name), 2, appendMessage(nil, 1, tensor))
}

// Attributes: AttributeProto messages for node.

func intAttribute(name string, v int64) []byte {
	return appendInt(appendInt(appendString(nil, 1, name), 3, v), 20, 2)
}

func floatAttribute(name string, v float32) []byte {
	return appendInt(appendFloat(appendString(nil, 1, name), 2, v), 20, 1)
}

func stringAttribute(name, v string) []byte {
	return appendInt(appendString(appendString(nil, 1, name), 4, v), 20, 3)
}

func intsAttribute(name string, list []int64) []byte {
	packed := make([]byte, 0, len(list)*2)
	for _, v := range list {
		packed = protowire.AppendVarint(packed, uint64(v))
	}
	out := appendInt(appendString(make([]byte, 0, len(packed)+64), 1, name), 20, 7)
	return appendMessage(out, 8, packed)
}

func floatsAttribute(name string, list []float32) []byte {
	packed := rawFloats(list)
	out := appendInt(appendString(make([]byte, 0, len(packed)+64), 1, name), 20, 6)
	return appendMessage(out, 7, packed)
}

func stringsAttribute(name string, list []string) []byte {
	out := appendInt(appendString(make([]byte, 0, len(list)*12+64), 1, name), 20, 8)
	for _, s := range list {
		out = appendString(out, 9, s)
	}
	return out
}

// doublesAttribute is an attribute of float64, which ONNX has as a tensor only.
func doublesAttribute(name string, list []float64) []byte {
	return tensorAttribute(name, doubleTensor(list, []int64{int64(len(list))}))
}

func tensorAttribute(name string, tensor []byte) []byte {
	return appendMessage(appendInt(appendString(nil, 1, name), 20, 4), 5, tensor)
}

// stringTensor is a vector of texts.
func stringTensor(list []string) []byte {
	out := appendInt(appendInt(nil, 1, int64(len(list))), 2, elementString)
	for _, s := range list {
		out = appendString(out, 6, s)
	}
	return out
}

func floatTensor(values []float32, dims []int64) []byte {
	return rawTensor(elementFloat32, rawFloats(values), dims)
}

func doubleTensor(values []float64, dims []int64) []byte {
	raw := make([]byte, 0, len(values)*8)
	for _, v := range values {
		raw = binary.LittleEndian.AppendUint64(raw, math.Float64bits(v))
	}
	return rawTensor(elementFloat64, raw, dims)
}

func rawFloats(values []float32) []byte {
	raw := make([]byte, 0, len(values)*4)
	for _, v := range values {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(v))
	}
	return raw
}

func rawTensor(element int64, raw []byte, dims []int64) []byte {
	out := make([]byte, 0, len(raw)+64)
	for _, d := range dims {
		out = appendInt(out, 1, d)
	}
	return appendMessage(appendInt(out, 2, element), 9, raw)
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

func appendFloat(out []byte, number protowire.Number, v float32) []byte {
	return protowire.AppendFixed32(protowire.AppendTag(out, number, protowire.Fixed32Type), math.Float32bits(v))
}
