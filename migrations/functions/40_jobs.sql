-- Scoring jobs and schedules. These functions only write rows and wake the sidecars; internal/score does the work. Names of tables are looked up by
-- the sidecar, with the rights and the search_path of whoever started the job.

CREATE OR REPLACE FUNCTION ml_private.may_follow(started_by regrole, model_id bigint, role name) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT pg_has_role(role, started_by::oid, 'USAGE') OR ml_private.is_admin(role)
        OR EXISTS (SELECT FROM ml_private.model m WHERE m.id = may_follow.model_id AND pg_has_role(role, m.owner::oid, 'USAGE'))
$$;
COMMENT ON FUNCTION ml_private.may_follow(regrole, bigint, name) IS 'Whether the role may see and steer a job: it started it, owns the model, or is an administrator.';

-- What makes no sense is refused when a job or a schedule is made, before a sidecar looks at it.
CREATE OR REPLACE FUNCTION ml_private.check_job(source text, target text, key text, mode text, on_error text, options jsonb) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    absent text := CASE WHEN source IS NULL THEN 'source' WHEN target IS NULL THEN 'target' WHEN key IS NULL THEN 'key'
                        WHEN mode IS NULL THEN 'mode' WHEN on_error IS NULL THEN 'on_error' WHEN options IS NULL THEN 'options' END;
    entry  record;
    wanted text;
BEGIN
    IF absent IS NOT NULL THEN
        RAISE EXCEPTION '% of the job is NULL', absent USING ERRCODE = '22004', HINT = 'SELECT ml.score(''churn'', ''customers'', ''churn_scores'', ''id'');';
    ELSIF mode NOT IN ('create', 'replace', 'append') THEN
        RAISE EXCEPTION 'mode "%" is unknown', mode USING ERRCODE = '22023', HINT = 'Write create (a new table), replace (all rows of the target) or append.';
    ELSIF on_error NOT IN ('stop', 'skip') THEN
        RAISE EXCEPTION 'on_error "%" is unknown', on_error USING ERRCODE = '22023', HINT = 'Write stop, or skip (bad rows go to an error table).';
    ELSIF jsonb_typeof(options) <> 'object' THEN
        RAISE EXCEPTION 'options must be a JSON object, not %', jsonb_typeof(options) USING ERRCODE = '22023', HINT = 'For instance ''{"chunk_rows": 50000}''.';
    END IF;
    FOR entry IN SELECT * FROM jsonb_each(options) LOOP
        wanted := CASE entry.key WHEN 'chunk_rows' THEN 'number' WHEN 'unlogged' THEN 'boolean' WHEN 'probabilities' THEN 'boolean'
                                 WHEN 'new_rows' THEN 'boolean' WHEN 'since' THEN 'string' WHEN 'error_table' THEN 'string' END;
        IF wanted IS NULL THEN
            RAISE EXCEPTION 'option "%" is unknown', entry.key
                USING ERRCODE = '22023', HINT = 'The options are chunk_rows, unlogged, probabilities, new_rows, since and error_table.';
        ELSIF jsonb_typeof(entry.value) <> wanted THEN
            RAISE EXCEPTION 'option "%" must be a %, not %', entry.key, wanted, jsonb_typeof(entry.value) USING ERRCODE = '22023';
        ELSIF entry.key = 'chunk_rows' AND (entry.value::numeric < 1000 OR entry.value::numeric > 10000000 OR entry.value::numeric % 1 <> 0) THEN
            RAISE EXCEPTION 'option "chunk_rows" is %', entry.value USING ERRCODE = '22023', HINT = 'Write a whole number from 1000 to 10000000.';
        END IF;
    END LOOP;
    IF mode <> 'append' AND (options ? 'since' OR options @> '{"new_rows": true}') THEN
        RAISE EXCEPTION 'option "%" goes with mode append, not %', CASE WHEN options ? 'since' THEN 'since' ELSE 'new_rows' END, mode
            USING ERRCODE = '22023', HINT = 'An incremental job adds to what is there; append makes the target where it does not exist.';
    END IF;
