-- Logging what was predicted. A route says whether and how (column log): A{...} where the sidecar writes the rows, T{...} where the caller's transaction
-- does. Such a call goes to the sidecar as L, that text, the caller as a JSON string, a line feed, and the call as it would be without. For A the
-- sidecar answers as always and keeps the row; for T it answers with an object of the answer and the row's columns.

-- What a route's column log holds.
CREATE OR REPLACE FUNCTION ml_private.log_header(model_id bigint, reference text, entry bigint) RETURNS text
LANGUAGE sql STABLE
RETURN (
    SELECT CASE p.policy WHEN 'transactional' THEN 'T' ELSE 'A' END
        || jsonb_strip_nulls(jsonb_build_object('model_id', p.model_id, 'reference', log_header.reference, 'entry', log_header.entry, 'inputs', p.inputs,
                                                'key', p.key, 'sample', CASE WHEN p.policy = 'sampled' THEN p.sample ELSE 1 END))::text
    FROM ml_private.log_policy p WHERE p.model_id = log_header.model_id AND p.policy <> 'none');
COMMENT ON FUNCTION ml_private.log_header(bigint, text, bigint) IS 'What a call of a reference carries so that the prediction is logged; NULL where it is not.';

-- Spelled with schemas, operators and types, as ml_private.call() is: a pinned search_path would cost more than the rest of it.
CREATE OR REPLACE FUNCTION ml_private.logged(key pg_catalog.bytea, log pg_catalog.text, body pg_catalog.text) RETURNS pg_catalog.text
LANGUAGE plpgsql STABLE PARALLEL SAFE
AS $$
DECLARE
    call   pg_catalog.text := 'L' OPERATOR(pg_catalog.||) log OPERATOR(pg_catalog.||) ' ' OPERATOR(pg_catalog.||)
        pg_catalog.to_json(CASE WHEN pg_catalog.current_setting('role') OPERATOR(pg_catalog.=) 'none' THEN session_user::pg_catalog.text
                                ELSE pg_catalog.current_setting('role') END)::pg_catalog.text OPERATOR(pg_catalog.||) E'\n' OPERATOR(pg_catalog.||) body;
    answer pg_catalog.text;
BEGIN
    IF pg_catalog.starts_with(log, 'T') THEN
        RETURN ml_private.logged_here(key, log, call);
    END IF;
    IF 'rowcast' OPERATOR(pg_catalog.=) ANY ({{.Dblink}}.dblink_get_connections()) THEN
        answer := {{.Dblink}}.dblink_exec('rowcast', ml_private.seal(key, call), false);
        IF pg_catalog.starts_with(answer, '=') THEN
            RETURN pg_catalog.substr(answer, 2);
        END IF;
    END IF;
    RETURN ml_private.exchange(key, call, false, answer);
END $$;
COMMENT ON FUNCTION ml_private.logged(bytea, text, text) IS 'Calls the sidecar for a prediction that is logged.';

CREATE OR REPLACE FUNCTION ml_private.logged_here(key bytea, log text, call text) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    header jsonb := substr(log, 2);
    answer jsonb;
BEGIN
    -- The message of PostgreSQL would name the statement of a function that nobody has heard of.
    IF current_setting('transaction_read_only') = 'on' THEN
        RAISE EXCEPTION 'predictions of model "%" are logged in the caller''s transaction, and this one is read-only', split_part(header ->> 'reference', '@', 1)
            USING ERRCODE = '25006',
                  HINT = CASE WHEN pg_is_in_recovery() THEN 'This is a standby: predict on the primary.' ELSE 'Predict in a READ WRITE transaction.' END
                      || ' Or let the sidecar write the log: SELECT ml.set_log_policy(MODEL, ''all'');';
    END IF;
    answer := ml_private.exchange(key, call, false);
    PERFORM ml_private.keep_prediction(header, ml_private.caller(), answer);
    RETURN answer ->> 'answer';
END $$;
COMMENT ON FUNCTION ml_private.logged_here(bytea, text, text) IS 'Calls the sidecar for a prediction that the caller''s transaction logs.';

