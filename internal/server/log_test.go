package server_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/postgres/pgtest"
)

// logged waits until a model's log has n rows, and makes sure that it gets no more.
func logged(t testing.TB, conn *pgx.Conn, model string, n int) {
	t.Helper()
	var rows int
	require.Eventually(t, func() bool {
		rows = one[int](t, conn, "SELECT count(*) FROM ml.predictions WHERE model = $1", model)
		return rows >= n
	}, 20*time.Second, 20*time.Millisecond, "%d rows", n)
	require.Equal(t, n, rows)
}

func penguinTypes() map[string]string {
	return map[string]string{"id": "bigint", "bill_length_mm": "real", "bill_depth_mm": "real", "flipper_length_mm": "real", "body_mass_g": "real", "year": "bigint"}
}

// penguins is a database with the mixed model of the demo and its data.
func penguins(t testing.TB) (*sidecar, *pgx.Conn) {
	t.Helper()
	s := start(t)
	conn := s.Conn(t)
	s.register(t, demo("penguins"))
	load(t, conn, "penguins_data", demo("penguins/data.csv"), penguinTypes())
	return s, conn
}

func TestEveryPredictionOfALoggedModelIsKept(t *testing.T) {
	_, conn := penguins(t)
	exec(t, conn, "SELECT predict_label('penguins', p) FROM penguins_data p")
	exec(t, conn, "SELECT ml.set_log_policy('penguins', 'all')")
	exec(t, conn, "CREATE TABLE answers AS SELECT predict_label('penguins', p) AS label, predict_proba('penguins@champion', p) AS proba, predict_json('penguins@1', p) AS doc FROM penguins_data p")
	n := one[int](t, conn, "SELECT count(*) FROM penguins_data")
	logged(t, conn, "penguins", 3*n)
	for reference, alias := range map[string]any{"penguins": "champion", "penguins@champion": "champion", "penguins@1": nil} {
		require.Equal(t, n, one[int](t, conn, `SELECT count(*) FROM ml.predictions p JOIN ml.versions v USING (model, version, sha256)
			WHERE reference = $1 AND alias IS NOT DISTINCT FROM $2::text AND caller = current_user AND latency_ms > 0 AND at > now() - interval '1 minute'`, reference, alias), reference)
	}
	require.Zero(t, one[int](t, conn, `SELECT count(*) FROM ml.predictions p LEFT JOIN ml.alias_history h ON h.id = p.alias_entry
		WHERE (p.alias IS NULL) <> (h.id IS NULL) OR h.alias <> p.alias OR h.version <> p.version OR h.changed_by <> p.alias_set_by`), "each alias leads to its entry")
	require.Zero(t, one[int](t, conn, "SELECT count(*) FROM ml.predictions WHERE encode(sha256(convert_to(inputs::text, 'UTF8')), 'hex') <> input_hash"))
	require.Equal(t, n, one[int](t, conn, `SELECT count(*) FROM (SELECT DISTINCT doc ->> 'label' AS label, doc -> 'probabilities' AS p, a.proba, ctid FROM answers a) a
		WHERE EXISTS (SELECT FROM ml.predictions p WHERE p.label = a.label AND p.probabilities = a.proba AND p.probability = (a.p ->> a.label)::float8)`))
	exec(t, conn, "SELECT ml.set_log_policy('penguins', 'none')")
	require.Zero(t, one[int](t, conn, "SELECT count(*) FROM ml.predictions p WHERE predict_label('penguins@1', p.inputs) <> p.label"), "the inputs give the same answer again")
}

func TestTransactionalPredictionsShareTheCallersFate(t *testing.T) {
	_, conn := penguins(t)
	exec(t, conn, "SELECT ml.set_log_policy('penguins', 'transactional', key => 'id')")
	exec(t, conn, "BEGIN; CREATE TEMP TABLE out AS SELECT predict_label('penguins', p) AS label FROM (SELECT row_number() OVER () AS id, * FROM penguins_data LIMIT 10) p")
	require.Equal(t, 10, one[int](t, conn, "SELECT count(*) FROM ml.predictions WHERE caller = current_user AND key IS NOT NULL AND latency_ms > 0"), "at once, uncommitted")
	require.Equal(t, 10, one[int](t, conn, "SELECT count(*) FROM out o JOIN ml.predictions p ON p.label = o.label AND p.key::int = (SELECT count(*) FROM out q WHERE q.ctid <= o.ctid)"))
	exec(t, conn, "ROLLBACK")
	logged(t, conn, "penguins", 0)
	exec(t, conn, "SELECT predict_label('penguins', p) FROM penguins_data p LIMIT 5")
	logged(t, conn, "penguins", 5)
	require.Zero(t, one[int](t, conn, "SELECT count(*) FROM ml.predictions WHERE encode(sha256(convert_to(inputs::text, 'UTF8')), 'hex') <> input_hash"))
	exec(t, conn, "BEGIN READ ONLY")
	e := refused(t, conn, "25006", "SELECT predict_label('penguins', p) FROM penguins_data p LIMIT 5")
	require.Contains(t, e.Message, `predictions of model "penguins" are logged in the caller's transaction`)
	require.Contains(t, e.Hint, "READ WRITE")
	exec(t, conn, "ROLLBACK")
	exec(t, conn, "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; ANALYZE penguins_data")
	e = refused(t, conn, "25000", "SELECT count(predict_label('penguins', p)) FROM penguins_data p")
	require.Contains(t, e.Where, "SET max_parallel_workers_per_gather = 0")
	exec(t, conn, "SET max_parallel_workers_per_gather = 0")
	exec(t, conn, "SELECT count(predict_label('penguins', p)) FROM penguins_data p")
}

