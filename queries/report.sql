-- name: ReportModel :one
SELECT coalesce(p.policy, 'none')::text AS policy, coalesce(p.retention_days, 0)::integer AS retention_days, coalesce(m.description, '')::text AS description,
       coalesce(m.task, '')::text AS task, coalesce(m.champion, 0)::integer AS champion
FROM ml.log_policies p JOIN ml.models m USING (model) WHERE p.model = sqlc.arg(model)::text;

-- name: ReportTotals :one
SELECT count(*)::bigint AS predictions, count(DISTINCT p.caller)::bigint AS callers, count(DISTINCT p.version)::bigint AS versions,
       coalesce(min(p.at), sqlc.arg(since)::timestamptz)::timestamptz AS first_at, coalesce(max(p.at), sqlc.arg(since)::timestamptz)::timestamptz AS last_at, count(p.label)::bigint AS labels, count(p.value)::bigint AS values
FROM ml.predictions p WHERE p.model = sqlc.arg(model)::text AND p.at >= sqlc.arg(since)::timestamptz;

-- name: ReportDays :many
SELECT to_char(p.at AT TIME ZONE 'UTC', 'YYYY-MM-DD')::text AS day, p.version, count(*)::bigint AS predictions
FROM ml.predictions p WHERE p.model = sqlc.arg(model)::text AND p.at >= sqlc.arg(since)::timestamptz
GROUP BY 1, 2 ORDER BY 1, 2;

-- name: ReportLatency :many
SELECT to_char(p.at AT TIME ZONE 'UTC', 'YYYY-MM-DD')::text AS day,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY p.latency_ms)::float8 AS median,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY p.latency_ms)::float8 AS p95,
       percentile_cont(0.99) WITHIN GROUP (ORDER BY p.latency_ms)::float8 AS p99
FROM ml.predictions p WHERE p.model = sqlc.arg(model)::text AND p.at >= sqlc.arg(since)::timestamptz
GROUP BY 1 ORDER BY 1;

-- name: ReportLabels :many
SELECT to_char(p.at AT TIME ZONE 'UTC', 'YYYY-MM-DD')::text AS day, p.version, p.label::text AS label, count(*)::bigint AS predictions,
       coalesce(avg(p.probability), 0)::float8 AS probability
FROM ml.predictions p WHERE p.model = sqlc.arg(model)::text AND p.at >= sqlc.arg(since)::timestamptz AND p.label IS NOT NULL
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;

-- name: ReportValues :many
SELECT to_char(p.at AT TIME ZONE 'UTC', 'YYYY-MM-DD')::text AS day,
       percentile_cont(0.1) WITHIN GROUP (ORDER BY p.value)::float8 AS p10,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY p.value)::float8 AS median,
       percentile_cont(0.9) WITHIN GROUP (ORDER BY p.value)::float8 AS p90
FROM ml.predictions p
WHERE p.model = sqlc.arg(model)::text AND p.at >= sqlc.arg(since)::timestamptz AND p.label IS NULL AND p.value > '-Infinity' AND p.value < 'Infinity'
GROUP BY 1 ORDER BY 1;

-- name: ReportHistogram :many
-- The bin counts from 0; low and high are the range of all values.
WITH v AS MATERIALIZED (
    SELECT p.version, p.value FROM ml.predictions p
    WHERE p.model = sqlc.arg(model)::text AND p.at >= sqlc.arg(since)::timestamptz AND p.label IS NULL AND p.value > '-Infinity' AND p.value < 'Infinity'
), r AS (SELECT min(v.value) AS low, max(v.value) AS high FROM v)
SELECT v.version, (CASE WHEN r.high > r.low THEN least(width_bucket(v.value, r.low, r.high, sqlc.arg(bins)::integer), sqlc.arg(bins)::integer) - 1 ELSE 0 END)::integer AS bin,
       count(*)::bigint AS predictions, r.low::float8 AS low, r.high::float8 AS high
FROM v, r GROUP BY 1, 2, 4, 5 ORDER BY 1, 2;