END $$;
COMMENT ON FUNCTION ml_private.check_job(text, text, text, text, text, jsonb) IS 'Raises what is wrong with the arguments of a job.';

-- The sidecar takes the starter's rights on, which only a superuser or a member of the starter can.
CREATE OR REPLACE FUNCTION ml_private.check_starter(who name) RETURNS void
LANGUAGE plpgsql STABLE
AS $$
BEGIN
    IF NOT pg_has_role(current_user, who, CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER' END) THEN
        RAISE EXCEPTION 'scoring jobs of "%" cannot run: role "%", which Rowcast belongs to, cannot take on its rights', who, current_user
            USING ERRCODE = '42501', DETAIL = 'A job reads and writes with the rights of the role that started it.',
                  HINT = format('An administrator runs: GRANT %I TO %I;', who, current_user);
    END IF;
END $$;
COMMENT ON FUNCTION ml_private.check_starter(name) IS 'Raises where the owner of schema ml is no member of the role that starts a job.';

-- Resolves the model in the caller's snapshot and stores the job.
CREATE OR REPLACE FUNCTION ml_private.start_job(ref text, source text, target text, key text, mode text, on_error text, options jsonb, path text, who name,
                                                from_schedule ml_private.schedule) RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    r     ml_private.route;
    added bigint;
BEGIN
    IF ref IS NULL THEN
        RAISE EXCEPTION 'model of the job is NULL' USING ERRCODE = '22004';
    END IF;
    SELECT * INTO r FROM ml_private.route x WHERE x.ref = start_job.ref;
    IF r.ref IS NULL THEN
        PERFORM ml_private.refuse(ref);
    ELSIF NOT ml_private.may_use(r.model_id, who) THEN
        IF from_schedule.id IS NULL THEN
            PERFORM ml_private.refuse(ref);
        END IF;
        RAISE EXCEPTION 'permission denied for model "%"', split_part(ref, '@', 1)
            USING ERRCODE = '42501', HINT = format('Its owner can allow it: SELECT ml.grant_model(%L, %L);', split_part(ref, '@', 1), who);
    END IF;
    PERFORM ml_private.check_job(source, target, key, mode, on_error, options);
    PERFORM ml_private.check_starter(who);
    INSERT INTO ml_private.job (model_id, model, ref, version, spec, source, target, key, mode, on_error, options, search_path, started_by, schedule_id, schedule)
    SELECT r.model_id, m.name, start_job.ref, r.version, v.spec, start_job.source, start_job.target, start_job.key, start_job.mode, start_job.on_error,
           start_job.options, path, quote_ident(who)::regrole, from_schedule.id, from_schedule.name
    FROM ml_private.model m JOIN ml_private.version v ON v.model_id = m.id AND v.version = r.version
    WHERE m.id = r.model_id
    RETURNING id INTO added;
    PERFORM pg_notify('rowcast', 'job ' || added);
    IF NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.datname = current_database() AND a.application_name IN ('rowcast serve', 'rowcast worker')) THEN
        RAISE WARNING 'job % waits: the Rowcast sidecar of database "%" is not running', added, current_database()
            USING HINT = 'Start it with: DATABASE_URL=... rowcast serve';
    END IF;
    RETURN added;
END $$;
COMMENT ON FUNCTION ml_private.start_job(text, text, text, text, text, text, jsonb, text, name, ml_private.schedule) IS 'Checks and stores a job.';

