-- The triggers go here; the functions go with 000003.
DO $$
DECLARE
    t record;
BEGIN
    FOR t IN
        SELECT g.tgname AS name, g.tgrelid::regclass AS relation
        FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
        WHERE c.relnamespace = 'ml_private'::regnamespace AND g.tgname IN ('rowcast_journal', 'rowcast_keep') AND NOT g.tgisinternal
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', t.name, t.relation);
    END LOOP;
END $$;
DROP VIEW IF EXISTS ml.changes;
DROP TABLE ml_private.change_artifact, ml_private.change_sequence, ml_private.change_row, ml_private.change, ml.model_migrations;
