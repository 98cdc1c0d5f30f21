-- name: SpecByKey :one
SELECT v.sha256, a.size, v.signature, v.example
FROM ml_private.version v JOIN ml_private.artifact a ON a.sha256 = v.sha256
WHERE v.spec = $1
LIMIT 1;

-- name: SpecKeys :many
SELECT DISTINCT spec FROM ml_private.version;

-- name: ChampionSpecs :many
SELECT DISTINCT v.spec
FROM ml_private.alias a
JOIN ml_private.version v ON v.model_id = a.model_id AND v.version = a.version
JOIN ml_private.artifact f ON f.sha256 = v.sha256
WHERE a.alias = 'champion' AND f.quarantined_at IS NULL;

-- name: Versions :many
SELECT model, version, sha256, size, format, coalesce(source_sha256, '')::text AS source_sha256,
       coalesce(source_size, 0)::bigint AS source_size, coalesce(task, '')::text AS task, coalesce(aliases, '{}')::text[] AS aliases, coalesce(features, '{}')::text[] AS features,
       coalesce(labels, '{}')::text[] AS labels, description, parameters, tags, signature, example, quarantined_at, quarantine_reason, created_at, created_by
FROM ml.versions
WHERE model = sqlc.arg(model)::text
ORDER BY version DESC;

-- name: RegisterArtifact :one
SELECT ml.register_artifact(sqlc.arg(name)::text, sqlc.arg(sha256)::text, sqlc.arg(options)::jsonb)::integer AS version;

-- name: DropVersion :exec
SELECT ml.drop_version(sqlc.arg(model)::text, sqlc.arg(version)::integer);

-- name: ReleaseVersion :exec
SELECT ml.release_version(sqlc.arg(model)::text, sqlc.arg(version)::integer);

-- name: ModelChunk :one
SELECT ml.model_chunk(sqlc.arg(model)::text, sqlc.arg(number)::integer)::bytea AS data;

-- name: SourceChunk :one
SELECT ml.source_chunk(sqlc.arg(model)::text, sqlc.arg(number)::integer)::bytea AS data;
