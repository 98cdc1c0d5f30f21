package server_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/config"
	"github.com/rowcast/rowcast/internal/postgres"
	"github.com/rowcast/rowcast/internal/registry"
	"github.com/rowcast/rowcast/migrations"
)

func artifact(t testing.TB, name string) []byte {
	t.Helper()
	return mustRead(t, filepath.Join(demo(name), "model.onnx"))
}

func optionsJSON(t testing.TB, name string) string {
	t.Helper()
	text, err := options(t, demo(name)).JSON()
	require.NoError(t, err)
	return string(text)
}

func migrateUp(t testing.TB, url string) {
	t.Helper()
	m, err := postgres.NewMigrator(url, postgres.MigratorOptions{Source: migrations.Files})
	require.NoError(t, err)
	_, err = m.Up(context.Background())
	require.NoError(t, err)
}

func TestVersionsAreDenseHoweverManyRegister(t *testing.T) {
	s := start(t)
	model := artifact(t, "iris_v2")
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[int]bool{}
	for i := range 8 {
		conn := s.Conn(t)
		wg.Go(func() {
			ctx := context.Background()
			for j := range 3 {
				tx, err := conn.Begin(ctx)
				if !noError(t, err) {
					return
				}
				var v int
				if !noError(t, tx.QueryRow(ctx, "SELECT ml.register_model('shared', $1)", model).Scan(&v)) {
					return
				}
				if (i+j)%3 == 0 { // its number is free again
					if !noError(t, tx.Rollback(ctx)) {
						return
					}
					continue
				}
				mu.Lock()
				if seen[v] {
					t.Errorf("version %d was given out twice", v)
				}
				seen[v] = true
				mu.Unlock()
				if !noError(t, tx.Commit(ctx)) {
					return
				}
			}
		})
	}
	wg.Wait()
	require.Len(t, seen, 16)
	for v := 1; v <= 16; v++ {
		require.True(t, seen[v], "version %d", v)
	}
}

func noError(t *testing.T, err error) bool {
	if err != nil {
		t.Error(err)
	}
	return err == nil
}

func TestTheFirstVersionBecomesChampionAndLaterOnesWait(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	require.Equal(t, 1, s.register(t, demo("iris"), "m"))
	require.Equal(t, 2, s.register(t, demo("iris_v2"), "m"))
	version := func() int { return one[int](t, conn, "SELECT (predict_json('m', "+irisRow+") ->> 'version')::integer") }
	require.Equal(t, 1, version())
	exec(t, conn, "SELECT ml.promote('m', 2)")
	require.Equal(t, 2, version())
	exec(t, conn, "SELECT ml.set_alias('m', 'challenger', 1)")
	require.Equal(t, 1, one[int](t, conn, "SELECT (predict_json('m@challenger', "+irisRow+") ->> 'version')::integer"))
	exec(t, conn, "SELECT ml.drop_alias('m', 'challenger')")
	refused(t, conn, "42704", "SELECT predict_label('m@challenger', "+irisRow+")")
	refused(t, conn, "42602", "SELECT ml.set_alias('m', '3', 1)")
	refused(t, conn, "42704", "SELECT ml.set_alias('m', 'x', 3)")
	refused(t, conn, "42602", "SELECT ml.register_model('No Good', $1)", artifact(t, "iris"))
	refused(t, conn, "22023", `SELECT ml.register_model('m', $1, '{"feetures": []}')`, artifact(t, "iris"))
	refused(t, conn, "22023", `SELECT ml.register_model('m', $1, '[]')`, artifact(t, "iris"))
	refused(t, conn, "22004", `SELECT ml.register_model('m', NULL)`)
}

