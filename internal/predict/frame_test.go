package predict

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// pgFloat8 and the others write values in PostgreSQL's binary format.
func pgFloat8(x float64) []byte { return binary.BigEndian.AppendUint64(nil, math.Float64bits(x)) }
func pgFloat4(x float32) []byte { return binary.BigEndian.AppendUint32(nil, math.Float32bits(x)) }
func pgInt8(n int64) []byte     { return binary.BigEndian.AppendUint64(nil, uint64(n)) }
func pgInt4(n int32) []byte     { return binary.BigEndian.AppendUint32(nil, uint32(n)) }
func pgInt2(n int16) []byte     { return binary.BigEndian.AppendUint16(nil, uint16(n)) }

func pgBool(b bool) []byte { return []byte{byte(boolInt(b))} }

// pgNumeric writes a decimal without or with an exponent.
func pgNumeric(t testing.TB, decimal string) []byte {
	sign, special := map[string]uint16{"NaN": numericNaN, "Infinity": numericInf, "-Infinity": numericNegInf}[decimal], false
	if sign != 0 {
		special = true
	}
	header := func(count int, weight int, sign uint16, shown int) []byte {
		b := binary.BigEndian.AppendUint16(nil, uint16(count))
		b = binary.BigEndian.AppendUint16(b, uint16(int16(weight)))
		b = binary.BigEndian.AppendUint16(b, sign)
		return binary.BigEndian.AppendUint16(b, uint16(shown))
	}
	if special {
		return header(0, 0, sign, 0)
	}
	r, ok := new(big.Rat).SetString(decimal)
	require.True(t, ok, decimal)
	if r.Sign() < 0 {
		sign = numericNegative
		r.Neg(r)
	}
	shown := 0
	scaled := new(big.Rat).Set(r)
	for !scaled.IsInt() {
		scaled.Mul(scaled, big.NewRat(10000, 1))
		shown += 4
	}
	text := scaled.Num().String()
	if text == "0" {
		return header(0, 0, sign, 0)
	}
	text = strings.Repeat("0", (4-len(text)%4)%4) + text
	count := len(text) / 4
	weight := count - shown/4 - 1
	for count > 1 && text[len(text)-4:] == "0000" {
		text, count = text[:len(text)-4], count-1
	}
	b := header(count, weight, sign, shown)
	for i := range count {
		d, err := strconv.Atoi(text[4*i : 4*i+4])
		require.NoError(t, err)
		b = binary.BigEndian.AppendUint16(b, uint16(d))
	}
	return b
}

func (f *fixture) frame(columns []Column, capacity int) *Frame {
	f.t.Helper()
	fr, err := f.engine.NewFrame(context.Background(), f.spec.Key, f.name, 3, columns, capacity)
	require.NoError(f.t, err)
	f.t.Cleanup(fr.Close)
	return fr
}

func (f *fixture) run(fr *Frame) *Results {
	f.t.Helper()
	r, err := fr.Run(context.Background())
	require.NoError(f.t, err)
	require.Equal(f.t, fr.Len(), r.Rows)
	return r
}

// csvRow turns a row of CSV into columns, with an extra one, and values; numbers go as the type that turn picks.
func csvRow(t testing.TB, features []rowcast.Feature, row map[string]string, turn int) (columns []Column, values [][]byte) {
	columns, values = []Column{{Name: "id", OID: oidInt8}}, [][]byte{pgInt8(7)}
	for _, f := range features {
		v, c, value := row[f.Name], Column{Name: f.Name}, []byte(nil)
		switch f.Type {
		case rowcast.TypeText:
			c.OID, value = []uint32{oidText, oidVarchar, oidBpchar, oidName}[turn%4], []byte(v)
		case rowcast.TypeBoolean:
			c.OID, value = oidBool, pgBool(v == "True")
			if turn%2 == 1 {
				c.OID, value = oidText, []byte(v)
			}
		default:
			switch {
			case turn%3 == 0 && f.Type != rowcast.TypeBigint:
				c.OID = oidFloat8
				if v != "" {
					x, err := strconv.ParseFloat(v, 64)
					require.NoError(t, err)
					value = pgFloat8(x)
				}
			case turn%3 == 1 && f.Type == rowcast.TypeBigint:
				c.OID = oidInt8
				if v != "" {
					n, err := strconv.ParseFloat(v, 64)
					require.NoError(t, err)
					value = pgInt8(int64(n))
				}
			default:
				c.OID = oidNumeric
				if v != "" {
					value = pgNumeric(t, v)
				}
			}
		}
		if v == "" {
			value = nil
		}
		columns, values = append(columns, c), append(values, value)
	}
	return columns, values
}

