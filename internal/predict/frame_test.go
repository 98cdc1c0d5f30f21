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
	"testing"

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
			step := max(1, len(m.data)/1500) // an isolation forest's row alone takes a millisecond
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
