-- The last file: what holds for all functions.
--
-- New functions are executable by PUBLIC; in ml_private only the views' helpers need that.
DO $$
DECLARE
    f      regprocedure;
    helper boolean;
BEGIN
    FOR f, helper IN
        SELECT p.oid, p.proname IN ('may_use', 'may_follow', 'reads_predictions', 'may_see_change') FROM pg_proc p
        WHERE p.pronamespace = 'ml_private'::regnamespace
          AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
    LOOP
        EXECUTE format(CASE WHEN helper THEN 'GRANT EXECUTE ON FUNCTION %s TO PUBLIC' ELSE 'REVOKE ALL ON FUNCTION %s FROM PUBLIC' END, f);
    END LOOP;
    -- A restore without the roles of its grants loses the routes; they follow from the other tables.
    PERFORM ml_private.route_model(m.id) FROM ml_private.model m;
END $$;

-- PostgreSQL before 15.9, 16.5 and 17.1 hides from a parallel worker which role SET ROLE has taken on (current_setting('role') is none there:
-- CVE-2024-10978), so that the right would be judged by the session's user. There every call stays in the leader.
DO $$
DECLARE
    release integer := current_setting('server_version_num')::integer;
    f       regprocedure;
BEGIN
    IF release < 150009 OR release BETWEEN 160000 AND 160004 OR release = 170000 THEN
        FOR f IN
            SELECT p.oid FROM pg_proc p
            WHERE p.pronamespace IN ('ml'::regnamespace, 'ml_private'::regnamespace) AND p.proparallel = 's'
              AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
        LOOP
            EXECUTE format('ALTER FUNCTION %s PARALLEL RESTRICTED', f);
        END LOOP;
    END IF;
END $$;