// Every row of every model, gathered in frames, gets exactly what a call with that row alone gets.
func TestAFrameEqualsSingleRows(t *testing.T) {
	for _, dir := range folders(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			m := readFolder(t, dir)
			f := newFixture(t, m.name, m.artifact, m.sig)
			step := max(1, len(m.data)/400) // an isolation forest's row alone takes a millisecond
			for turn := range 3 {
				var rows []map[string]string
				columns, _ := csvRow(t, m.sig.Features, m.data[0], turn)
				fr := f.frame(columns, len(m.data)/2+1)
				if m.sig.Task == rowcast.TaskClassification {
					require.NoError(t, fr.WantProbabilities())
				}
				flush := func() {
					f.compareFrame(m, f.run(fr), rows, turn)
					rows = rows[:0]
					fr.Reset()
				}
				for i := turn; i < len(m.data); i += step {
					_, values := csvRow(t, m.sig.Features, m.data[i], turn)
					require.NoError(t, fr.Append(values))
					if rows = append(rows, m.data[i]); len(rows) == fr.capacity {
						flush()
					}
				}
				flush()
			}
		})
	}
}

func (f *fixture) compareFrame(m *folder, r *Results, rows []map[string]string, turn int) {
	t := f.t
	t.Helper()
	for i, row := range rows {
		form := rowForms(t.(*testing.T), m.sig.Features, row)[0]
		if (i+turn)%3 == 0 || !m.sig.TextLabels() {
			if r.Values != nil {
				want, err := strconv.ParseFloat(f.must(rowcast.VerbPredict, form.format, form.payload), 64)
				require.NoError(t, err)
				require.Equal(t, math.Float64bits(want), math.Float64bits(r.Values[i]), form.payload)
			}
		}
		if r.Labels != nil {
			require.Equal(t, f.must(rowcast.VerbLabel, form.format, form.payload), r.Labels[i], form.payload)
		}
		if r.Probabilities != nil && i%2 == 0 {
			sameProbabilities(t, f.must(rowcast.VerbProba, form.format, form.payload), r.Probabilities[i*r.Width:][:r.Width])
		}
	}
	require.Equal(t, m.sig.Task == rowcast.TaskRegression, r.Labels == nil)
	require.Equal(t, m.sig.TextLabels(), r.Values == nil)
}

// sameProbabilities compares with what predict_proba wrote. The kernels that multiply matrices sum in another order for several rows, which shows in
// the last digits of a float32.
func sameProbabilities(t testing.TB, want string, got []float64) {
	t.Helper()
	list := strings.Split(strings.Trim(want, "{}"), ",")
	require.Len(t, got, len(list))
	for i, text := range list {
		w, err := strconv.ParseFloat(text, 64)
		require.NoError(t, err)
		if !math.IsNaN(w) || !math.IsNaN(got[i]) {
			require.InDelta(t, w, got[i], 2e-6, want)
		}
	}
}

func TestAFrameReadsEveryTypeAsARecordDoes(t *testing.T) {
	artifact, sig := tiny(t, "zipmap_text", rowcast.Signature{Task: rowcast.TaskClassification, Layout: rowcast.LayoutMatrix, Features: reals("a", "b")})
	sig.Features[1].Default = json.RawMessage("2.5")
	f := newFixture(t, "zip", artifact, sig)
	for _, v := range []struct {
		oid  uint32
		raw  []byte
		json string
	}{
		{oidFloat8, pgFloat8(0.1), "0.1"}, {oidFloat8, pgFloat8(1e300), "1e300"}, {oidFloat8, pgFloat8(math.Inf(1)), `"Infinity"`},
		{oidFloat8, pgFloat8(math.NaN()), `"NaN"`}, {oidFloat8, nil, "null"}, {oidFloat4, pgFloat4(0.1), "0.1"}, {oidFloat4, pgFloat4(-3e38), "-3e38"},
		{oidInt2, pgInt2(-7), "-7"}, {oidInt4, pgInt4(1 << 30), "1073741824"}, {oidInt8, pgInt8(math.MinInt64), "-9223372036854775808"},
		{oidBool, pgBool(true), "true"}, {oidBool, pgBool(false), "false"}, {oidText, []byte("1"), `"1"`}, {oidText, []byte("NaN"), `"NaN"`},
		{oidNumeric, pgNumeric(t, "0.1"), "0.1"}, {oidNumeric, pgNumeric(t, "-12345678901234567890.123456789"), "-12345678901234567890.123456789"},
		{oidNumeric, pgNumeric(t, "NaN"), `"NaN"`}, {oidNumeric, pgNumeric(t, "-Infinity"), `"-Infinity"`}, {oidNumeric, pgNumeric(t, "1e200"), "1e200"},
		{oidNumeric, pgNumeric(t, "0"), "0"}, {oidNumeric, pgNumeric(t, "1e-300"), "1e-300"}, {oidText, []byte(""), `""`},
	} {
		fr := f.frame([]Column{{"x", oidText}, {"b", v.oid}, {"a", oidInt2}}, 2)
		require.NoError(t, fr.Append([][]byte{nil, nil, pgInt2(1)}))
		want, refused := f.call(rowcast.VerbProba, rowcast.FormatRecord, fmt.Sprintf(`{"x":null,"b":%s,"a":1}`, v.json))
		err := fr.Append([][]byte{nil, v.raw, pgInt2(1)})
		if refused != nil {
			require.Equal(t, rowcast.CodeOf(refused), rowcast.CodeOf(err), "%s: %v", v.json, err)
			require.ErrorContains(t, err, `feature "b"`)
			require.Equal(t, 1, fr.Len())
			continue
		}
		require.NoError(t, err, v.json)
		require.NoError(t, fr.WantProbabilities())
		r := f.run(fr)
		sameProbabilities(t, want, r.Probabilities[r.Width:])
	}
}

