-- The log goes with its views. Fails, and changes nothing, where a view of yours still uses one of them: drop that first.
DO $$
DECLARE
    f record;
BEGIN
    FOR f IN
        SELECT c.oid::regclass AS name FROM pg_class c WHERE c.relnamespace = 'ml_bi'::regnamespace AND c.relkind = 'v'
    LOOP
        EXECUTE format('DROP VIEW %s', f.name);
    END LOOP;
END $$;
DROP SCHEMA ml_bi;
DROP VIEW ml.predictions, ml.log_policies;
-- What the functions of this version do with these tables goes with them; the next `migrate up` brings the functions back.
DO $$
DECLARE
    f record;
BEGIN
    FOR f IN
        SELECT p.oid::regprocedure AS name FROM pg_proc p
        WHERE (p.pronamespace, p.proname) IN (('ml'::regnamespace, 'set_log_policy'), ('ml'::regnamespace, 'grant_predictions'),
            ('ml'::regnamespace, 'revoke_predictions'), ('ml_private'::regnamespace, 'reads_predictions'), ('ml_private'::regnamespace, 'logged'), ('ml_private'::regnamespace, 'logged_here'),
            ('ml_private'::regnamespace, 'keep_prediction'), ('ml_private'::regnamespace, 'log_header'), ('ml_private'::regnamespace, 'refresh_bi'),
            ('ml_private'::regnamespace, 'show_bi'), ('ml_private'::regnamespace, 'share_bi'), ('ml_private'::regnamespace, 'drop_predictions'),
            ('ml_private'::regnamespace, 'bi_name'), ('ml_private'::regnamespace, 'bi_expression'), ('ml_private'::regnamespace, 'keep_partitions'))
    LOOP
        EXECUTE format('DROP FUNCTION %s', f.name);
    END LOOP;
END $$;
ALTER TABLE ml_private.route DROP COLUMN log;
DROP TABLE ml_private.bi_column, ml_private.dropped_model, ml_private.recorder, ml_private.prediction, ml_private.prediction_grant, ml_private.log_policy;
DROP SEQUENCE ml_private.prediction_id;
