package convert

// Opened is the test process's ONNX Runtime, for tests outside the package.
var Opened = opened
