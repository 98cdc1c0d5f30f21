-- Registering and changing models. Each function checks the caller's right first, takes the model's row lock, changes the rows and derives the
-- routes again, all in the caller's transaction; NOTIFY tells the sidecars at commit.

-- The caller of a function that changes something. REFRESH MATERIALIZED VIEW, ANALYZE, autovacuum and CREATE INDEX run code of a table's owner while the
-- session's role is somebody else, often a superuser: such code must not change models with that role's rights. UNLISTEN does nothing here, and
-- PostgreSQL refuses it (42501) exactly in such a security-restricted operation.
CREATE OR REPLACE FUNCTION ml_private.changer() RETURNS name
LANGUAGE plpgsql
AS $$
BEGIN
    UNLISTEN rowcast_changes;
    RETURN ml_private.caller();
END $$;
COMMENT ON FUNCTION ml_private.changer() IS 'The role whose rights count for a change or a model file; refuses code that runs on behalf of a table''s owner.';

CREATE OR REPLACE FUNCTION ml_private.is_admin(role name) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
RETURN pg_has_role(role, current_user, 'USAGE')
    OR EXISTS (SELECT FROM pg_roles r WHERE r.rolname = 'ml_admin' AND pg_has_role(role, r.oid, 'USAGE'));
COMMENT ON FUNCTION ml_private.is_admin(name) IS 'Whether the role is the owner of the schema or ml_admin. Runs inside SECURITY DEFINER functions, whose current_user is the owner.';

CREATE OR REPLACE FUNCTION ml_private.check_name(kind text, name text) RETURNS void
LANGUAGE plpgsql IMMUTABLE
AS $$
BEGIN
    IF name IS NULL OR name !~ '^[a-z_][a-z0-9_$]{0,62}$' THEN
        RAISE EXCEPTION '% is not a valid % name', coalesce('"' || name || '"', 'NULL'), kind
            USING ERRCODE = '42602', DETAIL = format('A%s name is a lower-case SQL identifier of at most 63 characters.', CASE kind WHEN 'alias' THEN 'n alias' ELSE ' ' || kind END),
                  HINT = CASE WHEN lower(regexp_replace(name, '[^a-zA-Z0-9_$]+', '_', 'g')) ~ '^[a-z_][a-z0-9_$]{0,62}$'
                              THEN format('Did you mean "%s"?', lower(regexp_replace(name, '[^a-zA-Z0-9_$]+', '_', 'g')))
                              ELSE 'Begin with a letter; go on with letters, digits and _.' END;
    END IF;
END $$;
COMMENT ON FUNCTION ml_private.check_name(text, text) IS 'Raises where the name of a model or alias is no lower-case SQL identifier.';

-- The model's row, locked, for a caller who may change it.
CREATE OR REPLACE FUNCTION ml_private.lock_model(wanted text, who name) RETURNS ml_private.model
LANGUAGE plpgsql
AS $$
DECLARE
    target ml_private.model;
BEGIN
    SELECT * INTO target FROM ml_private.model m WHERE m.name = wanted FOR UPDATE;
    IF target.id IS NULL OR NOT ml_private.may_use(target.id, who) THEN
        PERFORM ml_private.refuse(coalesce(wanted, ''));
    ELSIF NOT (pg_has_role(who, target.owner::oid, 'USAGE') OR ml_private.is_admin(who)) THEN
        RAISE EXCEPTION 'permission denied: "%" may use model "%" but not change it', who, wanted
            USING ERRCODE = '42501', HINT = format('Its owner is %s; members of ml_admin may change it too.', pg_get_userbyid(target.owner));
    END IF;
    RETURN target;
END $$;
COMMENT ON FUNCTION ml_private.lock_model(text, name) IS 'Locks a model''s row for a caller who may change the model.';

