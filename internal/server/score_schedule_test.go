package server_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/postgres/pgtest"
)

func TestASchedulesJobRunsOnceWhenDueWithSeveralSidecars(t *testing.T) {
	s := start(t)
	s.serve(t, s.config(t)) // a second one
	conn := s.Conn(t)
	s.register(t, demo("iris_v2"), "iris")
	flowers(t, conn, "flowers", 100)
	exec(t, conn, "SELECT ml.schedule_score('nightly', '30 2 * * mon-fri', 'iris', 'flowers', 'scores', 'id')")
	var next time.Time
	require.Eventually(t, func() bool {
		return conn.QueryRow(t.Context(), "SELECT next_at FROM ml.schedules WHERE name = 'nightly' AND next_at IS NOT NULL").Scan(&next) == nil
	}, 10*time.Second, 20*time.Millisecond)
	require.True(t, one[bool](t, conn, `SELECT to_char(next_at AT TIME ZONE timezone, 'HH24:MI') = '02:30' AND extract(isodow FROM next_at AT TIME ZONE timezone) < 6
		AND next_at > now() FROM ml.schedules`))

	// As if it were due now: once, however many look, and the next time follows from the expression.
	due := func(jobs int) {
		exec(t, conn, "UPDATE ml_private.schedule SET next_at = clock_timestamp()")
		require.Eventually(t, func() bool {
			return one[int](t, conn, "SELECT count(*)::int FROM ml.jobs WHERE schedule = 'nightly' AND state = 'done'") == jobs
		}, 20*time.Second, 20*time.Millisecond)
		require.Equal(t, jobs, one[int](t, conn, "SELECT count(*)::int FROM ml.jobs"))
		require.WithinDuration(t, next, one[time.Time](t, conn, "SELECT next_at FROM ml.schedules"), 0)
	}
	due(1)
	require.Equal(t, 100, one[int](t, conn, "SELECT count(*)::int FROM scores WHERE version = 1"))
	s.register(t, demo("iris_v2"), "iris")
	exec(t, conn, "SELECT ml.promote('iris', 2)")
	due(2)
	require.Equal(t, 100, one[int](t, conn, "SELECT count(*)::int FROM scores WHERE version = 2"), "the alias is resolved at each start")

	// A start that fails says why.
	exec(t, conn, "SELECT ml.set_alias('iris', 'trial', 2); SELECT ml.schedule_score('trial', '@daily', 'iris@trial', 'flowers', 'trials', 'id'); SELECT ml.drop_alias('iris', 'trial')")
	exec(t, conn, "UPDATE ml_private.schedule SET next_at = clock_timestamp() WHERE name = 'trial'")
	require.Eventually(t, func() bool {
		return one[bool](t, conn, "SELECT sqlstate = '42704' IS TRUE FROM ml.schedules WHERE name = 'trial'")
	}, 20*time.Second, 20*time.Millisecond)
	_, roleURL := s.Role(t, "")
	role := pgtest.Connect(t, roleURL)
	refused(t, role, "42501", "SELECT ml.schedule_score('theirs', '@daily', 'iris', 'flowers', 'scores', 'id')")
	refused(t, role, "42704", "SELECT ml.unschedule_score('nightly')")
	require.Zero(t, one[int](t, role, "SELECT count(*)::int FROM ml.schedules"))
	for _, cron := range []string{"60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 8", "* * * *", "*/0 * * * *", "5-1 * * * *", "soon", "* * * foo *"} {
		e := refused(t, conn, "22023", "SELECT ml.schedule_score('bad', $1, 'iris', 'flowers', 'scores', 'id')", cron)
		require.Contains(t, e.Message, "cron expression")
	}
	// One that is well formed and never comes.
	exec(t, conn, "SELECT ml.schedule_score('never', '0 0 31 2 *', 'iris', 'flowers', 'scores', 'id')")
	require.Eventually(t, func() bool {
		return one[bool](t, conn, "SELECT error IS NOT NULL FROM ml.schedules WHERE name = 'never'")
	}, 20*time.Second, 20*time.Millisecond)
	exec(t, conn, "SELECT ml.unschedule_score('nightly')")
	refused(t, conn, "42704", "SELECT ml.unschedule_score('nightly')")
}
