package server_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/registry"
)

// importTolerance is the largest difference, relative, from what the library itself predicts.
const importTolerance = 1e-6

// natives are the files of ../shared/models/native, which come with the predictions of the libraries that wrote them.
func natives(t testing.TB) (folder string, files []string) {
	t.Helper()
	folder = filepath.Join("..", "..", "..", "shared", "models", "native")
	all, err := os.ReadDir(folder)
	if err != nil {
		t.Skip("no shared models beside the repository")
	}
	for _, e := range all {
		if filepath.Ext(e.Name()) != ".csv" {
			files = append(files, e.Name())
		}
	}
	require.NotEmpty(t, files)
	return folder, files
}

// formats are what the files' endings say; registration does not look at them.
func formatOf(file string) string {
	return map[string]string{".json": "xgboost-json", ".ubj": "xgboost-ubj", ".txt": "lightgbm-text"}[filepath.Ext(file)]
}

// loadNative makes the table rows. The models were trained on float32.
func loadNative(t testing.TB, conn *pgx.Conn, folder string) {
	t.Helper()
	load(t, conn, "rows", filepath.Join(folder, "data.csv"),
		map[string]string{"id": "bigint", "amount": "real", "hour": "real", "age": "real", "score": "real"})
}

// Each file alone, and every row of it, as a query sees them.
func TestEveryNativeModelEqualsItsLibrary(t *testing.T) {
	folder, files := natives(t)
	s := start(t)
	conn := s.Conn(t)
	loadNative(t, conn, folder)
	expected := readCSV(t, filepath.Join(folder, "expected.csv"))
	for _, file := range files {
		t.Run(file, func(t *testing.T) {
			name := strings.TrimSuffix(file, filepath.Ext(file))
			content := mustRead(t, filepath.Join(folder, file))
			require.Equal(t, 1, one[int](t, conn, "SELECT ml.register_model($1, $2)", name, content))
			require.Equal(t, formatOf(file), one[string](t, conn, "SELECT format FROM ml.versions WHERE model = $1", name))
			sum := sha256.Sum256(content)
			require.Equal(t, hex.EncodeToString(sum[:]), one[string](t, conn, "SELECT source_sha256 FROM ml.versions WHERE model = $1", name))
			require.Len(t, content, one[int](t, conn, "SELECT source_size FROM ml.versions WHERE model = $1", name))

			var columns []int
			for i, c := range expected.columns {
				if c == name || strings.HasPrefix(c, name+"_") {
					columns = append(columns, i)
				}
			}
			require.NotEmpty(t, columns)
			task := one[string](t, conn, "SELECT task FROM ml.versions WHERE model = $1", name)
			row := "r"
			if one[bool](t, conn, "SELECT features[1] = 'f0' FROM ml.versions WHERE model = $1", name) {
				row = "ARRAY[amount, hour, age, score]" // the file has no names: it was trained on a bare array
			}
			sql := "SELECT ARRAY[predict($1, ROW)], 0::float8 FROM rows r ORDER BY id"
			if task == "classification" {
				sql = "SELECT predict_proba($1, ROW), predict($1, ROW) FROM rows r ORDER BY id"
			}
			rows, err := conn.Query(context.Background(), strings.ReplaceAll(sql, "ROW", row), name)
			require.NoError(t, err)
			type answer struct {
				Values []float64
				Label  float64
			}
			answers, err := pgx.CollectRows(rows, pgx.RowToStructByPos[answer])
			require.NoError(t, err)
			require.Len(t, answers, len(expected.rows))
			worst := 0.0
			for i, a := range answers {
				want := make([]float64, len(columns))
				for k, c := range columns {
					want[k], err = strconv.ParseFloat(expected.rows[i][c], 64)
					require.NoError(t, err)
				}
				if task == "classification" && len(want) == 1 {
					want = []float64{1 - want[0], want[0]}
				}
				require.Len(t, a.Values, len(want))
				for k := range want {
					difference := math.Abs(a.Values[k] - want[k])
					if len(want) == 2 && k == 0 { // 1 - P(1), of which the file has rounded P(1)
						difference /= max(want[0], 1)
					} else {
						difference /= math.Abs(want[k])
					}
					worst = max(worst, difference)
					require.LessOrEqual(t, difference, importTolerance, "row %d, value %d: %v, not %v", i, k, a.Values[k], want[k])
				}
				if task == "classification" {
					require.EqualValues(t, slices.Index(want, slices.Max(want)), a.Label, "row %d", i)
				}
			}
			t.Logf("%d rows, largest relative difference %.2g", len(answers), worst)
		})
	}
}

