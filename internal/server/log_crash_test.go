package server_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/config"
	"github.com/rowcast/rowcast/internal/postgres/pgtest"
)

// keyed predicts in four sessions until stop is called, each prediction with a key of its own, and returns the keys of those that were answered.
func (s *sidecar) keyed(t *testing.T) (stop func() []string, answered func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var count atomic.Int64
	lists := make([][]string, 4)
	for i := range lists {
		conn := s.Conn(t)
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				key := fmt.Sprintf("%d-%d", i, n)
				var label string
				err := conn.QueryRow(context.Background(),
					"SELECT predict_label('iris', r) FROM (SELECT 5.1 AS sepal_length, 3.5 AS sepal_width, 1.4 AS petal_length, 0.2 AS petal_width, $1::text AS id) r", key).Scan(&label)
				if err != nil {
					time.Sleep(50 * time.Millisecond) // as a client would before it tries again
					continue
				}
				lists[i] = append(lists[i], key)
				count.Add(1)
			}
		})
	}
	return func() []string {
		cancel()
		wg.Wait()
		var all []string
		for _, l := range lists {
			all = append(all, l...)
		}
		return all
	}, func() int { return int(count.Load()) }
}

// missing counts keys that were answered and are not in the log, and makes sure that no key is there twice.
func missing(t *testing.T, conn *pgx.Conn, keys []string) int {
	t.Helper()
	require.Zero(t, one[int](t, conn, "SELECT count(*) FROM (SELECT key FROM ml.predictions GROUP BY key HAVING count(*) > 1) twice"), "no row is written twice")
	return one[int](t, conn, "SELECT count(*) FROM unnest($1::text[]) k(key) WHERE NOT EXISTS (SELECT FROM ml.predictions p WHERE p.key = k.key)", keys)
}

const irisColumns = "SELECT ml.set_log_policy('iris', 'all', key => 'id')"

func TestACrashLosesAtMostWhatWasQueued(t *testing.T) {
	const queue = 500
	s := unserved(t)
	p := s.startProgram(t, fmt.Sprintf("ROWCAST_RECORD_QUEUE=%d", queue))
	conn := s.Conn(t)
	s.register(t, demo("iris_v2"), "iris")
	exec(t, conn, irisColumns)
	stop, answered := s.keyed(t)
	const kills = 3
	for range kills {
		before := answered()
		require.Eventually(t, func() bool { return answered() > before+300 }, 30*time.Second, time.Millisecond)
		pid := p.worker(t)
		require.NotZero(t, pid)
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		require.Eventually(t, func() bool { w := p.worker(t); return w != 0 && w != pid }, 20*time.Second, 10*time.Millisecond)
	}
	before := answered()
	require.Eventually(t, func() bool { return answered() > before+300 }, 30*time.Second, 10*time.Millisecond)
	keys := stop()
	p.stop(t) // writes what is queued
	lost := missing(t, conn, keys)
	t.Logf("%d kills lost %d of %d predictions that were answered", kills, lost, len(keys))
	require.LessOrEqual(t, lost, kills*queue)
	require.Positive(t, one[int](t, conn, "SELECT count(*) FROM ml.predictions"))
}

func TestAGracefulStopLosesNothing(t *testing.T) {
	s := unserved(t)
	p := s.startProgram(t, "ROWCAST_RECORD_INTERVAL=30s") // so that what is queued is written because of the stop
	conn := s.Conn(t)
	s.register(t, demo("iris_v2"), "iris")
	exec(t, conn, irisColumns)
	stop, answered := s.keyed(t)
	for range 2 {
		before := answered()
		require.Eventually(t, func() bool { return answered() > before+300 }, 30*time.Second, time.Millisecond)
		p.stop(t) // under load
		p = s.startProgram(t, "ROWCAST_RECORD_INTERVAL=30s")
	}
	before := answered()
	require.Eventually(t, func() bool { return answered() > before+300 }, 30*time.Second, 10*time.Millisecond)
	keys := stop()
	p.stop(t)
	require.Zero(t, missing(t, conn, keys), "of %d", len(keys))
}

func TestPredictionsSurviveARestartOfPostgreSQL(t *testing.T) {
	cluster := pgtest.Cluster(t)
	if cluster == nil {
		t.Skip("ROWCAST_TEST_CLUSTER names a cluster that this test must not restart")
	}
	s := start(t)
	conn := s.Conn(t)
	s.register(t, demo("iris_v2"), "iris")
	exec(t, conn, irisColumns)
	for range 3 {
		exec(t, conn, "SELECT predict_label('iris', r) FROM (SELECT 5.1 AS sepal_length, 3.5 AS sepal_width, 1.4 AS petal_length, 0.2 AS petal_width, gen_random_uuid() AS id FROM generate_series(1, 1000)) r")
		// Ends every session of the sidecar, in whatever it is doing: reading, copying or committing.
		other := s.Conn(t)
		for range 20 {
			exec(t, other, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'rowcast worker' AND datname = current_database()")
		}
	}
	logged(t, conn, "iris", 3000)
	require.Equal(t, 3000, one[int](t, conn, "SELECT count(DISTINCT key) FROM ml.predictions"))
}

// A log that cannot be written holds calls up rather than losing predictions, and the error says so.
func TestAFullLogMakesCallsWait(t *testing.T) {
	s := start(t, func(c *config.Config) { c.RecordQueue = 50 })
	conn := s.Conn(t)
	s.register(t, demo("iris_v2"), "iris")
	exec(t, conn, "SELECT ml.set_log_policy('iris', 'all')")
	blocker := s.Conn(t)
	exec(t, blocker, "BEGIN; LOCK TABLE ml_private.recorder")
	exec(t, conn, "SET max_parallel_workers_per_gather = 0; SET rowcast.timeout = '1s'")
	e := refused(t, conn, "57014", "SELECT predict_label('iris', ARRAY[5.1, 3.5, 1.4, 0.2 + g * 0]) FROM generate_series(1, 100) g")
	require.Contains(t, e.Detail, "log of predictions, which is full")
	exec(t, conn, "RESET rowcast.timeout")
	done := make(chan error, 1)
	go func() {
		_, err := conn.Exec(context.Background(), "SELECT predict_label('iris', ARRAY[5.1, 3.5, 1.4, 0.2 + g * 0]) FROM generate_series(1, 100) g")
		done <- err
	}()
	exec(t, blocker, "ROLLBACK")
	require.NoError(t, <-done)
	logged(t, blocker, "iris", 50+100)
}
