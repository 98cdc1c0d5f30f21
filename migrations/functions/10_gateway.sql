-- How a call reaches the sidecar. The callers of these functions are SECURITY DEFINER functions of schema ml with a pinned search_path; nobody
-- else can use schema ml_private. A call is one simple query: the first 32 hex digits of sha256(key || body), a space, the body.

CREATE OR REPLACE FUNCTION ml_private.caller() RETURNS name
LANGUAGE sql STABLE PARALLEL SAFE
RETURN coalesce(nullif(current_setting('role'), 'none'), session_user)::name;
COMMENT ON FUNCTION ml_private.caller() IS 'The role whose rights count: what SET ROLE set, else the session''s user.';

CREATE OR REPLACE FUNCTION ml_private.sign(key bytea, body text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN left(encode(sha256(key || convert_to(body, 'UTF8')), 'hex'), 32) || ' ' || body;
COMMENT ON FUNCTION ml_private.sign(bytea, text) IS 'The text of a gateway call with its code.';

-- Where dblink lies in ml_private nobody else reaches the connection, neither to send something nor to see what is sent. There the gateway's token
-- does instead of a code, which is a fifth of what a prediction costs PostgreSQL.
CREATE OR REPLACE FUNCTION ml_private.token_seal(key bytea) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN '{{.Dblink}}' = '"ml_private"' THEN ' ' || left(encode(sha256(convert_to('token', 'UTF8') || key), 'hex'), 32) END;
COMMENT ON FUNCTION ml_private.token_seal(bytea) IS 'What stands behind the verb of a call that needs no code; NULL where dblink is for everybody.';

CREATE OR REPLACE FUNCTION ml_private.seal(key bytea, body text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN coalesce(left(body, 1) || ml_private.token_seal(key) || substr(body, 2), ml_private.sign(key, body));
COMMENT ON FUNCTION ml_private.seal(bytea, text) IS 'The text of a gateway call, with the token or else with its code.';

-- A named connection per backend, kept until the session ends. Its name must differ from the server's: dblink_exec() with a server's name and no
-- such connection would silently open a new one for every call.
CREATE OR REPLACE FUNCTION ml_private.connect() RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    running boolean;
    silent  interval;
BEGIN
    IF ('rowcast' = ANY ({{.Dblink}}.dblink_get_connections())) IS TRUE THEN
        PERFORM {{.Dblink}}.dblink_disconnect('rowcast');
    END IF;
    -- Looking first gives a better error than catching one later: an EXCEPTION block would fail in parallel mode on PostgreSQL 15 and 16. On a
    -- standby the sidecar may be connected to the primary, so there is nothing to look at. The sessions are the supervisor's, which holds the
    -- sockets while a worker is started again, and the worker's, which asks the database something every few seconds.
    IF NOT pg_is_in_recovery() THEN
        PERFORM pg_stat_clear_snapshot();
        SELECT count(*) > 0, clock_timestamp() - max(greatest(a.state_change, a.backend_start)) FILTER (WHERE a.application_name = 'rowcast worker')
        INTO running, silent
        FROM pg_stat_activity a
        WHERE a.datname = current_database() AND a.application_name IN ('rowcast serve', 'rowcast worker');
        IF NOT running THEN
            RAISE EXCEPTION 'the Rowcast sidecar of database "%" is not running', current_database()
                USING ERRCODE = 'HV00N', HINT = 'Start it with: DATABASE_URL=... rowcast serve';
        ELSIF silent > interval '60 s' THEN
            RAISE EXCEPTION 'the Rowcast sidecar of database "%" has been silent for % s', current_database(), extract(epoch FROM silent)::integer
                USING ERRCODE = 'HV00N', HINT = 'It hangs or was stopped: see its log, restart rowcast serve.';
        END IF;
    END IF;
    PERFORM {{.Dblink}}.dblink_connect('rowcast', 'rowcast_gateway');
END $$;
COMMENT ON FUNCTION ml_private.connect() IS 'Opens this backend''s connection to the sidecar anew.';

-- dblink() raises XX000 where an interrupted call left the connection in use, and dblink_exec() answers ERROR; so a row is only asked for by a call
-- that follows another one: V follows U, A follows N, F follows the call whose answer was too long for a tag.
--
-- Sends body and returns the answer's value. A lost connection is opened once more; a call that takes longer is asked for again and again, so that
-- PostgreSQL sees statement_timeout and ctrl-C in between; the sidecar's error is raised with its message, detail, hint and SQLSTATE. tag is a first
-- answer that came already.
CREATE OR REPLACE FUNCTION ml_private.exchange(key bytea, body text, in_row boolean, tag text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp SET client_min_messages = error
AS $$
DECLARE
    call   text; -- made when it is sent: a batch is megabytes
    status text;
    answer text;
    row    boolean := in_row;
    opened boolean := false;
BEGIN
    IF tag IS NULL AND ('rowcast' = ANY ({{.Dblink}}.dblink_get_connections())) IS NOT TRUE THEN
        PERFORM ml_private.connect();
        opened := true;
    END IF;
    LOOP
        IF call IS NULL AND tag IS NULL THEN
            call := ml_private.seal(key, body);
        END IF;
        IF row THEN
            -- Two columns, or none where the connection is lost.
            status := NULL;
            SELECT d.status, d.answer INTO status, answer FROM {{.Dblink}}.dblink('rowcast', call, false) AS d(status text, answer text);
        ELSE
            answer := coalesce(tag, {{.Dblink}}.dblink_exec('rowcast', call, false));
            tag := NULL;
            status := CASE WHEN answer = 'ERROR' THEN NULL ELSE left(answer, 1) END;
            answer := substr(answer, 2);
        END IF;
        CASE status
        WHEN '=' THEN
            RETURN answer;
        WHEN '.' THEN
            call := ml_private.seal(key, 'W');
        WHEN '~' THEN
            call := ml_private.seal(key, 'F');
            row := true;
        WHEN '!' THEN
            PERFORM {{.Dblink}}.dblink_exec('rowcast', ml_private.seal(key, 'E'), true);
            RAISE EXCEPTION 'the sidecar reported an error and then did not say which'
                USING ERRCODE = '58000', HINT = 'See the log of rowcast serve.';
        ELSE
            IF opened THEN
                RAISE EXCEPTION 'the Rowcast sidecar closed the connection while it ran %', coalesce(substring(body FROM '(?:^|\n). [0-9a-f]{32} ([^ ]+) '), 'this call')
                    USING ERRCODE = '58000', DETAIL = trim(E' \n' FROM {{.Dblink}}.dblink_error_message('rowcast')),
                          HINT = 'If it was not restarted just now, the log of rowcast serve says what the model did.';
            END IF;
            PERFORM ml_private.connect();
            opened := true;
            row := in_row;
            call := NULL;
        END CASE;
    END LOOP;
END $$;
COMMENT ON FUNCTION ml_private.exchange(bytea, text, boolean, text) IS 'One call of the gateway, with reconnection, waiting and errors.';

-- Why a model reference has no route that the caller may take. Always raises.
CREATE OR REPLACE FUNCTION ml_private.refuse(model text) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    who    name := ml_private.caller();
    wanted text := split_part(model, '@', 1);
    ref    text := substr(model, length(wanted) + 2);
    target ml_private.model;
    near   text;
BEGIN
    IF wanted !~ '^[a-z_][a-z0-9_$]{0,62}$' THEN
        RAISE EXCEPTION '"%" is not a model name', wanted
            USING ERRCODE = '42602', DETAIL = 'A model name is a lower-case SQL identifier of at most 63 characters.',
                  HINT = CASE WHEN lower(wanted) ~ '^[a-z_][a-z0-9_$]{0,62}$' THEN format('Did you mean "%s"?', lower(wanted))
                              ELSE 'Write ''churn'', ''churn@3'' or ''churn@challenger''.' END;
    END IF;
    SELECT * INTO target FROM ml_private.model m WHERE m.name = wanted;
    IF target.id IS NULL THEN
        SELECT string_agg(format('"%s"', n.name), ', ' ORDER BY n.distance, n.name) INTO near
        FROM (SELECT m.name, ml_private.edit_distance(m.name, wanted) AS distance
              FROM ml_private.model m WHERE ml_private.may_use(m.id, who) ORDER BY 2, 1 LIMIT 3) n
        WHERE n.distance <= greatest(2, length(wanted) / 2);
        RAISE EXCEPTION 'model "%" does not exist', wanted
            USING ERRCODE = '42704', HINT = coalesce('Did you mean ' || near || '?', 'SELECT model FROM ml.models; lists the models that you may use.');
    END IF;
    IF NOT ml_private.may_use(target.id, who) THEN
        RAISE EXCEPTION 'permission denied for model "%"', wanted
            USING ERRCODE = '42501', HINT = format('Its owner %s can allow it: SELECT ml.grant_model(%L, %L);', pg_get_userbyid(target.owner), wanted, who);
    END IF;
    IF position('@' IN model) = 0 THEN
        RAISE EXCEPTION 'model "%" has no champion', wanted
            USING ERRCODE = '42704', HINT = format('SELECT ml.promote(%L, VERSION); sets it.', wanted);
    ELSIF ref ~ '^[0-9]+$' THEN
        SELECT string_agg(v.version::text, ', ' ORDER BY v.version) INTO near FROM ml_private.version v WHERE v.model_id = target.id;
        RAISE EXCEPTION 'model "%" has no version %', wanted, ref
            USING ERRCODE = '42704', HINT = coalesce('It has version ' || near || '.', 'It has no version.');
    ELSE
        SELECT string_agg(format('"%s"', a.alias), ', ' ORDER BY ml_private.edit_distance(a.alias, ref), a.alias) INTO near
        FROM ml_private.alias a WHERE a.model_id = target.id;
        RAISE EXCEPTION 'model "%" has no alias "%"', wanted, ref
            USING ERRCODE = '42704', HINT = coalesce('It has ' || near || '.', 'It has none.');
    END IF;
END $$;
COMMENT ON FUNCTION ml_private.refuse(text) IS 'Raises why the caller cannot use the model.';

-- Levenshtein distance of short names, for hints only; fuzzystrmatch may not be installed.
CREATE OR REPLACE FUNCTION ml_private.edit_distance(a text, b text) RETURNS integer
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE STRICT
AS $$
DECLARE
    previous integer[];
    current_ integer[];
BEGIN
    a := left(a, 63);
    b := left(b, 63);
    previous := ARRAY(SELECT generate_series(0, length(b)));
    FOR i IN 1 .. length(a) LOOP
        current_ := ARRAY[i];
        FOR j IN 1 .. length(b) LOOP
            current_[j + 1] := least(previous[j + 1] + 1, current_[j] + 1,
                                     previous[j] + CASE WHEN substr(a, i, 1) = substr(b, j, 1) THEN 0 ELSE 1 END);
        END LOOP;
        previous := current_;
    END LOOP;
    RETURN previous[length(b) + 1];
END $$;
COMMENT ON FUNCTION ml_private.edit_distance(text, text) IS 'Levenshtein distance, for hints.';

-- Whether one of the roles is PUBLIC or one that who has.
CREATE OR REPLACE FUNCTION ml_private.reads(readers regrole[], who text) RETURNS boolean
LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN EXISTS (SELECT FROM unnest(readers) AS reader(id) WHERE reader.id = 0 OR pg_has_role(who::name, reader.id::oid, 'USAGE'));
END $$;
COMMENT ON FUNCTION ml_private.reads(regrole[], text) IS 'Whether a role is among the readers of a model.';

-- A prediction in full: the way that the functions of schema ml take where theirs is not enough, when the connection must be opened, dblink is for
-- everybody, or the answer is not a value in the command tag. answer is what came back already, if anything did. All is spelled with its schema,
-- operators and types too, so that no search_path needs to be pinned; the functions called when something is out of the ordinary pin theirs.
-- No EXCEPTION block, so no subtransaction, so parallel workers can run it.
CREATE OR REPLACE FUNCTION ml_private.call(verb pg_catalog.text, model pg_catalog.text, payload pg_catalog.text, answer pg_catalog.text DEFAULT NULL) RETURNS pg_catalog.text
LANGUAGE plpgsql STABLE PARALLEL SAFE
AS $$
DECLARE
    r    ml_private.route;
    body pg_catalog.text;
BEGIN
    SELECT * INTO r FROM ml_private.route x WHERE x.ref OPERATOR(pg_catalog.=) model;
    body := pg_catalog.current_setting('role');
    IF body OPERATOR(pg_catalog.=) 'none' THEN
        body := session_user;
    END IF;
    IF (r.readers[1]::pg_catalog.oid OPERATOR(pg_catalog.=) 0::pg_catalog.oid OR pg_catalog.pg_has_role(body::pg_catalog.name, r.readers[1]::pg_catalog.oid, 'USAGE')
            OR ml_private.reads(r.readers, body)) IS TRUE THEN
        body := verb OPERATOR(pg_catalog.||) r.call
            OPERATOR(pg_catalog.||) CASE WHEN pg_catalog.current_setting('rowcast.timeout', true) OPERATOR(pg_catalog.<>) ''
                                         THEN pg_catalog.replace(pg_catalog.current_setting('rowcast.timeout', true), ' ', '') ELSE '-' END
            OPERATOR(pg_catalog.||) ' ' OPERATOR(pg_catalog.||) payload;
        IF body IS NULL THEN
            RETURN NULL;
        END IF;
        IF r.log IS NOT NULL AND verb OPERATOR(pg_catalog.<>) 'B' THEN
            RETURN ml_private.logged(r.key, r.log, body);
        END IF;
        IF answer IS NULL AND 'rowcast' OPERATOR(pg_catalog.=) ANY ({{.Dblink}}.dblink_get_connections()) THEN
            answer := {{.Dblink}}.dblink_exec('rowcast', ml_private.seal(r.key, body), false);
            IF pg_catalog.starts_with(answer, '=') THEN
                RETURN pg_catalog.substr(answer, 2);
            END IF;
        END IF;
        RETURN ml_private.exchange(r.key, body, false, answer);
    END IF;
    IF model IS NOT NULL THEN
        PERFORM ml_private.refuse(model);
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION ml_private.call(text, text, text, text) IS 'Calls the sidecar: verb p, l, Q (probabilities), J (JSON) or I (infer), payload a format letter and the row.';
