package server_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/postgres/pgtest"
)

// size is a number of rows or kills: small in a normal run, that of the environment variable where `make test-jobs` sets it.
func size(t testing.TB, variable string, normal int) int {
	t.Helper()
	if text := os.Getenv(variable); text != "" {
		n, err := strconv.Atoi(text)
		require.NoError(t, err)
		return n
	}
	return normal
}

// trees registers the model of the benchmarks, where a checkout has it beside it, else one of the repository's own, and returns SQL for its features.
func (s *sidecar) trees(t testing.TB) (columns string) {
	t.Helper()
	folder := filepath.Join("..", "..", "..", "shared", "models", "trees_100x6")
	if _, err := os.Stat(folder); err != nil {
		folder = demo("diabetes")
	}
	s.register(t, folder, "trees")
	return one[string](t, s.Conn(t), "SELECT string_agg(format('random()::real AS %I', f), ', ') FROM ml.versions, unnest(features) f WHERE model = 'trees'")
}

// completed checks that the target has each row of the source once, with predict's answer. predict is asked for a sample where there are many, except
// by `make test-jobs`.
func completed(t testing.TB, s *sidecar, source, target string, rows int) {
	t.Helper()
	conn := s.Conn(t)
	require.Equal(t, []int{rows, rows, rows}, one[[]int](t, conn, fmt.Sprintf(
		"SELECT ARRAY[count(*), count(r.id), count(DISTINCT r.id)]::int[] FROM %s s FULL JOIN %s r USING (id)", source, target)), "source, target, distinct")
	share := max(1, rows/10_000)
	if os.Getenv("ROWCAST_JOB_ROWS") != "" {
		share = 1
	}
	require.Zero(t, one[int](t, conn, fmt.Sprintf("SELECT count(*)::int FROM %s s JOIN %s r USING (id) WHERE id %% %d = 0 AND abs(r.prediction - predict('trees', s)) > 1e-6 * greatest(1, abs(r.prediction))",
		source, target, share)), "other answers than predict's")
}

// alive reports whether a process runs; one that is dead and not waited for does not.
func alive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(text), ") Z ")
}

func TestKilledSidecarsLoseNothingAndRepeatNothing(t *testing.T) {
	rows, kills := size(t, "ROWCAST_JOB_ROWS", 100_000), size(t, "ROWCAST_JOB_KILLS", 5)
	s := unserved(t)
	conn := s.Conn(t)
	where := []string{"ROWCAST_SCORE_WORKERS=3", "ROWCAST_LISTEN=127.0.0.1:0"} // the first as the database has it
	programs := []*program{s.startProgram(t, where[0])}
	columns := s.trees(t)
	exec(t, conn, fmt.Sprintf("CREATE TABLE s AS SELECT i AS id, %s FROM generate_series(1, %d) i", columns, rows))
	exec(t, conn, "ALTER TABLE s ADD PRIMARY KEY (id); ANALYZE s")
	programs = append(programs, s.startProgram(t, where[1]))
	killed := 0
	for round := 0; killed < kills; round++ {
		exec(t, conn, "DROP TABLE IF EXISTS r")
		id := score(t, conn, fmt.Sprintf(`'trees', 's', 'r', 'id', options => '{"chunk_rows": %d}'`, max(1000, rows/100)))
		for killed < kills && look(t, conn, id).State != "done" {
			time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond) // a random moment
			victim := rand.IntN(2)
			pid := programs[victim].worker(t)
			switch {
			case pid == 0: // it is being started again
			case killed%3 == 2: // the whole sidecar: the supervisor, and its worker with it
				programs[victim].kill()
				require.Eventually(t, func() bool { return !alive(pid) }, 10*time.Second, time.Millisecond)
				programs[victim] = s.startProgram(t, where[victim])
				killed++
			case syscall.Kill(pid, syscall.SIGKILL) == nil:
				killed++
			}
		}
		j := await(t, conn, id, "done", "failed")
		require.Equal(t, "done", j.State, "%s %s", j.SQLState, j.Error)
		require.Equal(t, rows, j.Done)
		completed(t, s, "s", "r", rows)
		t.Logf("round %d: %d kills so far", round, killed)
	}
}

