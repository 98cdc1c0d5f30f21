package modelmigrate_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/modelmigrate"
)

// has reports whether the schema has a table.
func has(t *testing.T, conn *pgx.Conn, table string) bool {
	t.Helper()
	return one[bool](t, conn, "SELECT to_regclass($1) IS NOT NULL", "ml_private."+table)
}

func TestSchedulesAreTakenBack(t *testing.T) {
	s := serve(t)
	conn := s.Conn(t)
	if !has(t, conn, "schedule") {
		t.Skip("there are no scoring jobs in this version")
	}
	execute(t, conn, "CREATE TABLE flowers AS SELECT 1::bigint AS id, 5.1::real AS sepal_length, 3.5::real AS sepal_width, 1.4::real AS petal_length, 0.2::real AS petal_width")
	dir := t.TempDir()
	add(t, dir, "iris", demo("iris"), "iris")
	write(t, dir, "nightly", "SELECT ml.schedule_score('nightly', '30 2 * * *', 'iris', 'public.flowers', 'public.scores', 'id')")
	write(t, dir, "weekly", "SELECT ml.unschedule_score('nightly')",
		"SELECT ml.schedule_score('weekly', '30 2 * * 1', 'iris', 'public.flowers', 'public.scores', 'id')")
	images := []map[string]string{image(t, conn, true)}
	for range 3 {
		s.up(t, dir, 1)
		images = append(images, image(t, conn, true))
	}
	// The sidecar notes in the schedule's row when it runs next: that is no change of the schedule.
	execute(t, conn, "UPDATE ml_private.schedule SET next_at = now() + interval '1 day', last_at = now()")
	p, err := s.runner(t, dir).Plan(context.Background(), -1)
	require.NoError(t, err)
	require.False(t, p.Changes())
	s.down(t, dir, 1)
	schedule := func() string {
		return one[string](t, conn, "SELECT coalesce(string_agg((id, name, cron, model, source, target, created_at)::text, ' '), '') FROM ml_private.schedule")
	}
	require.Contains(t, schedule(), "(1,nightly,")
	execute(t, conn, "UPDATE ml_private.schedule SET next_at = now() + interval '1 day'")
	s.down(t, dir, 2)
	same(t, images[0], image(t, conn, true), "down to nothing")

	// A job that was started by hand holds the version.
	s.up(t, dir, 1)
	execute(t, conn, "SELECT ml.score('iris', 'public.flowers', 'public.by_hand', 'id')")
	_, err = s.runner(t, dir).Down(context.Background(), 1)
	require.Contains(t, problem(t, err).Message, `version 1 of model "iris" is named by a scoring job`)
}

// A job outlives its model and its schedule, and belongs to them again when they come back.
func TestJobsBelongToAModelThatComesBack(t *testing.T) {
	s := serve(t)
	conn := s.Conn(t)
	execute(t, conn, "CREATE TABLE flowers AS SELECT 1::bigint AS id, 5.1::real AS sepal_length, 3.5::real AS sepal_width, 1.4::real AS petal_length, 0.2::real AS petal_width")
	dir := t.TempDir()
	add(t, dir, "iris", demo("iris"), "iris")
	s.up(t, dir, 1)
	execute(t, conn, "SELECT ml.schedule_score('nightly', '30 2 * * *', 'iris', 'public.flowers', 'public.scores', 'id')")
	for _, target := range []string{"kept", "deleted", "scheduled"} {
		execute(t, conn, "SELECT ml.score('iris', 'public.flowers', 'public."+target+"', 'id')")
	}
	require.Eventually(t, func() bool {
		return one[int](t, conn, "SELECT count(*)::integer FROM ml.jobs WHERE state = 'done'") == 3
	}, 30*time.Second, 20*time.Millisecond)
	execute(t, conn, "UPDATE ml_private.job SET schedule_id = (SELECT id FROM ml_private.schedule) WHERE target ~ 'scheduled'")
	jobs := func() string {
		return one[string](t, conn, "SELECT string_agg((id, target, model_id, schedule_id)::text, ' ' ORDER BY id) FROM ml_private.job")
	}
	before, registry := jobs(), image(t, conn, true)
	write(t, dir, "gone", "SELECT ml.drop_model('iris')")
	p, err := s.runner(t, dir).Plan(context.Background(), -1)
	require.NoError(t, err)
	for _, e := range p.Migrations[0].Effects {
		require.NotEqual(t, "job", e.Kind)
	}
	s.up(t, dir, 1)
	require.NotEqual(t, before, jobs())
	s.down(t, dir, 1)
	require.Equal(t, before, jobs())
	same(t, registry, image(t, conn, true), "down")

	s.up(t, dir, 1)
	execute(t, conn, "DELETE FROM ml_private.job WHERE target ~ 'deleted'")
	s.down(t, dir, 1)
	require.Equal(t, 0, one[int](t, conn, "SELECT count(*)::integer FROM ml_private.job WHERE model_id IS NULL"))
}

