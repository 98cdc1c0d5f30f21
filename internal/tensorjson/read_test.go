package tensorjson

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/rowcast"
)

func ports() []rowcast.Port {
	return []rowcast.Port{
		{Name: "half", DType: rowcast.Float16, Shape: []int64{-1, 2}},
		{Name: "whole", DType: rowcast.Int64, Shape: []int64{-1}},
		{Name: "flag", DType: rowcast.Bool, Shape: []int64{-1}},
		{Name: "word", DType: rowcast.String, Shape: []int64{-1, 1}},
		{Name: "cube", DType: rowcast.Float64, Shape: []int64{-1, 2, 3}},
		{Name: "byte", DType: rowcast.Uint8, Shape: []int64{-1}},
	}
}

const example = `{"half": [[0.5, 1.5], [2, -3]], "whole": [9007199254741248, -7], "flag": [true, false], "word": [["a"], ["\ud83d\ude00"]],
	"cube": [[[1, 2, 3], [4, 5, 6]], [[0.1, 0.2, 0.3], [-1, -2, -3]]], "byte": [0, 255]}`

func reader(ports ...rowcast.Port) *Reader {
	return &Reader{Ports: ports, Kind: "input", Nearest: func(_ string, names []string) string { return names[0] }}
}

// only reads the one tensor of that type and text.
func only(dtype rowcast.DType, text string) (onnx.Tensor, error) {
	tensors, err := reader(rowcast.Port{Name: "x", DType: dtype}).Read([]byte(`{"x":` + text + `}`))
	if err != nil {
		return onnx.Tensor{}, err
	}
	return tensors[0], nil
}

func TestEveryTypeIsReadExactly(t *testing.T) {
	for _, c := range []struct {
		dtype rowcast.DType
		text  string
		want  any
	}{
		{rowcast.Float16, `[65504, "-Infinity", 0.1]`, []uint16{0x7bff, 0xfc00, 0x2e66}},
		{rowcast.BFloat16, `[1, "Infinity"]`, []uint16{0x3f80, 0x7f80}},
		{rowcast.Float32, `[0.1, 1e-999]`, []float32{0.1, 0}},
		{rowcast.Float64, `[0.1, 1e300, "Infinity"]`, []float64{0.1, 1e300, math.Inf(1)}},
		{rowcast.Int8, `[-128, 127]`, []int8{-128, 127}},
		{rowcast.Int16, `[-32768]`, []int16{-32768}},
		{rowcast.Int32, `[2147483647, 2.5e1]`, []int32{2147483647, 25}},
		{rowcast.Int64, `[-9223372036854775808, 9223372036854775807, 9007199254740993]`, []int64{math.MinInt64, math.MaxInt64, 9007199254740993}},
		{rowcast.Uint8, `[255, -0]`, []uint8{255, 0}},
		{rowcast.Uint16, `[65535]`, []uint16{65535}},
		{rowcast.Uint32, `[4294967295]`, []uint32{4294967295}},
		{rowcast.Uint64, `[18446744073709551615, 9007199254740993]`, []uint64{math.MaxUint64, 9007199254740993}},
		{rowcast.Bool, `[true, false, 1, 0]`, []bool{true, false, true, false}},
		{rowcast.String, `["", "a\u00e9\ud83d\ude00\n\"\\", "NaN"]`, []string{"", "aé😀\n\"\\", "NaN"}},
	} {
		got, err := only(c.dtype, c.text)
		require.NoError(t, err, c.text)
		require.Equal(t, c.dtype, got.DType)
		require.Equal(t, c.want, got.Data, "%s", c.dtype)
	}
	got, err := only(rowcast.Float32, `"NaN"`)
	require.NoError(t, err)
	require.True(t, math.IsNaN(float64(got.Data.([]float32)[0])))
}

