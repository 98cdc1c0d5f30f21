package predict

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// known checks that an error is one that a caller may see: a domain error that is no bug of ours.
func known(t *testing.T, err error) {
	t.Helper()
	var e *rowcast.Error
	require.ErrorAs(t, err, &e)
	require.NotEqual(t, rowcast.CodeInternal, e.Code, "%v", err)
	require.NotEmpty(t, e.Message)
}

func TestHexadecimalDigits(t *testing.T) {
	require.Len(t, hexValues, 256)
	for c := range 256 {
		want := bytes.IndexByte([]byte("0123456789abcdef"), byte(c))
		if c >= 'A' && c <= 'F' {
			want = c - 'A' + 10
		}
		if want < 0 {
			want = 255
		}
		require.Equal(t, byte(want), hexValues[c], "%q", c)
	}
}

// FuzzCoerce reads any payload in every format for a model with a feature of every type. Whatever is accepted must be a value of its type.
func FuzzCoerce(f *testing.F) {
	sig := &rowcast.Signature{Layout: rowcast.LayoutColumns}
	for _, column := range []struct {
		name    string
		kind    rowcast.FeatureType
		dtype   rowcast.DType
		missing bool
		def     string
	}{
		{"real", rowcast.TypeReal, rowcast.Float32, false, ""}, {"double", rowcast.TypeDouble, rowcast.Float64, true, ""},
		{"whole", rowcast.TypeBigint, rowcast.Int64, false, "7"}, {"flag", rowcast.TypeBoolean, rowcast.Bool, false, ""},
		{"half", rowcast.TypeReal, rowcast.Float16, true, ""}, {"byte", rowcast.TypeBigint, rowcast.Uint8, false, "1"},
	} {
		feature := rowcast.Feature{Name: column.name, Type: column.kind, Missing: column.missing, Default: json.RawMessage(column.def)}
		sig.Features = append(sig.Features, feature)
		sig.Inputs = append(sig.Inputs, rowcast.Port{Name: column.name, DType: column.dtype, Shape: []int64{-1, 1}})
	}
	numbers, err := newPlan(sig)
	require.NoError(f, err)
	withText := *sig
	withText.Features = append([]rowcast.Feature{{Name: "word", Type: rowcast.TypeText}}, sig.Features...)
	withText.Inputs = append([]rowcast.Port{{Name: "word", DType: rowcast.String, Shape: []int64{-1, 1}}}, sig.Inputs...)
	texts, err := newPlan(&withText)
	require.NoError(f, err)
	for _, payload := range []string{
		"{1,2,3,t,5,6}", `{"1","2",NULL,on,nan,255}`, `{"real":1,"double":"NaN","whole":9007199254740993,"flag":true,"half":1.5,"byte":2}`,
		`{"word":"a\u00e9\ud83d\ude00","real":1e38,"flag":"off"}`, sent(1, 2, 3, 1, nil, 6), sent(math.Inf(1), 2.5, 1e19, 1, 65520, 256), "{{1,2}}", "[1:2]={1,2}", "{}",
	} {
		for _, format := range "btjr" {
			f.Add([]byte(payload), byte(format), payload[0] == '{')
		}
	}
	f.Fuzz(func(t *testing.T, payload []byte, format byte, withWord bool) {
		plan, signature := numbers, sig
		if withWord {
			plan, signature = texts, &withText
		}
		r := filler{
			plan: plan, call: &rowcast.Call{Model: "m", Format: rowcast.Format(format), Payload: payload},
			inputs: trialInputs(signature), scratch: &scratch{seen: make([]bool, len(plan.features))},
		}
		if err := r.fill(); err != nil {
			known(t, err)
			return
		}
		at := len(r.inputs) - 6
		require.Zero(t, r.inputs[at].Data.([]float32)[0]-r.inputs[at].Data.([]float32)[0], "not finite")
		require.False(t, math.IsInf(r.inputs[at+1].Data.([]float64)[0], 0))
		if withWord && utf8.Valid(payload) {
			require.True(t, utf8.ValidString(r.inputs[0].Data.([]string)[0]))
		}
		// What is valid JSON for us is valid JSON, and the other way round the standard library finds the same number.
		if c := rowcast.Format(format); c == object || c == record {
			require.True(t, json.Valid(payload))
			var m map[string]any
			d := json.NewDecoder(bytes.NewReader(payload))
			d.UseNumber()
			require.NoError(t, d.Decode(&m))
			if n, ok := m["whole"].(json.Number); ok {
				if want, err := strconv.ParseInt(string(n), 10, 64); err == nil {
					require.Equal(t, want, r.inputs[at+2].Data.([]int64)[0])
				}
			}
		}
	})
}