func TestRollbackGoesBackAlongTheHistory(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	for range 4 {
		s.register(t, demo("iris_v2"), "m")
	}
	for _, v := range []int{2, 3} {
		exec(t, conn, "SELECT ml.promote('m', $1)", v)
	}
	back := func() int { return one[int](t, conn, "SELECT ml.rollback('m')") }
	require.Equal(t, 2, back())
	exec(t, conn, "SELECT ml.promote('m', 4)")
	require.Equal(t, 2, back())
	require.Equal(t, 1, back())
	e := refused(t, conn, "55000", "SELECT ml.rollback('m')")
	require.Contains(t, e.Message, "no earlier version")
	exec(t, conn, "SELECT ml.promote('m', 2), ml.promote('m', 3)")
	e = refused(t, conn, "2BP01", "SELECT ml.drop_version('m', 3)")
	require.Contains(t, e.Message, `"champion"`)
	exec(t, conn, "SELECT ml.drop_version('m', 2)")
	require.Equal(t, 1, back(), "past a version that is gone")
	require.Equal(t, 5, s.register(t, demo("iris_v2"), "m"), "numbers are never used again")
	require.Equal(t, []string{"set", "set", "set", "rollback", "set", "rollback", "rollback", "set", "set", "rollback"},
		one[[]string](t, conn, "SELECT array_agg(action ORDER BY id) FROM ml.alias_history WHERE model = 'm'"))
}

func TestAPromotionIsPartOfItsTransaction(t *testing.T) {
	s := start(t)
	a, b := s.Conn(t), s.Conn(t)
	s.register(t, demo("iris"), "m")
	s.register(t, demo("iris_v2"), "m")
	const version = "SELECT (predict_json('m', " + irisRow + ") ->> 'version')::integer"
	ctx := context.Background()
	tx, err := a.Begin(ctx)
	require.NoError(t, err)
	exec(t, a, "SELECT ml.promote('m', 2)")
	require.Equal(t, 2, one[int](t, a, version), "its own change")
	require.Equal(t, 1, one[int](t, b, version), "nobody else's")
	require.NoError(t, tx.Rollback(ctx))
	require.Equal(t, 1, one[int](t, a, version))

	repeatable, err := b.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	require.NoError(t, err)
	require.Equal(t, 1, one[int](t, b, version), "also in a read-only transaction")
	exec(t, a, "SELECT ml.promote('m', 2)")
	require.Equal(t, 1, one[int](t, b, version), "the snapshot's")
	require.NoError(t, repeatable.Commit(ctx))
	require.Equal(t, 2, one[int](t, b, version))
}

func TestARegistrationCanBeUsedBeforeItsCommit(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	ctx := context.Background()
	tx, err := conn.Begin(ctx)
	require.NoError(t, err)
	exec(t, conn, "SELECT ml.register_model('early', $1, $2)", artifact(t, "iris_v2"), optionsJSON(t, "iris_v2"))
	require.Equal(t, "setosa", one[string](t, conn, "SELECT predict_label('early', "+irisRow+")"))
	require.NoError(t, tx.Rollback(ctx))
	refused(t, conn, "42704", "SELECT predict_label('early', "+irisRow+")")
	require.Zero(t, one[int](t, conn, "SELECT count(*)::integer FROM ml_private.artifact"))
}

func TestAModelRegisteredFromAByteaAlone(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	require.Equal(t, 1, one[int](t, conn, "SELECT ml.register_model('bare', $1)", artifact(t, "iris_v2")))
	require.Equal(t, "setosa", one[string](t, conn, "SELECT predict_label('bare', "+irisRow+")"))
	require.Equal(t, []string{"setosa", "versicolor", "virginica"}, one[[]string](t, conn, "SELECT labels FROM ml.versions"))
}

func TestWhatIsRefusedIsNotStored(t *testing.T) {
	s := start(t, func(c *config.Config) { c.ValidateTime = 8 * time.Second }) // one of them loops for ever
	conn := s.Conn(t)
	catalog := registry.NewCatalog(s.Pool(t))
	path := filepath.Join(t.TempDir(), "text.onnx")
	require.NoError(t, os.WriteFile(path, []byte("This is not a model.\n"), 0o600))
	bad, err := filepath.Glob(filepath.Join("..", "..", "..", "shared", "models", "bad", "*"))
	require.NoError(t, err)
	reasons := map[string]string{}
	for _, path := range append(bad, path) {
		file, err := os.Open(path)
		require.NoError(t, err)
		_, _, err = catalog.Register(context.Background(), "bad", file, registry.Options{}, nil)
		require.NoError(t, file.Close())
		require.Error(t, err, path)
		reasons[err.Error()] += " " + filepath.Base(path)
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		e := refused(t, conn, "22000", "SELECT ml.register_model('bad', $1)", content)
		t.Logf("%s: %s (%s) %s", filepath.Base(path), e.Message, e.Detail, e.Hint)
	}
	require.GreaterOrEqual(t, len(reasons), len(bad), "each for its own reason: %v", reasons)
	require.Zero(t, one[int](t, conn, "SELECT count(*)::integer FROM ml_private.artifact"))
	require.Zero(t, one[int](t, conn, "SELECT count(*)::integer FROM ml_private.model"))
}

