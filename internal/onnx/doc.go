// Package onnx is the only door to ONNX Runtime: it finds and opens the shared library, reads graphs, loads sessions and runs them.
//
// Three things it does that ONNX Runtime or its Go binding do not:
//
//   - Inspect reads a model with a protobuf scanner of its own, without ONNX Runtime, so that a hostile file is refused before any C++ sees it, and so
//     that labels, ports and external data are known without loading.
//   - NewSession edits the graph in memory before it loads: a ZipMap becomes its tensor (a run that builds one map per row costs ten times the
//     forest), and ports that the Go binding can't carry (float16, rank 0, undeclared rank) get a Cast or Reshape at the border. What callers see is the
//     port as declared.
//   - A Binding is a set of tensors for a fixed number of rows, bound once and used again, so that one row costs little more than the graph itself. A
//     context that ends sets ONNX Runtime's terminate flag.
package onnx
