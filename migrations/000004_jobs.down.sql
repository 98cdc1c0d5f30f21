-- Jobs that run are lost with their rows; tables that they published are the users' and stay.
DROP VIEW IF EXISTS ml.jobs;
DROP VIEW IF EXISTS ml.schedules;
DO $$
DECLARE
    f record;
BEGIN
    FOR f IN
        SELECT c.oid::regclass AS name FROM pg_class c WHERE c.relnamespace = 'ml_staging'::regnamespace AND c.relkind = 'r'
    LOOP
        EXECUTE format('DROP TABLE %s', f.name);
    END LOOP;
    -- The functions that speak of the tables; the others go with 000003.
    FOR f IN
        SELECT p.oid::regprocedure AS name FROM pg_proc p
        WHERE p.pronamespace = 'ml'::regnamespace
          AND p.proname IN ('score', 'pause_job', 'resume_job', 'cancel_job', 'retry_job', 'schedule_score', 'unschedule_score')
           OR p.pronamespace = 'ml_private'::regnamespace
          AND p.proname IN ('create_job', 'start_job', 'lock_job', 'may_follow', 'check_cron', 'check_job', 'check_starter', 'check_use', 'add_schedule',
                            'start_schedule')
    LOOP
        EXECUTE format('DROP FUNCTION %s', f.name);
    END LOOP;
END $$;
DROP SCHEMA ml_staging;
DROP TABLE ml_private.job_chunk;
DROP TABLE ml_private.job;
DROP TABLE ml_private.schedule;
