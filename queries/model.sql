-- name: Models :many
SELECT model, description, coalesce(task, '')::text AS task, champion, versions, owner, created_at FROM ml.models ORDER BY model;

-- name: ModelNamed :one
SELECT model, description, coalesce(task, '')::text AS task, champion, versions, owner, created_at FROM ml.models WHERE model = sqlc.arg(model)::text;

-- name: DropModel :exec
SELECT ml.drop_model(sqlc.arg(model)::text);

-- name: Grants :many
SELECT grantee FROM ml.grants WHERE model = sqlc.arg(model)::text ORDER BY grantee;

-- name: GrantModel :exec
SELECT ml.grant_model(sqlc.arg(model)::text, sqlc.arg(role)::text);

-- name: RevokeModel :exec
SELECT ml.revoke_model(sqlc.arg(model)::text, sqlc.arg(role)::text);
