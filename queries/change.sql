-- name: BeginChange :exec
SELECT ml.begin_change(sqlc.arg(name)::text, sqlc.arg(checksum)::text);

-- name: ForgetChange :exec
SELECT ml.forget_change(c.name) FROM ml.changes c WHERE c.name = sqlc.arg(name)::text;

-- name: AcceptChange :one
SELECT ml.accept_change(sqlc.arg(name)::text, sqlc.arg(checksum)::text)::boolean AS accepted;

-- name: Changes :many
SELECT name::text AS name, coalesce(checksum, '')::text AS checksum, begun_at::timestamptz AS begun_at, begun_by::text AS begun_by, rows::bigint AS rows
FROM ml.changes ORDER BY begun_at, name;

-- name: ChangeRows :many
SELECT relation::text AS relation, coalesce(model, '')::text AS model, operation::text AS operation, before::jsonb AS before, after::jsonb AS after
FROM ml.change_rows(sqlc.arg(name)::text);

-- name: StoredChunks :many
SELECT number::integer AS number, chunk_sha256::text AS chunk_sha256 FROM ml.stored_chunks(sqlc.arg(sha256)::text);

-- name: DiscardChunk :one
SELECT ml.discard_chunk(sqlc.arg(sha256)::text, sqlc.arg(number)::integer)::boolean AS discarded;

-- name: MissingChunks :one
SELECT coalesce(ml.missing_chunks(sqlc.arg(sha256)::text), -1)::integer AS missing;

-- name: Numbers :one
SELECT ml.numbers()::jsonb AS numbers;

-- name: Rewind :exec
SELECT ml.rewind(sqlc.arg(numbers)::jsonb);