func TestDownloadGivesTheFileBack(t *testing.T) {
	s := start(t)
	s.register(t, demo("diabetes"))
	var b bytes.Buffer
	sha, err := registry.NewCatalog(s.Pool(t)).Download(context.Background(), "diabetes", false, &b)
	require.NoError(t, err)
	require.Equal(t, artifact(t, "diabetes"), b.Bytes())
	require.Equal(t, sha, one[string](t, s.Conn(t), "SELECT sha256 FROM ml.versions"))
}

func TestEveryObjectHasAComment(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	for what, sql := range map[string]string{
		"functions": `SELECT coalesce(array_agg(p.oid::regprocedure::text), '{}') FROM pg_proc p
			WHERE pronamespace IN ('ml'::regnamespace, 'ml_private'::regnamespace) AND obj_description(p.oid, 'pg_proc') IS NULL
			  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')`,
		"examples": `SELECT coalesce(array_agg(p.oid::regprocedure::text), '{}') FROM pg_proc p
			WHERE pronamespace = 'ml'::regnamespace AND obj_description(p.oid, 'pg_proc') NOT LIKE '%Example: %;'`,
		"relations": `SELECT coalesce(array_agg(oid::regclass::text), '{}') FROM pg_class
			WHERE relnamespace IN ('ml'::regnamespace, 'ml_private'::regnamespace) AND relkind IN ('r', 'v') AND obj_description(oid, 'pg_class') IS NULL
			  AND relname <> 'schema_migrations'`,
		"columns": `SELECT coalesce(array_agg(attrelid::regclass || '.' || attname), '{}') FROM pg_attribute
			WHERE attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'ml'::regnamespace AND relkind = 'v')
			  AND attnum > 0 AND col_description(attrelid, attnum) IS NULL`,
	} {
		require.Empty(t, one[[]string](t, conn, sql), what)
	}
}

func TestLabelsAndFeaturesOfAnyName(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	exec(t, conn, "SELECT ml.register_model('odd', $1, $2)", artifact(t, "diabetes"), `{"features": [{"name": "select"}, {"name": "Größe in \"mm\""}, {"name": "a'b"},
		{"name": "x y"}, {"name": "null"}, {"name": "{}"}, {"name": ","}, {"name": "\\"}, {"name": "😀"}, {"name": "1"}]}`)
	exec(t, conn, `CREATE TABLE odd ("select" real, "Größe in ""mm""" real, "a'b" real, "x y" real, "null" real, "{}" real, "," real, "\" real, "😀" real, "1" real)`)
	exec(t, conn, "INSERT INTO odd VALUES (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)")
	require.True(t, one[bool](t, conn, "SELECT predict('odd', odd) = predict('odd', ARRAY[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]) FROM odd"))
	exec(t, conn, "SELECT ml.register_model('labels', $1)", mustRead(t, "../onnx/testdata/zipmap_text.onnx"))
	labels := one[[]string](t, conn, "SELECT labels FROM ml.versions WHERE model = 'labels'")
	require.Len(t, labels[2], 100, "longer than a command tag")
	got := one[[]string](t, conn, `SELECT array_agg(DISTINCT predict_label('labels', ARRAY[x, y]))
		FROM generate_series(-3, 3) x, generate_series(-3, 3) y`)
	require.ElementsMatch(t, labels, got)
	require.True(t, one[bool](t, conn, `SELECT bool_and(predict_label('labels', ARRAY[x, y]) = predict_json('labels', ARRAY[x, y]) ->> 'label')
		FROM generate_series(-3, 3) x, generate_series(-3, 3) y`))
}

func mustRead(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return b
}
