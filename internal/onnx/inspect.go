package onnx

import (
	"bytes"
	"slices"
	"unicode/utf8"

	"github.com/rowcast/rowcast/internal/rowcast"
	"google.golang.org/protobuf/encoding/protowire"
)

// Bounds on what Inspect reads; real models stay far below.
const (
	maxDepth  = 32        // graphs within graphs
	maxNodes  = 4_000_000 // operators, subgraphs included
	maxLabels = 100_000
	maxPorts  = 10_000
	maxRank   = 64
)

// Inspect reads a model's graph without ONNX Runtime. What it can't accept is a *rowcast.Error of CodeArtifactRefused whose message is the reason: empty,
// no ONNX, truncated, external data, ports of types that Rowcast does not carry. It never panics and reads each byte a bounded number of times.
func Inspect(model []byte) (*Graph, error) {
	if len(model) == 0 {
		return nil, refused("the file is empty")
	}
	if len(model) >= 8 && bytes.Equal(model[4:8], []byte("ORTM")) {
		return nil, refused("the file is in ONNX Runtime's own format (.ort), not ONNX").WithHint("Export the model as .onnx.")
	}
	i := inspector{graph: &Graph{
		Opsets: map[string]int64{}, Metadata: map[string]string{}, Ops: map[string]int{}, initializers: map[string]tensorView{},
	}}
	if err := i.model(model); err != nil {
		return nil, err
	}
	return i.graph, i.finish()
}

type inspector struct {
	graph  *Graph
	nodes  int
	graphs int // top-level graph fields seen
}

// field is one protobuf field. Exactly one of bytes and number is meaningful, by kind.
type field struct {
	number protowire.Number
	kind   protowire.Type
	bytes  []byte
	varint uint64
}

// eachField calls visit for every field of message. where names the message in errors.
func eachField(message []byte, where string, visit func(field) error) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return malformed(where, n)
		}
		rest := message[n:]
		f := field{number: number, kind: kind}
		switch kind {
		case protowire.VarintType:
			f.varint, n = protowire.ConsumeVarint(rest)
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(rest)
			if n < 0 {
				if size, m := protowire.ConsumeVarint(rest); m > 0 && size > uint64(len(rest)-m) && size < 1<<40 {
					return refused("the file is truncated or damaged: %s holds a part of %d bytes and only %d follow", where, size, len(rest)-m)
				}
			}
		case protowire.Fixed32Type:
			var v uint32
			v, n = protowire.ConsumeFixed32(rest)
			f.varint = uint64(v)
		case protowire.Fixed64Type:
			f.varint, n = protowire.ConsumeFixed64(rest)
		default: // groups are no part of ONNX
			return refused("the file is damaged: %s is no valid protobuf message", where)
		}
		if n < 0 {
			return malformed(where, n)
		}
		if err := visit(f); err != nil {
			return err
		}
		message = rest[n:]
	}
	return nil
}

func malformed(where string, code int) error {
	return refused("the file is damaged: %s is no valid protobuf message", where).WithCause(protowire.ParseError(code))
}

func (i *inspector) model(model []byte) error {
	g := i.graph
	err := eachField(model, "the model", func(f field) error {
		switch f.number {
		case 1:
			g.IRVersion = int64(f.varint)
		case 2:
			g.Producer = text(f.bytes)
		case 3:
			g.ProducerVersion = text(f.bytes)
		case 6:
			g.Description = text(f.bytes)
		case 7:
			i.graphs++
			return i.subgraph(f.bytes, true, 0)
		case 8:
			return i.opset(f.bytes)
		case 14:
			key, value, err := pair(f.bytes)
			g.Metadata[key] = value
			return err
		case 25:
			return eachField(f.bytes, "a function", func(f field) error {
				if f.number == 7 {
					return i.node(f.bytes, false, 1)
				}
				return nil
			})
		}
		return nil
	})
	if err != nil && g.IRVersion == 0 && i.graphs == 0 {
		// Nothing that an ONNX file begins with came before the first broken byte.
		return refused("the file is no ONNX model").WithHint("Export the model with skl2onnx, onnxmltools or torch.onnx.export.")
	}
	return err
}