// What a version was made of belongs to it: kept as long as a version uses it, read by whoever may use the model, gone with the last.
func TestTheOriginalIsKeptWithTheVersion(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	ctx := context.Background()
	file := filepath.Join("..", "convert", "testdata", "mlflow", "lightgbm_text", "model.lgb")
	content := mustRead(t, file)
	register := func(model string) { one[int](t, conn, "SELECT ml.register_model($1, $2)", model, content) }
	artifacts := func() int { return one[int](t, conn, "SELECT count(*) FROM ml_private.artifact") }
	register("a")
	register("a")
	register("b")
	require.Equal(t, 2, artifacts(), "the same file, converted to the same bytes")

	original, err := os.Open(file)
	require.NoError(t, err)
	defer func() { _ = original.Close() }()
	catalog := registry.NewCatalog(s.Pool(t))
	v, sha, err := catalog.Register(ctx, "a", original, registry.Options{}, nil)
	require.NoError(t, err)
	require.Equal(t, 3, v, "an upload by hand gives the same")
	require.Equal(t, sha, one[string](t, conn, "SELECT source_sha256 FROM ml.versions WHERE model = 'a' AND version = 3"))
	require.Equal(t, 2, artifacts())

	var b strings.Builder
	_, err = catalog.Download(ctx, "a@3", true, &b)
	require.NoError(t, err)
	require.Equal(t, string(content), b.String())
	b.Reset()
	onnx, err := catalog.Download(ctx, "a@3", false, &b)
	require.NoError(t, err)
	require.Equal(t, onnx, one[string](t, conn, "SELECT sha256 FROM ml.versions WHERE model = 'a' AND version = 3"))
	require.NotEqual(t, string(content), b.String())

	_, roleURL := s.Role(t, "")
	plain, err := pgx.Connect(ctx, roleURL)
	require.NoError(t, err)
	defer func() { _ = plain.Close(ctx) }()
	for _, f := range []string{"model_chunk", "source_chunk"} {
		_, err = plain.Exec(ctx, "SELECT ml."+f+"('a', 0)")
		require.ErrorContains(t, err, "42501", f)
	}

	// A used file can't be discarded, neither what was uploaded nor what it became.
	for _, column := range []string{"sha256", "source_sha256"} {
		require.False(t, one[bool](t, conn, "SELECT ml.discard_artifact("+column+") FROM ml.versions WHERE model = 'b'"))
	}
	s.Exec(t, "UPDATE ml_private.artifact SET created_at = created_at - interval '2 days'")
	dropped, err := registry.NewStore(s.Pool(t)).DropStaleUploads(ctx)
	require.NoError(t, err)
	require.Zero(t, dropped)
	s.Exec(t, "SELECT ml.drop_version('a', 2)")
	s.Exec(t, "SELECT ml.drop_model('a')")
	require.Equal(t, 2, artifacts(), "b uses them")
	s.Exec(t, "SELECT ml.drop_model('b')")
	require.Zero(t, artifacts())
}

// The transaction that registers a file sees the model, in every isolation level, and takes everything with it when it ends otherwise.
func TestAnImportBelongsToItsTransaction(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	ctx := context.Background()
	content := mustRead(t, filepath.Join("..", "convert", "testdata", "mlflow", "lightgbm_text", "model.lgb"))
	for _, level := range []pgx.TxIsoLevel{pgx.ReadCommitted, pgx.Serializable} {
		tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: level})
		require.NoError(t, err)
		var version int
		var sum float64
		require.NoError(t, tx.QueryRow(ctx, "SELECT ml.register_model('mine', $1)", content).Scan(&version))
		require.NoError(t, tx.QueryRow(ctx, `SELECT sum(p) FROM unnest(predict_proba('mine', '{40, 1, -0.4}')) p`).Scan(&sum))
		require.InDelta(t, 1, sum, 1e-9)
		require.NoError(t, tx.Rollback(ctx))
		require.Zero(t, one[int](t, conn, "SELECT (SELECT count(*) FROM ml_private.artifact) + (SELECT count(*) FROM ml_private.model)"))
	}
	_, err := conn.Exec(ctx, "SELECT ml.register_model('mine', $1)", content[:len(content)/2])
	require.ErrorContains(t, err, "22000")
	require.Zero(t, one[int](t, conn, "SELECT (SELECT count(*) FROM ml_private.artifact) + (SELECT count(*) FROM ml_private.model)"))
}
