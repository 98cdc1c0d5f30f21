-- Taking a change back, and what can be seen of changes.

-- Whether a version runs an artifact or was made of it: whatever has a foreign key to artifacts but their own chunks.
CREATE OR REPLACE FUNCTION ml_private.artifact_used(hash bytea) RETURNS boolean
LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    k     record;
    used boolean;
BEGIN
    FOR k IN
        SELECT c.conrelid::regclass AS relation, a.attname
        FROM pg_constraint c JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
        WHERE c.contype = 'f' AND c.confrelid = 'ml_private.artifact'::regclass AND c.conrelid <> 'ml_private.artifact_chunk'::regclass
    LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM %s t WHERE t.%I = $1)', k.relation, k.attname) INTO used USING hash;
        IF used THEN
            RETURN true;
        END IF;
    END LOOP;
    RETURN false;
END $$;
COMMENT ON FUNCTION ml_private.artifact_used(bytea) IS 'Whether a version needs an artifact.';

-- What a row of the registry is called in a message.
CREATE OR REPLACE FUNCTION ml_private.describe_row(change text, relation text, row_ jsonb) RETURNS text
LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    model text := coalesce((SELECT m.name FROM ml_private.model m WHERE m.id = (row_ ->> 'model_id')::bigint),
                           (SELECT coalesce(r.after, r.before) ->> 'name' FROM ml_private.change_row r
                            WHERE r.change = describe_row.change AND r.relation = 'model'
                              AND coalesce(r.after, r.before) ->> 'id' = row_ ->> 'model_id' LIMIT 1));
BEGIN
    RETURN CASE relation
        WHEN 'model' THEN format('model "%s"', row_ ->> 'name')
        WHEN 'version' THEN format('version %s of model "%s"', row_ ->> 'version', model)
        WHEN 'alias' THEN format('alias "%s" of model "%s"', row_ ->> 'alias', model)
        WHEN 'alias_history' THEN format('the history of alias "%s" of model "%s"', row_ ->> 'alias', model)
        WHEN 'model_grant' THEN format('the grant of model "%s" to %s', model,
                                       CASE row_ ->> 'grantee' WHEN '-' THEN 'PUBLIC' ELSE row_ ->> 'grantee' END)
        WHEN 'artifact' THEN format('artifact %s', substr(row_ ->> 'sha256', 3))
        ELSE format('%s "%s"', replace(relation, '_', ' '), coalesce(row_ ->> 'name', row_ ->> 'id', row_::text)) END;
END $$;
COMMENT ON FUNCTION ml_private.describe_row(text, text, jsonb) IS 'What a journaled row is called in a message.';

-- Takes one row back, or raises why not.
CREATE OR REPLACE FUNCTION ml_private.undo_row(r ml_private.change_row) RETURNS void
LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp SET bytea_output = 'hex' SET datestyle = 'ISO' SET timezone = 'UTC' SET intervalstyle = 'postgres'
    SET extra_float_digits = 1
AS $$
DECLARE
    id      regclass := format('ml_private.%I', r.relation)::regclass;
    known   jsonb := coalesce(r.after, r.before);
    what    text := ml_private.describe_row(r.change, r.relation, known);
    refusal text := format('change "%s" cannot be reverted: ', r.change);
    place   text; -- the condition that finds the row
    names   text[];
    cells   text;
    listed  text;
    typed   text;
    current jsonb;
    later   text;
    k       record;
    found_  boolean;