// FuzzArrayLiteral checks that what is read has as many elements as its dimensions say, and that writing it with quotes reads the same again.
func FuzzArrayLiteral(f *testing.F) {
	for _, s := range []string{"{}", "{1,2}", `{"a\"b",NULL,c\,d , " x "}`, "{{1,2},{3,4}}", "[2:3][0:1]={{a,b},{c,d}}", "{{},{}}", `{"1`, `{\}`, "{a\\ }"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, s []byte) {
		var l literal
		if err := l.read(s); err != nil {
			known(t, err)
			return
		}
		count := 0
		if len(l.dims) > 0 {
			count = 1
		}
		for _, d := range l.dims {
			count *= d
		}
		require.Len(t, l.cells, count)
		if len(l.dims) != 1 {
			return
		}
		again := []byte{}
		for i, c := range l.cells {
			again = append(again, "{,"[min(i, 1)])
			if c.kind == cellNull {
				again = append(again, "NULL"...)
				continue
			}
			again = append(again, '"')
			for _, b := range c.text {
				again = append(again, '\\', b)
			}
			again = append(again, '"')
		}
		var second literal
		require.NoError(t, second.read(append(again, '}')))
		require.Len(t, second.cells, len(l.cells))
		for i := range l.cells {
			require.Equal(t, l.cells[i].kind, second.cells[i].kind)
			require.Equal(t, string(l.cells[i].text), string(second.cells[i].text))
		}
	})
}

// FuzzBatch reads anything as a batch: nothing panics, nothing allocates more than the text could hold, and what is read has the shape that it says.
func FuzzBatch(f *testing.F) {
	column := func(oid uint32, values ...[]byte) []byte {
		raw := binary.BigEndian.AppendUint32(nil, 1)
		raw = binary.BigEndian.AppendUint32(raw, 1)
		raw = binary.BigEndian.AppendUint32(raw, oid)
		raw = binary.BigEndian.AppendUint32(raw, uint32(len(values)))
		raw = binary.BigEndian.AppendUint32(raw, 1)
		for _, v := range values {
			if v == nil {
				raw = binary.BigEndian.AppendUint32(raw, 1<<32-1)
				continue
			}
			raw = append(binary.BigEndian.AppendUint32(raw, uint32(len(v))), v...)
		}
		return raw
	}
	text := func(raw []byte) string { return base64.StdEncoding.EncodeToString(raw) }
	numbers, words := column(oidFloat8, pgFloat8(1.5), nil), column(oidText, []byte("12"), []byte("NaN"))
	f.Add("c2 [\"a\",\"b\"]\n" + text(column(oidBytea, numbers, words)))
	f.Add("c2 [\"a\"]\n" + text(column(oidBytea, column(oidNumeric, pgNumeric(f, "1.25"), pgNumeric(f, "-1e30")))))
	f.Add("c1 []\n" + text(column(oidBytea)))
	f.Add("c99999999999 []\n")
	f.Add(`s{"names":["a","b","x"],"types":[701,25,1082]}`)
	f.Add("m" + text([]byte{0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 2, 0xbd, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}))
	artifact, sig := tiny(f, "zipmap_text", rowcast.Signature{Task: rowcast.TaskClassification, Layout: rowcast.LayoutMatrix, Features: reals("a", "b")})
	sig.Features[1].Default = json.RawMessage("2.5")
	fix := newFixture(f, "zip", artifact, sig)
	f.Fuzz(func(t *testing.T, payload string) {
		if payload == "" {
			return
		}
		c := &rowcast.Call{Verb: rowcast.VerbBatch, Spec: fix.spec.Key, Model: "zip", Version: 1, Format: rowcast.Format(payload[0]), Payload: []byte(payload[1:])}
		out, err := fix.engine.Do(context.Background(), c, nil)
		require.Zero(t, fix.engine.Stats().Running)
		if err == nil && c.Format == rowcast.FormatColumns {
			_, _, rows, err := readColumns(c.Payload)
			require.NoError(t, err)
			list, _, _ := strings.Cut(string(out), " ")
			require.Equal(t, rows, strings.Count(list, ",")+1)
		}
	})
}
