-- name: MarkBatch :execrows
INSERT INTO ml_private.recorder AS r (id, batch) VALUES ($1, $2)
ON CONFLICT (id) DO UPDATE SET batch = excluded.batch, at = now() WHERE r.batch < excluded.batch;

-- name: ReadsOnly :one
SELECT (current_setting('transaction_read_only') = 'on')::boolean AS reads_only;

-- name: KeepPartitions :one
SELECT k.made::integer AS made, k.dropped::integer AS dropped, k.deleted::bigint AS deleted FROM ml_private.keep_partitions() k;