BEGIN
    SELECT string_agg(format('t.%I = ($1 ->> %L)::%s', a.attname, a.attname, format_type(a.atttypid, a.atttypmod)), ' AND ') INTO place
    FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
    WHERE i.indrelid = id AND i.indisprimary;
    SELECT array_agg(a.attname ORDER BY a.attnum), string_agg(format('t.%I::text', a.attname), ', ' ORDER BY a.attnum),
           string_agg(format('%I', a.attname), ', ' ORDER BY a.attnum) FILTER (WHERE r.before ? a.attname),
           string_agg(format('($1 ->> %L)::%s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum)
               FILTER (WHERE r.before ? a.attname)
    INTO names, cells, listed, typed
    FROM pg_attribute a WHERE a.attrelid = id AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '';
    IF r.relation = 'job' THEN
        -- A job that is gone by now stands in nobody's way.
        UPDATE ml_private.job j
        SET model_id = (r.before ->> 'model_id')::bigint, schedule_id = (r.before ->> 'schedule_id')::bigint
        WHERE j.id = (known ->> 'id')::bigint;
        RETURN;
    END IF;
    EXECUTE format('SELECT jsonb_object($2, ARRAY[%s]) FROM %s t WHERE %s FOR UPDATE', cells, id, place) INTO current USING known, names;

    IF r.relation = 'artifact' THEN
        -- Bytes are shared by content, and quarantine is the sidecar's: neither stands in the way.
        IF r.operation = 'INSERT' THEN
            DELETE FROM ml_private.artifact a WHERE a.sha256 = (known ->> 'sha256')::bytea AND NOT ml_private.artifact_used(a.sha256);
        ELSIF current @> r.after THEN
            EXECUTE format('UPDATE %s t SET (%s) = ROW(%s) WHERE %s', id, listed, typed, place) USING r.before;
        END IF;
        RETURN;
    END IF;

    SELECT string_agg(format('"%s"', c.name), ', ' ORDER BY c.number) INTO later
    FROM ml_private.change c
    WHERE c.name <> r.change AND c.number >= (SELECT mine.number FROM ml_private.change mine WHERE mine.name = r.change)
      AND EXISTS (SELECT FROM ml_private.change_row x
                  WHERE x.change = c.name AND x.relation = r.relation
                    AND NOT EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
                                    WHERE i.indrelid = id AND i.indisprimary
                                      AND coalesce(x.after, x.before) -> a.attname::text IS DISTINCT FROM known -> a.attname::text));
    later := coalesce('Revert the change ' || later || ' first.',
                      'Something other than a named change did that: undo it first, or write the way down by hand.');

    IF r.operation = 'DELETE' THEN
        IF current IS NOT NULL THEN
            RAISE EXCEPTION '%', refusal || what || ' was made again since' USING ERRCODE = '55000', HINT = later;
        END IF;
        EXECUTE format('INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE VALUES (%s)', id, listed, typed) USING r.before;
        RETURN;
    END IF;
    IF current IS NULL THEN
        RAISE EXCEPTION '%', refusal || what || ' was removed since' USING ERRCODE = '55000', HINT = later;
    END IF;
    IF NOT current @> r.after THEN
        RAISE EXCEPTION '%', refusal || what || ' was changed since'
            USING ERRCODE = '55000', HINT = later,
                  DETAIL = (SELECT string_agg(format('%s is %s, the change left it at %s', e.key, coalesce(current ->> e.key, 'NULL'),
                                                     coalesce(e.value, 'NULL')), '; ')
                            FROM jsonb_each_text(r.after) e WHERE current ->> e.key IS DISTINCT FROM e.value) || '.';
    END IF;
    IF r.operation = 'UPDATE' THEN
        -- A key is never changed, and an identity column cannot be written.
        SELECT string_agg(format('%I = ($1 ->> %L)::%s', a.attname, a.attname, format_type(a.atttypid, a.atttypmod)), ', ') INTO typed
        FROM pg_attribute a
        WHERE a.attrelid = id AND a.attnum > 0 AND NOT a.attisdropped AND r.before ? a.attname
          AND r.before ->> a.attname IS DISTINCT FROM r.after ->> a.attname;
        EXECUTE format('UPDATE %s t SET %s WHERE %s', id, typed, place) USING r.before, known;
        RETURN;
    END IF;

    -- What came with the change was taken back before; whatever still names the row came from elsewhere, and deleting would take it along.
    FOR k IN
        SELECT c.conrelid::regclass AS relation, t.relname,
               array_agg(format('t.%I = ($1 ->> %L)::%s', x.attname, y.attname, format_type(y.atttypid, y.atttypmod))) AS conditions
        FROM pg_constraint c
        JOIN pg_class t ON t.oid = c.conrelid
        CROSS JOIN LATERAL unnest(c.conkey, c.confkey) AS key(here, there)
        JOIN pg_attribute x ON x.attrelid = c.conrelid AND x.attnum = key.here
        JOIN pg_attribute y ON y.attrelid = c.confrelid AND y.attnum = key.there
        WHERE c.confrelid = id AND c.contype = 'f' AND c.conparentid = 0 AND c.conrelid <> 'ml_private.route'::regclass
          AND c.confdeltype <> 'n' -- such a table says that the row may go
        GROUP BY c.oid, t.relname
        UNION ALL
        -- Tables that name a version without a foreign key, so that it can be dropped before them.
        SELECT t.oid::regclass, t.relname, ARRAY['t.model_id = ($1 ->> ''model_id'')::bigint', 't.version = ($1 ->> ''version'')::integer']
        FROM pg_class t
        WHERE r.relation = 'version' AND t.relnamespace = 'ml_private'::regnamespace AND t.relkind IN ('r', 'p') AND NOT t.relispartition
          AND t.relname NOT IN ('version', 'route', 'alias')
          AND (SELECT count(*) FROM pg_attribute a
               WHERE a.attrelid = t.oid AND NOT a.attisdropped
                 AND (a.attname, a.atttypid) IN (('model_id', 'bigint'::regtype), ('version', 'integer'::regtype))) = 2
        UNION ALL
        -- Predictions that say through which entry of an alias's history their version was chosen; their partitions go by time.
        SELECT t.oid::regclass, t.relname,
               ARRAY['t.entry = ($1 ->> ''id'')::bigint', 't.at >= ($1 ->> ''changed_at'')::timestamptz - interval ''1 hour''']
        FROM pg_class t
        WHERE r.relation = 'alias_history' AND t.relnamespace = 'ml_private'::regnamespace AND t.relkind IN ('r', 'p') AND NOT t.relispartition
          AND (SELECT count(*) FROM pg_attribute a
               WHERE a.attrelid = t.oid AND NOT a.attisdropped
                 AND (a.attname, a.atttypid) IN (('entry', 'bigint'::regtype), ('at', 'timestamptz'::regtype))) = 2
        UNION ALL
        SELECT t.oid::regclass, t.relname, ARRAY['t.version_id = ($1 ->> ''id'')::bigint']
        FROM pg_class t JOIN pg_attribute a ON a.attrelid = t.oid
        WHERE r.relation = 'version' AND t.relnamespace = 'ml_private'::regnamespace AND t.relkind IN ('r', 'p') AND NOT t.relispartition
          AND a.attname = 'version_id' AND a.atttypid = 'bigint'::regtype AND NOT a.attisdropped
    LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM %s t WHERE %s)', k.relation, array_to_string(k.conditions, ' AND ')) INTO found_ USING known;
        IF found_ THEN
            RAISE EXCEPTION '%', refusal || CASE
                    WHEN k.relname ~ 'predict' THEN what || ' is named by stored predictions'
                    WHEN r.relation = 'alias_history' THEN replace(what, 'the history of ', '') || ' was moved since'
                    WHEN k.relname = 'alias' THEN what || ' has an alias that was set since'
                    WHEN k.relname = 'alias_history' THEN what || ' is in the history of an alias that was set since'
                    WHEN k.relname = 'version' THEN what || ' has versions that were registered since'
                    WHEN k.relname = 'model_grant' THEN what || ' was granted since'
                    WHEN k.relname ~ 'schedule' THEN what || ' is named by a schedule'
                    WHEN k.relname ~ 'job' THEN what || ' is named by a scoring job'
                    ELSE format('%s is named by rows of %s', what, k.relation) END
                USING ERRCODE = '2BP01', HINT = CASE
                    WHEN k.relname ~ 'predict' THEN 'What was predicted must stay explained: delete those predictions first if they may go, '
                        || 'or leave the change in place and promote another version.'
                    WHEN k.relname ~ 'job' THEN 'Remove that job first if it may go, or leave the change in place and promote another version.'
                    ELSE later END;
        END IF;
    END LOOP;
    EXECUTE format('DELETE FROM %s t WHERE %s', id, place) USING known;
