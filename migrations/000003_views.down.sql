-- The SQL API goes with the latest version, before anything that it needs. Fails, and changes nothing, where a view or function of yours still uses Rowcast: drop that first.
DO $$
DECLARE
    f record;
BEGIN
    FOR f IN
        SELECT c.oid::regclass AS name FROM pg_class c WHERE c.relnamespace = 'ml'::regnamespace AND c.relkind = 'v'
    LOOP
        EXECUTE format('DROP VIEW %s', f.name);
    END LOOP;
    FOR f IN
        SELECT p.oid::regprocedure AS name FROM pg_proc p
        WHERE p.pronamespace IN ('ml'::regnamespace, 'ml_private'::regnamespace)
          AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
        ORDER BY p.oid DESC
    LOOP
        EXECUTE format('DROP FUNCTION %s', f.name);
    END LOOP;
END $$;