func TestAFrameFillsAFixedBatch(t *testing.T) {
	artifact, sig := tiny(t, "fixed_batch", rowcast.Signature{Task: rowcast.TaskRegression, Layout: rowcast.LayoutMatrix, Features: reals("a", "b", "c"), Batch: 8})
	f := newFixture(t, "eight", artifact, sig)
	fr := f.frame([]Column{{"c", oidInt4}, {"b", oidFloat4}, {"a", oidFloat8}}, 100)
	for _, n := range []int{0, 1, 7, 8, 9, 64, 65, 100} {
		fr.Reset()
		want := []float64{}
		for i := range n {
			require.NoError(t, fr.Append([][]byte{pgInt4(int32(i)), pgFloat4(0.5), pgFloat8(100)}))
			want = append(want, 100.5+float64(i))
		}
		require.Equal(t, want, f.run(fr).Values)
		require.Nil(t, f.run(fr).Labels)
	}
	require.Equal(t, rowcast.CodeInternal, rowcast.CodeOf(fr.Append([][]byte{nil, nil, nil})), "it is full")
}

func TestAFrameOfClustersAndOfColumns(t *testing.T) {
	artifact, sig := tiny(t, "kmeans", rowcast.Signature{Task: rowcast.TaskClustering, Layout: rowcast.LayoutMatrix, Features: reals("a", "b")})
	fr := newFixture(t, "kmeans", artifact, sig).frame([]Column{{"a", oidInt2}, {"b", oidInt2}}, 3)
	for _, at := range [][2]int16{{4, 0}, {0, 3}, {0, 0}} {
		require.NoError(t, fr.Append([][]byte{pgInt2(at[0]), pgInt2(at[1])}))
	}
	r, err := fr.Run(context.Background())
	require.NoError(t, err)
	require.Equal(t, []float64{1, 2, 0}, r.Values)
	require.Equal(t, []string{"1", "2", "0"}, r.Labels)
	require.Equal(t, rowcast.CodeResultType, rowcast.CodeOf(fr.WantProbabilities()))

	artifact, sig = tiny(t, "columns", rowcast.Signature{Task: rowcast.TaskRegression, Layout: rowcast.LayoutColumns, Features: reals(`a "b"`, "Größe (cm)")})
	sig.Features[1].Default = json.RawMessage("1000")
	f := newFixture(t, "columns", artifact, sig)
	fr = f.frame([]Column{{`a "b"`, oidFloat8}}, 2)
	require.NoError(t, fr.Append([][]byte{pgFloat8(1)}))
	require.NoError(t, fr.Append([][]byte{pgFloat8(2)}))
	require.Equal(t, []float64{1001, 1002}, f.run(fr).Values)
}

