package onnx

/*
#include <malloc.h>
*/
import "C"

// trimHeap gives the C heap's free pages back to the system. glibc keeps what a freed model leaves in the middle of its heap; a sidecar that loads and
// drops models all day would seem to leak.
func trimHeap() { C.malloc_trim(0) }
