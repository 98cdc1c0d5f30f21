package server_test

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// slowBirds makes a table of rows that the model penguins takes, a few hundred a second and session: reading a feature sleeps, so planning does not.
func slowBirds(t testing.TB, conn *pgx.Conn, rows int) {
	t.Helper()
	exec(t, conn, fmt.Sprintf(`CREATE TYPE isle AS ENUM ('Biscoe');
		CREATE TABLE birds AS SELECT i AS id, 'Biscoe'::isle AS island, (30 + i %% 25)::real AS bill_length_mm, 17::real AS bill_depth_mm, (180 + i %% 40)::real AS flipper_length_mm,
			4000::real AS body_mass_g, 'female' AS sex, 2008 AS year FROM generate_series(1, %d) i;
		ALTER TABLE birds ADD PRIMARY KEY (id);
		CREATE FUNCTION read_slowly(isle) RETURNS text LANGUAGE plpgsql VOLATILE AS 'BEGIN PERFORM pg_sleep(0.002); RETURN ''Biscoe''; END';
		CREATE CAST (isle AS text) WITH FUNCTION read_slowly(isle)`, rows))
}

// working counts the sidecars whose chunks of a job run.
func working(t testing.TB, conn *pgx.Conn, job int) int {
	t.Helper()
	return one[int](t, conn, "SELECT count(DISTINCT sidecar)::int FROM ml_private.job_chunk WHERE job_id = $1 AND state = 'running'", job)
}

func TestRunningChunksStopWithinTwoSeconds(t *testing.T) {
	s := unserved(t)
	conn := s.Conn(t)
	s.startProgram(t, "ROWCAST_SCORE_WORKERS=2")
	s.startProgram(t, "ROWCAST_SCORE_WORKERS=2", "ROWCAST_LISTEN=127.0.0.1:0")
	s.register(t, demo("penguins"))
	slowBirds(t, conn, 60_000)
	exec(t, conn, "CREATE TABLE r (id bigint PRIMARY KEY, label text, version integer); INSERT INTO r SELECT id, 'earlier', 1 FROM birds WHERE id <= 10")
	id := score(t, conn, `'penguins', 'birds', 'r', 'id', 'append', options => '{"chunk_rows": 5000, "new_rows": true}'`)
	run := func() {
		t.Helper()
		require.Eventually(t, func() bool { return working(t, conn, id) == 2 }, 30*time.Second, 10*time.Millisecond, "both sidecars work on the job")
		require.Equal(t, "running", look(t, conn, id).State)
		require.Equal(t, -1, look(t, conn, id).Total, "nobody knows how many rows are new")
		require.True(t, one[bool](t, conn, "SELECT time_left IS NULL FROM ml.jobs WHERE id = $1", id))
	}
	quiet := func(after string) {
		t.Helper()
		require.Eventually(t, func() bool {
			return one[int](t, conn, "SELECT count(*)::int FROM pg_stat_activity WHERE application_name LIKE 'rowcast job %' AND state = 'active' AND datname = current_database()") == 0
		}, 2*time.Second, 10*time.Millisecond, after)
	}
	run()
	exec(t, conn, "SELECT ml.pause_job($1)", id)
	quiet("pause")
	require.Equal(t, "paused", look(t, conn, id).State)
	exec(t, conn, "SELECT ml.resume_job($1)", id)
	run()
	exec(t, conn, "SELECT ml.cancel_job($1)", id)
	quiet("cancel")
	require.Equal(t, "canceled", look(t, conn, id).State)
	require.Equal(t, 10, one[int](t, conn, "SELECT count(*)::int FROM r WHERE label = 'earlier'"), "the target is as it was")
	require.Equal(t, 10, one[int](t, conn, "SELECT count(*)::int FROM r"))
	require.Eventually(t, func() bool {
		return one[int](t, conn, `SELECT (SELECT count(*) FROM ml_private.job_chunk)::int + (SELECT count(*) FROM pg_class WHERE relnamespace = 'ml_staging'::regnamespace)::int`) == 0
	}, 20*time.Second, 10*time.Millisecond, "nothing is left")
}

