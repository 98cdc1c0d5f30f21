package server_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// columns lists a view's columns in their order, each with its type.
func columns(t testing.TB, conn *pgx.Conn, view string) []string {
	t.Helper()
	rows, err := conn.Query(context.Background(), `SELECT a.attname || ' ' || format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
		WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 ORDER BY a.attnum`, view)
	require.NoError(t, err)
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return list
}

func TestABIViewHasTheModelsColumns(t *testing.T) {
	_, conn := penguins(t)
	require.Empty(t, columns(t, conn, "ml_bi.penguins"))
	exec(t, conn, "SELECT ml.set_log_policy('penguins', 'all', key => 'id')")
	require.Equal(t, []string{"key text", "island text", "bill_length_mm real", "bill_depth_mm real", "flipper_length_mm real", "body_mass_g real", "sex text",
		"year bigint", "prediction double precision", "label text", "probability double precision", "version integer", "predicted_at timestamp with time zone"},
		columns(t, conn, "ml_bi.penguins"))
	require.Zero(t, one[int](t, conn, "SELECT count(*) FROM pg_attribute a WHERE attrelid = 'ml_bi.penguins'::regclass AND attnum > 0 AND col_description(attrelid, attnum) IS NULL"))
	require.Contains(t, one[string](t, conn, "SELECT obj_description('ml_bi.penguins'::regclass)"), "Example: SELECT")
	exec(t, conn, "SELECT predict_label('penguins', p) FROM penguins_data p")
	logged(t, conn, "penguins", one[int](t, conn, "SELECT count(*) FROM penguins_data"))
	require.Zero(t, one[int](t, conn, `SELECT count(*) FROM penguins_data d FULL JOIN ml_bi.penguins b ON b.key = d.id::text
		WHERE (d.island, d.bill_length_mm, d.bill_depth_mm, d.flipper_length_mm, d.body_mass_g, coalesce(d.sex, 'unknown'), d.year) IS DISTINCT FROM
		      (b.island, b.bill_length_mm, b.bill_depth_mm, b.flipper_length_mm, b.body_mass_g, b.sex, b.year) OR b.label IS NULL OR NOT b.probability > 0.3`))
	exec(t, conn, "SELECT ml.set_log_policy('penguins', 'none')")
	require.Positive(t, one[int](t, conn, "SELECT count(*) FROM ml_bi.penguins"), "what was logged stays")
}