CREATE OR REPLACE FUNCTION ml_private.route_model(changed bigint) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    WITH reader AS (
        SELECT array_agg(x.role ORDER BY x.role::oid) AS roles
        FROM (SELECT m.owner AS role FROM ml_private.model m WHERE m.id = changed
              UNION SELECT g.grantee FROM ml_private.model_grant g WHERE g.model_id = changed
              UNION SELECT quote_ident(current_user)::regrole
              UNION SELECT r.oid::regrole FROM pg_roles r WHERE r.rolname = 'ml_admin') x
    ), wanted AS (
        SELECT m.name || '@' || v.version AS ref, v.version, v.spec, m.name, NULL::bigint AS entry
        FROM ml_private.version v JOIN ml_private.model m ON m.id = v.model_id
        WHERE v.model_id = changed
        UNION ALL
        SELECT m.name || x.suffix, v.version, v.spec, m.name, a.entry
        FROM ml_private.alias a
        JOIN ml_private.model m ON m.id = a.model_id
        JOIN ml_private.version v ON v.model_id = a.model_id AND v.version = a.version
        CROSS JOIN LATERAL (SELECT '@' || a.alias UNION ALL SELECT '' WHERE a.alias = 'champion') AS x(suffix)
        WHERE a.model_id = changed
    ), gone AS (
        DELETE FROM ml_private.route r WHERE r.model_id = changed AND NOT EXISTS (SELECT FROM wanted w WHERE w.ref = r.ref)
    )
    -- Without sealed the functions of schema ml go the way of ml_private.call(), which knows how to log.
    INSERT INTO ml_private.route AS r (ref, model_id, version, call, readers, key, log, sealed)
    SELECT w.ref, changed, w.version, c.call, reader.roles, g.key, c.log, CASE WHEN c.log IS NULL THEN ml_private.token_seal(g.key) || c.call END
    FROM wanted w, reader, ml_private.gateway g,
         LATERAL (SELECT format(' %s %s@%s ', w.spec, w.name, w.version) AS call, ml_private.log_header(changed, w.ref, w.entry) AS log) c
    ON CONFLICT (ref) DO UPDATE
    SET version = excluded.version, call = excluded.call, readers = excluded.readers, key = excluded.key, log = excluded.log, sealed = excluded.sealed
    WHERE (r.version, r.call, r.readers, r.key, r.log, r.sealed)
        IS DISTINCT FROM (excluded.version, excluded.call, excluded.readers, excluded.key, excluded.log, excluded.sealed);
    PERFORM ml_private.refresh_bi(changed);
    PERFORM pg_notify('rowcast', 'model ' || changed);
END $$;
COMMENT ON FUNCTION ml_private.route_model(bigint) IS 'Derives a model''s routes from its versions, aliases and grants, and notifies the sidecars.';

CREATE OR REPLACE FUNCTION ml_private.move_alias(target ml_private.model, alias text, version integer, action text, before bigint, who name) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    added bigint;
BEGIN
    INSERT INTO ml_private.alias_history (model_id, alias, version, action, before, changed_by)
    VALUES (target.id, move_alias.alias, move_alias.version, move_alias.action, move_alias.before, quote_ident(who)::regrole)
    RETURNING id INTO added;
    INSERT INTO ml_private.alias AS a (model_id, alias, version, entry)
    VALUES (target.id, move_alias.alias, move_alias.version, added)
    ON CONFLICT ON CONSTRAINT alias_pkey DO UPDATE SET version = excluded.version, entry = excluded.entry;
END $$;
COMMENT ON FUNCTION ml_private.move_alias(ml_private.model, text, integer, text, bigint, name) IS 'Points an alias at a version and writes the history entry.';

-- Stores a version that the sidecar validated. report is what validation found; see `rowcast model show --json`.
CREATE OR REPLACE FUNCTION ml_private.add_version(target ml_private.model, artifact_sha256 bytea, report jsonb, options jsonb, who name) RETURNS integer
LANGUAGE plpgsql
AS $$
DECLARE
    number integer;
    noted  text;
BEGIN
    UPDATE ml_private.model m
    SET last_version = m.last_version + 1, description = coalesce(m.description, options ->> 'description')
    WHERE m.id = target.id
    RETURNING m.last_version INTO number;
    INSERT INTO ml_private.version (model_id, version, sha256, format, source_sha256, spec, signature, example, description, parameters, tags, created_by)
    VALUES (target.id, number, decode(report ->> 'sha256', 'hex'), coalesce(report -> 'source' ->> 'format', 'onnx'),
            CASE WHEN report ? 'source' THEN artifact_sha256 END, report ->> 'key', report -> 'signature', report -> 'example', options ->> 'description',
            coalesce(report -> 'metadata', '{}') || jsonb_strip_nulls(jsonb_build_object('trained_with', options -> 'trained_with'))
                || coalesce(options -> 'parameters', '{}'),
            coalesce(report -> 'tags', '{}') || coalesce(options -> 'tags', '{}'), quote_ident(who)::regrole);
    IF number = 1 THEN
        PERFORM ml_private.move_alias(target, 'champion', 1, 'set', NULL, who);
    END IF;
    PERFORM ml_private.route_model(target.id);
    -- The functions that call this silence dblink; what validation has to say is for the caller. The setting ends with the calling function.
    PERFORM set_config('client_min_messages', 'warning', true);
    FOR noted IN SELECT jsonb_array_elements_text(report -> 'warnings') LOOP
        RAISE WARNING 'version % of model "%": %', number, target.name, noted;
    END LOOP;
    RETURN number;