CREATE OR REPLACE FUNCTION ml_private.create_job(model text, source text, target text, key text, mode text, on_error text, options jsonb, path text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN ml_private.start_job(model, source, target, key, mode, on_error, options, path, ml_private.changer(), NULL);
END $$;
COMMENT ON FUNCTION ml_private.create_job(text, text, text, text, text, text, jsonb, text) IS 'ml.score() with the caller''s search_path.';

-- No pinned search_path: the caller's is what the names in source and target mean. Nothing else here depends on it.
CREATE OR REPLACE FUNCTION ml.score(model pg_catalog.text, source pg_catalog.text, target pg_catalog.text, key pg_catalog.text, mode pg_catalog.text DEFAULT 'create',
                                    on_error pg_catalog.text DEFAULT 'stop', options pg_catalog.jsonb DEFAULT '{}') RETURNS pg_catalog.int8
LANGUAGE plpgsql SECURITY DEFINER
AS $$
BEGIN
    RETURN ml_private.create_job(model, source, target, key, mode, on_error, options, pg_catalog.current_setting('search_path'));
END $$;
COMMENT ON FUNCTION ml.score(text, text, text, text, text, text, jsonb) IS $$Starts a job that scores every row of source (a table, or a query) with a model and puts key, prediction, label, version and time into target; returns the job's number, see ml.jobs. It runs in the sidecar, in parallel, with your rights, and starts when your transaction commits. mode: create, replace, append. on_error: stop, or skip (bad rows go to the table target_errors). options: chunk_rows, unlogged, probabilities, new_rows, since, error_table.
Example: SELECT ml.score('churn', 'customers', 'churn_scores', 'id');$$;

-- The job's row, locked, for a caller who may steer it.
CREATE OR REPLACE FUNCTION ml_private.lock_job(wanted bigint, who name) RETURNS ml_private.job
LANGUAGE plpgsql
AS $$
DECLARE
    target ml_private.job;
BEGIN
    SELECT * INTO target FROM ml_private.job j WHERE j.id = wanted FOR UPDATE;
    IF target.id IS NULL OR NOT ml_private.may_follow(target.started_by, target.model_id, who) THEN
        RAISE EXCEPTION 'job % does not exist', coalesce(wanted::text, 'NULL')
            USING ERRCODE = '42704', HINT = 'SELECT id, model, target, state FROM ml.jobs; lists the jobs that you may see.';
    END IF;
    RETURN target;
END $$;
COMMENT ON FUNCTION ml_private.lock_job(bigint, name) IS 'Locks a job''s row for a caller who may steer it.';

CREATE OR REPLACE FUNCTION ml.pause_job(id bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who  name := ml_private.changer();
    task ml_private.job := ml_private.lock_job(id, who);
BEGIN
    IF task.state NOT IN ('queued', 'running', 'paused') THEN
        RAISE EXCEPTION 'job % is % and cannot be paused', id, task.state USING ERRCODE = '55000';
    END IF;
    UPDATE ml_private.job j SET state = 'paused' WHERE j.id = task.id;
    PERFORM pg_notify('rowcast', 'job ' || task.id);
END $$;
COMMENT ON FUNCTION ml.pause_job(bigint) IS $$Stops a job until ml.resume_job(). What is under way is given up and done again; what is committed stays.
Example: SELECT ml.pause_job(17);$$;

-- What goes on again must still be allowed: the starter may have lost the right to the model since.
CREATE OR REPLACE FUNCTION ml_private.check_use(task ml_private.job) RETURNS void
LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF task.model_id IS NOT NULL AND NOT EXISTS (
        SELECT FROM pg_roles r WHERE r.oid = task.started_by AND ml_private.may_use(task.model_id, r.rolname)) THEN
        RAISE EXCEPTION 'permission denied for model "%": job % belongs to "%", who may not use it any more', task.model, task.id, pg_get_userbyid(task.started_by)
            USING ERRCODE = '42501', HINT = format('Its owner can allow it: SELECT ml.grant_model(%L, %L);', task.model, pg_get_userbyid(task.started_by));
    END IF;
END $$;
COMMENT ON FUNCTION ml_private.check_use(ml_private.job) IS 'Raises where the role that started a job may not use its model any more.';

CREATE OR REPLACE FUNCTION ml.resume_job(id bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who  name := ml_private.changer();
    task ml_private.job := ml_private.lock_job(id, who);
BEGIN
    IF task.state IN ('queued', 'running') THEN
        RETURN;
    ELSIF task.state <> 'paused' THEN
        RAISE EXCEPTION 'job % is %, not paused', id, task.state
            USING ERRCODE = '55000', HINT = CASE WHEN task.state = 'done' THEN 'Start another one: SELECT ml.score(…);' ELSE format('SELECT ml.retry_job(%s); tries it again.', id) END;
    END IF;
    PERFORM ml_private.check_use(task);
    UPDATE ml_private.job j
    SET state = CASE j.phase WHEN 'plan' THEN 'queued' ELSE 'running' END, retry_at = NULL, scoring_since = clock_timestamp(),
        rows_before = (SELECT coalesce(sum(c.rows + c.skipped), 0) FROM ml_private.job_chunk c WHERE c.job_id = j.id AND c.state = 'done')
    WHERE j.id = task.id;
    PERFORM pg_notify('rowcast', 'job ' || task.id);
END $$;
COMMENT ON FUNCTION ml.resume_job(bigint) IS $$Lets a paused job go on.
Example: SELECT ml.resume_job(17);$$;

CREATE OR REPLACE FUNCTION ml.cancel_job(id bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who  name := ml_private.changer();
    task ml_private.job := ml_private.lock_job(id, who);
BEGIN
    IF task.state = 'canceled' THEN
        RETURN;
    ELSIF task.state = 'done' THEN
        RAISE EXCEPTION 'job % is done and cannot be canceled', id USING ERRCODE = '55000';
    END IF;
    -- A higher epoch: whatever a sidecar is about to commit for this job comes too late from now on.
    UPDATE ml_private.job j
    SET state = 'canceled', phase = 'clean', epoch = j.epoch + 1, sidecar = NULL, lease_until = NULL, finished_at = clock_timestamp(), retry_at = NULL,
        rows_done = (SELECT coalesce(sum(c.rows), 0) FROM ml_private.job_chunk c WHERE c.job_id = j.id AND c.state = 'done'),
        rows_skipped = (SELECT coalesce(sum(c.skipped), 0) FROM ml_private.job_chunk c WHERE c.job_id = j.id AND c.state = 'done')
    WHERE j.id = task.id;
    PERFORM pg_notify('rowcast', 'job ' || task.id);
END $$;
COMMENT ON FUNCTION ml.cancel_job(bigint) IS $$Ends a job and drops what it has gathered; its target is as it was before the job.
Example: SELECT ml.cancel_job(17);$$;

CREATE OR REPLACE FUNCTION ml.retry_job(id bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who  name := ml_private.changer();
    task ml_private.job := ml_private.lock_job(id, who);
BEGIN
    IF task.state IN ('queued', 'running') THEN
        UPDATE ml_private.job j SET retry_at = NULL WHERE j.id = task.id;
    ELSIF task.state NOT IN ('failed', 'canceled') THEN
        RAISE EXCEPTION 'job % is %: only a job that failed or was canceled is tried again', id, task.state USING ERRCODE = '55000';
    ELSIF task.phase = 'clean' THEN
        RAISE EXCEPTION 'job % is still being cleaned up', id USING ERRCODE = '55000', HINT = 'Try it again in a moment.';
    ELSE
        PERFORM ml_private.check_use(task);
        UPDATE ml_private.job j
        SET state = CASE WHEN j.phase IN ('plan', 'end') THEN 'queued' ELSE 'running' END, phase = CASE j.phase WHEN 'end' THEN 'plan' ELSE j.phase END,
            plan = CASE WHEN j.phase IN ('plan', 'end') THEN NULL ELSE j.plan END,
            error = NULL, sqlstate = NULL, detail = NULL, hint = NULL, attempts = 0, retry_at = NULL, finished_at = NULL, scoring_since = clock_timestamp(),
            rows_before = (SELECT coalesce(sum(c.rows + c.skipped), 0) FROM ml_private.job_chunk c WHERE c.job_id = j.id AND c.state = 'done')
        WHERE j.id = task.id;
    END IF;
    PERFORM pg_notify('rowcast', 'job ' || task.id);
END $$;
COMMENT ON FUNCTION ml.retry_job(bigint) IS $$Tries a failed job again, from where it stopped; a canceled one starts anew. A job that waits before its next try does not wait any longer.
Example: SELECT ml.retry_job(17);$$;

-- The next time is worked out by the sidecar; whether the expression makes sense is said at once.
CREATE OR REPLACE FUNCTION ml_private.check_cron(cron text) RETURNS void
LANGUAGE plpgsql IMMUTABLE
AS $$
DECLARE
    names  constant text[] := ARRAY['minute', 'hour', 'day of the month', 'month', 'day of the week'];
    lowest constant integer[] := ARRAY[0, 0, 1, 1, 0];
    most   constant integer[] := ARRAY[59, 23, 31, 12, 7];
    months constant text[] := ARRAY['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec'];
    days   constant text[] := ARRAY['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'];
    fields text[] := regexp_split_to_array(lower(trim(cron)), '\s+');
    part   text;
    bound  text[];
    low    integer;
    high   integer;
BEGIN
    IF cron IS NULL THEN
        RAISE EXCEPTION 'the cron expression is NULL' USING ERRCODE = '22004';
    ELSIF lower(trim(cron)) IN ('@hourly', '@daily', '@weekly', '@monthly', '@yearly') THEN
        RETURN;
    ELSIF cardinality(fields) <> 5 THEN
        RAISE EXCEPTION 'cron expression "%" has % fields', cron, cardinality(fields)
            USING ERRCODE = '22023', DETAIL = 'It needs five: minute, hour, day of the month, month, day of the week.',
                  HINT = 'For instance ''30 2 * * *'' for half past two every night, or @hourly, @daily, @weekly, @monthly, @yearly.';
    END IF;
    FOR i IN 1 .. 5 LOOP
        FOREACH part IN ARRAY string_to_array(fields[i], ',') LOOP
            IF i = 4 THEN
                FOR n IN 1 .. 12 LOOP part := replace(part, months[n], n::text); END LOOP;
            ELSIF i = 5 THEN
                FOR n IN 1 .. 7 LOOP part := replace(part, days[n], (n - 1)::text); END LOOP;
            END IF;
            bound := regexp_match(part, '^(?:\*|(\d{1,4})(?:-(\d{1,4}))?)(?:/(\d{1,4}))?$');
            low := bound[1];
            high := coalesce(bound[2], bound[1]);
            IF bound IS NULL OR low < lowest[i] OR high > most[i] OR low > high OR bound[3]::integer = 0 OR bound[3]::integer > most[i] THEN
                RAISE EXCEPTION 'the % of cron expression "%" makes no sense: "%"', names[i], cron, fields[i]
                    USING ERRCODE = '22023', DETAIL = format('It is *, or numbers from %s to %s, with - for ranges, / for steps and commas between.', lowest[i], most[i]);
            END IF;
        END LOOP;
    END LOOP;
END $$;
COMMENT ON FUNCTION ml_private.check_cron(text) IS 'Raises what is wrong with a cron expression.';

CREATE OR REPLACE FUNCTION ml_private.add_schedule(name text, cron text, model text, source text, target text, key text, mode text, on_error text, options jsonb,
                                                   path text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who   name := ml_private.changer();
    r     ml_private.route;
    added bigint;
BEGIN
    IF coalesce(name, '') = '' THEN
        RAISE EXCEPTION 'the schedule has no name' USING ERRCODE = '22004';
    ELSIF model IS NULL THEN
        RAISE EXCEPTION 'model of the schedule is NULL' USING ERRCODE = '22004';
    END IF;
    SELECT * INTO r FROM ml_private.route x WHERE x.ref = model;
    IF r.ref IS NULL OR NOT ml_private.may_use(r.model_id, who) THEN
        PERFORM ml_private.refuse(model);
    END IF;
    PERFORM ml_private.check_cron(cron);
    PERFORM ml_private.check_job(source, target, key, mode, on_error, options);
    PERFORM ml_private.check_starter(who);
    INSERT INTO ml_private.schedule (name, cron, timezone, model, model_id, source, target, key, mode, on_error, options, search_path, started_by)
    VALUES (add_schedule.name, lower(trim(add_schedule.cron)), current_setting('TimeZone'), add_schedule.model, r.model_id, add_schedule.source, add_schedule.target,
            add_schedule.key, add_schedule.mode, add_schedule.on_error, add_schedule.options, path, quote_ident(who)::regrole)
    ON CONFLICT DO NOTHING
    RETURNING id INTO added;
    IF added IS NULL THEN
        RAISE EXCEPTION 'schedule "%" exists already', name USING ERRCODE = '42710', HINT = format('SELECT ml.unschedule_score(%L); removes it.', name);
    END IF;
    PERFORM pg_notify('rowcast', 'job 0');
    RETURN added;
END $$;
COMMENT ON FUNCTION ml_private.add_schedule(text, text, text, text, text, text, text, text, jsonb, text) IS 'ml.schedule_score() with the caller''s search_path.';

CREATE OR REPLACE FUNCTION ml.schedule_score(name pg_catalog.text, cron pg_catalog.text, model pg_catalog.text, source pg_catalog.text, target pg_catalog.text,
                                             key pg_catalog.text, mode pg_catalog.text DEFAULT 'append', on_error pg_catalog.text DEFAULT 'stop',
                                             options pg_catalog.jsonb DEFAULT '{"new_rows": true}') RETURNS pg_catalog.int8
LANGUAGE plpgsql SECURITY DEFINER
AS $$
BEGIN
    RETURN ml_private.add_schedule(name, cron, model, source, target, key, mode, on_error, options, pg_catalog.current_setting('search_path'));
END $$;
COMMENT ON FUNCTION ml.schedule_score(text, text, text, text, text, text, text, text, jsonb) IS $$Starts a scoring job, as ml.score() does, whenever the cron expression is due: minute, hour, day of the month, month, day of the week, in your session's time zone. An alias is resolved at each start. As it stands it appends the rows that the version has not scored yet. See ml.schedules.
Example: SELECT ml.schedule_score('nightly', '30 2 * * *', 'churn', 'customers', 'churn_scores', 'id');$$;

CREATE OR REPLACE FUNCTION ml.unschedule_score(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who name := ml_private.changer();
BEGIN
    DELETE FROM ml_private.schedule s WHERE s.name = unschedule_score.name AND ml_private.may_follow(s.started_by, s.model_id, who);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'schedule "%" does not exist', name USING ERRCODE = '42704', HINT = 'SELECT name FROM ml.schedules; lists those that you may see.';
    END IF;
END $$;
COMMENT ON FUNCTION ml.unschedule_score(text) IS $$Removes a schedule. Jobs that it started go on.
Example: SELECT ml.unschedule_score('nightly');$$;

-- Called by the sidecar that holds the lock of the schedule's row: starts its job, or notes why it cannot, and sets the next time.
CREATE OR REPLACE FUNCTION ml_private.start_schedule(due bigint, next_at timestamptz) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    s       ml_private.schedule;
    added   bigint;
    problem text;
    state   text;
BEGIN
    SELECT * INTO s FROM ml_private.schedule x WHERE x.id = due;
    BEGIN
        added := ml_private.start_job(s.model, s.source, s.target, s.key, s.mode, s.on_error, s.options, s.search_path, pg_get_userbyid(s.started_by), s);
    EXCEPTION WHEN OTHERS THEN
        problem := sqlerrm;
        state := sqlstate;
    END;
    UPDATE ml_private.schedule x
    SET last_at = clock_timestamp(), next_at = start_schedule.next_at, error = problem, sqlstate = state
    WHERE x.id = due;
    RETURN coalesce(added, 0);
END $$;
COMMENT ON FUNCTION ml_private.start_schedule(bigint, timestamptz) IS 'Starts the job of a schedule that is due.';

CREATE OR REPLACE VIEW ml.jobs WITH (security_barrier) AS
SELECT j.id, j.model, j.version, j.source, j.target, j.key, j.mode, j.on_error, j.state, j.rows_total, p.done AS rows_done, p.skipped AS rows_skipped,
       CASE WHEN j.state IN ('running', 'done') THEN round(p.rate)::bigint END AS rows_per_second,
       CASE WHEN j.state = 'running' AND p.rate > 0 AND j.rows_total IS NOT NULL THEN make_interval(secs => round(greatest(j.rows_total - p.done - p.skipped, 0) / p.rate)::double precision) END AS time_left,
       j.error, j.sqlstate, j.hint, pg_get_userbyid(j.started_by) AS started_by, j.created_at, j.started_at, j.finished_at, j.schedule,
       j.detail, j.retry_at, CASE WHEN j.phase IN ('plan', 'score', 'publish') THEN j.phase END AS phase
FROM ml_private.job j
CROSS JOIN LATERAL (
    SELECT x.done, x.skipped,
           (x.done + x.skipped - j.rows_before) / nullif(extract(epoch FROM coalesce(j.finished_at, clock_timestamp()) - j.scoring_since), 0) AS rate
    FROM (SELECT coalesce(sum(CASE c.state WHEN 'done' THEN c.rows ELSE c.seen END), 0)::bigint AS done,
                 coalesce(sum(CASE c.state WHEN 'done' THEN c.skipped END), 0)::bigint AS skipped
          FROM ml_private.job_chunk c
          WHERE c.job_id = j.id AND j.phase IN ('plan', 'score', 'publish')
          UNION ALL
          SELECT j.rows_done, j.rows_skipped) AS x
    ORDER BY x.done + x.skipped DESC LIMIT 1) AS p
WHERE ml_private.may_follow(j.started_by, j.model_id, current_user);
COMMENT ON VIEW ml.jobs IS 'Scoring jobs: yours, and those of models that you own. Example: SELECT id, state, rows_done, rows_total, time_left, error FROM ml.jobs ORDER BY id DESC;';
COMMENT ON COLUMN ml.jobs.id IS 'Number of the job, as ml.score() returned it.';
COMMENT ON COLUMN ml.jobs.model IS 'Name of the model.';
COMMENT ON COLUMN ml.jobs.version IS 'The version that the job scores with, as the reference meant when the job started.';
COMMENT ON COLUMN ml.jobs.source IS 'Table or query whose rows are scored.';
COMMENT ON COLUMN ml.jobs.target IS 'Table that gets the results.';
COMMENT ON COLUMN ml.jobs.key IS 'Column of the source that names a row.';
COMMENT ON COLUMN ml.jobs.mode IS 'create, replace or append.';
COMMENT ON COLUMN ml.jobs.on_error IS 'stop, or skip: bad rows go to the error table.';
COMMENT ON COLUMN ml.jobs.state IS 'queued, running, paused, done, failed or canceled.';
COMMENT ON COLUMN ml.jobs.rows_total IS 'Rows to score: an estimate where the source is read in ranges of its key, NULL where nobody knows (before it is planned, and in an incremental job).';
COMMENT ON COLUMN ml.jobs.rows_done IS 'Rows scored so far.';
COMMENT ON COLUMN ml.jobs.rows_skipped IS 'Bad rows so far.';
COMMENT ON COLUMN ml.jobs.rows_per_second IS 'Rate since scoring started or was resumed.';
COMMENT ON COLUMN ml.jobs.time_left IS 'Time that the rest takes at this rate.';
COMMENT ON COLUMN ml.jobs.error IS 'Why it failed, or why it waits before it tries again.';
COMMENT ON COLUMN ml.jobs.sqlstate IS 'SQLSTATE of the error.';
COMMENT ON COLUMN ml.jobs.hint IS 'What to do about it.';
COMMENT ON COLUMN ml.jobs.started_by IS 'The role whose rights the job has.';
COMMENT ON COLUMN ml.jobs.created_at IS 'When it was asked for.';
COMMENT ON COLUMN ml.jobs.started_at IS 'When a sidecar first worked on it.';
COMMENT ON COLUMN ml.jobs.finished_at IS 'When it was done, failed or was canceled.';
COMMENT ON COLUMN ml.jobs.schedule IS 'Name of the schedule that started it.';
COMMENT ON COLUMN ml.jobs.detail IS 'More about the error.';
COMMENT ON COLUMN ml.jobs.retry_at IS 'When it tries again, after a failure that may pass by itself: a full disk, a restart of PostgreSQL.';
COMMENT ON COLUMN ml.jobs.phase IS 'plan, score or publish: what is under way.';

CREATE OR REPLACE VIEW ml.schedules WITH (security_barrier) AS
SELECT s.id, s.name, s.cron, s.timezone, s.model, s.source, s.target, s.key, s.mode, s.on_error, s.options, s.next_at, s.last_at,
       (SELECT max(j.id) FROM ml_private.job j WHERE j.schedule_id = s.id) AS last_job, s.error, s.sqlstate, pg_get_userbyid(s.started_by) AS started_by, s.created_at
FROM ml_private.schedule s
WHERE ml_private.may_follow(s.started_by, s.model_id, current_user);
COMMENT ON VIEW ml.schedules IS 'Scoring jobs that start by themselves. Example: SELECT name, cron, next_at, last_job, error FROM ml.schedules;';
COMMENT ON COLUMN ml.schedules.id IS 'Number of the schedule.';
COMMENT ON COLUMN ml.schedules.name IS 'Name, as given to ml.schedule_score().';
COMMENT ON COLUMN ml.schedules.cron IS 'Minute, hour, day of the month, month, day of the week.';
COMMENT ON COLUMN ml.schedules.timezone IS 'Time zone of the cron expression.';
COMMENT ON COLUMN ml.schedules.model IS 'Model reference; an alias is resolved at each start.';
COMMENT ON COLUMN ml.schedules.source IS 'Table or query whose rows are scored.';
COMMENT ON COLUMN ml.schedules.target IS 'Table that gets the results.';
COMMENT ON COLUMN ml.schedules.key IS 'Column of the source that names a row.';
COMMENT ON COLUMN ml.schedules.mode IS 'create, replace or append.';
COMMENT ON COLUMN ml.schedules.on_error IS 'stop or skip.';
COMMENT ON COLUMN ml.schedules.options IS 'Options of its jobs.';
COMMENT ON COLUMN ml.schedules.next_at IS 'When it is due next.';
COMMENT ON COLUMN ml.schedules.last_at IS 'When it was due last.';
COMMENT ON COLUMN ml.schedules.last_job IS 'The job that it started last; see ml.jobs.';
COMMENT ON COLUMN ml.schedules.error IS 'Why its last start failed, or why there is no next time.';
COMMENT ON COLUMN ml.schedules.sqlstate IS 'SQLSTATE of that.';
COMMENT ON COLUMN ml.schedules.started_by IS 'The role whose rights its jobs have.';
COMMENT ON COLUMN ml.schedules.created_at IS 'When it was made.';

GRANT SELECT ON ml.jobs, ml.schedules TO PUBLIC;
