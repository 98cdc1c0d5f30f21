-- name: ClaimJob :one
UPDATE ml_private.job j
SET epoch = j.epoch + 1, sidecar = sqlc.arg(sidecar)::text, lease_until = clock_timestamp() + make_interval(secs => sqlc.arg(lease)::double precision),
    started_at = coalesce(j.started_at, clock_timestamp()), state = CASE j.state WHEN 'queued' THEN 'running' ELSE j.state END
WHERE j.id = (
    SELECT x.id
    FROM ml_private.job x
    WHERE (x.phase IN ('plan', 'publish') AND x.state IN ('queued', 'running') OR x.phase = 'clean')
      AND (x.lease_until IS NULL OR x.lease_until < clock_timestamp())
      AND (x.retry_at IS NULL OR x.retry_at <= clock_timestamp())
      AND (x.phase = 'clean' OR x.schedule_id IS NULL OR NOT EXISTS (
          SELECT FROM ml_private.job e
          WHERE e.schedule_id = x.schedule_id AND e.id < x.id AND e.state IN ('queued', 'running', 'paused')))
    ORDER BY x.id
    FOR UPDATE SKIP LOCKED
    LIMIT 1)
RETURNING *;

-- name: ClaimChunk :one
UPDATE ml_private.job_chunk u
SET state = 'running', epoch = u.epoch + 1, sidecar = sqlc.arg(sidecar)::text, seen = 0,
    lease_until = clock_timestamp() + make_interval(secs => sqlc.arg(lease)::double precision)
WHERE (u.job_id, u.number) = (
    SELECT c.job_id, c.number
    FROM ml_private.job_chunk c
    JOIN ml_private.job j ON j.id = c.job_id
    WHERE j.state = 'running' AND j.phase = 'score' AND (j.retry_at IS NULL OR j.retry_at <= clock_timestamp())
      AND (c.state = 'pending' OR c.state = 'running' AND c.lease_until < clock_timestamp())
    ORDER BY c.job_id, c.number
    FOR UPDATE OF c SKIP LOCKED
    LIMIT 1)
RETURNING u.job_id, u.number, u.lo, u.hi, u.nulls, u.epoch;

-- name: JobByID :one
SELECT * FROM ml_private.job WHERE id = $1;

-- name: ReleaseChunk :exec
UPDATE ml_private.job_chunk SET state = 'pending', sidecar = NULL, lease_until = NULL, seen = 0
WHERE job_id = sqlc.arg(job_id) AND number = sqlc.arg(number) AND epoch = sqlc.arg(epoch) AND state = 'running';

-- name: ReleaseJob :exec
UPDATE ml_private.job SET sidecar = NULL, lease_until = NULL WHERE id = sqlc.arg(id) AND epoch = sqlc.arg(epoch);

-- name: BeatChunks :many
UPDATE ml_private.job_chunk c
SET lease_until = clock_timestamp() + make_interval(secs => sqlc.arg(lease)::double precision), seen = h.seen
FROM (SELECT unnest(sqlc.arg(jobs)::bigint[]) AS job_id, unnest(sqlc.arg(numbers)::integer[]) AS number, unnest(sqlc.arg(epochs)::integer[]) AS epoch,
             unnest(sqlc.arg(seen)::bigint[]) AS seen) AS h,
     ml_private.job j
WHERE c.job_id = h.job_id AND c.number = h.number AND c.epoch = h.epoch AND c.state = 'running' AND j.id = c.job_id AND j.state = 'running'
RETURNING c.job_id, c.number, c.epoch;

-- name: BeatJobs :many
UPDATE ml_private.job j
SET lease_until = clock_timestamp() + make_interval(secs => sqlc.arg(lease)::double precision)
FROM (SELECT unnest(sqlc.arg(jobs)::bigint[]) AS id, unnest(sqlc.arg(epochs)::integer[]) AS epoch) AS h
WHERE j.id = h.id AND j.epoch = h.epoch AND (j.state IN ('queued', 'running') OR j.phase = 'clean')
RETURNING j.id, j.epoch;

-- name: WorkWaits :one
SELECT EXISTS (
    SELECT FROM ml_private.job j
    WHERE j.phase <> 'end' AND (j.retry_at IS NULL OR j.retry_at <= clock_timestamp())
      AND (j.phase = 'clean'
           OR j.state IN ('queued', 'running') AND j.phase IN ('plan', 'publish') AND (j.lease_until IS NULL OR j.lease_until < clock_timestamp())
           OR j.state = 'running' AND j.phase = 'score' AND EXISTS (
               SELECT FROM ml_private.job_chunk c
               WHERE c.job_id = j.id AND (c.state = 'pending' OR c.state = 'running' AND c.lease_until < clock_timestamp()))))::boolean AS waits;