END $$;
COMMENT ON FUNCTION ml_private.add_version(ml_private.model, bytea, jsonb, jsonb, name) IS 'Stores a validated version and raises its warnings; the first becomes the champion.';

-- Stores what the sidecar converted an artifact to: it holds the bytes until the next call but C on this connection.
CREATE OR REPLACE FUNCTION ml_private.store_converted(report jsonb, key bytea, who name) RETURNS void
LANGUAGE plpgsql
AS $$
DECLARE
    chunk constant integer := 1048576;
    hash  bytea := decode(report ->> 'sha256', 'hex');
    bytes bigint := (report ->> 'size')::bigint;
BEGIN
    INSERT INTO ml_private.artifact (sha256, size, created_by) VALUES (hash, bytes, quote_ident(who)::regrole) ON CONFLICT DO NOTHING;
    FOR i IN 0 .. greatest((bytes - 1) / chunk, 0)::integer LOOP
        IF NOT EXISTS (SELECT FROM ml_private.artifact_chunk c WHERE c.sha256 = hash AND c.number = i) THEN
            INSERT INTO ml_private.artifact_chunk (sha256, number, data)
            VALUES (hash, i, decode(ml_private.exchange(key, 'C ' || i, true), 'hex')) ON CONFLICT DO NOTHING;
        END IF;
    END LOOP;
END $$;
COMMENT ON FUNCTION ml_private.store_converted(jsonb, bytea, name) IS 'Fetches a converted model file from the sidecar, right after its validation, and stores it.';

-- Finds or creates the model and locks its row: another registration of the same model waits here, and its number stays free when this one rolls back.
CREATE OR REPLACE FUNCTION ml_private.open_registration(name text, options jsonb, who name) RETURNS ml_private.model
LANGUAGE plpgsql
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM ml_private.model m WHERE m.name = open_registration.name AND pg_has_role(who, m.owner::oid, 'USAGE'))
       AND NOT ml_private.is_admin(who) THEN
        RAISE EXCEPTION 'permission denied to register model "%"', name
            USING ERRCODE = '42501', HINT = format('GRANT ml_admin TO %I; allows it.', who);
    END IF;
    PERFORM ml_private.check_name('model', name);
    IF jsonb_typeof(options) <> 'object' THEN
        RAISE EXCEPTION 'options must be a JSON object, not %', coalesce(jsonb_typeof(options), 'NULL')
            USING ERRCODE = '22023', HINT = 'The keys are those of model.yaml, for instance ''{"task": "regression"}''.';
    END IF;
    INSERT INTO ml_private.model (name, owner) VALUES (open_registration.name, quote_ident(who)::regrole) ON CONFLICT DO NOTHING;
    RETURN ml_private.lock_model(name, who);
END $$;
COMMENT ON FUNCTION ml_private.open_registration(text, jsonb, name) IS 'Finds or creates a model for a caller who may register it, and locks it.';

CREATE OR REPLACE FUNCTION ml_private.gateway_key() RETURNS bytea
LANGUAGE sql STABLE
RETURN (SELECT g.key FROM ml_private.gateway g);
COMMENT ON FUNCTION ml_private.gateway_key() IS 'The key that signs calls.';

CREATE OR REPLACE FUNCTION ml.register_model(name text, artifact bytea, options jsonb DEFAULT '{}') RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET client_min_messages = error
AS $$
DECLARE
    who    name := ml_private.changer();
    chunk  constant integer := 1048576;
    hash   bytea := sha256(artifact);
    upload text := encode(hash, 'hex');
    key    bytea;
    target ml_private.model;
    report jsonb;
