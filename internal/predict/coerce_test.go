package predict

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/rowcast"
)

const (
	p = rowcast.VerbPredict
	l = rowcast.VerbLabel
	j = rowcast.VerbJSON

	array  = rowcast.FormatArray
	text   = rowcast.FormatText
	object = rowcast.FormatJSON
	record = rowcast.FormatRecord
)

func load(t testing.TB, name string) *fixture {
	t.Helper()
	m := readFolder(t, own(name))
	return newFixture(t, name, m.artifact, m.sig)
}

// adder sums three float32 features.
func adder(t testing.TB, change func(*rowcast.Signature)) *fixture {
	t.Helper()
	sig := rowcast.Signature{Task: rowcast.TaskRegression, Layout: rowcast.LayoutMatrix, Features: reals("width", "height", "depth")}
	if change != nil {
		change(&sig)
	}
	artifact, sig := tiny(t, "named", sig)
	return newFixture(t, "adder", artifact, sig)
}

func TestArraysOfTheWrongShape(t *testing.T) {
	f := adder(t, nil)
	require.Equal(t, "6", f.must(p, array, sent(1, 2, 3)))
	require.Equal(t, "6", f.must(p, text, "{1,2,3}"))
	require.Equal(t, "6", f.must(p, text, " [0:2] = { 1 , +2.0, \"3e0\" } "))
	f.refuses(rowcast.CodeFeatureCount, p, array, sent(1), "takes 3 features, got 1", `"height", "depth" are missing`, `"width" real`)
	f.refuses(rowcast.CodeFeatureCount, p, text, "{1,2}", "takes 3 features, got 2", `feature "depth" is missing`)
	f.refuses(rowcast.CodeFeatureCount, p, array, sent(1, 2, 3, 4), "takes 3 features, got 4", `"width" real, "height" real, "depth" real`)
	f.refuses(rowcast.CodeDimensions, p, text, "{{1,2,3},{4,5,6}}", "one row of 3 features", "2 dimensions", "2 x 3", "ml.infer")
	f.refuses(rowcast.CodeDimensions, p, text, "{{1,2,3}}", "2 dimensions")
	f.refuses(rowcast.CodeDimensions, p, text, "{}", "empty array")
	f.refuses(rowcast.CodeDimensions, p, array, "0000000000000000000002bd", "empty array")
	twoRows := "0000000200000000000002bd" + "0000000100000001" + "0000000100000001" + "000000083ff0000000000000"
	f.refuses(rowcast.CodeDimensions, p, array, twoRows, "2 dimensions", "1 x 1")
	for _, broken := range []string{"", "00", strings.Repeat("zz", 40), sent(1, 2, 3)[:50], sent(1, 2, 3) + "00", "0000000100000000000002bd7fffffff00000001"} {
		f.refuses(rowcast.CodeProtocol, p, array, broken, "malformed array")
	}
	for _, broken := range []string{"{1,2,3", "{1,,3}", "{1,2,3}x", "{1 {2}}", `{"1" "2"}`, `{"1`, "{1,{2}}", "{{1},2}", "{{1},{2,3}}", `{1\`, "[1,2,3]", "[1:", "{{{{{{{1}}}}}}}"} {
		f.refuses(rowcast.CodeInvalidText, p, text, broken)
	}
	f.refuses(rowcast.CodeInvalidText, p, text, "5.1", "array or a JSON object", `'{"width": 1, ...}'`)
	f.refuses(rowcast.CodeInvalidText, p, text, "", "array or a JSON object")
}

func TestMissingValues(t *testing.T) {
	f := adder(t, func(s *rowcast.Signature) {
		s.Features[1].Default = []byte("10")
		s.Features[2].Missing = true
	})
	// The default stands for NULL, NaN and an absent key alike.
	require.Equal(t, "14", f.must(p, array, sent(1, nil, 3)))
	require.Equal(t, "14", f.must(p, array, sent(1, math.NaN(), 3)))
	require.Equal(t, "14", f.must(p, text, "{1,NULL,3}"))
	require.Equal(t, "14", f.must(p, text, "{1,nan,3}"))
	require.Equal(t, "14", f.must(p, object, `{"width": 1, "depth": 3}`))
	require.Equal(t, "14", f.must(p, record, `{"width": 1, "height": null, "depth": 3}`))
	require.Equal(t, "14", f.must(p, object, `{"width": 1, "height": "NaN", "depth": 3}`))
	// missing: true gives the model NaN.
	require.Equal(t, "NaN", f.must(p, array, sent(1, 2, nil)))
	require.Equal(t, "NaN", f.must(p, object, `{"width": 1, "height": 2}`))
	require.Equal(t, "NaN", f.must(p, array, sent(1, 2, math.NaN())))
	require.Contains(t, f.must(j, object, `{"width": 1}`), `"value":"NaN"`)
	// Neither: an error that names it.
	f.refuses(rowcast.CodeNullFeature, p, array, sent(nil, 2, 3), `feature "width" (real) is NULL`)
	f.refuses(rowcast.CodeNullFeature, p, text, `{null,2,3}`, `feature "width"`)
	f.refuses(rowcast.CodeNullFeature, p, object, `{"width": null}`, `feature "width"`)
	f.refuses(rowcast.CodeFeatureRange, p, array, sent(math.NaN(), 2, 3), `feature "width" (real) is NaN`)
	f.refuses(rowcast.CodeMissingFeature, p, object, `{"depth": 3}`, `feature "width" is missing`)
	f.refuses(rowcast.CodeMissingFeature, p, object, `{}`, `feature "width" is missing`)
	f.refuses(rowcast.CodeMissingFeature, p, record, `{"f1": 3}`, `ROW(...)`)

	all := adder(t, func(s *rowcast.Signature) {
		for i := range s.Features {
			s.Features[i].Default = []byte(fmt.Sprint(i + 1))
		}
	})
	require.Equal(t, "6", all.must(p, object, "{}"))
	require.Equal(t, "6", all.must(p, record, `{"height": 2}`))
	all.refuses(rowcast.CodeMissingFeature, p, record, `{"id": 3}`, "no column with the name of a feature")
	require.Equal(t, "6", all.must(p, text, "{}"))
	require.Equal(t, "6", all.must(p, text, "{ }"))
}

func TestNumbers(t *testing.T) {
	f := adder(t, nil)
	f.refuses(rowcast.CodeFeatureRange, p, array, sent(1, 1e39, 3), `feature "height"`, "1e+39", "float32")
	f.refuses(rowcast.CodeFeatureRange, p, object, `{"width":1e999,"height":1,"depth":1}`, `feature "width"`)
	f.refuses(rowcast.CodeFeatureRange, p, array, sent(1, 2, math.Inf(1)), `feature "depth"`, "Infinity", "allow_infinity")
	f.refuses(rowcast.CodeFeatureRange, p, text, "{1,-inf,2}", `feature "height"`, "-inf")
	f.refuses(rowcast.CodeFeatureRange, p, object, `{"width":"Infinity","height":1,"depth":1}`, `feature "width"`)
	f.refuses(rowcast.CodeFeatureType, p, object, `{"width":"1","height":1,"depth":1}`, `feature "width"`, `the text "1"`)
	f.refuses(rowcast.CodeFeatureType, p, object, `{"width":true,"height":1,"depth":1}`, "boolean")
	f.refuses(rowcast.CodeFeatureType, p, object, `{"width":[1],"height":1,"depth":1}`, "JSON array")
	f.refuses(rowcast.CodeFeatureType, p, object, `{"width":{"a":1},"height":1,"depth":1}`, "JSON object")
	f.refuses(rowcast.CodeFeatureType, p, text, "{1,0x10,3}", `"0x10"`)
	f.refuses(rowcast.CodeFeatureType, p, text, "{1,1_0,3}", `"1_0"`)
	require.Equal(t, "3", f.must(p, object, `{"width":1e-999,"height":1,"depth":2}`))

	infinite := adder(t, func(s *rowcast.Signature) { s.AllowInfinity = true })
	require.Equal(t, "Infinity", infinite.must(p, array, sent(1, 2, math.Inf(1))))
	require.Equal(t, "-Infinity", infinite.must(p, text, "{1,-infinity,2}"))
	require.Contains(t, infinite.must(j, object, `{"width":"-Infinity","height":1,"depth":2}`), `"value":"-Infinity"`)
	infinite.refuses(rowcast.CodeFeatureRange, p, array, sent(1, 1e39, 3), `feature "height"`)
}

func TestObjects(t *testing.T) {
	f := adder(t, nil)
	require.Equal(t, "6", f.must(p, object, ` { "depth" : 3 , "height":2,"wi\u0064th":1} `))
	require.Equal(t, "6", f.must(p, text, `{"depth": 3, "height":2,"width":1}`))
	require.Equal(t, "6", f.must(p, record, `{"x":{"a":[1,"}"]},"depth": 3, "height":2,"width":1,"x":null}`))
	f.refuses(rowcast.CodeUnknownFeature, p, object, `{"depth":3,"heigth":2,"width":1}`, `no feature "heigth"`, `"height"`)
	f.refuses(rowcast.CodeUnknownFeature, p, object, `{"Width":3}`, `"width"`)
	f.refuses(rowcast.CodeMissingFeature, p, record, `{"depth":3,"heigth":2,"width":1}`, `feature "height" is missing`, "AS")
	f.refuses(rowcast.CodeInvalidText, p, text, `{"width":1,"width":2,"height":1,"depth":1}`, `"width" is given twice`)
	f.refuses(rowcast.CodeInvalidText, p, record, `{"width":1,"width":2,"height":1,"depth":1}`, `"width" is given twice`, "column")
	f.refuses(rowcast.CodeInvalidText, p, object, `[1,2,3]`, "JSON object by feature name", "JSON array")
	f.refuses(rowcast.CodeInvalidText, p, object, `7`, "the number 7")
	for _, broken := range []string{`{"width":1`, `{"width"}`, `{"width":}`, `{"width":01}`, `{"width":1,}`, `{"width":nul}`, "{\"a\nb\":1}", `{"\x":1}`,
		`{"\ud800":1}`, `{"width":1}}`, `{"a\u0000":1}`} {
		f.refuses(rowcast.CodeInvalidText, p, object, broken, "invalid JSON")
	}
	f.refuses(rowcast.CodeTooLarge, p, record, `{"x":`+strings.Repeat("[", 5000), "nests deeper")
}

func TestColumnsOfEveryType(t *testing.T) {
	f := load(t, "penguins")
	const row = `{"island":"Torgersen","bill_length_mm":39.1,"bill_depth_mm":18.7,"flipper_length_mm":181,"body_mass_g":3750,"sex":%s,"year":%s}`
	require.Equal(t, "Adelie", f.must(l, object, fmt.Sprintf(row, `"male"`, "2007")))
	require.Equal(t, f.must(j, object, fmt.Sprintf(row, `"unknown"`, "2007")), f.must(j, object, fmt.Sprintf(row, `null`, "2007.0")))
	require.Equal(t, f.must(j, object, fmt.Sprintf(row, `"unknown"`, "2007")), f.must(j, object, fmt.Sprintf(row, `null`, "0.2007e4")))
	f.refuses(rowcast.CodeFeatureType, l, object, fmt.Sprintf(row, `"male"`, "2007.5"), `feature "year" takes a bigint, got the number 2007.5`)
	f.refuses(rowcast.CodeFeatureRange, l, object, fmt.Sprintf(row, `"male"`, "1e19"), `feature "year"`, "int64")
	f.refuses(rowcast.CodeFeatureType, l, object, fmt.Sprintf(row, `"male"`, `"2007"`), `feature "year"`)
	f.refuses(rowcast.CodeFeatureType, l, object, fmt.Sprintf(row, `1`, `2007`), `feature "sex" takes text, got the number 1`)
	f.refuses(rowcast.CodeNullFeature, l, object, fmt.Sprintf(row, `"male"`, `null`), `feature "year" (bigint) is NULL`)
	f.refuses(rowcast.CodeFeatureType, l, array, sent(1, 2, 3, 4, 5, 6, 7), "cannot take an array", `"island" is text`)
	f.refuses(rowcast.CodeFeatureType, l, text, "{a,1,2,3,4,m,2007}", "cannot take an array", `"island" is text`)
	f.refuses(rowcast.CodeResultType, p, object, fmt.Sprintf(row, `"male"`, "2007"), "text labels", "predict_label")
}

// wide is a model of one bigint and one boolean column; predict_json shows what arrived.
func TestBigintAndBooleanArriveExactly(t *testing.T) {
	store := func(kind rowcast.FeatureType, dtype rowcast.DType, v cell) (any, error) {
		sig := rowcast.Signature{Layout: rowcast.LayoutColumns, Features: []rowcast.Feature{{Name: "x", Type: kind}},
			Inputs: []rowcast.Port{{Name: "x", DType: dtype, Shape: []int64{-1, 1}}}}
		plan, err := newPlan(&sig)
		require.NoError(t, err)
		r := filler{plan: plan, call: &rowcast.Call{}, inputs: trialInputs(&sig)}
		err = r.store(&plan.features[0], v)
		return r.inputs[0].Data, err
	}
	number := func(s string) cell { return cell{kind: cellNumber, text: []byte(s)} }
	for _, c := range []struct {
		v    cell
		want int64
	}{
		{number("9007199254740993"), 9007199254740993}, {number("-9223372036854775808"), math.MinInt64}, {number("9223372036854775807"), math.MaxInt64},
		{number("9223372036854775807.000"), math.MaxInt64}, {number("1e18"), 1e18}, {number("-0"), 0}, {number("0e99999999999999999999"), 0},
		{number("12300e-2"), 123}, {cell{kind: cellFloat, float: 1 << 60}, 1 << 60}, {cell{kind: cellWord, text: []byte(" +42 ")}, 42},
		{cell{kind: cellFloat, float: 9007199254740994}, 9007199254740994},
	} {
		data, err := store(rowcast.TypeBigint, rowcast.Int64, c.v)
		require.NoError(t, err, c.v.describe())
		require.Equal(t, []int64{c.want}, data)
	}
	for _, v := range []cell{number("9223372036854775808"), number("1e99999999999999999999"), {kind: cellFloat, float: 1 << 63}, {kind: cellFloat, float: math.Inf(1)},
		{kind: cellString, text: []byte("Infinity")}} {
		_, err := store(rowcast.TypeBigint, rowcast.Int64, v)
		require.Equal(t, rowcast.CodeFeatureRange, rowcast.CodeOf(err), v.describe())
	}
	for _, v := range []cell{number("2.5"), number("1e-99999999999999999999"), {kind: cellFloat, float: 2.5}, {kind: cellTrue}, {kind: cellString, text: []byte("7")}} {
		_, err := store(rowcast.TypeBigint, rowcast.Int64, v)
		require.Equal(t, rowcast.CodeFeatureType, rowcast.CodeOf(err), v.describe())
	}
	_, err := store(rowcast.TypeBigint, rowcast.Int8, number("128"))
	require.Equal(t, rowcast.CodeFeatureRange, rowcast.CodeOf(err))
	_, err = store(rowcast.TypeReal, rowcast.Int32, number("1.5"))
	require.Equal(t, rowcast.CodeFeatureType, rowcast.CodeOf(err))
	_, err = store(rowcast.TypeReal, rowcast.Float16, number("65520"))
	require.Equal(t, rowcast.CodeFeatureRange, rowcast.CodeOf(err))

	for words, want := range map[string]bool{"true t tr YES y on 1 1.0": true, "false F fals no n of off 0 0e0": false} {
		for _, w := range strings.Fields(words) {
			data, err := store(rowcast.TypeBoolean, rowcast.Bool, cell{kind: cellWord, text: []byte(w)})
			require.NoError(t, err, w)
			require.Equal(t, []bool{want}, data, w)
			if w != "1.0" && w != "0e0" {
				data, err = store(rowcast.TypeBoolean, rowcast.Float32, cell{kind: cellString, text: []byte(w)})
				require.NoError(t, err, w)
				require.Equal(t, []float32{float32(boolInt(want))}, data, w)
			}
		}
	}
	for _, v := range []cell{number("2"), number("0.5"), {kind: cellString, text: []byte("o")}, {kind: cellString, text: []byte("")},
		{kind: cellString, text: []byte("maybe")}, {kind: cellWord, text: []byte("2")}} {
		_, err := store(rowcast.TypeBoolean, rowcast.Bool, v)
		require.Equal(t, rowcast.CodeFeatureType, rowcast.CodeOf(err), v.describe())
	}
}

func TestTextModelTakesItsTextRaw(t *testing.T) {
	sig := rowcast.Signature{Layout: rowcast.LayoutColumns, Features: []rowcast.Feature{{Name: "body", Type: rowcast.TypeText}},
		Inputs: []rowcast.Port{{Name: "body", DType: rowcast.String, Shape: []int64{-1, 1}}}}
	plan, err := newPlan(&sig)
	require.NoError(t, err)
	for _, raw := range []string{"", "{1,2}", `{"body": "x"}`, "null", " été \n"} {
		r := filler{plan: plan, call: &rowcast.Call{Format: text, Payload: []byte(raw)}, inputs: trialInputs(&sig), scratch: &scratch{seen: make([]bool, 1)}}
		require.NoError(t, r.fill())
		require.Equal(t, []string{raw}, r.inputs[0].Data)
	}
	r := filler{plan: plan, call: &rowcast.Call{Format: object, Payload: []byte(`{"body": "a\u00e9\ud83d\ude00\n\"\\"}`)}, inputs: trialInputs(&sig), scratch: &scratch{seen: make([]bool, 1)}}
	require.NoError(t, r.fill())
	require.Equal(t, []string{"aé😀\n\"\\"}, r.inputs[0].Data)
}

func TestSignaturesThatContradictThemselves(t *testing.T) {
	good := func() *rowcast.Signature {
		return &rowcast.Signature{Layout: rowcast.LayoutMatrix, Features: reals("a", "b"),
			Inputs: []rowcast.Port{{Name: "x", DType: rowcast.Float32, Shape: []int64{-1, 2}}}}
	}
	_, err := newPlan(good())
	require.NoError(t, err)
	for reason, change := range map[string]func(*rowcast.Signature){
		"two features": func(s *rowcast.Signature) { s.Features[1].Name = "a" },
		"its tensor":   func(s *rowcast.Signature) { s.Features[1].Type = rowcast.TypeText },
		"the default":  func(s *rowcast.Signature) { s.Features[1].Default = []byte(`"x"`) },
		"inputs":       func(s *rowcast.Signature) { s.Inputs = nil },
	} {
		sig := good()
		change(sig)
		_, err := newPlan(sig)
		require.ErrorContains(t, err, reason)
		require.Equal(t, rowcast.CodeModelUnavailable, rowcast.CodeOf(err))
	}
}