func TestLogPoliciesAreTakenBack(t *testing.T) {
	s := serve(t)
	conn := s.Conn(t)
	if !has(t, conn, "log_policy") {
		t.Skip("predictions are not logged in this version")
	}
	role, _ := s.Role(t, "")
	dir := t.TempDir()
	add(t, dir, "iris", demo("iris"), "iris")
	write(t, dir, "log", "SELECT ml.set_log_policy('iris', 'transactional')", fmt.Sprintf("SELECT ml.grant_predictions('iris', '%s')", role))
	add(t, dir, "iris_v2", demo("iris_v2"), "iris", promoted)
	write(t, dir, "quiet", "SELECT ml.set_log_policy('iris', 'none')", "SELECT ml.drop_version('iris', 1)")
	write(t, dir, "gone", "SELECT ml.drop_model('iris')")
	images := []map[string]string{image(t, conn, true)}
	for range 5 {
		s.up(t, dir, 1)
		images = append(images, image(t, conn, true))
	}
	views := func() int {
		return one[int](t, conn, "SELECT count(*)::integer FROM pg_views WHERE schemaname = 'ml_bi'")
	}
	require.Equal(t, 0, views())
	for to := 4; to >= 0; to-- {
		s.down(t, dir, 1)
		same(t, images[to], image(t, conn, true), "down to %d", to)
		if to >= 2 {
			require.Equal(t, 1, views(), "at %d", to)
		}
	}
	require.Equal(t, 0, views(), "nothing is left to look at")

	// A model that comes back has its log again, until the change that dropped it is there for good.
	s.up(t, dir, 2)
	require.Equal(t, "setosa", one[string](t, conn, "SELECT predict_label('iris', '{5.1,3.5,1.4,0.2}')"))
	logged := func() int { return one[int](t, conn, "SELECT count(*)::integer FROM ml_private.prediction") }
	lasting := t.TempDir()
	gone := write(t, lasting, "gone_for_good", "SELECT ml.drop_model('iris')")
	theirs := func(o *modelmigrate.Options) { o.Table = "public.theirs" }
	for range 2 {
		_, err := s.runner(t, lasting, theirs).Up(context.Background(), -1)
		require.NoError(t, err)
		execute(t, conn, "SELECT ml_private.keep_partitions()")
		require.Equal(t, 1, logged())
		_, err = s.runner(t, lasting, theirs).Down(context.Background(), 1)
		require.NoError(t, err)
		require.Equal(t, 1, one[int](t, conn, "SELECT count(*)::integer FROM ml.predictions WHERE model = 'iris'"))
	}
	_, err := s.runner(t, lasting, theirs).Up(context.Background(), -1)
	require.NoError(t, err)
	require.Contains(t, gone.Up, "000001_gone_for_good")
	for _, name := range []string{"000001_gone_for_good", "000002_log", "000001_iris"} {
		execute(t, conn, "SELECT ml.forget_change($1)", name)
	}
	execute(t, conn, "SELECT ml_private.keep_partitions()")
	require.Equal(t, 0, logged())
	_, err = s.runner(t, dir).Force(context.Background(), 0)
	require.NoError(t, err)

	// What was predicted stays explained.
	s.up(t, dir, 3)
	require.Equal(t, "setosa", one[string](t, conn, "SELECT predict_label('iris', '{5.1,3.5,1.4,0.2}')"))
	_, err = s.runner(t, dir).Down(context.Background(), 1)
	require.Contains(t, problem(t, err).Message, "is named by stored predictions")
}