BEGIN
    target := ml_private.open_registration(name, options, who);
    IF artifact IS NULL THEN
        RAISE EXCEPTION 'the artifact of model "%" is NULL', name USING ERRCODE = '22004', HINT = 'Pass the bytes of the model file.';
    END IF;
    -- The rows are not committed yet, so the sidecar gets the bytes through the gateway, a chunk a call.
    key := ml_private.gateway_key();
    PERFORM ml_private.exchange(key, 'D ' || upload, false);
    FOR i IN 0 .. greatest((octet_length(artifact) - 1) / chunk, 0) LOOP
        PERFORM ml_private.exchange(key, format('U %s %s', upload, encode(substring(artifact FROM i * chunk + 1 FOR chunk), 'hex')), false);
    END LOOP;
    report := ml_private.exchange(key, format('V %s %s', upload, options || jsonb_build_object('name', name)), true);
    IF report ? 'source' THEN
        PERFORM ml_private.store_converted(report, key, who);
    END IF;
    PERFORM ml_private.exchange(key, 'D ' || upload, false);
    IF coalesce(report -> 'source' ->> 'sha256', report ->> 'sha256') <> upload THEN -- the connection was lost and opened again between two chunks
        RAISE EXCEPTION 'the sidecar was restarted while it received model "%"', name USING ERRCODE = '58000', HINT = 'Register it again.';
    END IF;
    INSERT INTO ml_private.artifact (sha256, size, created_by) VALUES (hash, octet_length(artifact), quote_ident(who)::regrole) ON CONFLICT DO NOTHING;
    INSERT INTO ml_private.artifact_chunk (sha256, number, data)
    SELECT hash, i, substring(artifact FROM i * chunk + 1 FOR chunk) FROM generate_series(0, (octet_length(artifact) - 1) / chunk) i
    ON CONFLICT DO NOTHING;
    RETURN ml_private.add_version(target, hash, report, options, who);
END $$;
COMMENT ON FUNCTION ml.register_model(text, bytea, jsonb) IS $$Validates a model file and stores it as the model's next version, whose number it returns. An XGBoost or LightGBM file, or a packed MLflow folder, is converted to ONNX and kept beside it. The first version becomes the champion; a later one moves no alias. options takes the keys of model.yaml: description, task, inputs, features, labels, target, outputs, example, parameters, tags, …
Example: SELECT ml.register_model('iris', pg_read_binary_file('/models/iris.onnx'), '{"features": [{"name": "sepal_length", "type": "real"}, …]}');$$;

CREATE OR REPLACE FUNCTION ml.register_artifact(name text, sha256 text, options jsonb DEFAULT '{}') RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET client_min_messages = error
AS $$
DECLARE
    who    name := ml_private.changer();
    key    bytea;
    target ml_private.model;
    report jsonb;
BEGIN
    target := ml_private.open_registration(name, options, who);
    IF sha256 !~ '^[0-9a-f]{64}$' THEN
        RAISE EXCEPTION '"%" is not a SHA-256', sha256 USING ERRCODE = '22023', HINT = 'Write 64 lower-case hexadecimal digits.';
    END IF;
    -- To know a hash (the log of predictions shows it) is no right to the file.
    PERFORM FROM ml_private.artifact a
    WHERE a.sha256 = decode(register_artifact.sha256, 'hex')
      AND (ml_private.is_admin(who) OR EXISTS (SELECT FROM pg_roles r WHERE r.oid = a.created_by AND pg_has_role(who, r.oid, 'USAGE'))
           OR EXISTS (SELECT FROM ml_private.version v WHERE a.sha256 IN (v.sha256, v.source_sha256) AND ml_private.may_use(v.model_id, who)))
    FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'artifact % is not stored', sha256 USING ERRCODE = '42704', HINT = 'Upload it: rowcast model upload FILE.';
    END IF;
    key := ml_private.gateway_key();
    PERFORM ml_private.exchange(key, 'N', false);
    report := ml_private.exchange(key, format('A %s %s', sha256, options || jsonb_build_object('name', name)), true);
    IF report ? 'source' THEN
        PERFORM ml_private.store_converted(report, key, who);
        PERFORM ml_private.exchange(key, 'D ' || sha256, false);
    END IF;
    RETURN ml_private.add_version(target, decode(sha256, 'hex'), report, options, who);
END $$;
COMMENT ON FUNCTION ml.register_artifact(text, text, jsonb) IS $$Like ml.register_model(), for an artifact that was uploaded and committed before, named by its SHA-256.
Example: SELECT ml.register_artifact('iris', '0f…64 digits', '{"task": "classification"}');$$;

