// Package convert turns the model files of tree libraries into ONNX, in Go alone: no library that trained a model is needed to serve it.
//
// A conversion is exact. The graph compares and adds as the library does, in the library's own precision and order, so that its answers equal the
// library's to the last bits; a model that can't be reproduced so is refused with the reason. What the file says about features, categories and
// classes comes back beside the graph, in the words of model.yaml.
//
// Files are read as hostile: sizes are checked before memory is taken, trees before they are walked.
package convert