func TestShapes(t *testing.T) {
	for text, shape := range map[string][]int64{
		`7`: {}, `[7]`: {1}, ` [ [1,2,3] , [4,5,6] ] `: {2, 3}, `[]`: {0}, `[[],[]]`: {2, 0}, `[[[[1]]]]`: {1, 1, 1, 1},
		`{"shape":[],"data":[7]}`: {}, `{"shape":[2,1],"data":[7,8]}`: {2, 1}, `{"data":[],"shape":[0,3]}`: {0, 3}, `{"shape":[2,0,2],"data":[]}`: {2, 0, 2},
	} {
		got, err := only(rowcast.Int64, text)
		require.NoError(t, err, text)
		require.Equal(t, shape, got.Shape, text)
		require.Equal(t, int(onnx.Len(shape)), onnx.DataLen(got.Data), text)
	}
}

func TestTensorsComeInTheOrderOfThePorts(t *testing.T) {
	p := ports()
	got, err := reader(p...).Read([]byte(`{"byte":[],"cube":{"shape":[0,2,3],"data":[]},"word":{"shape":[0,1],"data":[]},"flag":[],"whole":[],"half":{"data":[],"shape":[0,2]}}`))
	require.NoError(t, err)
	for i := range p {
		require.Equal(t, p[i].Name, got[i].Name)
	}
}

func TestReadRefuses(t *testing.T) {
	with := func(name, value string) string {
		var m map[string]json.RawMessage
		require.NoError(t, json.Unmarshal([]byte(example), &m))
		m[name] = json.RawMessage("null")
		raw, err := json.Marshal(m)
		require.NoError(t, err)
		return strings.Replace(string(raw), `"`+name+`":null`, `"`+name+`":`+value, 1)
	}
	for _, c := range []struct {
		code  rowcast.Code
		text  string
		words []string
	}{
		{rowcast.CodeMissingFeature, `{}`, []string{`input "half" is missing`, `The inputs are "half" float16[N,2], `, `"cube" float64[N,2,3]`}},
		{rowcast.CodeUnknownFeature, with("hall", "1"), []string{`no input is named "hall"`, `Perhaps you mean "half".`}},
		{rowcast.CodeInvalidText, `[1]`, []string{"ml.infer takes a JSON object with one array per input, got a JSON array"}},
		{rowcast.CodeInvalidText, `{"byte":[1],"byte":[1]}`, []string{`input "byte" is given twice`}},
		{rowcast.CodeInvalidText, `{"byte":[1]`, []string{"invalid JSON: expected a comma or the end of the object"}},
		{rowcast.CodeInvalidText, example + "x", []string{"invalid JSON: unexpected text after the value"}},
		{rowcast.CodeInvalidText, with("word", `[["\u0000"]]`), []string{`invalid JSON: \u0000 cannot be part of a text`}},
		{rowcast.CodeDimensions, with("half", "[[1,2],[3]]"), []string{`input "half" is ragged: arrays of 2 and of 1 elements at one level`}},
		{rowcast.CodeDimensions, with("half", "[[1,2],3]"), []string{"mixes arrays and values at one level"}},
		{rowcast.CodeDimensions, with("half", "[1,2]"), []string{"takes the shape [N,2], got [2]"}},
		{rowcast.CodeDimensions, with("half", "1"), []string{"takes the shape [N,2], got []"}},
		{rowcast.CodeDimensions, with("half", "[[1,2,3],[1,2,3]]"), []string{"[N,2]", "[2,3]"}},
		{rowcast.CodeDimensions, with("half", "[]"), []string{`{"shape": [0, 3], "data": []}`}},
		{rowcast.CodeDimensions, with("half", `{"shape":[2,2],"data":[1,2,3]}`), []string{"has 3 elements, its shape [2,2] says otherwise"}},
		{rowcast.CodeDimensions, with("half", `{"shape":[2,2],"data":[[1,2],[3,4]]}`), []string{"data that is no flat array"}},
		{rowcast.CodeDimensions, with("half", `{"shape":[4294967296,4294967296,4294967296],"data":[]}`), []string{"0 elements"}},
		{rowcast.CodeDimensions, with("half", `{"shape":[-1,2],"data":[]}`), []string{"has the number -1 in its shape"}},
		{rowcast.CodeInvalidText, with("half", `{"shape":[0,2]}`), []string{"is an object, which must have shape and data"}},
		{rowcast.CodeInvalidText, with("half", `{"shape":[0,2],"date":[]}`), []string{`has the key "date"`}},
		{rowcast.CodeFeatureType, with("half", `[[1,"x"],[1,2]]`), []string{`input "half" takes float16, got the text "x" at [0,1]`}},
		{rowcast.CodeFeatureRange, with("half", `[[1,2],[1e6,2]]`), []string{"takes float16, which cannot hold the number 1e6 at [1,0]"}},
		{rowcast.CodeFeatureRange, with("cube", `[[[1e999,2,3],[4,5,6]]]`), []string{"cannot hold the number 1e999 at [0,0,0]"}},
		{rowcast.CodeNullFeature, with("half", `[[1,null],[1,2]]`), []string{"is NULL at [0,1]"}},
		{rowcast.CodeFeatureRange, with("byte", `[256,1]`), []string{"uint8", "256"}},
		{rowcast.CodeFeatureRange, with("byte", `[-1,1]`), []string{"uint8"}},
		{rowcast.CodeFeatureType, with("byte", `[1.5,1]`), []string{"uint8"}},
		{rowcast.CodeFeatureType, with("byte", `["NaN"]`), []string{"uint8"}},
		{rowcast.CodeFeatureType, with("whole", `["1",1]`), []string{"int64"}},
		{rowcast.CodeFeatureRange, with("whole", `[9223372036854775808,1]`), []string{"int64"}},
		{rowcast.CodeFeatureType, with("flag", `["t",true]`), []string{"bool"}},
		{rowcast.CodeFeatureType, with("flag", `[2]`), []string{"bool"}},
		{rowcast.CodeFeatureType, with("word", `[[1],["a"]]`), []string{"string"}},
		{rowcast.CodeTooLarge, with("word", strings.Repeat("[", 5000)), []string{"nests deeper than 1000 levels"}},
	} {
		_, err := reader(ports()...).Read([]byte(c.text))
		var e *rowcast.Error
		require.ErrorAs(t, err, &e, c.text)
		require.Equal(t, c.code, e.Code, "%s: %s", c.text, e)
		for _, w := range c.words {
			require.Contains(t, e.Message+" | "+e.Detail+" | "+e.Hint, w, c.text)
		}
	}
	_, err := only(rowcast.Uint64, `[18446744073709551616]`)
	require.Equal(t, rowcast.CodeFeatureRange, rowcast.CodeOf(err))
	_, err = only(rowcast.Uint64, `[-1]`)
	require.Equal(t, rowcast.CodeFeatureRange, rowcast.CodeOf(err))
	_, err = only("complex64", `[1]`)
	require.ErrorContains(t, err, `has elements of "complex64", which Rowcast can't carry`)
}

