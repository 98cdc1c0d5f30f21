-- The foreign server that the SQL functions reach the sidecar through. Its host and port are set by `rowcast migrate up` (--gateway), which
-- knows where the sidecar listens.
CREATE EXTENSION IF NOT EXISTS dblink SCHEMA ml_private;

CREATE SERVER rowcast_gateway FOREIGN DATA WRAPPER dblink_fdw OPTIONS (host '127.0.0.1', port '7432', dbname 'rowcast', connect_timeout '10', application_name 'rowcast');
COMMENT ON SERVER rowcast_gateway IS 'Rowcast: where the sidecar (rowcast serve) listens.';

DO $$
DECLARE
    -- gen_random_uuid() draws from the strong random source; four of them carry 488 random bits.
    secret text := encode(sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')), 'hex');
BEGIN
    INSERT INTO ml_private.gateway (password, key)
    VALUES (secret, sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')));
    EXECUTE format('CREATE USER MAPPING FOR CURRENT_USER SERVER rowcast_gateway OPTIONS (user ''rowcast'', password %L)', secret);
END $$;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'ml_admin') THEN
        CREATE ROLE ml_admin NOLOGIN;
        COMMENT ON ROLE ml_admin IS 'Rowcast: may register, change and use every model.';
    END IF;
END $$;
