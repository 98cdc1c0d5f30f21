package onnx

import (
	"context"
	_ "embed"
	"math"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// selfTestForest has three trees over two features and writes one weight per leaf, as scikit-learn's converter does for two classes: the form that
// ONNX Runtime 1.26 and 1.27 get wrong. testdata/generate.py makes it.
//
//go:embed selftest.onnx
var selfTestForest []byte

// selfTest runs the forest on rows whose answers were added up by hand.
func (r *Runtime) selfTest() error {
	session, err := r.NewSession(selfTestForest)
	if err != nil {
		return rowcast.Errorf(rowcast.CodeInternal, "ONNX Runtime %s fails its self-test", r.version).WithCause(err)
	}
	defer func() { _ = session.Close() }()
	rows := []float32{0, 0, 1, 3, 2, 1, -1, -2, 0.5, 0.2, 1.3, 2.5, 0.6, 0.3, 1.4, 0.26}
	second := []float32{0.44, 0.82, 0.7333, 0.17, 0.53, 0.91, 0.59, 0.68}
	// Alone and together: the wrong releases differ in the code that they choose by the number of rows.
	for _, n := range []int{1, len(second)} {
		for at := 0; at < len(second); at += n {
			in := Tensor{Name: "X", DType: rowcast.Float32, Shape: []int64{int64(n), 2}, Data: rows[2*at : 2*(at+n)]}
			out, err := session.Run(context.Background(), []Tensor{in})
			if err != nil {
				return rowcast.Errorf(rowcast.CodeInternal, "ONNX Runtime %s fails its self-test", r.version).WithCause(err)
			}
			labels, _ := out[0].Data.([]int64)
			probabilities, _ := out[1].Data.([]float32)
			if !forestAgrees(labels, probabilities, second[at:at+n]) {
				return rowcast.Errorf(rowcast.CodeInternal, "ONNX Runtime %s predicts a binary random forest wrongly", r.version).
					WithDetail("Labels %v and probabilities %v where %v are the probabilities of label 1.", labels, probabilities, second[at:at+n]).
					WithHint("Use ONNX Runtime %s: %s", LibraryVersion, fetchHint)
			}
		}
	}
	return nil
}

func forestAgrees(labels []int64, probabilities, second []float32) bool {
	if len(labels) != len(second) || len(probabilities) != 2*len(second) {
		return false
	}
	for i, p := range second {
		want := int64(0)
		if p > 0.5 {
			want = 1
		}
		if labels[i] != want || math.Abs(float64(probabilities[2*i+1]-p)) > 1e-5 {
			return false
		}
	}
	return true
}
