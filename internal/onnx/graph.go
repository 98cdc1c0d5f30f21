package onnx

import (
	"encoding/json"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// Graph is what a model file says about itself, read without ONNX Runtime.
type Graph struct {
	IRVersion       int64
	Opsets          map[string]int64 // by domain; the standard domain is ""
	Producer        string
	ProducerVersion string
	Description     string
	Metadata        map[string]string

	Inputs  []rowcast.Port // initializers are not inputs
	Outputs []rowcast.Port

	Ops          map[string]int // "domain:type" -> how many, subgraphs and functions included; the standard domain is ":Add"
	ExternalData []string       // where external tensor data would be read from

	// DynamicQuantization says that activations are quantised by their range in the batch: rows of one run change each other's answers.
	DynamicQuantization bool

	// Labels are the class labels, in the order of the probability columns, as JSON strings or integers; nil where the graph names none.
	Labels []json.RawMessage

	// Names of outputs whose meaning the graph's own operators tell; empty where they don't.
	LabelOutput       string // carries the class label, or the cluster
	ProbabilityOutput string // carries one number per label
	Clusters          int    // number of clusters, where LabelOutput is the nearest centre
	SoftmaxOutput     string // ends in a softmax over the last axis

	nodes        []node
	initializers map[string]tensorView
}

// node is one operator of the top-level graph, with the attributes that inference of a signature looks at.
type node struct {
	domain, op      string
	inputs, outputs []string
	labels          []json.RawMessage // classlabels of a classifier or ZipMap, or values of a LabelEncoder
	value           *tensorView       // of a Constant
}

// tensorView is an initializer, its data still in the file's bytes.
type tensorView struct {
	name    string
	dtype   int64
	dims    []int64
	raw     []byte
	strings [][]byte
	ints    []int64
}

// Port returns the first of ports with that name.
func Port(ports []rowcast.Port, name string) (rowcast.Port, bool) {
	for _, p := range ports {
		if p.Name == name {
			return p, true
		}
	}
	return rowcast.Port{}, false
}