CREATE OR REPLACE FUNCTION ml.begin_upload(sha256 text, size bigint) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who    name := ml_private.changer();
    hash   bytea;
    chunks integer := (greatest(size, 1) + 1048575) / 1048576;
BEGIN
    IF NOT ml_private.is_admin(who) AND NOT EXISTS (SELECT FROM ml_private.model m WHERE pg_has_role(who, m.owner::oid, 'USAGE')) THEN
        RAISE EXCEPTION 'permission denied to upload an artifact' USING ERRCODE = '42501', HINT = format('GRANT ml_admin TO %I; allows it.', who);
    END IF;
    IF sha256 !~ '^[0-9a-f]{64}$' OR size < 0 THEN
        RAISE EXCEPTION 'an upload needs a SHA-256 in hexadecimal and a size in bytes, not "%" and %', sha256, size USING ERRCODE = '22023';
    END IF;
    hash := decode(sha256, 'hex');
    -- An upload that lay there begins anew, so that no cleanup takes it before it is registered.
    INSERT INTO ml_private.artifact AS a (sha256, size, created_by) VALUES (hash, begin_upload.size, quote_ident(who)::regrole)
    ON CONFLICT ON CONSTRAINT artifact_pkey DO UPDATE SET created_at = now()
    WHERE NOT ml_private.artifact_used(a.sha256);
    RETURN coalesce((SELECT min(i) FROM generate_series(0, chunks - 1) i
                     WHERE NOT EXISTS (SELECT FROM ml_private.artifact_chunk c WHERE c.sha256 = hash AND c.number = i)), -1);
END $$;
COMMENT ON FUNCTION ml.begin_upload(text, bigint) IS $$Starts or resumes the upload of an artifact and returns the number of the first 1 MiB chunk that is missing, -1 when none is. `rowcast model upload` calls it.
Example: SELECT ml.begin_upload('0f…64 digits', 52428800);$$;

CREATE OR REPLACE FUNCTION ml.upload_chunk(sha256 text, number integer, data bytea) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who    name := ml_private.changer();
    target ml_private.artifact;
BEGIN
    SELECT * INTO target FROM ml_private.artifact a WHERE a.sha256 = decode(upload_chunk.sha256, 'hex');
    IF target.sha256 IS NULL OR NOT (pg_has_role(who, target.created_by::oid, 'USAGE') OR ml_private.is_admin(who)) THEN
        RAISE EXCEPTION 'no upload of artifact % was begun by "%"', sha256, who USING ERRCODE = '42501', HINT = 'Call ml.begin_upload() first.';
    END IF;
    IF octet_length(data) IS DISTINCT FROM least(1048576, target.size - number * 1048576::bigint) OR number < 0 THEN
        RAISE EXCEPTION 'chunk % of artifact % has % bytes', number, sha256, octet_length(data)
            USING ERRCODE = '22023', DETAIL = format('The artifact has %s bytes in chunks of 1048576.', target.size);
    END IF;
    INSERT INTO ml_private.artifact_chunk (sha256, number, data) VALUES (target.sha256, upload_chunk.number, upload_chunk.data) ON CONFLICT DO NOTHING;
END $$;
COMMENT ON FUNCTION ml.upload_chunk(text, integer, bytea) IS $$Stores one chunk of an artifact: 1048576 bytes, the last one less. `rowcast model upload` calls it.
Example: SELECT ml.upload_chunk('0f…64 digits', 0, '\x08…');$$;

