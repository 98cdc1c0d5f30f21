-- What the command line asks about scoring jobs: the SQL API of schema ml, with the caller's rights.

-- name: StartScoring :one
SELECT ml.score(sqlc.arg(model)::text, sqlc.arg(source)::text, sqlc.arg(target)::text, sqlc.arg(key)::text, sqlc.arg(mode)::text, sqlc.arg(on_error)::text,
                sqlc.arg(options)::jsonb)::bigint AS id;

-- name: ScoringJobs :many
SELECT id::bigint AS id, model::text AS model, coalesce(version, 0)::integer AS version, source::text AS source, target::text AS target, key::text AS key,
       mode::text AS mode, on_error::text AS on_error, state::text AS state,
       coalesce(rows_total, -1)::bigint AS rows_total, coalesce(rows_done, 0)::bigint AS rows_done, coalesce(rows_skipped, 0)::bigint AS rows_skipped,
       coalesce(rows_per_second, 0)::double precision AS rows_per_second, coalesce(extract(epoch FROM time_left), -1)::double precision AS seconds_left,
       coalesce(error, '')::text AS error, coalesce(sqlstate, '')::text AS sqlstate, coalesce(detail, '')::text AS detail, coalesce(hint, '')::text AS hint,
       coalesce(started_by::text, '')::text AS started_by, created_at, started_at, finished_at, coalesce(schedule, '')::text AS schedule,
       retry_at, coalesce(phase, '')::text AS phase
FROM ml.jobs
WHERE (sqlc.narg(id)::bigint IS NULL OR id = sqlc.narg(id)::bigint)
  AND (sqlc.narg(state)::text IS NULL OR state = sqlc.narg(state)::text)
  AND (sqlc.narg(model)::text IS NULL OR model = sqlc.narg(model)::text)
ORDER BY id DESC
LIMIT sqlc.narg(most)::integer;

-- name: PauseScoring :exec
SELECT ml.pause_job(sqlc.arg(id)::bigint);

-- name: ResumeScoring :exec
SELECT ml.resume_job(sqlc.arg(id)::bigint);

-- name: CancelScoring :exec
SELECT ml.cancel_job(sqlc.arg(id)::bigint);

-- name: RetryScoring :exec
SELECT ml.retry_job(sqlc.arg(id)::bigint);

-- name: ScheduleScoring :one
SELECT ml.schedule_score(sqlc.arg(name)::text, sqlc.arg(cron)::text, sqlc.arg(model)::text, sqlc.arg(source)::text, sqlc.arg(target)::text, sqlc.arg(key)::text,
                         sqlc.arg(mode)::text, sqlc.arg(on_error)::text, sqlc.arg(options)::jsonb)::bigint AS id;

-- name: UnscheduleScoring :exec
SELECT ml.unschedule_score(sqlc.arg(name)::text);

-- name: ScoringSchedules :many
SELECT id, name, cron, timezone, model, source, target, key, mode, on_error, options, next_at, last_at, coalesce(last_job, 0)::bigint AS last_job, coalesce(error, '')::text AS error,
       coalesce(sqlstate, '')::text AS sqlstate, started_by::text AS started_by
FROM ml.schedules ORDER BY name;

-- name: SidecarRuns :one
SELECT (pg_is_in_recovery() OR EXISTS (
    SELECT FROM pg_catalog.pg_stat_activity a WHERE a.datname = current_database() AND a.application_name IN ('rowcast serve', 'rowcast worker')))::boolean AS runs;
