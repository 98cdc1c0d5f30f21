package convert

import (
	"context"
	"fmt"
	"testing"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/stretchr/testify/require"
)

// BenchmarkLightGBM runs models that were converted here beside the same models as onnxmltools exports them (float32, with a label output).
func BenchmarkLightGBM(b *testing.B) {
	rows := readTable(b, lightgbmFixture(b, "data.csv"))
	for _, name := range []string{"numbers_only", "multiclass", "regression"} {
		res, err := LightGBM(lightgbmFixture(b, name+".txt"))
		require.NoError(b, err)
		for _, n := range []int{1, 400} {
			for _, model := range []struct {
				by   string
				onnx []byte
			}{{"converted", res.ONNX}, {"exported", lightgbmFixture(b, name+".onnx")}} {
				b.Run(fmt.Sprintf("%s/%d/%s", name, n, model.by), func(b *testing.B) {
					binding, err := newSession(b, model.onnx).Acquire(n)
					require.NoError(b, err)
					in := binding.Inputs()[0]
					for r := range n {
						for c, name := range rows.names {
							onnx.SetFloat(in.Data, in.DType, r*len(rows.names)+c, number(b, rows.columns[name][r]))
						}
					}
					ctx := context.Background()
					for b.Loop() {
						if err := binding.Run(ctx); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}