func (i *inspector) finish() error {
	g := i.graph
	switch {
	case i.graphs == 0:
		return refused("the file is no ONNX model: it holds no graph").WithHint("Export the model with skl2onnx, onnxmltools or torch.onnx.export.")
	case i.graphs > 1:
		// Protobuf merges repeated fields, so that a second graph could add what the first hides.
		return refused("the file is damaged: it holds %d graphs", i.graphs)
	case len(g.ExternalData) > 0:
		return refused("the model keeps tensor data outside its file, in %q", g.ExternalData[0]).
			WithHint("Save it in one file: onnx.save(onnx.load(path), path, save_as_external_data=False).")
	}
	g.Inputs = slices.DeleteFunc(g.Inputs, func(p rowcast.Port) bool { _, known := g.initializers[p.Name]; return known })
	if len(g.Inputs) == 0 {
		return refused("the model has no input")
	}
	if len(g.Outputs) == 0 {
		return refused("the model has no output")
	}
	for _, ports := range [][]rowcast.Port{g.Inputs, g.Outputs} {
		seen := map[string]bool{}
		for _, p := range ports {
			if p.Name == "" || seen[p.Name] {
				return refused("the model has two inputs or outputs of the same name, %q", p.Name)
			}
			seen[p.Name] = true
		}
	}
	for _, p := range g.Inputs {
		if p.DType == "" || p.Maps {
			return refused("input %q of the model is of a type that Rowcast does not carry", p.Name).
				WithDetail("Inputs are tensors of floats, integers, booleans or text.")
		}
	}
	for _, p := range g.Outputs {
		if p.DType == "" {
			return refused("output %q of the model is of a type that Rowcast does not carry", p.Name).
				WithDetail("Outputs are tensors of floats, integers, booleans or text, or a sequence of maps.")
		}
	}
	g.trace()
	return nil
}

func (i *inspector) opset(message []byte) error {
	var domain string
	var version int64
	err := eachField(message, "an opset import", func(f field) error {
		switch f.number {
		case 1:
			domain = text(f.bytes)
		case 2:
			version = int64(f.varint)
		}
		return nil
	})
	if domain == "ai.onnx" {
		domain = ""
	}
	i.graph.Opsets[domain] = version
	return err
}

func pair(message []byte) (key, value string, err error) {
	err = eachField(message, "the metadata", func(f field) error {
		switch f.number {
		case 1:
			key = text(f.bytes)
		case 2:
			value = text(f.bytes)
		}
		return nil
	})
	return key, value, err
}

// subgraph reads a GraphProto; only the top one fills ports and nodes.
func (i *inspector) subgraph(message []byte, top bool, depth int) error {
	if depth > maxDepth {
		return refused("the model nests graphs more than %d deep", maxDepth)
	}
	return eachField(message, "the graph", func(f field) error {
		switch f.number {
		case 1:
			return i.node(f.bytes, top, depth)
		case 5:
			return i.initializer(f.bytes, top)
		case 10:
			if top && i.graph.Description == "" {
				i.graph.Description = text(f.bytes)
			}
		case 11, 12:
			if !top {
				return nil
			}
			p, err := port(f.bytes)
			if err != nil {
				return err
			}
			if len(i.graph.Inputs)+len(i.graph.Outputs) >= maxPorts {
				return refused("the model has more than %d inputs and outputs", maxPorts)
			}
			if f.number == 11 {
				i.graph.Inputs = append(i.graph.Inputs, p)
			} else {
				i.graph.Outputs = append(i.graph.Outputs, p)
			}
		case 15:
			return eachField(f.bytes, "a sparse initializer", func(f field) error {
				if f.number == 1 || f.number == 2 {
					return i.initializer(f.bytes, top)
				}
				return nil
			})
		}
		return nil
	})
}

func (i *inspector) initializer(message []byte, top bool) error {
	t, err := i.tensor(message)
	if err == nil && top {
		i.graph.initializers[t.name] = t
	}
	return err
}

// tensor reads a TensorProto: its header always, its numbers as a view. Files may spread a message over several fields, so external data is noted wherever
// it shows.
func (i *inspector) tensor(message []byte) (tensorView, error) {
	var t tensorView
	location := ""
	external := false
	err := eachField(message, "a tensor", func(f field) error {
		switch f.number {
		case 1:
			return integers(f, &t.dims, maxRank)
		case 2:
			t.dtype = int64(f.varint)
		case 6:
			if len(t.strings) < maxLabels {
				t.strings = append(t.strings, f.bytes)
			}
		case 5, 7:
			return integers(f, &t.ints, maxLabels)
		case 8:
			t.name = text(f.bytes)
		case 9:
			t.raw = f.bytes
		case 13:
			external = true
			key, value, err := pair(f.bytes)
			if key == "location" {
				location = value
			}
			return err
		case 14:
			external = external || f.varint != 0
		}
		return nil
	})
	if external {
		i.graph.ExternalData = append(i.graph.ExternalData, location)
	}
	return t, err
}

