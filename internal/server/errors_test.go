package server_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/config"
)

func TestBadInputGetsAClearError(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	s.register(t, demo("iris_v2"), "iris")
	s.register(t, demo("diabetes"))
	s.register(t, demo("penguins"))
	const penguin = `{"island": "Biscoe", "bill_length_mm": 40, "bill_depth_mm": 18, "flipper_length_mm": 190, "body_mass_g": 3700, "sex": "male", "year": 2007}`
	with := func(replacement string) string {
		key, _, _ := strings.Cut(replacement, ":")
		parts := strings.Split(strings.Trim(penguin, "{}"), ", ")
		for i, p := range parts {
			if strings.HasPrefix(p, key) {
				parts[i] = replacement
			}
		}
		return "{" + strings.Join(parts, ", ") + "}"
	}
	for name, tc := range map[string]struct{ sql, state, message, hint string }{
		"unknown model":     {"predict('irys', ARRAY[1,2,3,4])", "42704", `model "irys" does not exist`, `"iris"`},
		"unknown version":   {"predict('iris@7', ARRAY[1,2,3,4])", "42704", `model "iris" has no version 7`, "It has version 1."},
		"unknown alias":     {"predict('iris@challenger', ARRAY[1,2,3,4])", "42704", `model "iris" has no alias "challenger"`, `"champion"`},
		"no identifier":     {"predict('My Model', ARRAY[1,2,3,4])", "42602", `"My Model" is not a model name`, ""},
		"upper case":        {"predict('Iris', ARRAY[1,2,3,4])", "42602", `"Iris" is not a model name`, `Did you mean "iris"?`},
		"too few":           {"predict_label('iris', ARRAY[1,2,3])", "22023", `"petal_width"`, ""},
		"too many":          {"predict_label('iris', ARRAY[1,2,3,4,5])", "22023", "5", ""},
		"unknown key":       {`predict_label('iris', '{"sepal_length": 1, "sepal_width": 1, "petal_length": 1, "petal_widht": 1}'::jsonb)`, "22023", `petal_widht`, "petal_width"},
		"missing key":       {`predict_label('iris', '{"sepal_length": 1, "sepal_width": 1, "petal_length": 1}'::jsonb)`, "22004", `petal_width`, ""},
		"wrong type":        {`predict_label('penguins', '` + with(`"year": "last"`) + `'::jsonb)`, "22P02", `year`, ""},
		"fraction":          {`predict_label('penguins', '` + with(`"year": 2007.5`) + `'::jsonb)`, "22P02", `year`, ""},
		"number for text":   {`predict_label('penguins', '` + with(`"island": 7`) + `'::jsonb)`, "22P02", `island`, ""},
		"NULL element":      {"predict_label('iris', ARRAY[1,2,NULL,4])", "22004", `petal_length`, ""},
		"JSON null":         {`predict_label('penguins', '` + with(`"year": null`) + `'::jsonb)`, "22004", `year`, ""},
		"NaN":               {"predict_label('iris', ARRAY[1,2,'NaN'::double precision,4])", "22003", `petal_length`, ""},
		"infinity":          {"predict_label('iris', ARRAY[1,2,'Infinity'::double precision,4])", "22003", `petal_length`, ""},
		"infinity missing":  {`predict_label('penguins', '` + with(`"body_mass_g": "Infinity"`) + `'::jsonb)`, "22003", `body_mass_g`, ""},
		"over float32":      {"predict_label('iris', ARRAY[1,2,1e300,4])", "22003", `petal_length`, ""},
		"label as number":   {"predict('iris', ARRAY[1,2,3,4])", "42804", "iris", "predict_label"},
		"proba of a value":  {"predict_proba('diabetes', ARRAY[1,2,3,4,5,6,7,8,9,10])", "42804", "diabetes", ""},
		"two dimensions":    {"predict_label('iris', ARRAY[[1,2],[3,4]])", "2202E", "iris", ""},
		"empty":             {"predict_label('iris', ARRAY[]::double precision[])", "2202E", "iris", ""},
		"array for text":    {"predict_label('penguins', ARRAY[1,2,3,4,5,6,7])", "22P02", "island", ""},
		"no literal":        {"predict_label('iris', 'hello')", "22P02", "iris", ""},
		"broken literal":    {"predict_label('iris', '{1,2')", "22P02", "iris", ""},
		"broken JSON":       {`predict_label('iris', '{"sepal_length": ')`, "22P02", "iris", ""},
		"JSON array":        {`predict_label('iris', '[1,2,3,4]'::jsonb)`, "22P02", "iris", ""},
		"infer no input":    {`ml.infer('iris', '{}')`, "22004", "iris", ""},
		"infer wrong input": {`ml.infer('iris', '{"Y": [[1,2,3,4]]}')`, "22023", "Y", ""},
		"infer shape":       {`ml.infer('iris', '{"X": [[1,2,3]]}')`, "2202E", "X", ""},
		"bad timeout":       {`predict_label('iris', ARRAY[1,2,3,4]) FROM (SELECT set_config('rowcast.timeout', 'soon', true)) x`, "22023", "soon", ""},
	} {
		t.Run(name, func(t *testing.T) {
			// In a transaction, so that a setting that the case changes ends with it.
			err := pgx.BeginFunc(context.Background(), conn, func(tx pgx.Tx) error {
				e := refused(t, tx.Conn(), tc.state, "SELECT "+tc.sql)
				require.Contains(t, e.Message, tc.message)
				require.Contains(t, e.Hint, tc.hint)
				return pgx.ErrTxClosed
			})
			require.ErrorIs(t, err, pgx.ErrTxClosed)
		})
	}
	require.Equal(t, "setosa", one[string](t, conn, "SELECT predict_label('iris', ARRAY[5.1, 3.5, 1.4, 0.2])"), "the session goes on")
}

