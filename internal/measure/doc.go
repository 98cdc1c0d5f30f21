// Package measure is what the programs behind `make bench` and `make bench-batch` share: the database, the sidecar and ONNX Runtime that they measure,
// and a report that judges ratios. Everything is compared with something that was measured on the same machine in the same minutes, because times
// alone say little about another machine.
package measure
