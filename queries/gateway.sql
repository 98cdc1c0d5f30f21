-- name: GatewayCredentials :one
SELECT password, key FROM ml_private.gateway;

-- name: RotateGateway :exec
SELECT ml.rotate_gateway();

-- name: GatewayServer :one
SELECT coalesce(srvoptions, '{}')::text[] AS options FROM pg_catalog.pg_foreign_server WHERE srvname = 'rowcast_gateway';