// Versions come with other features, names that clash or need quotes, and other types. Columns keep name, type and place.
func TestABIViewsColumnsStayAcrossVersions(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	model := mustRead(t, demo("iris_v2/model.onnx"))
	register := func(features string) {
		exec(t, conn, "SELECT ml.register_model('odd', $1, jsonb_build_object('features', $2::jsonb, 'task', 'classification'))", model, features)
	}
	long := "ä23456789012345678901234567890123456789012345678901234567890123456789"
	register(`["label", "select", "Size \"x\" @'é", "a"]`)
	exec(t, conn, "SELECT ml.set_log_policy('odd', 'all')")
	exec(t, conn, `CREATE VIEW mine AS SELECT label, "select", a FROM ml_bi.odd`)
	before := []string{"key text", "label_feature real", "select real", "Size \"x\" @'é real", "a real", "prediction double precision", "label text",
		"probability double precision", "version integer", "predicted_at timestamp with time zone"}
	require.Equal(t, before, columns(t, conn, "ml_bi.odd"))
	exec(t, conn, `SELECT predict_json('odd', '{"label": 1.5, "select": 2, "Size \"x\" @''é": 3, "a": 4.25}')`)
	register(`[{"name": "a", "type": "double precision"}, {"name": "label", "type": "bigint"}, "label_feature", "` + long + `"]`)
	register(`[{"name": "a", "type": "boolean"}, "label", "select", "key"]`)
	after := append(before, "a_double double precision", "label_bigint bigint", "label_feature_feature real", long[:63]+" real", "a_boolean boolean", "key_feature real")
	require.Equal(t, after, columns(t, conn, "ml_bi.odd"))
	exec(t, conn, `SELECT predict_json('odd@2', jsonb_build_object('a', 1e30, 'label', 7, 'label_feature', 8.5, '`+long+`', 9))`)
	exec(t, conn, `SELECT predict_json('odd@3', '{"a": true, "label": 2.5, "select": 0, "key": 1}')`)
	logged(t, conn, "odd", 3)
	require.Equal(t, "1,1.5,2,3,4.25,,,,,,,", one[string](t, conn, `SELECT concat_ws(',', version, label_feature, "select", "Size ""x"" @'é", a,
		coalesce(a_double::text, ''), coalesce(label_bigint::text, ''), coalesce(label_feature_feature::text, ''), '', '', coalesce(a_boolean::text, ''), coalesce(key_feature::text, ''))
		FROM ml_bi.odd WHERE version = 1`))
	require.Equal(t, "1e+30,7,8.5,9", one[string](t, conn, `SELECT concat_ws(',', a, label_feature, a_double, label_bigint, label_feature_feature, "`+long[:63]+`") FROM ml_bi.odd WHERE version = 2`))
	require.Equal(t, "2.5,0,t,1", one[string](t, conn, `SELECT concat_ws(',', a, label_feature, "select", a_boolean, key_feature) FROM ml_bi.odd WHERE version = 3`))
	exec(t, conn, "SELECT ml.drop_version('odd', 2)")
	require.Equal(t, after, columns(t, conn, "ml_bi.odd"))
	require.Equal(t, 1, one[int](t, conn, "SELECT count(*) FROM ml_bi.odd WHERE a_double = 1e30"))
	refused(t, conn, "2BP01", "SELECT ml.drop_model('odd')")
	exec(t, conn, "DROP VIEW mine; SELECT ml.drop_model('odd')")
	require.Empty(t, columns(t, conn, "ml_bi.odd"))
}

func TestTheLogIsKeptByDays(t *testing.T) {
	s, conn := penguins(t)
	s.register(t, demo("iris_v2"), "iris")
	exec(t, conn, "SELECT ml.set_log_policy('penguins', 'all', retention_days => 3), ml.set_log_policy('iris', 'all', retention_days => 10)")
	require.Equal(t, 8, one[int](t, conn, `SELECT count(*) FROM pg_inherits WHERE inhparent = 'ml_private.prediction'::regclass AND inhrelid::regclass::text ~ '_\d{8}$'`))
	// As a sidecar whose clock was wrong, or that did not run, would have left them.
	exec(t, conn, `INSERT INTO ml_private.prediction (at, model_id, version, sha256, reference, caller, input_hash, latency_ms)
		SELECT now() - make_interval(days => d), m.id, 1, '', m.name, 'x', '', 1 FROM generate_series(-20, 20) d, ml_private.model m`)
	require.Positive(t, one[int](t, conn, "SELECT count(*) FROM ml_private.prediction_other"))
	exec(t, conn, "SELECT ml_private.keep_partitions()")
	require.Zero(t, one[int](t, conn, "SELECT count(*) FROM ml_private.prediction_other"), "each has its day now")
	require.Equal(t, 20+1+2, one[int](t, conn, "SELECT count(*) FROM ml.predictions WHERE model = 'penguins'"), "younger than three days")
	require.Equal(t, 20+1+9, one[int](t, conn, "SELECT count(*) FROM ml.predictions WHERE model = 'iris'"))
	require.Zero(t, one[int](t, conn, `SELECT count(*) FROM pg_inherits WHERE inhparent = 'ml_private.prediction'::regclass AND inhrelid::regclass::text ~ '_\d{8}$'
		AND to_date(right(inhrelid::regclass::text, 8), 'YYYYMMDD') < current_date - 11`), "days that nobody keeps are gone with their partitions")
	exec(t, conn, "SELECT ml.drop_model('iris')")
	require.Zero(t, one[int](t, conn, "SELECT count(*) FROM ml.predictions WHERE model = 'iris'"))
	exec(t, conn, "SELECT ml_private.keep_partitions()")
	require.Equal(t, 23, one[int](t, conn, "SELECT count(*) FROM ml_private.prediction"))

	// A reader of the whole log is not waited for; what it is in the way of happens in a later round.
	reader := s.Conn(t)
	exec(t, reader, "BEGIN; SELECT count(*) FROM ml.predictions")
	exec(t, conn, "DELETE FROM ml_private.prediction; INSERT INTO ml_private.prediction (at, model_id, version, sha256, reference, caller, input_hash, latency_ms) SELECT now() + interval '40 days', 1, 1, '', 'x', 'x', '', 1")
	exec(t, conn, "SELECT ml_private.keep_partitions()")
	require.Equal(t, 1, one[int](t, conn, "SELECT count(*) FROM ml_private.prediction_other"))
	exec(t, reader, "ROLLBACK")
	exec(t, conn, "SELECT ml_private.keep_partitions()")
	require.Zero(t, one[int](t, conn, "SELECT count(*) FROM ml_private.prediction_other"))
	require.Equal(t, 1, one[int](t, conn, "SELECT count(*) FROM ml_private.prediction"))
}