END $$;
COMMENT ON FUNCTION ml_private.undo_row(ml_private.change_row) IS 'Takes one journaled row back, or raises why it cannot.';

-- Models that a change touches, with their owners.
CREATE OR REPLACE FUNCTION ml_private.change_models(name text) RETURNS TABLE (id bigint, owner regrole)
LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
        SELECT DISTINCT x.id, coalesce(m.owner, (SELECT coalesce(o.before, o.after) ->> 'owner' FROM ml_private.change_row o
                                                 WHERE o.change = change_models.name AND o.relation = 'model'
                                                   AND coalesce(o.before, o.after) ->> 'id' = x.id::text ORDER BY o.number LIMIT 1)::regrole)
        FROM (SELECT (coalesce(r.after, r.before) ->> CASE r.relation WHEN 'model' THEN 'id' ELSE 'model_id' END)::bigint AS id
              FROM ml_private.change_row r WHERE r.change = change_models.name) x
        LEFT JOIN ml_private.model m ON m.id = x.id
        WHERE x.id IS NOT NULL;
END $$;
COMMENT ON FUNCTION ml_private.change_models(text) IS 'Models that a change touches, with their owners.';

-- The change's row, locked, for a caller who may take it back: an administrator, or who began it and still owns all models that it touches.
CREATE OR REPLACE FUNCTION ml_private.lock_change(wanted text, who name) RETURNS ml_private.change
LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    target ml_private.change;
BEGIN
    SELECT * INTO target FROM ml_private.change c WHERE c.name = wanted FOR UPDATE;
    IF target.name IS NULL THEN
        RAISE EXCEPTION 'there is no change "%"', wanted
            USING ERRCODE = '42704', HINT = 'SELECT name FROM ml.changes ORDER BY begun_at; lists those that were made and not taken back.';
    END IF;
    IF NOT ml_private.is_admin(who)
       AND (NOT EXISTS (SELECT FROM pg_roles x WHERE x.oid = target.begun_by AND pg_has_role(who, x.oid, 'USAGE'))
            OR EXISTS (SELECT FROM ml_private.change_models(wanted) m
                       WHERE NOT EXISTS (SELECT FROM pg_roles x WHERE x.oid = m.owner AND pg_has_role(who, x.oid, 'USAGE')))) THEN
        RAISE EXCEPTION 'permission denied for change "%"', wanted
            USING ERRCODE = '42501', HINT = 'Members of ml_admin may take it back, and who made it while they own all the models in it.';
    END IF;
    RETURN target;
