-- name: AliasHistory :many
SELECT id, alias, version, action, changed_at, changed_by FROM ml.alias_history WHERE model = sqlc.arg(model)::text ORDER BY id;

-- name: SetAlias :exec
SELECT ml.set_alias(sqlc.arg(model)::text, sqlc.arg(alias)::text, sqlc.arg(version)::integer);

-- name: DropAlias :exec
SELECT ml.drop_alias(sqlc.arg(model)::text, sqlc.arg(alias)::text);

-- name: Promote :exec
SELECT ml.promote(sqlc.arg(model)::text, sqlc.arg(version)::integer);

-- name: Rollback :one
SELECT ml.rollback(sqlc.arg(model)::text, sqlc.arg(alias)::text)::integer AS version;
