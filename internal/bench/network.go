package main

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"

	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers and constants of onnx.proto.
const (
	modelIRVersion = 1
	modelGraph     = 7
	modelOpset     = 8
	opsetVersion   = 2

	graphNode        = 1
	graphName        = 2
	graphInitializer = 5
	graphInput       = 11
	graphOutput      = 12

	nodeInput  = 1
	nodeOutput = 2
	nodeName   = 3
	nodeType   = 4

	tensorDims    = 1
	tensorType    = 2
	tensorName    = 8
	tensorRawData = 9

	valueName      = 1
	valueType      = 2
	typeTensor     = 1
	tensorElement  = 1
	tensorShape    = 2
	shapeDimension = 1
	dimensionValue = 1
	dimensionName  = 2

	elementFloat = 1
)

// networkFeatures is the width of a network's input.
const networkFeatures = 64

// network writes an ONNX regression of dense layers (MatMul, Relu) with random weights: layers of width x width, so that the file has about
// 4 * width² * layers bytes. The same seed gives the same bytes.
func network(width, layers int, seed uint64) []byte {
	random := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // weights, not secrets
	var nodes, weights []byte
	input, from := "x", networkFeatures
	for i := range layers + 2 {
		to := width
		if i == layers+1 {
			to = 1
		}
		weight, product, output := fmt.Sprintf("w%d", i), fmt.Sprintf("p%d", i), fmt.Sprintf("h%d", i)
		weights = appendMessage(weights, graphInitializer, matrix(weight, from, to, random))
		if to == 1 {
			nodes = appendMessage(nodes, graphNode, node("MatMul", "y", input, weight))
			break
		}
		nodes = appendMessage(nodes, graphNode, node("MatMul", product, input, weight))
		nodes = appendMessage(nodes, graphNode, node("Relu", output, product))
		input, from = output, to
	}
	graph := appendText(nodes, graphName, "network")
	graph = append(graph, weights...)
	graph = appendMessage(graph, graphInput, port("x", networkFeatures))
	graph = appendMessage(graph, graphOutput, port("y", 1))
	var model []byte
	model = appendNumber(model, modelIRVersion, 8)
	model = appendMessage(model, modelGraph, graph)
	return appendMessage(model, modelOpset, appendNumber(nil, opsetVersion, 17))
}

func node(kind, output string, inputs ...string) []byte {
	var n []byte
	for _, in := range inputs {
		n = appendText(n, nodeInput, in)
	}
	n = appendText(n, nodeOutput, output)
	n = appendText(n, nodeName, "make_"+output)
	return appendText(n, nodeType, kind)
}

// matrix is a float32 initializer whose elements keep the size of what they are multiplied with.
func matrix(name string, from, to int, random *rand.Rand) []byte {
	scale := math.Sqrt(6 / float64(from))
	raw := make([]byte, 0, 4*from*to)
	for range from * to {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(float32((2*random.Float64()-1)*scale)))
	}
	var t []byte
	t = appendNumber(t, tensorDims, uint64(from))
	t = appendNumber(t, tensorDims, uint64(to))
	t = appendNumber(t, tensorType, elementFloat)
	t = appendText(t, tensorName, name)
	return appendMessage(t, tensorRawData, raw)
}

// port is a float32 input or output [N, width].
func port(name string, width int) []byte {
	shape := appendMessage(nil, shapeDimension, appendText(nil, dimensionName, "N"))
	shape = appendMessage(shape, shapeDimension, appendNumber(nil, dimensionValue, uint64(width)))
	tensor := appendNumber(nil, tensorElement, elementFloat)
	tensor = appendMessage(tensor, tensorShape, shape)
	return appendMessage(appendText(nil, valueName, name), valueType, appendMessage(nil, typeTensor, tensor))
}

func appendNumber(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func appendText(b []byte, field protowire.Number, v string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), v)
}

func appendMessage(b []byte, field protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}