func TestARestartOfPostgreSQLInterruptsAJobOnly(t *testing.T) {
	rows := size(t, "ROWCAST_JOB_ROWS", 100_000)
	cluster := privateCluster(t)
	if one[int](t, pgtest.Connect(t, cluster.URL("postgres")), "SELECT current_setting('server_version_num')::integer") >= 180000 {
		t.Skip("open: on PostgreSQL 18 the job's row is not found after the crash, and it is not known yet whether the test or the job is to blame")
	}
	exec(t, pgtest.Connect(t, cluster.URL("postgres")), "ALTER SYSTEM SET restart_after_crash = on")
	exec(t, pgtest.Connect(t, cluster.URL("postgres")), "ALTER SYSTEM SET synchronous_commit = on") // clusters of tests may forget what they committed last
	exec(t, pgtest.Connect(t, cluster.URL("postgres")), "CREATE DATABASE shop")
	exec(t, pgtest.Connect(t, cluster.URL("postgres")), "SELECT pg_reload_conf()")
	command(t, 0, "migrate", "up", "--database-url", cluster.URL("shop"))
	s := &sidecar{Database: &pgtest.Database{Name: "shop", URL: cluster.URL("shop")}, log: &syncBuffer{}}
	s.serve(t, s.config(t))
	conn := pgtest.Connect(t, s.URL)
	columns := s.trees(t)
	exec(t, conn, fmt.Sprintf("CREATE TABLE s AS SELECT i AS id, %s FROM generate_series(1, %d) i", columns, rows))
	exec(t, conn, "ALTER TABLE s ADD PRIMARY KEY (id); CHECKPOINT")
	for _, source := range []string{"s", "SELECT * FROM s"} {
		exec(t, conn, "DROP TABLE IF EXISTS r")
		id := one[int](t, conn, `SELECT ml.score('trees', $1, 'r', 'id', options => '{"chunk_rows": 2000, "unlogged": true}')`, source)
		require.Eventually(t, func() bool { return look(t, conn, id).Done > 0 }, 20*time.Second, time.Millisecond)
		// A backend that is killed makes PostgreSQL throw all others out and recover, which empties unlogged tables.
		witness := pgtest.Connect(t, s.URL)
		require.NoError(t, syscall.Kill(one[int](t, conn, "SELECT pg_backend_pid()"), syscall.SIGKILL))
		require.Eventually(t, func() bool { return witness.Ping(context.Background()) != nil }, 30*time.Second, time.Millisecond)
		require.Eventually(t, func() bool {
			again, err := pgx.Connect(context.Background(), s.URL)
			if err == nil {
				conn = again
			}
			return err == nil
		}, 30*time.Second, 20*time.Millisecond)
		j := await(t, conn, id, "done", "failed")
		require.Equal(t, "done", j.State, "%s %s", j.SQLState, j.Error)
		completed(t, s, "s", "r", rows)
	}
}

func TestAJobOverATableThatIsWritten(t *testing.T) {
	s := start(t)
	conn, writer := s.Conn(t), s.Conn(t)
	s.register(t, demo("iris_v2"), "iris")
	flowers(t, conn, "flowers", 60_000)
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			// Rows move to other blocks, come, and go; those up to 50000 keep their key.
			_, _ = writer.Exec(context.Background(), fmt.Sprintf(`UPDATE flowers SET petal_width = petal_width + 0.001 WHERE id %% 97 = %d;
				INSERT INTO flowers SELECT 100000 + %d, 5, 3, 1, 1; DELETE FROM flowers WHERE id = %d`, n%97, n, 50001+n%10000))
		}
	})
	succeeds(t, conn, `'iris', 'flowers', 'scores', 'id', options => '{"chunk_rows": 2000}'`)
	cancel()
	group.Wait()
	require.Equal(t, []int{50_000, 50_000}, one[[]int](t, conn, "SELECT ARRAY[count(*), count(DISTINCT id)]::int[] FROM scores WHERE id <= 50000"))
}