func TestADeclaredShapeNeedNotBind(t *testing.T) {
	r := reader(rowcast.Port{Name: "x", DType: rowcast.Int64, Shape: []int64{-1, 2}})
	r.AnyShape = true
	got, err := r.Read([]byte(`{"x":[1,2,3]}`))
	require.NoError(t, err)
	require.Equal(t, []int64{3}, got[0].Shape)
	_, err = r.Read([]byte(`{}`))
	var e *rowcast.Error
	require.ErrorAs(t, err, &e)
	require.Contains(t, e.Detail, `"x" int64[N,2]`)
}

func TestSetElement(t *testing.T) {
	x := onnx.Tensor{DType: rowcast.Float32, Data: make([]float32, 2)}
	require.True(t, SetElement(&x, 1, []byte("0.5")))
	require.Equal(t, []float32{0, 0.5}, x.Data)
	require.True(t, SetElement(&x, 1, []byte(`"Infinity"`)))
	for _, text := range []string{"null", "true", `"0.5"`, "[1]", "{}", "1e39", "", "1 2"} {
		require.False(t, SetElement(&x, 0, []byte(text)), text)
	}
	words := onnx.Tensor{DType: rowcast.String, Data: make([]string, 1)}
	require.True(t, SetElement(&words, 0, []byte(`"\u00e9"`)))
	require.Equal(t, []string{"é"}, words.Data)
	require.False(t, SetElement(&words, 0, []byte("1")))
	require.False(t, SetElement(&onnx.Tensor{DType: "complex64"}, 0, []byte("1")))
}