END $$;
COMMENT ON FUNCTION ml_private.lock_change(text, name) IS 'Locks a change for a caller who may take it back.';

CREATE OR REPLACE FUNCTION ml.revert_change(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who    name := ml_private.changer();
    target ml_private.change := ml_private.lock_change(name, who);
    models bigint[] := ARRAY(SELECT x.id FROM ml_private.change_models(name) x);
    keys   text;
    r      ml_private.change_row;
    m      ml_private.model;
BEGIN
    -- Model rows first, then tables, in the order in which every other change takes them.
    PERFORM FROM ml_private.model x WHERE x.id = ANY (models) ORDER BY x.id FOR UPDATE;
    PERFORM ml_private.hold_numbers(q.relation)
    FROM (SELECT q.relation FROM ml_private.change_sequence q JOIN ml_private.numbers() now USING (relation, attribute)
          WHERE q.change = revert_change.name AND (now.last_value, now.is_called) > (q.last_value, q.is_called)
          ORDER BY coalesce(array_position(ARRAY['model', 'version', 'alias_history'], q.relation), 9), q.relation) q;
    SELECT string_agg(format('ml_private.%I', c.conname), ', ') INTO keys
    FROM (SELECT DISTINCT c.conname FROM pg_constraint c
          WHERE c.connamespace = 'ml_private'::regnamespace AND c.contype = 'f' AND c.condeferrable) c;
    EXECUTE 'SET CONSTRAINTS ' || keys || ' DEFERRED';
    FOR r IN SELECT * FROM ml_private.change_row x WHERE x.change = revert_change.name ORDER BY x.number DESC LOOP
        PERFORM ml_private.undo_row(r);
    END LOOP;
    EXECUTE 'SET CONSTRAINTS ' || keys || ' IMMEDIATE';

    PERFORM ml_private.rewind(q.relation, q.attribute, q.last_value, q.is_called)
    FROM ml_private.change_sequence q
    WHERE q.change = revert_change.name
      AND NOT EXISTS (SELECT FROM ml_private.change c WHERE c.name <> target.name AND c.number >= target.number);
    IF EXISTS (SELECT FROM ml_private.change_row x WHERE x.change = target.name AND x.relation = 'bi_column') THEN
        -- The view of a log follows from the columns; one that loses columns cannot be replaced.
        FOR m IN SELECT x.* FROM ml_private.model x WHERE x.id = ANY (models) LOOP
            EXECUTE format('DROP VIEW IF EXISTS ml_bi.%I', m.name);
            IF EXISTS (SELECT FROM ml_private.bi_column b WHERE b.model_id = m.id) THEN
                PERFORM ml_private.show_bi(m);
            END IF;
        END LOOP;
    END IF;
    DELETE FROM ml_private.change c WHERE c.name = target.name;
    PERFORM ml_private.route_model(x.id) FROM ml_private.model x WHERE x.id = ANY (models);
    PERFORM pg_notify('rowcast', 'model ' || x) FROM unnest(models) x;
END $$;
COMMENT ON FUNCTION ml.revert_change(text) IS $$Takes a change back that began with ml.begin_change(): models, versions with their numbers, aliases with their history, grants and everything else are as before. Refuses with the reason where something rests on it by now: a prediction, a scoring job or another change that names a version.
Example: SELECT ml.revert_change('000002_churn_v2');$$;

CREATE OR REPLACE FUNCTION ml.forget_change(name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who    name := ml_private.changer();
    target ml_private.change := ml_private.lock_change(name, who);
BEGIN
    DELETE FROM ml_private.change c WHERE c.name = target.name;
END $$;
COMMENT ON FUNCTION ml.forget_change(text) IS $$Forgets that a change was made: what it did stays and can no longer be taken back, its name is free, and artifacts that were kept for it may be cleaned up.
Example: SELECT ml.forget_change('000002_churn_v2');$$;

CREATE OR REPLACE FUNCTION ml.accept_change(name text, checksum text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who name := ml_private.changer();
BEGIN
    IF NOT EXISTS (SELECT FROM ml_private.change c WHERE c.name = accept_change.name) THEN
        RETURN false;
    END IF;
    PERFORM ml_private.lock_change(name, who);
    UPDATE ml_private.change c SET checksum = decode(accept_change.checksum, 'hex') WHERE c.name = accept_change.name;
    RETURN true;
END $$;
COMMENT ON FUNCTION ml.accept_change(text, text) IS $$Takes the file as it is now for what made a change: `rowcast model migration force` calls it. False where there is no such change.
Example: SELECT ml.accept_change('000002_churn_v2', '0f…64 digits');$$;

CREATE OR REPLACE FUNCTION ml.change_rows(name text)
RETURNS TABLE (number integer, relation text, model text, operation text, before jsonb, after jsonb)
LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who name := ml_private.changer();
BEGIN
    PERFORM ml_private.lock_change(name, who);
    RETURN QUERY
        SELECT r.number, r.relation,
               coalesce((SELECT m.name FROM ml_private.model m
                         WHERE m.id = (coalesce(r.after, r.before) ->> CASE r.relation WHEN 'model' THEN 'id' ELSE 'model_id' END)::bigint),
                        (SELECT coalesce(o.after, o.before) ->> 'name' FROM ml_private.change_row o
                         WHERE o.change = r.change AND o.relation = 'model' AND coalesce(o.after, o.before) ->> 'id'
                             = coalesce(r.after, r.before) ->> CASE r.relation WHEN 'model' THEN 'id' ELSE 'model_id' END LIMIT 1)),
               r.operation, r.before, r.after
        FROM ml_private.change_row r WHERE r.change = change_rows.name ORDER BY r.number;
END $$;
COMMENT ON FUNCTION ml.change_rows(text) IS $$What a change did, row by row.
Example: SELECT relation, model, operation, after FROM ml.change_rows('000002_churn_v2');$$;

CREATE OR REPLACE VIEW ml.changes WITH (security_barrier) AS
SELECT c.name, encode(c.checksum, 'hex') AS checksum, c.begun_at, c.begun_by::text AS begun_by,
       (SELECT count(*) FROM ml_private.change_row r WHERE r.change = c.name) AS rows
FROM ml_private.change c
WHERE EXISTS (SELECT FROM pg_roles r
              WHERE (r.oid = c.begun_by OR r.rolname = 'ml_admin' OR r.oid = (SELECT n.nspowner FROM pg_namespace n WHERE n.nspname = 'ml'))
                AND pg_has_role(current_user, r.oid, 'USAGE'));
COMMENT ON VIEW ml.changes IS 'Named changes of models (ml.begin_change) that were not taken back: all for ml_admin, else your own. Example: SELECT name, begun_at FROM ml.changes ORDER BY begun_at;';
COMMENT ON COLUMN ml.changes.name IS 'Name, as in ml.revert_change(''name'').';
COMMENT ON COLUMN ml.changes.checksum IS 'SHA-256 of the file that made it, hexadecimal; NULL where it is not known.';
COMMENT ON COLUMN ml.changes.begun_at IS 'When.';
COMMENT ON COLUMN ml.changes.begun_by IS 'Who.';
COMMENT ON COLUMN ml.changes.rows IS 'How many rows of the registry it touched.';
GRANT SELECT ON ml.changes TO PUBLIC;