// What every kind of model leaves in the log.
func TestEveryKindOfModelCanBeLogged(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	s.register(t, demo("diabetes"))
	s.register(t, demo("iris"))
	exec(t, conn, "SELECT ml.set_log_policy('diabetes', 'all'), ml.set_log_policy('iris', 'transactional')")
	load(t, conn, "rows", demo("diabetes/data.csv"), nil)
	row := "ARRAY" + one[string](t, conn, "SELECT replace(replace(json_agg(f)::text, '\"', ''), ' ', '') FROM (SELECT 0.5 FROM generate_series(1, (SELECT array_length(features, 1) FROM ml.versions WHERE model = 'diabetes'))) x(f)")
	value := one[float64](t, conn, "SELECT predict('diabetes', "+row+")")
	logged(t, conn, "diabetes", 1)
	require.Equal(t, 1, one[int](t, conn, "SELECT count(*) FROM ml.predictions WHERE model = 'diabetes' AND value = $1 AND label IS NULL AND outputs IS NULL AND probabilities IS NULL", value))
	answer := one[string](t, conn, `SELECT ml.infer('iris', '{"X": [[5.1, 3.5, 1.4, 0.2], [6.3, 2.5, 4.9, 1.5]]}')::text`)
	logged(t, conn, "iris", 1)
	require.Equal(t, 1, one[int](t, conn, `SELECT count(*) FROM ml.predictions WHERE model = 'iris' AND outputs = $1::jsonb AND inputs = '{"X": [[5.1, 3.5, 1.4, 0.2], [6.3, 2.5, 4.9, 1.5]]}'
		AND encode(sha256(convert_to(inputs::text, 'UTF8')), 'hex') = input_hash`, answer))
	require.Equal(t, "{1.0000001,0,0}", one[string](t, conn, "SELECT predict_proba('iris@1', "+irisRow+")::text"))
	require.Equal(t, 1.0000001, one[float64](t, conn, "SELECT probability FROM ml.predictions WHERE reference = 'iris@1'"))

	// A promotion that is rolled back leaves predictions that still tell what made them.
	s.register(t, demo("iris_v2"), "iris")
	exec(t, conn, "SELECT ml.set_log_policy('iris', 'all')")
	exec(t, conn, "BEGIN; SELECT ml.promote('iris', 2); SELECT predict_label('iris', "+irisRow+"); ROLLBACK")
	logged(t, conn, "iris", 3)
	require.Equal(t, 1, one[int](t, conn, `SELECT count(*) FROM ml.predictions p JOIN ml.versions v USING (model, version, sha256)
		WHERE p.version = 2 AND alias = 'champion' AND alias_entry IS NOT NULL AND alias_set_by IS NULL`))
}
