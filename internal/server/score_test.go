package server_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// job is what ml.jobs says.
type job struct {
	State, Error, SQLState, Detail, Hint string
	Total, Done, Skipped                 int
}

// score starts a job and returns its number.
func score(t testing.TB, conn *pgx.Conn, args string) int {
	t.Helper()
	return one[int](t, conn, "SELECT ml.score("+args+")")
}

func look(t testing.TB, conn *pgx.Conn, id int) (j job) {
	t.Helper()
	require.NoError(t, conn.QueryRow(context.Background(), `SELECT state, coalesce(error, ''), coalesce(sqlstate, ''), coalesce(detail, ''), coalesce(hint, ''),
		coalesce(rows_total, -1), rows_done, rows_skipped FROM ml.jobs WHERE id = $1`, id).
		Scan(&j.State, &j.Error, &j.SQLState, &j.Detail, &j.Hint, &j.Total, &j.Done, &j.Skipped))
	return j
}

// await waits until the job is in one of the states.
func await(t testing.TB, conn *pgx.Conn, id int, states ...string) (j job) {
	t.Helper()
	require.Eventually(t, func() bool {
		j = look(t, conn, id)
		for _, s := range states {
			if j.State == s {
				return true
			}
		}
		return false
	}, 2*time.Minute, 20*time.Millisecond, "job %d did not become %v", id, states)
	return j
}

// succeeds runs a job to its end.
func succeeds(t testing.TB, conn *pgx.Conn, args string) job {
	t.Helper()
	j := await(t, conn, score(t, conn, args), "done", "failed")
	require.Equal(t, "done", j.State, "%s %s; %s; %s", j.SQLState, j.Error, j.Detail, j.Hint)
	return j
}

// fails runs a job that must fail with the SQLSTATE.
func fails(t testing.TB, conn *pgx.Conn, state, args string) job {
	t.Helper()
	j := await(t, conn, score(t, conn, args), "done", "failed")
	require.Equal(t, "failed", j.State)
	require.Equal(t, state, j.SQLState, "%s; %s; %s", j.Error, j.Detail, j.Hint)
	t.Logf("%s: %s; %s; %s", j.SQLState, j.Error, j.Detail, j.Hint)
	return j
}

// flowers makes a table of n rows that the model iris takes.
func flowers(t testing.TB, conn *pgx.Conn, name string, n int) {
	t.Helper()
	exec(t, conn, fmt.Sprintf(`CREATE TABLE %s AS SELECT i::bigint AS id, 4 + random() * 4 AS sepal_length, (2 + random() * 3)::real AS sepal_width,
		(1 + random() * 6)::numeric(8,4) AS petal_length, random() * 3 AS petal_width FROM generate_series(1, %d) AS i`, name, n))
	exec(t, conn, fmt.Sprintf("ALTER TABLE %s ADD PRIMARY KEY (id)", name))
}

// equalsPredict checks that target has exactly the rows of source, each as predict answers it.
func equalsPredict(t testing.TB, conn *pgx.Conn, source, target string) {
	t.Helper()
	require.Equal(t, [3]int{0, 0, 0}, [3]int{
		one[int](t, conn, fmt.Sprintf("SELECT count(*)::int FROM %s s FULL JOIN %s r USING (id) WHERE s IS NULL OR r IS NULL", source, target)),
		one[int](t, conn, fmt.Sprintf("SELECT (count(*) - count(DISTINCT id))::int FROM %s", target)),
		one[int](t, conn, fmt.Sprintf("SELECT count(*)::int FROM %s s JOIN %s r USING (id) WHERE r.label IS DISTINCT FROM predict_label('iris', s)", source, target)),
	}, "rows missing or too many, keys twice, other labels than predict_label's")
}

func TestAJobScoresATable(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	s.register(t, demo("iris_v2"), "iris")
	flowers(t, conn, "flowers", 60_000)
	j := succeeds(t, conn, "'iris', 'flowers', 'scores', 'id', options => '{\"chunk_rows\": 10000, \"probabilities\": true}'")
	require.Equal(t, job{State: "done", Total: 60_000, Done: 60_000}, j)
	equalsPredict(t, conn, "flowers", "scores")
	// ONNX Runtime adds in another order where rows are run together.
	require.Zero(t, one[int](t, conn, `SELECT count(*)::int
		FROM (SELECT r.probabilities p, predict_proba('iris', s) q FROM flowers s JOIN scores r USING (id)) x
		WHERE abs(p[1] - q[1]) > 1e-5 OR abs(p[2] - q[2]) > 1e-5 OR abs(p[3] - q[3]) > 1e-5 OR cardinality(p) <> 3`))
	require.Equal(t, "id bigint,label text,probabilities double precision[],version integer,scored_at timestamp with time zone", one[string](t, conn,
		"SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ',' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'scores'::regclass AND attnum > 0"))
	require.Zero(t, one[int](t, conn, "SELECT count(*)::int FROM pg_class WHERE relnamespace = 'ml_staging'::regnamespace"))
}