// The sidecar is stopped, not killed: it falls silent with chunks under way, wakes up when they are another one's, and must not write.
func TestASilentSidecarsChunksAreTakenOverOnce(t *testing.T) {
	s := unserved(t)
	conn := s.Conn(t)
	first := s.startProgram(t, "ROWCAST_SCORE_WORKERS=2")
	s.register(t, demo("penguins"))
	slowBirds(t, conn, 18_000)
	id := score(t, conn, `'penguins', 'birds', 'r', 'id', options => '{"chunk_rows": 6000}'`)
	require.Eventually(t, func() bool {
		return one[int](t, conn, "SELECT count(*)::int FROM ml_private.job_chunk WHERE state = 'running'") == 2
	}, 30*time.Second, 10*time.Millisecond)
	pid := first.worker(t)
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	stopped := time.Now()
	held := one[[]int](t, conn, "SELECT array_agg(number) FROM ml_private.job_chunk WHERE state = 'running'")
	s.startProgram(t, "ROWCAST_SCORE_WORKERS=3", "ROWCAST_LISTEN=127.0.0.1:0")
	require.Eventually(t, func() bool {
		return one[bool](t, conn, "SELECT bool_and(epoch = 2 AND state = 'running') FROM ml_private.job_chunk WHERE number = ANY ($1)", held)
	}, 15*time.Second-time.Since(stopped), 10*time.Millisecond, "taken over within 15 s")
	t.Logf("taken over after %s", time.Since(stopped))
	require.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
	// These chunks take longer than a lease. It is renewed: nobody takes them over again, though two sidecars could.
	epoch := 0
	require.Eventually(t, func() bool {
		epoch = max(epoch, one[int](t, conn, "SELECT coalesce(max(epoch), 0) FROM ml_private.job_chunk"))
		return look(t, conn, id).State == "done"
	}, 2*time.Minute, 20*time.Millisecond)
	require.Equal(t, 2, epoch)
	require.Equal(t, []int{18_000, 18_000}, one[[]int](t, conn, "SELECT ARRAY[count(*), count(DISTINCT id)]::int[] FROM r"))
	require.Zero(t, one[int](t, conn, "SELECT count(*)::int FROM birds b JOIN r USING (id) WHERE id % 37 = 0 AND r.label IS DISTINCT FROM predict_label('penguins', b)"))
}

func TestThePlannerKnowsThatAPredictionIsDear(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	s.register(t, demo("iris_v2"), "iris")
	flowers(t, conn, "flowers", 1000)
	exec(t, conn, "ANALYZE flowers; SET max_parallel_workers_per_gather = 0; SET enable_indexscan = off; SET enable_bitmapscan = off")
	type node struct {
		Cost   float64 `json:"Total Cost"`
		Filter string
	}
	explain := func(query string) node {
		t.Helper()
		return one[[]struct{ Plan node }](t, conn, "EXPLAIN (FORMAT JSON) "+query)[0].Plan
	}
	for _, function := range []string{"predict", "predict_label", "predict_proba", "predict_json"} {
		require.Greater(t, explain("SELECT "+function+"('iris', f) FROM flowers f").Cost, 2500.0, function)
	}
	filter := explain("SELECT FROM flowers f WHERE predict_label('iris', f) = 'setosa' AND f.sepal_width::text LIKE '3%'").Filter
	require.Less(t, strings.Index(filter, "sepal_width"), strings.Index(filter, "predict_label"), "the cheap condition first: %s", filter)

	// Row by row, into a table.
	exec(t, conn, "CREATE TABLE scores (id bigint PRIMARY KEY, label text, prediction double precision); INSERT INTO scores SELECT id, predict_label('iris', f) FROM flowers f")
	equalsPredict(t, conn, "flowers", "scores")
}

func TestStartingAJobWithoutASidecarWarns(t *testing.T) {
	s := unserved(t)
	p := s.startProgram(t)
	s.register(t, demo("iris_v2"), "iris")
	config, err := pgx.ParseConfig(s.URL)
	require.NoError(t, err)
	var warnings []string
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { warnings = append(warnings, n.Message+"; "+n.Hint) }
	conn, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	flowers(t, conn, "flowers", 100)
	succeeds(t, conn, "'iris', 'flowers', 'scores', 'id'")
	require.Empty(t, warnings)
	p.stop(t)
	require.Eventually(t, func() bool {
		return one[int](t, conn, "SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'rowcast %'") == 0
	}, 10*time.Second, 10*time.Millisecond)
	id := score(t, conn, "'iris', 'flowers', 'scores', 'id', 'replace'")
	require.Equal(t, []string{fmt.Sprintf(`job %d waits: the Rowcast sidecar of database "%s" is not running; Start it with: DATABASE_URL=... rowcast serve`, id, s.Name)}, warnings)
	s.startProgram(t)
	require.Equal(t, 100, await(t, conn, id, "done").Done)
}
