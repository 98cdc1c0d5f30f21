-- name: Artifact :one
SELECT sha256, size, quarantined_at, quarantine_reason FROM ml_private.artifact WHERE sha256 = $1;

-- name: QuarantineArtifact :exec
UPDATE ml_private.artifact SET quarantined_at = now(), quarantine_reason = $2 WHERE sha256 = $1 AND quarantined_at IS NULL;

-- name: QuarantinedArtifacts :many
SELECT sha256, coalesce(quarantine_reason, '')::text AS reason FROM ml_private.artifact WHERE quarantined_at IS NOT NULL;

-- name: DropStaleUploads :execrows
DELETE FROM ml_private.artifact a
WHERE a.created_at < now() - interval '1 day' AND NOT EXISTS (SELECT FROM ml_private.version v WHERE v.sha256 = a.sha256 OR v.source_sha256 = a.sha256);

-- name: BeginUpload :one
SELECT ml.begin_upload(sqlc.arg(sha256)::text, sqlc.arg(size)::bigint)::integer AS missing;

-- name: UploadChunk :exec
SELECT ml.upload_chunk(sqlc.arg(sha256)::text, sqlc.arg(number)::integer, sqlc.arg(data)::bytea);

-- name: DiscardArtifact :one
SELECT ml.discard_artifact(sqlc.arg(sha256)::text)::boolean AS discarded;
