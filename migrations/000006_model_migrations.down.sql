-- The triggers go here, and the functions that have a row of these tables for an argument; the others go with 000003.
DO $$
DECLARE
    t record;
BEGIN
    FOR t IN
        SELECT g.tgname AS name, g.tgrelid::regclass AS relation
        FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
        WHERE c.relnamespace = 'ml_private'::regnamespace AND g.tgname IN ('rowcast_journal', 'rowcast_journal_owner', 'rowcast_keep') AND NOT g.tgisinternal
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', t.name, t.relation);
    END LOOP;
END $$;

-- A view or function of the user's that uses Rowcast must stop a removal before anything is gone, and this is the first step of one: a rehearsal of what
-- the steps down to 000003 do, undone again.
DO $$
DECLARE
    f record;
BEGIN
    FOR f IN
        SELECT c.oid::regclass AS name FROM pg_class c WHERE c.relnamespace IN ('ml'::regnamespace, 'ml_bi'::regnamespace) AND c.relkind = 'v' ORDER BY c.oid DESC
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
    RAISE EXCEPTION USING ERRCODE = '0L000', MESSAGE = 'nothing is in the way';
EXCEPTION WHEN SQLSTATE '0L000' THEN
    NULL;
END $$;

DROP FUNCTION IF EXISTS ml_private.lock_change(text, name), ml_private.undo_row(ml_private.change_row);
DROP VIEW IF EXISTS ml.changes;
DROP TABLE ml_private.change_artifact, ml_private.change_sequence, ml_private.change_row, ml_private.change, ml.model_migrations;