CREATE OR REPLACE FUNCTION ml.discard_artifact(sha256 text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who name := ml_private.changer();
BEGIN
    DELETE FROM ml_private.artifact a
    WHERE a.sha256 = decode(discard_artifact.sha256, 'hex')
      AND (pg_has_role(who, a.created_by::oid, 'USAGE') OR ml_private.is_admin(who))
      AND NOT EXISTS (SELECT FROM ml_private.version v WHERE v.sha256 = a.sha256 OR v.source_sha256 = a.sha256);
    RETURN FOUND;
END $$;
COMMENT ON FUNCTION ml.discard_artifact(text) IS $$Deletes an uploaded artifact that no version uses; false where there is none.
Example: SELECT ml.discard_artifact('0f…64 digits');$$;

CREATE OR REPLACE FUNCTION ml.set_alias(model text, alias text, version integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who    name := ml_private.changer();
    target ml_private.model := ml_private.lock_model(model, who);
BEGIN
    PERFORM ml_private.check_name('alias', alias);
    IF NOT EXISTS (SELECT FROM ml_private.version v WHERE v.model_id = target.id AND v.version = set_alias.version) THEN
        PERFORM ml_private.refuse(format('%s@%s', model, coalesce(version, 0)));
    END IF;
    IF EXISTS (SELECT FROM ml_private.alias a WHERE a.model_id = target.id AND a.alias = set_alias.alias AND a.version = set_alias.version) THEN
        RETURN;
    END IF;
    PERFORM ml_private.move_alias(target, alias, version, 'set',
        (SELECT a.entry FROM ml_private.alias a WHERE a.model_id = target.id AND a.alias = set_alias.alias), who);
    PERFORM ml_private.route_model(target.id);
END $$;
COMMENT ON FUNCTION ml.set_alias(text, text, integer) IS $$Points an alias of a model at a version; predict('model@alias', …) then uses it. Every change is kept in ml.alias_history.
Example: SELECT ml.set_alias('churn', 'challenger', 4);$$;

CREATE OR REPLACE FUNCTION ml.drop_alias(model text, alias text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who    name := ml_private.changer();
    target ml_private.model := ml_private.lock_model(model, who);
    last   bigint;
BEGIN
    DELETE FROM ml_private.alias a WHERE a.model_id = target.id AND a.alias = drop_alias.alias RETURNING a.entry INTO last;
    IF last IS NULL THEN
        PERFORM ml_private.refuse(format('%s@%s', model, alias));
    END IF;
    INSERT INTO ml_private.alias_history (model_id, alias, action, before, changed_by)
    VALUES (target.id, drop_alias.alias, 'drop', last, quote_ident(who)::regrole);
    PERFORM ml_private.route_model(target.id);
END $$;
COMMENT ON FUNCTION ml.drop_alias(text, text) IS $$Takes an alias away from a model. Its history stays.
Example: SELECT ml.drop_alias('churn', 'challenger');$$;

CREATE OR REPLACE FUNCTION ml.promote(model text, version integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ BEGIN PERFORM ml.set_alias(model, 'champion', version); END $$;
COMMENT ON FUNCTION ml.promote(text, integer) IS $$Makes a version the champion, which is what predict('model', …) uses: from now on in this transaction, from its commit on for everybody else.
Example: BEGIN; SELECT ml.promote('churn', 4); SELECT avg(predict('churn', t)) FROM customers t; COMMIT;$$;

CREATE OR REPLACE FUNCTION ml.rollback(model text, alias text DEFAULT 'champion') RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who    name := ml_private.changer();
    target ml_private.model := ml_private.lock_model(model, who);
    entry  ml_private.alias_history;
BEGIN
    SELECT h.* INTO entry
    FROM ml_private.alias a JOIN ml_private.alias_history h ON h.id = a.entry
    WHERE a.model_id = target.id AND a.alias = rollback.alias;
    IF entry.id IS NULL THEN
        PERFORM ml_private.refuse(format('%s@%s', model, alias));
    END IF;
    -- Back past versions that were dropped since.
    LOOP
        SELECT h.* INTO entry FROM ml_private.alias_history h WHERE h.id = entry.before;
        EXIT WHEN entry.id IS NULL
            OR EXISTS (SELECT FROM ml_private.version v WHERE v.model_id = target.id AND v.version = entry.version);
    END LOOP;
    IF entry.id IS NULL THEN
        RAISE EXCEPTION 'alias "%" of model "%" has no earlier version to go back to', alias, model
            USING ERRCODE = '55000', HINT = format('SELECT * FROM ml.alias_history WHERE model = %L; shows what it was.', model);
    END IF;
    PERFORM ml_private.move_alias(target, alias, entry.version, 'rollback', entry.before, who);
    PERFORM ml_private.route_model(target.id);
    RETURN entry.version;
END $$;
COMMENT ON FUNCTION ml.rollback(text, text) IS $$Takes an alias back to the version it had before, one step along its history for each call, and returns that version. Past the start it is an error.
Example: SELECT ml.rollback('churn');$$;

CREATE OR REPLACE FUNCTION ml_private.drop_unused(hashes bytea[]) RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    DELETE FROM ml_private.artifact a
    WHERE a.sha256 = ANY (hashes)
      AND NOT EXISTS (SELECT FROM ml_private.version v WHERE v.sha256 = a.sha256 OR v.source_sha256 = a.sha256);
END $$;
COMMENT ON FUNCTION ml_private.drop_unused(bytea[]) IS 'Deletes those of the artifacts that no version uses, neither as its model file nor as what that was made of.';

CREATE OR REPLACE FUNCTION ml.drop_version(model text, version integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who    name := ml_private.changer();
    target ml_private.model := ml_private.lock_model(model, who);
    used   text;
    hashes bytea[];
BEGIN
    SELECT string_agg(format('"%s"', a.alias), ', ' ORDER BY a.alias) INTO used
    FROM ml_private.alias a WHERE a.model_id = target.id AND a.version = drop_version.version;
    IF used IS NOT NULL THEN
        RAISE EXCEPTION 'version % of model "%" is in use by alias %', version, model, used
            USING ERRCODE = '2BP01', HINT = 'Point the alias elsewhere first (ml.promote, ml.set_alias), or drop the whole model (ml.drop_model).';
    END IF;
    DELETE FROM ml_private.version v WHERE v.model_id = target.id AND v.version = drop_version.version
    RETURNING ARRAY[v.sha256, v.source_sha256] INTO hashes;
    IF hashes IS NULL THEN
        PERFORM ml_private.refuse(format('%s@%s', model, coalesce(version, 0)));
    END IF;
    PERFORM ml_private.route_model(target.id);
    PERFORM ml_private.drop_unused(hashes);
END $$;
COMMENT ON FUNCTION ml.drop_version(text, integer) IS $$Deletes a version that no alias points to, and its artifact when no other version shares it. Its number is never given out again.
Example: SELECT ml.drop_version('churn', 2);$$;

CREATE OR REPLACE FUNCTION ml.drop_model(model text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who    name := ml_private.changer();
    target ml_private.model := ml_private.lock_model(model, who);
    hashes bytea[] := ARRAY(SELECT unnest(ARRAY[v.sha256, v.source_sha256]) FROM ml_private.version v WHERE v.model_id = target.id);
BEGIN
    PERFORM ml_private.drop_predictions(target);
    DELETE FROM ml_private.alias a WHERE a.model_id = target.id;
    DELETE FROM ml_private.model m WHERE m.id = target.id;
    PERFORM ml_private.drop_unused(hashes);
    PERFORM pg_notify('rowcast', 'model ' || target.id);
END $$;
COMMENT ON FUNCTION ml.drop_model(text) IS $$Deletes a model with all its versions, aliases, history, grants and logged predictions.
Example: SELECT ml.drop_model('churn');$$;

CREATE OR REPLACE FUNCTION ml_private.grantee(role text) RETURNS regrole
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    id oid;
BEGIN
    IF lower(role) = 'public' THEN
        RETURN 0::oid::regrole;
    END IF;
    SELECT r.oid INTO id FROM pg_roles r WHERE r.rolname = role;
    IF id IS NULL THEN
        RAISE EXCEPTION 'role "%" does not exist', role USING ERRCODE = '42704', HINT = 'Name a role, or PUBLIC for everybody.';
    END IF;
    RETURN id::regrole;
END $$;
COMMENT ON FUNCTION ml_private.grantee(text) IS 'The role by name; PUBLIC is the null role.';

CREATE OR REPLACE FUNCTION ml.grant_model(model text, role text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who    name := ml_private.changer();
    target ml_private.model := ml_private.lock_model(model, who);
BEGIN
    INSERT INTO ml_private.model_grant (model_id, grantee, granted_by) VALUES (target.id, ml_private.grantee(role), quote_ident(who)::regrole) ON CONFLICT DO NOTHING;
    PERFORM ml_private.route_model(target.id);
END $$;
COMMENT ON FUNCTION ml.grant_model(text, text) IS $$Lets a role and its members, or PUBLIC, use a model: predict with every version and see it in the views of schema ml.
Example: SELECT ml.grant_model('churn', 'analyst');$$;

CREATE OR REPLACE FUNCTION ml.revoke_model(model text, role text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who    name := ml_private.changer();
    target ml_private.model := ml_private.lock_model(model, who);
BEGIN
    DELETE FROM ml_private.model_grant g WHERE g.model_id = target.id AND g.grantee = ml_private.grantee(role);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'model "%" was not granted to "%"', model, role
            USING ERRCODE = '42704', HINT = format('SELECT grantee FROM ml.grants WHERE model = %L; lists the grants.', model);
    END IF;
    PERFORM ml_private.route_model(target.id);
END $$;
COMMENT ON FUNCTION ml.revoke_model(text, text) IS $$Takes back what ml.grant_model() gave.
Example: SELECT ml.revoke_model('churn', 'analyst');$$;

CREATE OR REPLACE FUNCTION ml.release_version(model text, version integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who    name := ml_private.changer();
    target ml_private.model := ml_private.lock_model(model, who);
BEGIN
    UPDATE ml_private.artifact a SET quarantined_at = NULL, quarantine_reason = NULL
    FROM ml_private.version v
    WHERE v.model_id = target.id AND v.version = release_version.version AND a.sha256 = v.sha256;
    IF NOT FOUND THEN
        PERFORM ml_private.refuse(format('%s@%s', model, coalesce(version, 0)));
    END IF;
    PERFORM pg_notify('rowcast', 'release ' || target.id);
END $$;
COMMENT ON FUNCTION ml.release_version(text, integer) IS $$Lets the sidecar load a version again that killed or stalled it.
Example: SELECT ml.release_version('churn', 4);$$;

-- VOLATILE for changer(): a table's owner must not have somebody else's ANALYZE fetch files for him.
CREATE OR REPLACE FUNCTION ml.model_chunk(model text, number integer) RETURNS bytea
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who    name := ml_private.changer();
    target ml_private.route;
BEGIN
    SELECT * INTO target FROM ml_private.route r WHERE r.ref = model;
    IF target.ref IS NULL OR NOT ml_private.may_use(target.model_id, who) THEN
        PERFORM ml_private.refuse(model);
    END IF;
    RETURN (SELECT c.data FROM ml_private.version v JOIN ml_private.artifact_chunk c ON c.sha256 = v.sha256
            WHERE v.model_id = target.model_id AND v.version = target.version AND c.number = model_chunk.number);
END $$;
COMMENT ON FUNCTION ml.model_chunk(text, integer) IS $$One 1 MiB chunk of a version's model file, from 0; NULL past the end. `rowcast model download` calls it.
Example: SELECT ml.model_chunk('churn@3', 0);$$;

CREATE OR REPLACE FUNCTION ml.source_chunk(model text, number integer) RETURNS bytea
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who    name := ml_private.changer();
    target ml_private.route;
BEGIN
    SELECT * INTO target FROM ml_private.route r WHERE r.ref = model;
    IF target.ref IS NULL OR NOT ml_private.may_use(target.model_id, who) THEN
        PERFORM ml_private.refuse(model);
    END IF;
    RETURN (SELECT c.data FROM ml_private.version v JOIN ml_private.artifact_chunk c ON c.sha256 = coalesce(v.source_sha256, v.sha256)
            WHERE v.model_id = target.model_id AND v.version = target.version AND c.number = source_chunk.number);
END $$;
COMMENT ON FUNCTION ml.source_chunk(text, integer) IS $$One 1 MiB chunk of the file that a version was registered from, as it was before its conversion to ONNX, from 0; NULL past the end. `rowcast model download --original` calls it.
Example: SELECT ml.source_chunk('churn@3', 0);$$;

CREATE OR REPLACE FUNCTION ml.rotate_gateway() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who    name := ml_private.changer();
    secret text := encode(sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')), 'hex');
BEGIN
    IF NOT ml_private.is_admin(who) THEN
        RAISE EXCEPTION 'permission denied to rotate the gateway''s password' USING ERRCODE = '42501', HINT = 'The owner of schema ml and ml_admin may.';
    END IF;
    UPDATE ml_private.gateway
    SET password = secret, key = sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')), rotated_at = now(), rotated_by = who;
    UPDATE ml_private.route r SET key = g.key, sealed = CASE WHEN r.log IS NULL THEN ml_private.token_seal(g.key) || r.call END FROM ml_private.gateway g;
    EXECUTE format('ALTER USER MAPPING FOR CURRENT_USER SERVER rowcast_gateway OPTIONS (SET password %L)', secret);
    PERFORM pg_notify('rowcast', 'gateway');
END $$;
COMMENT ON FUNCTION ml.rotate_gateway() IS $$Gives the gateway a new password and a new signing key; open sessions go on by themselves.
Example: SELECT ml.rotate_gateway();$$;
