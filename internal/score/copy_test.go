package score

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// stream encodes rows as COPY does.
func stream(rows [][][]byte) []byte {
	var e encoder
	e.header()
	for _, row := range rows {
		e.row(len(row))
		for _, v := range row {
			e.value(v)
		}
	}
	e.trailer()
	return e.buf
}

func read(t testing.TB, columns int, pieces ...[]byte) [][][]byte {
	t.Helper()
	var rows [][][]byte
	d := decoder{columns: columns, row: func(values [][]byte) error {
		row := make([][]byte, len(values))
		for i, v := range values {
			row[i] = bytes.Clone(v)
		}
		rows = append(rows, row)
		return nil
	}}
	for _, p := range pieces {
		n, err := d.Write(p)
		require.NoError(t, err)
		require.Equal(t, len(p), n)
	}
	require.True(t, d.ended)
	return rows
}

func TestACOPYStreamIsReadInWhateverPiecesItComes(t *testing.T) {
	rows := [][][]byte{{[]byte("a"), nil, {}}, {[]byte("longer"), {0, 1, 2}, nil}, {nil, nil, nil}}
	whole := stream(rows)
	require.Equal(t, rows, read(t, 3, whole))
	for at := range whole {
		require.Equal(t, rows, read(t, 3, whole[:at], whole[at:]), "cut at %d", at)
	}
	single := make([][]byte, len(whole))
	for i := range whole {
		single[i] = whole[i : i+1]
	}
	require.Equal(t, rows, read(t, 3, single...))
}

func TestACOPYStreamOfAnotherShapeIsRefused(t *testing.T) {
	d := decoder{columns: 2, row: func([][]byte) error { return nil }}
	_, err := d.Write(stream([][][]byte{{[]byte("a")}}))
	require.ErrorContains(t, err, "number of columns")
	d = decoder{columns: 2, row: func([][]byte) error { return nil }}
	_, err = d.Write(bytes.Repeat([]byte("x"), 30))
	require.ErrorContains(t, err, "binary COPY")
}

func FuzzCopyOut(f *testing.F) {
	f.Add(stream([][][]byte{{[]byte("a"), nil}}), uint8(7))
	f.Add([]byte(copySignature), uint8(0))
	f.Fuzz(func(_ *testing.T, data []byte, cut uint8) {
		d := decoder{columns: 2, row: func([][]byte) error { return nil }}
		at := min(int(cut), len(data))
		if _, err := d.Write(data[:at]); err == nil {
			_, _ = d.Write(data[at:])
		}
	})
}

func TestQueriesAreToldFromNames(t *testing.T) {
	for _, s := range []string{"SELECT 1", " select*from t", "WITH x AS (SELECT 1) TABLE x", "(SELECT 1)", "-- all\nSELECT 1", "/* all */ VALUES (1)", "TABLE t"} {
		require.True(t, isQuery(s), s)
	}
	for _, s := range []string{"customers", "shop.customers", `"Select"`, "selected", "with_tax", "tables", "values2"} {
		require.False(t, isQuery(s), s)
	}
}

func TestTimesAreThoseOfPostgreSQL(t *testing.T) {
	var e encoder
	e.timestamp(time.Date(2000, 1, 1, 0, 0, 1, 5000, time.UTC))
	require.Equal(t, []byte{0, 0, 0, 8, 0, 0, 0, 0, 0, 0x0f, 0x42, 0x45}, e.buf)
	e.buf = e.buf[:0]
	e.timestamp(time.Date(1999, 12, 31, 23, 59, 59, 999_999_000, time.UTC))
	require.Equal(t, []byte{0, 0, 0, 8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, e.buf)
}

func TestErrorsThatPassAreToldFromThoseThatComeAgain(t *testing.T) {
	for _, state := range []string{"53100", "53200", "53300", "57P01", "57P02", "57P03", "08006", "40001", "40P01", "55P03", "58030"} {
		require.True(t, passing(state), state)
	}
	for _, state := range []string{"53400", "42501", "42P01", "23505", "57014", "22003", "25006", ""} {
		require.False(t, passing(state), state)
	}
}