-- name: PublishComplete :many
UPDATE ml_private.job j
SET phase = 'publish', lease_until = NULL, sidecar = NULL
WHERE j.phase = 'score' AND j.state = 'running' AND NOT EXISTS (SELECT FROM ml_private.job_chunk c WHERE c.job_id = j.id AND c.state <> 'done')
RETURNING j.id;

-- name: ProgressMade :exec
UPDATE ml_private.job SET attempts = 0, error = NULL, sqlstate = NULL, detail = NULL, hint = NULL, retry_at = NULL
WHERE id = $1 AND attempts > 0 AND state = 'running';

-- name: FailJob :execrows
UPDATE ml_private.job j
SET state = 'failed', finished_at = clock_timestamp(), sidecar = NULL, lease_until = NULL, retry_at = NULL, epoch = j.epoch + 1,
    error = sqlc.arg(error)::text, sqlstate = sqlc.arg(sqlstate)::text, detail = sqlc.narg(detail)::text, hint = sqlc.narg(hint)::text
WHERE j.id = sqlc.arg(id) AND j.state IN ('queued', 'running') AND j.phase = sqlc.arg(phase)::text;

-- name: PostponeJob :one
UPDATE ml_private.job j
SET attempts = j.attempts + 1, sidecar = NULL, lease_until = NULL,
    retry_at = clock_timestamp() + make_interval(secs => least(power(2, least(j.attempts, 10)), sqlc.arg(longest)::double precision)),
    error = sqlc.arg(error)::text, sqlstate = sqlc.arg(sqlstate)::text, detail = sqlc.narg(detail)::text, hint = sqlc.narg(hint)::text
WHERE j.id = sqlc.arg(id) AND j.state IN ('queued', 'running') AND j.phase = sqlc.arg(phase)::text AND (j.retry_at IS NULL OR j.retry_at <= clock_timestamp())
RETURNING j.attempts;

-- name: JobSignature :one
SELECT signature FROM ml_private.version WHERE spec = $1 LIMIT 1;

-- name: LastWatermark :one
SELECT coalesce(j.plan ->> 'watermark', '')::text AS watermark
FROM ml_private.job j
WHERE j.state = 'done' AND j.id < sqlc.arg(id) AND j.started_by = sqlc.arg(started_by)::text::regrole AND j.model_id = sqlc.arg(model_id) AND j.target = sqlc.arg(target)
  AND j.source = sqlc.arg(source) AND j.version = sqlc.arg(version) AND j.options ->> 'since' = sqlc.arg(since)::text AND j.plan ->> 'watermark' IS NOT NULL
ORDER BY j.id DESC
LIMIT 1;

-- name: SchedulesUnplanned :many
SELECT id, cron, (now() AT TIME ZONE timezone)::timestamp AS wall FROM ml_private.schedule
WHERE next_at IS NULL AND error IS NULL
ORDER BY id
FOR UPDATE SKIP LOCKED;

-- name: PlanSchedule :exec
UPDATE ml_private.schedule SET next_at = sqlc.arg(wall)::timestamp AT TIME ZONE timezone WHERE id = sqlc.arg(id);

-- name: RefuseSchedule :exec
UPDATE ml_private.schedule SET error = sqlc.arg(error)::text, sqlstate = '22023', next_at = NULL WHERE id = sqlc.arg(id);

-- name: ScheduleDue :one
SELECT id, cron, timezone, (clock_timestamp() AT TIME ZONE timezone)::timestamp AS wall FROM ml_private.schedule
WHERE next_at <= clock_timestamp()
ORDER BY next_at
FOR UPDATE SKIP LOCKED
LIMIT 1;

-- name: StartSchedule :one
SELECT ml_private.start_schedule(sqlc.arg(id)::bigint, (sqlc.arg(wall)::timestamp AT TIME ZONE sqlc.arg(timezone)::text)::timestamptz)::bigint AS job;

-- name: EndExpiredSessions :exec
SELECT pg_terminate_backend(a.pid)
FROM ml_private.job_chunk c
JOIN pg_catalog.pg_stat_activity a ON a.application_name = 'rowcast job ' || c.job_id || '/' || c.number || '/' || c.epoch
WHERE c.state = 'running' AND c.lease_until < clock_timestamp() AND a.datname = current_database();