// integers appends a repeated integer field, packed or not, up to limit; what goes beyond is dropped, for no reader of such a list needs more.
func integers(f field, list *[]int64, limit int) error {
	if f.kind == protowire.VarintType {
		if len(*list) < limit {
			*list = append(*list, int64(f.varint))
		}
		return nil
	}
	for rest := f.bytes; len(rest) > 0 && len(*list) < limit; {
		v, n := protowire.ConsumeVarint(rest)
		if n < 0 {
			return malformed("a list of integers", n)
		}
		*list = append(*list, int64(v))
		rest = rest[n:]
	}
	return nil
}

func (i *inspector) node(message []byte, top bool, depth int) error {
	if i.nodes++; i.nodes > maxNodes {
		return refused("the model has more than %d operators", maxNodes)
	}
	var n node
	var attributes attributes
	err := eachField(message, "an operator", func(f field) error {
		switch f.number {
		case 1:
			if top {
				n.inputs = append(n.inputs, text(f.bytes))
			}
		case 2:
			if top {
				n.outputs = append(n.outputs, text(f.bytes))
			}
		case 4:
			n.op = text(f.bytes)
		case 5:
			return i.attribute(f.bytes, top, depth, &attributes)
		case 7:
			n.domain = text(f.bytes)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if n.domain == "ai.onnx" {
		n.domain = ""
	}
	i.graph.Ops[n.domain+":"+n.op]++
	switch n.op {
	case "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM":
		i.graph.DynamicQuantization = true
	}
	if top {
		n.labels, n.value = attributes.labels(n.op), attributes.value
		i.graph.nodes = append(i.graph.nodes, n)
	}
	return nil
}

// port reads a ValueInfoProto. A type that Rowcast does not carry leaves DType empty.
func port(message []byte) (rowcast.Port, error) {
	var p rowcast.Port
	err := eachField(message, "an input or output", func(f field) error {
		switch f.number {
		case 1:
			p.Name = text(f.bytes)
		case 2:
			return portType(f.bytes, &p, 0)
		}
		return nil
	})
	return p, err
}

func portType(message []byte, p *rowcast.Port, depth int) error {
	if depth > 4 {
		return nil
	}
	return eachField(message, "a type", func(f field) error {
		switch f.number {
		case 1: // tensor
			return eachField(f.bytes, "a tensor type", func(f field) error {
				switch f.number {
				case 1:
					p.DType = elementDType(f.varint)
				case 2:
					return shape(f.bytes, p)
				}
				return nil
			})
		case 4: // sequence
			return eachField(f.bytes, "a sequence type", func(f field) error {
				var inner rowcast.Port
				err := portType(f.bytes, &inner, depth+1)
				if inner.Maps {
					p.Maps, p.DType, p.Shape = true, inner.DType, []int64{-1, -1}
				}
				return err
			})
		case 5: // map
			return eachField(f.bytes, "a map type", func(f field) error {
				if f.number != 2 {
					return nil
				}
				p.Maps = true
				return portType(f.bytes, p, depth+1)
			})
		}
		return nil
	})
}

func shape(message []byte, p *rowcast.Port) error {
	p.Shape = []int64{}
	return eachField(message, "a shape", func(f field) error {
		if f.number != 1 {
			return nil
		}
		if len(p.Shape) >= maxRank {
			return refused("%q has more than %d dimensions", p.Name, maxRank)
		}
		size := int64(-1)
		err := eachField(f.bytes, "a dimension", func(f field) error {
			if f.number == 1 && f.kind == protowire.VarintType {
				size = max(int64(f.varint), -1)
			}
			return nil
		})
		p.Shape = append(p.Shape, size)
		return err
	})
}

// dtypes lists the element types by their number in TensorProto.DataType; those that are empty are not carried.
func dtypes() [17]rowcast.DType {
	return [17]rowcast.DType{
		1: rowcast.Float32, 2: rowcast.Uint8, 3: rowcast.Int8, 4: rowcast.Uint16, 5: rowcast.Int16, 6: rowcast.Int32, 7: rowcast.Int64,
		8: rowcast.String, 9: rowcast.Bool, 10: rowcast.Float16, 11: rowcast.Float64, 12: rowcast.Uint32, 13: rowcast.Uint64, 16: rowcast.BFloat16,
	}
}

// elementDType is the type of that number, empty where it is not carried.
func elementDType(number uint64) rowcast.DType {
	if known := dtypes(); number < uint64(len(known)) {
		return known[number]
	}
	return ""
}

// text keeps invalid UTF-8 out of messages, JSON and PostgreSQL.
func text(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	return string(bytes.ToValidUTF8(b, []byte("\uFFFD")))
}