func TestALogKeepsASampleAndHashesOnly(t *testing.T) {
	_, conn := penguins(t)
	exec(t, conn, "SELECT ml.set_log_policy('penguins', 'sampled', sample => 0.25, inputs => false)")
	exec(t, conn, "SELECT predict_label('penguins', p) FROM penguins_data p, generate_series(1, 10)")
	exec(t, conn, "SELECT ml.set_log_policy('penguins', 'all', inputs => false)")
	exec(t, conn, "SELECT predict_label('penguins', p) FROM penguins_data p LIMIT 1")
	n := float64(one[int](t, conn, "SELECT 10 * count(*) FROM penguins_data"))
	var kept float64
	require.Eventually(t, func() bool {
		before := kept
		kept = one[float64](t, conn, "SELECT count(*)::float8 FROM ml.predictions")
		return kept > 0 && kept == before
	}, 20*time.Second, time.Second)
	require.InDelta(t, n/4, kept, 6*0.44*59, "a quarter, within six standard deviations")
	require.Zero(t, one[int](t, conn, "SELECT count(*) FROM ml.predictions WHERE inputs IS NOT NULL OR length(input_hash) <> 64"))
}

func TestOnlyTheOwnerSetsThePolicyAndSeesEverybodysInputs(t *testing.T) {
	s, conn := penguins(t)
	caller, callerURL := s.Role(t, "")
	reader, readerURL := s.Role(t, "")
	exec(t, conn, fmt.Sprintf("SELECT ml.grant_model('penguins', '%s'); GRANT SELECT ON penguins_data TO %s", caller, caller))
	asCaller, asReader := pgtest.Connect(t, callerURL), pgtest.Connect(t, readerURL)
	refused(t, asCaller, "42501", "SELECT ml.set_log_policy('penguins', 'all')")
	refused(t, asCaller, "42501", fmt.Sprintf("SELECT ml.grant_predictions('penguins', '%s')", caller))
	refused(t, asReader, "42501", "SELECT ml.set_log_policy('penguins', 'all')")
	for _, bad := range []string{"'some'", "NULL", "'all', 0.5", "'sampled', 0", "'sampled', 2", "'all', 1, 0", "'all', 1, NULL"} {
		refused(t, conn, "22023", "SELECT ml.set_log_policy('penguins', "+bad+")")
	}
	exec(t, conn, "SELECT ml.set_log_policy('penguins', 'all')")
	exec(t, conn, "SELECT predict_label('penguins', p) FROM penguins_data p LIMIT 7")
	exec(t, asCaller, "SELECT predict_label('penguins', p) FROM penguins_data p LIMIT 3")
	logged(t, conn, "penguins", 10)
	require.Equal(t, 3, one[int](t, asCaller, "SELECT count(*) FROM ml.predictions"), "his own")
	require.Equal(t, 3, one[int](t, asCaller, "SELECT count(*) FROM ml_bi.penguins"))
	require.Zero(t, one[int](t, asReader, "SELECT count(*) FROM ml.predictions"))
	refused(t, asReader, "42501", "SELECT count(*) FROM ml_bi.penguins")
	exec(t, conn, fmt.Sprintf("SELECT ml.grant_predictions('penguins', '%s')", reader))
	require.Equal(t, 10, one[int](t, asReader, "SELECT count(*) FROM ml_bi.penguins"))
	require.Equal(t, 10, one[int](t, asReader, "SELECT count(*) FROM ml.predictions"))
	refused(t, asReader, "42501", "SELECT predict_label('penguins', '{}')")
	refused(t, asReader, "42501", "SELECT count(*) FROM ml_private.prediction")
	exec(t, conn, fmt.Sprintf("SELECT ml.revoke_predictions('penguins', '%s'), ml.revoke_model('penguins', '%s')", reader, caller))
	refused(t, asReader, "42501", "SELECT count(*) FROM ml_bi.penguins")
	refused(t, asCaller, "42501", "SELECT count(*) FROM ml_bi.penguins")
	require.Zero(t, one[int](t, asCaller, "SELECT count(*) FROM ml.predictions"))
	refused(t, conn, "42704", fmt.Sprintf("SELECT ml.revoke_predictions('penguins', '%s')", reader))
	exec(t, conn, "SELECT ml.grant_model('penguins', 'PUBLIC')")
	require.Zero(t, one[int](t, asReader, "SELECT count(*) FROM ml_bi.penguins"), "none of his own")
	exec(t, conn, "SELECT ml.drop_model('penguins')")
	require.Zero(t, one[int](t, conn, "SELECT count(*) FROM ml.predictions"))
	exec(t, conn, "SELECT ml_private.keep_partitions()")
	require.Zero(t, one[int](t, conn, "SELECT count(*) FROM ml_private.prediction"))
}
