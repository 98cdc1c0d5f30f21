package registry

import (
	"bytes"
	"math"
	"strconv"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/tensorjson"
)

// firstDifference compares what a run gave with what an example says, relatively for floats. It returns where they differ, "" where they don't.
func firstDifference(got, want []onnx.Tensor, tolerance float64) string {
	for i := range want {
		g, w := &got[i], &want[i]
		if len(g.Shape) != len(w.Shape) {
			return "output " + strconv.Quote(w.Name) + " has another shape"
		}
		for d := range g.Shape {
			if g.Shape[d] != w.Shape[d] {
				return "output " + strconv.Quote(w.Name) + " has another shape"
			}
		}
		for n := range int(onnx.Len(w.Shape)) {
			a, b := tensorjson.AppendElement(nil, g, n), tensorjson.AppendElement(nil, w, n)
			if bytes.Equal(a, b) || closeNumbers(a, b, tolerance) {
				continue
			}
			return "output " + strconv.Quote(w.Name) + " is " + clip(string(a)) + ", not " + clip(string(b)) + ", at element " + strconv.Itoa(n)
		}
	}
	return ""
}

func closeNumbers(a, b []byte, tolerance float64) bool {
	x, err := strconv.ParseFloat(string(a), 64)
	if err != nil {
		return false
	}
	y, err := strconv.ParseFloat(string(b), 64)
	return err == nil && math.Abs(x-y) <= tolerance*math.Max(1, math.Max(math.Abs(x), math.Abs(y)))
}