func TestFramesThatCannotBe(t *testing.T) {
	artifact, sig := tiny(t, "zipmap_text", rowcast.Signature{Task: rowcast.TaskClassification, Layout: rowcast.LayoutMatrix, Features: reals("a", "b")})
	f := newFixture(t, "zip", artifact, sig)
	refuses := func(f *fixture, code rowcast.Code, columns []Column, words ...string) {
		t.Helper()
		_, err := f.engine.NewFrame(context.Background(), f.spec.Key, f.name, 3, columns, 10)
		var e *rowcast.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, code, e.Code, err)
		for _, w := range append(words, fmt.Sprintf("model %q version 3", f.name)) {
			require.Contains(t, e.Message+" | "+e.Detail+" | "+e.Hint, w)
		}
		require.Zero(t, f.engine.Stats().Running)
	}
	refuses(f, rowcast.CodeMissingFeature, []Column{{"a", oidFloat8}, {"c", oidFloat8}}, `feature "b" is missing`, "AS")
	refuses(f, rowcast.CodeMissingFeature, nil, "no column with the name of a feature")
	refuses(f, rowcast.CodeInvalidText, []Column{{"a", oidFloat8}, {"b", oidFloat8}, {"a", oidText}}, `feature "a" is given twice`)
	refuses(f, rowcast.CodeFeatureType, []Column{{"a", oidFloat8}, {"b", 1082}}, `feature "b"`, "Cast")

	artifact, sig = tiny(t, "several_values", rowcast.Signature{Task: rowcast.TaskTensors, Layout: rowcast.LayoutMatrix, Features: reals("a", "b")})
	f = newFixture(t, "several", artifact, sig)
	both := []Column{{"a", oidFloat8}, {"b", oidFloat8}}
	refuses(f, rowcast.CodeResultType, both, "predict_json")
	sig.Task, sig.ValueOutput = rowcast.TaskRegression, 0
	f = newFixture(t, "several", artifact, sig)
	fr := f.frame(both, 2)
	require.NoError(t, fr.Append([][]byte{pgFloat8(1), pgFloat8(2)}))
	_, err := fr.Run(context.Background())
	require.ErrorContains(t, err, "3 values per row")
	require.Equal(t, rowcast.CodeResultType, rowcast.CodeOf(err))
}

func TestABadRowLeavesTheFrameAsItWas(t *testing.T) {
	artifact, sig := tiny(t, "zipmap_text", rowcast.Signature{Task: rowcast.TaskClassification, Layout: rowcast.LayoutMatrix, Features: reals("a", "b")})
	f := newFixture(t, "zip", artifact, sig)
	fr := f.frame([]Column{{"a", oidFloat8}, {"b", oidFloat8}}, 2)
	require.NoError(t, fr.Append([][]byte{pgFloat8(1), pgFloat8(2)}))
	for _, bad := range [][][]byte{
		{pgFloat8(9), nil}, {pgFloat8(9), pgFloat8(math.NaN())}, {pgFloat8(9), pgFloat8(math.Inf(-1))}, {pgFloat8(9), pgFloat8(1e39)},
		{pgFloat8(9), pgInt4(1)}, {pgFloat8(9), {}}, {pgFloat8(9)}, {pgFloat8(9), pgFloat8(1), nil},
	} {
		require.Error(t, fr.Append(bad))
		require.Equal(t, 1, fr.Len())
	}
	require.NoError(t, fr.Append([][]byte{pgFloat8(1), pgFloat8(2)}))
	r := f.run(fr)
	require.Equal(t, r.Labels[0], r.Labels[1])
	require.Equal(t, f.must(rowcast.VerbLabel, rowcast.FormatArray, sent(1, 2)), r.Labels[0])
}

func TestARowThatFailsIsNamed(t *testing.T) {
	artifact, sig := tiny(t, "gather", rowcast.Signature{Task: rowcast.TaskRegression, Layout: rowcast.LayoutColumns,
		Features: []rowcast.Feature{{Name: "at", Type: rowcast.TypeBigint}}})
	f := newFixture(t, "gather", artifact, sig)
	fr := f.frame([]Column{{"at", oidInt8}}, 10000)
	for i := range 10000 {
		at := int64(i % 3)
		if i == 5000 {
			at = 3
		}
		require.NoError(t, fr.Append([][]byte{pgInt8(at)}))
	}
	_, err := fr.Run(context.Background())
	var row *RowError
	require.ErrorAs(t, err, &row)
	require.Equal(t, 5000, row.Row)
	require.Equal(t, rowcast.CodeModelFailed, row.Err.Code)
	require.ErrorContains(t, err, `model "gather" version 3`)
	fr.Reset()
	require.NoError(t, fr.Append([][]byte{pgInt8(2)}))
	require.Equal(t, []float64{30}, f.run(fr).Values)
}

