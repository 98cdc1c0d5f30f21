-- The role ml_admin stays: other databases of the cluster may use it.
DROP USER MAPPING FOR CURRENT_USER SERVER rowcast_gateway;
DROP SERVER rowcast_gateway;
DELETE FROM ml_private.gateway;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'dblink' AND extnamespace = 'ml_private'::regnamespace) THEN
        -- The functions go with 000001; they only name dblink in their bodies.
        DROP EXTENSION dblink;
    END IF;
END $$;
