package server_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// benchRows is how many rows the benchmarks of batches take: 1,000,000, or what the environment says.
func benchRows(b *testing.B) int {
	n, err := strconv.Atoi(os.Getenv("ROWCAST_BENCH_ROWS"))
	if err != nil {
		return 1_000_000
	}
	require.Positive(b, n)
	return n
}

// tenTimes writes a form for each of ten columns.
func tenTimes(form, between string) string {
	list := make([]string, 10)
	for i := range list {
		list[i] = fmt.Sprintf(form, i)
	}
	return strings.Join(list, between)
}

// numbersTable makes a table of a key and ten features.
func numbersTable(b *testing.B, conn *pgx.Conn, rows int) {
	exec(b, conn, fmt.Sprintf("CREATE UNLOGGED TABLE numbers AS SELECT i::bigint AS id, %s FROM generate_series(1, %d) i", tenTimes("random() * 4 - 2 AS f%d", ", "), rows))
	exec(b, conn, "VACUUM ANALYZE numbers")
}

// copied runs a query and takes its rows as binary COPY, as a client would that reads all of them.
func copied(b *testing.B, conn *pgx.Conn, query string) time.Duration {
	begin := time.Now()
	_, err := conn.PgConn().CopyTo(context.Background(), io.Discard, "COPY ("+query+") TO STDOUT (FORMAT binary)")
	require.NoError(b, err, query)
	return time.Since(begin)
}

// graphAlone runs rows of zeros through a model without anything else, on one thread.
func graphAlone(b *testing.B, folder string, rows int) time.Duration {
	artifact, err := os.ReadFile(filepath.Join(folder, "model.onnx"))
	require.NoError(b, err)
	r, err := runtime()
	require.NoError(b, err)
	session, err := r.NewSession(artifact)
	require.NoError(b, err)
	defer func() { _ = session.Close() }()
	const batch = 1024
	binding, err := session.Acquire(batch)
	require.NoError(b, err)
	defer session.Release(binding)
	for i, x := range binding.Inputs()[0].Data.([]float32) {
		binding.Inputs()[0].Data.([]float32)[i] = x + float32(i*7919%4001)/1000 - 2
	}
	begin := time.Now()
	for range rows / batch {
		require.NoError(b, binding.Run(context.Background()))
	}
	return time.Since(begin)
}

// BenchmarkPredictRows compares predict_rows with predict row by row, and with the query alone and ONNX Runtime alone on as many rows:
//
//	go test ./internal/server -run '^$' -bench PredictRows -benchtime 1x
func BenchmarkPredictRows(b *testing.B) {
	for _, folder := range folders(b) {
		name := filepath.Base(folder)
		if name != "logistic_10" && name != "trees_100x6" {
			continue
		}
		b.Run(name, func(b *testing.B) {
			s := start(b)
			conn := s.Conn(b)
			s.register(b, folder)
			rows := benchRows(b)
			numbersTable(b, conn, rows)
			const single = 20000
			exec(b, conn, fmt.Sprintf("SELECT sum(predict('%s', n)) FROM (SELECT * FROM numbers LIMIT 1000) n", name))
			for b.Loop() {
				alone := copied(b, conn, "SELECT * FROM numbers")
				graph := graphAlone(b, folder, rows)
				batch := copied(b, conn, fmt.Sprintf("SELECT key, prediction, version FROM predict_rows('%s', 'SELECT * FROM numbers', NULL::bigint)", name))
				begin := time.Now()
				exec(b, conn, fmt.Sprintf("SELECT sum(predict('%s', ARRAY[f0,f1,f2,f3,f4,f5,f6,f7,f8,f9])) FROM (SELECT * FROM numbers LIMIT %d) n", name, single))
				each := time.Since(begin) * time.Duration(rows) / single
				begin = time.Now()
				exec(b, conn, fmt.Sprintf("SELECT sum(prediction) FROM predict_rows('%s', 'SELECT * FROM numbers', NULL::bigint)", name))
				summed := time.Since(begin)
				b.ReportMetric(alone.Seconds(), "s_query")
				b.ReportMetric(graph.Seconds(), "s_graph")
				b.ReportMetric(batch.Seconds(), "s_predict_rows")
				b.ReportMetric(summed.Seconds(), "s_summed")
				b.ReportMetric(each.Seconds()/batch.Seconds(), "x_row_wise")
				b.ReportMetric(batch.Seconds()/(alone+graph).Seconds(), "x_query+graph")
			}
		})
	}
}

// BenchmarkWireForms measures what PostgreSQL pays to write 8192 rows of ten features into the text of a call, in each form that was considered:
//
//	go test ./internal/server -run '^$' -bench WireForms -benchtime 20x
func BenchmarkWireForms(b *testing.B) {
	each := func(form string) string { return tenTimes(form, ", ") } // per column
	joined := func(form string) string { return tenTimes(form, " || ") }
	row := "ROW(" + each("f%d") + ")"
	array := "ARRAY[" + each("f%d") + "]"
	columns := "array_send(ARRAY[" + each("array_send(array_agg(f%d))") + "])"
	s := start(b)
	conn := s.Conn(b)
	numbersTable(b, conn, 8192)
	exec(b, conn, "SET max_parallel_workers_per_gather = 0; SET jit = off")
	for _, form := range []struct{ name, sql string }{
		{"the rows alone", "count(f0) + count(f9)"},
		{"array_send of array_agg per column, base64", "length(encode(" + columns + ", 'base64'))"},
		{"array_send of array_agg per column, hex", "length(encode(" + columns + ", 'hex'))"},
		{"array_send of array_agg per column, escape", "length(encode(" + columns + ", 'escape'))"},
		{"array_send of array_agg per column, no text", "length(" + columns + ")"},
		{"string_agg of float8send per column, base64", "length(encode(" + joined("string_agg(float8send(f%d), '')") + ", 'base64'))"},
		{"string_agg of float4send per column, base64", "length(encode(" + joined("string_agg(float4send(f%d::real), '')") + ", 'base64'))"},
		{"float8send joined per row, base64", "length(encode(string_agg(" + joined("float8send(f%d)") + ", ''), 'base64'))"},
		{"array_send per row, base64", "length(encode(string_agg(array_send(" + array + "), ''), 'base64'))"},
		{"record_send per row, base64", "length(encode(string_agg(record_send(" + row + "), ''), 'base64'))"},
		{"array text per row", "length(string_agg(" + array + "::text, ''))"},
		{"array_agg text per column", "length(" + joined("array_agg(f%d)::text") + ")"},
		{"JSON per row", "length(string_agg(row_to_json(" + row + ")::text, ''))"},
		{"the code: sha256 of base64", "length(sha256(convert_to(encode(" + columns + ", 'base64'), 'UTF8')))"},
	} {
		b.Run(form.name, func(b *testing.B) {
			sql := "SELECT " + form.sql + " FROM numbers"
			var length int
			for b.Loop() {
				require.NoError(b, conn.QueryRow(context.Background(), sql).Scan(&length))
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/8192, "ns/row")
			b.ReportMetric(float64(length)/8192, "bytes/row")
		})
	}
}