func TestAContextStopsAFrame(t *testing.T) {
	artifact, sig := tiny(t, "loop", rowcast.Signature{Task: rowcast.TaskRegression, Layout: rowcast.LayoutMatrix, Features: reals("a", "b")})
	f := newFixture(t, "loop", artifact, sig)
	fr := f.frame([]Column{{"a", oidFloat8}, {"b", oidFloat8}}, 3)
	require.NoError(t, fr.Append([][]byte{pgFloat8(1), pgFloat8(1)}))
	hungUp := rowcast.Errorf(rowcast.CodeCanceled, "the caller hung up")
	ctx, cancel := context.WithCancelCause(context.Background())
	time.AfterFunc(20*time.Millisecond, func() { cancel(hungUp) })
	_, err := fr.Run(ctx)
	require.Equal(t, rowcast.CodeCanceled, rowcast.CodeOf(err))
}

func TestAFrameHoldsItsModelAndObeysAQuarantine(t *testing.T) {
	artifact, sig := tiny(t, "zipmap_text", rowcast.Signature{Task: rowcast.TaskClassification, Layout: rowcast.LayoutMatrix, Features: reals("a", "b")})
	f := newFixture(t, "zip", artifact, sig)
	fr := f.frame([]Column{{"a", oidFloat8}, {"b", oidFloat8}}, 2)
	require.NoError(t, fr.Append([][]byte{pgFloat8(1), pgFloat8(1)}))
	f.engine.Retain(func(string) bool { return false })
	require.Len(t, f.run(fr).Labels, 1)
	f.engine.Quarantine(f.spec.SHA256, "it crashed")
	_, err := fr.Run(context.Background())
	require.Equal(t, rowcast.CodeModelUnavailable, rowcast.CodeOf(err))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.Error(t, f.engine.Close(ctx), "a frame is open")
	fr.Close()
	fr.Close()
	require.NoError(t, f.engine.Close(context.Background()))
}

func TestFramesOfOneModelSideBySide(t *testing.T) {
	tracker := &trackerFunc{}
	m := readFolder(t, own("penguins"))
	src := newStore()
	spec := newSpec(m.artifact, m.sig)
	src.add(spec, m.artifact)
	tracker.sha = spec.SHA256
	f := &fixture{t: t, name: "penguins", spec: spec, engine: NewEngine(testRuntime, src, EngineOptions{Tracker: tracker})}
	want := make([]string, len(m.data))
	for i, row := range m.data {
		form := rowForms(t, m.sig.Features, row)[0]
		want[i] = f.must(rowcast.VerbLabel, form.format, form.payload)
	}
	before := tracker.entered.Load()
	var wg sync.WaitGroup
	for turn := range 4 {
		columns, _ := csvRow(t, m.sig.Features, m.data[0], turn)
		fr := f.frame(columns, len(m.data))
		for _, row := range m.data {
			_, values := csvRow(t, m.sig.Features, row, turn)
			require.NoError(t, fr.Append(values))
		}
		wg.Go(func() {
			for range 5 {
				r, err := fr.Run(context.Background())
				if assert.NoError(t, err) {
					assert.Equal(t, want, r.Labels)
				}
			}
			fr.Close()
		})
	}
	wg.Wait()
	require.Equal(t, before+20, tracker.entered.Load())
	require.Equal(t, tracker.entered.Load(), tracker.left.Load())
	require.NoError(t, f.engine.Close(context.Background()))
}

func FuzzNumeric(f *testing.F) {
	for _, text := range []string{"0", "1", "-1.5", "12345678901234567890", "0.0001", "1e-30", "9999999999999999.9999", "NaN", "Infinity"} {
		f.Add(pgNumeric(f, text))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		var n numericText
		c, ok := n.read(value)
		if !ok || c.isNaN() {
			return
		}
		want := new(big.Rat)
		count, weight := int(binary.BigEndian.Uint16(value)), int(int16(binary.BigEndian.Uint16(value[2:])))
		if c.kind == cellFloat && math.IsInf(c.float, 0) || weight > 100 || weight < -100 {
			return
		}
		power := func(n int) *big.Rat {
			p := new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10000), big.NewInt(int64(max(n, -n))), nil))
			if n < 0 {
				p.Inv(p)
			}
			return p
		}
		for i := range count {
			d := new(big.Rat).SetInt64(int64(binary.BigEndian.Uint16(value[8+2*i:])))
			want.Add(want, d.Mul(d, power(weight-i)))
		}
		if binary.BigEndian.Uint16(value[4:]) == numericNegative {
			want.Neg(want)
		}
		nearest, _ := want.Float64()
		got, _, known := c.number()
		require.True(t, known)
		require.Equal(t, nearest, got+0) // a zero has no sign in numeric
		if whole, fraction, exceeds, _ := c.integer(); !exceeds {
			require.Equal(t, !want.IsInt(), fraction)
			if !fraction {
				require.Zero(t, want.Cmp(new(big.Rat).SetInt64(whole)))
			}
		}
	})
}