func TestMissingValuesFollowTheSignature(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	s.register(t, demo("penguins"))
	full := one[string](t, conn, `SELECT predict_json('penguins', '{"island": "Biscoe", "bill_length_mm": null, "bill_depth_mm": 18, "flipper_length_mm": 190,
		"body_mass_g": "NaN", "sex": null, "year": 2007}'::jsonb)::text`)
	short := one[string](t, conn, `SELECT predict_json('penguins', '{"island": "Biscoe", "bill_depth_mm": 18, "flipper_length_mm": 190, "year": 2007, "sex": "unknown"}'::jsonb)::text`)
	require.Equal(t, full, short)
}

func TestTheSidecarNotRunningSaysHowToStartIt(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	s.register(t, demo("iris_v2"), "iris")
	require.Equal(t, "setosa", one[string](t, conn, "SELECT predict_label('iris', ARRAY[5.1, 3.5, 1.4, 0.2])"))
	require.NoError(t, s.worker.Stop(context.Background()))
	require.Eventually(t, func() bool {
		return one[int](t, s.Conn(t), "SELECT count(*)::integer FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'rowcast %'") == 0
	}, 10*time.Second, 20*time.Millisecond)
	e := refused(t, conn, "HV00N", "SELECT predict_label('iris', ARRAY[5.1, 3.5, 1.4, 0.2])")
	require.Contains(t, e.Message, "is not running")
	require.Contains(t, e.Hint, "rowcast serve")
	refused(t, conn, "42704", "SELECT predict_label('nothing', ARRAY[5.1])")
	s.worker = s.serve(t, s.config(t))
	require.Equal(t, "setosa", one[string](t, conn, "SELECT predict_label('iris', ARRAY[5.1, 3.5, 1.4, 0.2])"), "the same session, without reconnecting")
}

func (s *sidecar) config(t testing.TB) config.Config {
	t.Helper()
	c := config.Default()
	c.DatabaseURL, c.Poll = s.URL, time.Second
	return c
}

func TestCorruptBytesAreNotLoaded(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	s.register(t, demo("iris"))
	s.register(t, demo("iris_v2"), "iris")
	exec(t, conn, "UPDATE ml_private.artifact_chunk SET data = set_byte(data, 100, get_byte(data, 100) # 1) WHERE sha256 = (SELECT sha256 FROM ml_private.version WHERE version = 2)")
	s.serve(t, s.config(t)) // one that has never seen the file: the other may still hold what it validated
	conn = s.Conn(t)
	e := refused(t, conn, "XX001", "SELECT predict_label('iris@2', ARRAY[5.1, 3.5, 1.4, 0.2])")
	require.Contains(t, e.Message, "hash")
	require.Equal(t, "setosa", one[string](t, conn, "SELECT predict_label('iris', ARRAY[5.1, 3.5, 1.4, 0.2])"))
}

func TestTheDeadlineIsNamed(t *testing.T) {
	s := start(t, func(c *config.Config) { c.Deadline = 300 * time.Millisecond })
	conn := s.Conn(t)
	s.loop(t, conn, "endless")
	began := time.Now()
	e := refused(t, conn, "57014", `SELECT ml.infer('endless', '{"x": [[1, 2]]}')`)
	require.Contains(t, e.Message, "300ms")
	require.Less(t, time.Since(began), 5*time.Second)
	exec(t, conn, "SET rowcast.timeout = '700 ms'")
	e = refused(t, conn, "57014", `SELECT ml.infer('endless', '{"x": [[1, 2]]}')`)
	require.Contains(t, e.Message, "700ms")
	exec(t, conn, "RESET rowcast.timeout")
	require.Equal(t, map[string]any{"y": []any{[]any{-1.0, -2.0}}}, one[map[string]any](t, conn, `SELECT ml.infer('endless', '{"x": [[-1, -2]]}')`))
}

func TestStatementTimeoutAndCancelStopACall(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	s.loop(t, conn, "endless")
	const endless = `SELECT ml.infer('endless', '{"x": [[1, 2]]}')`
	const quick = `SELECT ml.infer('endless', '{"x": [[-1, -2]]}')->>'y'`
	for i := range 3 {
		exec(t, conn, "SET statement_timeout = '300ms'")
		refused(t, conn, "57014", endless)
		exec(t, conn, "RESET statement_timeout")
		require.Equal(t, "[[-1, -2]]", one[string](t, conn, quick), "round %d: the next call gets its own answer", i)
	}
	other := s.Conn(t)
	pid := one[uint32](t, other, "SELECT pg_backend_pid()")
	canceled := make(chan error)
	go func() {
		time.Sleep(500 * time.Millisecond) // well into the call; if it came before, the call would end as well
		_, err := conn.Exec(context.Background(), fmt.Sprintf("SELECT pg_cancel_backend(%d)", pid))
		canceled <- err
	}()
	refused(t, other, "57014", endless)
	require.NoError(t, <-canceled)
	require.Equal(t, "[[-1, -2]]", one[string](t, other, quick))
}

// loop registers a model that gives x back, and never ends where x has a value above 0.
func (s *sidecar) loop(t testing.TB, conn *pgx.Conn, name string) {
	t.Helper()
	exec(t, conn, `SELECT ml.register_model($1, $2, '{"example": {"inputs": {"x": [[0, 0]]}}}')`, name, mustRead(t, "../onnx/testdata/loop.onnx"))
}
