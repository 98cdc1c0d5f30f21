package tensorjson

import (
	"bytes"
	"encoding/json"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/rowcast"
)

func TestEveryTypeIsWrittenExactly(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	for _, c := range []struct {
		dtype rowcast.DType
		shape []int64
		data  any
		want  string
	}{
		{rowcast.Float16, []int64{3}, []uint16{0x2e66, 0x7e00, 0xfc00}, `[0.099975586,"NaN","-Infinity"]`},
		{rowcast.BFloat16, []int64{1}, []uint16{0x3f80}, `[1]`},
		{rowcast.Float32, []int64{2, 2}, []float32{0.1, float32(nan), float32(inf), 1e-7}, `[[0.1,"NaN"],["Infinity",1e-07]]`},
		{rowcast.Float64, []int64{1, 1, 2}, []float64{0.1, 1e300}, `[[[0.1,1e+300]]]`},
		{rowcast.Int8, []int64{1}, []int8{-128}, `[-128]`},
		{rowcast.Int16, []int64{1}, []int16{-32768}, `[-32768]`},
		{rowcast.Int32, []int64{}, []int32{-2147483648}, `-2147483648`},
		{rowcast.Int64, []int64{2}, []int64{math.MinInt64, 9007199254740993}, `[-9223372036854775808,9007199254740993]`},
		{rowcast.Uint8, []int64{1}, []uint8{255}, `[255]`},
		{rowcast.Uint16, []int64{1}, []uint16{65535}, `[65535]`},
		{rowcast.Uint32, []int64{1}, []uint32{4294967295}, `[4294967295]`},
		{rowcast.Uint64, []int64{1}, []uint64{math.MaxUint64}, `[18446744073709551615]`},
		{rowcast.Bool, []int64{2}, []bool{true, false}, `[true,false]`},
		{rowcast.String, []int64{2}, []string{"a\"\\\n\x01<é😀", "\x00\xff"}, `["a\"\\\n\u0001<é😀","` + "\ufffd\ufffd" + `"]`},
		{rowcast.Float32, []int64{0}, []float32{}, `[]`},
		{rowcast.Float32, []int64{2, 0}, []float32{}, `[[],[]]`},
		{rowcast.Float32, []int64{0, 3}, []float32{}, `{"shape":[0,3],"data":[]}`},
	} {
		x := onnx.Tensor{Name: "x", DType: c.dtype, Shape: c.shape, Data: c.data}
		got := AppendTensor(nil, &x)
		require.Equal(t, c.want, string(got), "%s", c.dtype)
		read, err := only(c.dtype, string(got))
		require.NoError(t, err)
		require.Equal(t, c.shape, read.Shape)
		require.Equal(t, string(got), string(AppendTensor(nil, &read)))
	}
}

func TestAppend(t *testing.T) {
	require.Equal(t, `{}`, string(Append(nil, nil)))
	require.Equal(t, `{"a \"b\"":1,"c":[true]}`, string(Append(nil, []onnx.Tensor{
		{Name: `a "b"`, DType: rowcast.Int64, Shape: []int64{}, Data: []int64{1}}, {Name: "c", DType: rowcast.Bool, Shape: []int64{1}, Data: []bool{true}},
	})))
}

// FuzzRead reads any text as tensors of every kind, of declared and of free shape: an error or valid JSON, and what is accepted survives being written and
// read again.
func FuzzRead(f *testing.F) {
	for _, s := range []string{
		example,
		`{"half":{"shape":[0,2],"data":[]},"whole":[],"flag":[],"word":{"data":[],"shape":[0,1]},"cube":{"shape":[0,2,3],"data":[]},"byte":[]}`,
		`{"half":[["NaN",1e4]],"whole":[-9223372036854775808],"flag":[0],"word":[["\ud83d\ude00"]],"cube":[[["Infinity",0,0],[0,0,0.1]]],"byte":[2.5e1]}`,
		`{"half":[[[[]]]]}`, `{"half":1}`, `{"byte":[1,[2]]}`,
		`{"f":[[1e-7]],"b":"-Infinity","i":-128,"j":[1],"k":[[2],[3]],"u":18446744073709551615,"v":[1],"w":{"shape":[1,1],"data":[7]}}`,
	} {
		f.Add([]byte(s))
	}
	declared := reader(ports()...)
	free := reader(
		rowcast.Port{Name: "f", DType: rowcast.Float32}, rowcast.Port{Name: "b", DType: rowcast.BFloat16}, rowcast.Port{Name: "i", DType: rowcast.Int8},
		rowcast.Port{Name: "j", DType: rowcast.Int16}, rowcast.Port{Name: "k", DType: rowcast.Int32}, rowcast.Port{Name: "u", DType: rowcast.Uint64},
		rowcast.Port{Name: "v", DType: rowcast.Uint32}, rowcast.Port{Name: "w", DType: rowcast.Uint16},
	)
	f.Fuzz(func(t *testing.T, s []byte) {
		for _, r := range []*Reader{declared, free} {
			tensors, err := r.Read(s)
			if err != nil {
				var e *rowcast.Error
				require.ErrorAs(t, err, &e)
				require.NotEqual(t, rowcast.CodeInternal, e.Code, "%v", err)
				require.NotEmpty(t, e.Message)
				continue
			}
			require.True(t, json.Valid(s))
			written := Append(nil, tensors)
			require.True(t, json.Valid(written), "%s", written)
			again, err := r.Read(written)
			require.NoError(t, err, "%s", written)
			for i := range tensors {
				require.Equal(t, tensors[i].Shape, again[i].Shape)
			}
			require.True(t, bytes.Equal(written, Append(nil, again)))
		}
	})
}