-- Parallel workers cannot write, nor can the leader while they run; nothing tells a function that it is so. The comment in the statement shows in the
-- context of PostgreSQL's error.
CREATE OR REPLACE FUNCTION ml_private.keep_prediction(log jsonb, who name, answer jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO /* log policy transactional: not in parallel queries. SET max_parallel_workers_per_gather = 0, or use policy all. */ ml_private.prediction
        (at, model_id, version, sha256, reference, entry, caller, key, input_hash, inputs, value, label, probability, probabilities, outputs, latency_ms)
    VALUES (clock_timestamp(), (log -> 'model_id')::bigint, (answer -> 'version')::integer, decode(answer ->> 'sha256', 'hex'), log ->> 'reference',
            (log ->> 'entry')::bigint, who, answer ->> 'key', decode(answer ->> 'input_hash', 'hex'), answer -> 'inputs', (answer ->> 'value')::float8,
            answer ->> 'label', (answer ->> 'probability')::float8, (answer ->> 'probabilities')::float8[], answer -> 'outputs',
            (answer ->> 'latency_ms')::real);
END $$;
COMMENT ON FUNCTION ml_private.keep_prediction(jsonb, name, jsonb) IS 'Logs a prediction in the caller''s transaction.';

CREATE OR REPLACE FUNCTION ml.set_log_policy(model text, policy text, sample double precision DEFAULT 1, retention_days integer DEFAULT 30,
    inputs boolean DEFAULT true, key text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who    name := ml_private.changer();
    target ml_private.model := ml_private.lock_model(model, who);
BEGIN
    IF (policy IN ('none', 'sampled', 'all', 'transactional')) IS NOT TRUE THEN
        RAISE EXCEPTION '% is not a log policy', coalesce('"' || policy || '"', 'NULL')
            USING ERRCODE = '22023', HINT = 'The policies are none, sampled, all and transactional.';
    ELSIF (sample > 0 AND sample <= 1) IS NOT TRUE THEN
        RAISE EXCEPTION 'sample is %', coalesce(sample::text, 'NULL')
            USING ERRCODE = '22023', HINT = 'It is the share of predictions to keep: more than 0, and 1 for all.';
    ELSIF sample < 1 AND policy <> 'sampled' THEN
        RAISE EXCEPTION 'policy % takes no sample', policy USING ERRCODE = '22023', HINT = 'Use policy sampled.';
    ELSIF (retention_days BETWEEN 1 AND 36500) IS NOT TRUE THEN
        RAISE EXCEPTION 'retention_days is %', coalesce(retention_days::text, 'NULL') USING ERRCODE = '22023', HINT = 'Use 1 to 36500 days.';
    ELSIF inputs IS NULL THEN
        RAISE EXCEPTION 'inputs is NULL' USING ERRCODE = '22004', HINT = 'true keeps the features, false only their hash.';
    END IF;
    INSERT INTO ml_private.log_policy AS p (model_id, policy, sample, retention_days, inputs, key, changed_by)
    VALUES (target.id, set_log_policy.policy, set_log_policy.sample, set_log_policy.retention_days, set_log_policy.inputs,
            nullif(set_log_policy.key, ''), quote_ident(who)::regrole)
    ON CONFLICT ON CONSTRAINT log_policy_pkey DO UPDATE
    SET policy = excluded.policy, sample = excluded.sample, retention_days = excluded.retention_days, inputs = excluded.inputs, key = excluded.key,
        changed_at = now(), changed_by = excluded.changed_by;
    PERFORM ml_private.route_model(target.id);
END $$;
COMMENT ON FUNCTION ml.set_log_policy(text, text, double precision, integer, boolean, text) IS $$Says which predictions of a model are kept: none; sampled (the share sample of them) or all, written by the sidecar in bulk; or transactional, written in the caller's transaction. They are kept for retention_days, with their inputs or only a hash of them. key names a column of the record form whose value is kept. See ml.predictions and schema ml_bi.
Example: SELECT ml.set_log_policy('churn', 'all', retention_days => 90, key => 'customer_id');$$;

CREATE OR REPLACE FUNCTION ml.grant_predictions(model text, role text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who    name := ml_private.changer();
    target ml_private.model := ml_private.lock_model(model, who);
BEGIN
    INSERT INTO ml_private.prediction_grant (model_id, grantee, granted_by)
    VALUES (target.id, ml_private.grantee(role), quote_ident(who)::regrole) ON CONFLICT DO NOTHING;
    PERFORM ml_private.share_bi(target);
END $$;
COMMENT ON FUNCTION ml.grant_predictions(text, text) IS $$Lets a role and its members, or PUBLIC, read every logged prediction of a model with its inputs, whoever made it, in ml.predictions and ml_bi. It does not let them predict.
Example: SELECT ml.grant_predictions('churn', 'bi_reader');$$;

CREATE OR REPLACE FUNCTION ml.revoke_predictions(model text, role text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who    name := ml_private.changer();
    target ml_private.model := ml_private.lock_model(model, who);
BEGIN
    DELETE FROM ml_private.prediction_grant g WHERE g.model_id = target.id AND g.grantee = ml_private.grantee(role);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'predictions of model "%" were not granted to "%"', model, role
            USING ERRCODE = '42704', HINT = format('SELECT readers FROM ml.log_policies WHERE model = %L; lists the grants.', model);
    END IF;
    PERFORM ml_private.share_bi(target);
END $$;
COMMENT ON FUNCTION ml.revoke_predictions(text, text) IS $$Takes back what ml.grant_predictions() gave.
Example: SELECT ml.revoke_predictions('churn', 'bi_reader');$$;

-- How long each model's log is kept. A model that a named change dropped comes back with its log as long as the change can be taken back.
CREATE OR REPLACE FUNCTION ml_private.retentions() RETURNS TABLE (model_id bigint, retention_days integer)
LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY SELECT l.model_id, l.retention_days FROM ml_private.log_policy l;
    IF to_regclass('ml_private.change_row') IS NOT NULL THEN
        RETURN QUERY
            SELECT DISTINCT ON (1) (r.before ->> 'model_id')::bigint, (r.before ->> 'retention_days')::integer
            FROM ml_private.change_row r
            WHERE r.relation = 'log_policy' AND r.operation = 'DELETE'
              AND NOT EXISTS (SELECT FROM ml_private.log_policy l WHERE l.model_id = (r.before ->> 'model_id')::bigint)
            ORDER BY 1, 2 DESC;
    END IF;
END $$;
COMMENT ON FUNCTION ml_private.retentions() IS 'For how many days each model''s predictions are kept.';

-- Makes partitions for today and the next seven days and takes away what is kept no longer: a day that no model keeps any more goes with its
-- partition, and what a model with a shorter retention has in a day that stays is deleted, as are predictions of models that were dropped for good. Days are UTC. One sidecar
-- at a time does it; whoever comes second does nothing. Returns the partitions that were made and dropped and the rows that were deleted.
CREATE OR REPLACE FUNCTION ml_private.keep_partitions(OUT made integer, OUT dropped integer, OUT deleted bigint)
LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET lock_timeout = '2s'
AS $$
DECLARE
    today  date := (now() AT TIME ZONE 'UTC')::date;
    oldest date;
    day    date;
    part   text;
    gone   bigint;
BEGIN
    made := 0;
    dropped := 0;
    deleted := 0;
    -- No advisory lock: anybody could hold that.
    BEGIN
        LOCK TABLE ONLY ml_private.prediction_other IN SHARE UPDATE EXCLUSIVE MODE NOWAIT;
    EXCEPTION WHEN lock_not_available THEN
        RETURN;
    END;
    -- Both need a moment without readers of the whole log. Where there is none within lock_timeout, the next round tries again: there is a week's time.
    BEGIN
        FOR day IN
            SELECT d.day FROM (
                SELECT today + n AS day FROM generate_series(0, 7) n
                UNION SELECT (o.at AT TIME ZONE 'UTC')::date FROM ml_private.prediction_other o) d
            WHERE to_regclass('ml_private.prediction_' || to_char(d.day, 'YYYYMMDD')) IS NULL
            ORDER BY 1
        LOOP
            part := 'prediction_' || to_char(day, 'YYYYMMDD');
            EXECUTE format('CREATE TABLE ml_private.%I (LIKE ml_private.prediction INCLUDING ALL)', part);
            EXECUTE format('WITH moved AS (DELETE FROM ml_private.prediction_other WHERE at >= %L AND at < %L RETURNING *) INSERT INTO ml_private.%I SELECT * FROM moved',
                           day, day + 1, part);
            EXECUTE format('ALTER TABLE ml_private.prediction ATTACH PARTITION ml_private.%I FOR VALUES FROM (%L) TO (%L)', part, day, day + 1);
            EXECUTE format('COMMENT ON TABLE ml_private.%I IS %L', part, 'Predictions of ' || day || ' (UTC).');
            EXECUTE format('REVOKE ALL ON ml_private.%I FROM PUBLIC', part);
            made := made + 1;
        END LOOP;
    EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
        made := 0;
    END;
    SELECT today - max(p.retention_days) INTO oldest FROM ml_private.retentions() p;
    FOR part, day IN
        SELECT c.relname, to_date(substr(c.relname, 12), 'YYYYMMDD')
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'ml_private.prediction'::regclass AND c.relname ~ '^prediction_\d{8}$'
        ORDER BY 1
    LOOP
        CONTINUE WHEN day >= coalesce(oldest, today);
        BEGIN
            EXECUTE format('DROP TABLE ml_private.%I', part);
            dropped := dropped + 1;
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            EXIT;
        END;
    END LOOP;
    DELETE FROM ml_private.prediction p USING ml_private.retentions() l
    WHERE p.model_id = l.model_id AND p.at < now() - make_interval(days => l.retention_days);
    GET DIAGNOSTICS deleted = ROW_COUNT;
    -- Twice for each dropped model: a sidecar may have written rows of it a little later.
    DELETE FROM ml_private.prediction p USING ml_private.dropped_model d
    WHERE p.model_id = d.model_id AND d.model_id NOT IN (SELECT l.model_id FROM ml_private.retentions() l);
    GET DIAGNOSTICS gone = ROW_COUNT;
    deleted := deleted + gone;
    DELETE FROM ml_private.dropped_model d
    WHERE d.dropped_at < now() - interval '1 hour' AND d.model_id NOT IN (SELECT l.model_id FROM ml_private.retentions() l);
    DELETE FROM ml_private.recorder r WHERE r.at < now() - interval '1 day';
END $$;
COMMENT ON FUNCTION ml_private.keep_partitions() IS 'Makes the log''s partitions ahead and takes away what is kept no longer. The sidecar calls it at its start and every hour.';

SELECT ml_private.keep_partitions();
