-- One view for each model whose predictions are logged with their inputs: schema ml_bi. A column, once there, keeps its name, type and place, whatever
-- versions come; so the view can be replaced under those who use it.

-- A column name that the model does not have yet: the feature's own; where that is taken, with a suffix, then with a number, within 63 bytes.
CREATE OR REPLACE FUNCTION ml_private.bi_name(model_id bigint, feature text, suffix text) RETURNS text
LANGUAGE plpgsql STABLE
AS $$
DECLARE
    stem text := CASE WHEN feature = '' THEN 'feature' ELSE feature END;
    free text := stem;
    n    integer := 1;
BEGIN
    LOOP
        WHILE octet_length(free) > 63 LOOP
            stem := left(stem, -1);
            free := stem || CASE WHEN n > 1 THEN suffix ELSE '' END || CASE WHEN n > 2 THEN (n - 1)::text ELSE '' END;
        END LOOP;
        EXIT WHEN free NOT IN ('key', 'prediction', 'label', 'probability', 'version', 'predicted_at')
            AND NOT EXISTS (SELECT FROM ml_private.bi_column c WHERE c.model_id = bi_name.model_id AND c.name = free);
        n := n + 1;
        free := stem || suffix || CASE WHEN n > 2 THEN (n - 1)::text ELSE '' END;
    END LOOP;
    RETURN free;
END $$;
COMMENT ON FUNCTION ml_private.bi_name(bigint, text, text) IS 'A free name for a feature''s column in ml_bi.';

-- The value of a feature as its SQL type. What another type of the feature left in a row gives NULL, never an error: one row must not spoil a report.
CREATE OR REPLACE FUNCTION ml_private.bi_expression(feature text, type text, versions integer[]) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN versions IS NULL THEN '' ELSE format('CASE WHEN p.version = ANY (%L::integer[]) THEN ', versions) END
    || replace(CASE type
        WHEN 'real' THEN 'CASE WHEN jsonb_typeof(@) = ''number'' THEN CASE WHEN (@)::float8 = 0 OR abs((@)::float8) BETWEEN 1e-45 AND 3.4028235e38 THEN (@)::float8::real END'
            || ' WHEN @ #>> ''{}'' IN (''Infinity'', ''-Infinity'') THEN (@ #>> ''{}'')::real END'
        WHEN 'double precision' THEN 'CASE WHEN jsonb_typeof(@) = ''number'' THEN (@)::float8'
            || ' WHEN @ #>> ''{}'' IN (''Infinity'', ''-Infinity'') THEN (@ #>> ''{}'')::float8 END'
        WHEN 'bigint' THEN 'CASE WHEN jsonb_typeof(@) = ''number'' THEN CASE WHEN (@)::numeric BETWEEN -9223372036854775808 AND 9223372036854775807 THEN (@)::bigint END END'
        WHEN 'boolean' THEN 'CASE WHEN jsonb_typeof(@) = ''boolean'' THEN (@)::boolean END'
        ELSE '(@ #>> ''{}'')' END, '@', replace(format('(p.inputs -> %L::text)', feature), '@', chr(1)))
    || CASE WHEN versions IS NULL THEN '' ELSE ' END' END;
COMMENT ON FUNCTION ml_private.bi_expression(text, text, integer[]) IS 'How a view of ml_bi reads a feature; only for the versions where some are given.';

-- Brings the view of a model in step with its versions and rights. Called by ml_private.route_model(), whenever one of these changes.
CREATE OR REPLACE FUNCTION ml_private.refresh_bi(changed bigint) RETURNS void
LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    target ml_private.model;
    most   constant integer := 1500; -- a view can have 1600 columns
    place  integer;
    grown  boolean := false;
    f      record;
BEGIN
    SELECT coalesce(max(c.position), 0) INTO place FROM ml_private.bi_column c WHERE c.model_id = changed;
    IF place = 0 AND NOT EXISTS (SELECT FROM ml_private.log_policy l WHERE l.model_id = changed AND l.policy <> 'none' AND l.inputs) THEN
        RETURN;
    END IF;
    SELECT * INTO target FROM ml_private.model m WHERE m.id = changed;
    IF place = 0 THEN
        INSERT INTO ml_private.bi_column (model_id, position, name, type) VALUES (changed, 1, 'key', 'text');
        place := 1;
        grown := true;
    END IF;
    FOR f IN
        SELECT v.version, e.feature ->> 'name' AS name, e.feature ->> 'type' AS type
        FROM ml_private.version v, jsonb_array_elements(v.signature -> 'features') WITH ORDINALITY AS e(feature, position)
        WHERE v.model_id = changed AND jsonb_typeof(v.signature -> 'features') = 'array'
          AND NOT EXISTS (SELECT FROM ml_private.bi_column c WHERE c.model_id = changed AND v.version = ANY (c.versions))
        ORDER BY v.version, e.position
    LOOP
        UPDATE ml_private.bi_column c SET versions = c.versions || f.version
        WHERE c.model_id = changed AND c.position = (
            SELECT o.position FROM ml_private.bi_column o
            WHERE o.model_id = changed AND o.feature = f.name
              AND (o.type = f.type OR o.type = 'text' OR o.type = 'double precision' AND f.type = 'real')
            ORDER BY o.type = f.type DESC, o.position LIMIT 1);
        IF NOT FOUND AND place < most THEN
            place := place + 1;
            INSERT INTO ml_private.bi_column (model_id, position, name, feature, type, versions)
            VALUES (changed, place, ml_private.bi_name(changed, f.name,
                        CASE WHEN EXISTS (SELECT FROM ml_private.bi_column o WHERE o.model_id = changed AND o.feature = f.name)
                             THEN '_' || split_part(f.type, ' ', 1) ELSE '_feature' END),
                    f.name, f.type, ARRAY[f.version]);
        END IF;
        grown := true;
    END LOOP;
    IF NOT EXISTS (SELECT FROM ml_private.bi_column c WHERE c.model_id = changed AND c.name = 'predicted_at') THEN
        INSERT INTO ml_private.bi_column (model_id, position, name, type)
        SELECT changed, place + x.position, x.name, x.type
        FROM (VALUES (1, 'prediction', 'double precision'), (2, 'label', 'text'), (3, 'probability', 'double precision'), (4, 'version', 'integer'),
                     (5, 'predicted_at', 'timestamp with time zone')) AS x(position, name, type);
    END IF;
    IF grown OR to_regclass(format('ml_bi.%I', target.name)) IS NULL THEN
        PERFORM ml_private.show_bi(target);
    END IF;
    PERFORM ml_private.share_bi(target);
END $$;
COMMENT ON FUNCTION ml_private.refresh_bi(bigint) IS 'Makes or replaces the view of a model in ml_bi, where it has one.';

CREATE OR REPLACE FUNCTION ml_private.show_bi(target ml_private.model) RETURNS void
LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp SET client_min_messages = warning
AS $$
DECLARE
    columns text;
    c       record;
BEGIN
    SELECT string_agg(CASE o.name WHEN 'key' THEN 'p.key' WHEN 'prediction' THEN 'p.value' WHEN 'label' THEN 'p.label' WHEN 'probability' THEN 'p.probability'
                                  WHEN 'version' THEN 'p.version' WHEN 'predicted_at' THEN 'p.at'
                                  ELSE ml_private.bi_expression(o.feature, o.type, CASE WHEN o.twins > 1 THEN o.versions END) END
                      || format(' AS %I', o.name), ', ' ORDER BY o.position)
    INTO columns
    FROM (SELECT b.*, count(*) OVER (PARTITION BY b.feature) AS twins FROM ml_private.bi_column b WHERE b.model_id = target.id) o;
    -- A feature's name may hold what stands for it in bi_expression's patterns.
    columns := replace(columns, chr(1), '@');
    EXECUTE format('CREATE OR REPLACE VIEW ml_bi.%I WITH (security_barrier) AS SELECT %s FROM ml_private.prediction p
                    WHERE p.model_id = %s AND ((SELECT ml_private.reads_predictions(%s, current_user)) OR p.caller = current_user)',
                   target.name, columns, target.id, target.id);
    EXECUTE format('COMMENT ON VIEW ml_bi.%I IS %L', target.name,
                   format('Logged predictions of model %s with their features, newest at the highest predicted_at. Example: SELECT version, count(*) FROM ml_bi.%s GROUP BY version;',
                          target.name, quote_ident(target.name)));
    FOR c IN SELECT * FROM ml_private.bi_column b WHERE b.model_id = target.id LOOP
        EXECUTE format('COMMENT ON COLUMN ml_bi.%I.%I IS %L', target.name, c.name,
            CASE WHEN c.feature IS NOT NULL
                 THEN format('Feature %s (%s) of version %s, as the model read it.', c.feature, c.type, array_to_string(c.versions, ', '))
                 WHEN c.name = 'key' THEN 'Value of the column that the log policy names as key.'
                 WHEN c.name = 'prediction' THEN 'Regression value, or the class as a number.'
                 WHEN c.name = 'label' THEN 'Predicted label.'
                 WHEN c.name = 'probability' THEN 'Probability of the predicted label.'
                 WHEN c.name = 'version' THEN 'Version of the model that predicted; see ml.versions.'
                 ELSE 'When it was predicted.' END);
    END LOOP;
END $$;
COMMENT ON FUNCTION ml_private.show_bi(ml_private.model) IS 'Makes or replaces the view of a model in ml_bi.';

-- Who may select from the view: whoever may use the model and whoever may read its predictions. Which rows they see is the view's own condition.
CREATE OR REPLACE FUNCTION ml_private.share_bi(target ml_private.model) RETURNS void
LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    view regclass := to_regclass(format('ml_bi.%I', target.name));
    r    record;
BEGIN
    IF view IS NULL THEN
        RETURN;
    END IF;
    FOR r IN
        WITH wanted AS (
            SELECT target.owner::oid AS role UNION SELECT g.grantee FROM ml_private.model_grant g WHERE g.model_id = target.id
            UNION SELECT g.grantee FROM ml_private.prediction_grant g WHERE g.model_id = target.id
            UNION SELECT a.oid FROM pg_roles a WHERE a.rolname = 'ml_admin'
        ), present AS (
            SELECT x.grantee AS role FROM pg_class c, aclexplode(c.relacl) x WHERE c.oid = view AND x.privilege_type = 'SELECT' AND x.grantee <> c.relowner
        )
        SELECT coalesce(w.role, p.role) AS role, w.role IS NOT NULL AS may, pg_get_userbyid(coalesce(w.role, p.role)) AS name
        FROM wanted w FULL JOIN present p ON p.role = w.role
        WHERE (w.role IS NULL OR p.role IS NULL) AND coalesce(w.role, p.role) <> (SELECT c.relowner FROM pg_class c WHERE c.oid = view)
          AND (coalesce(w.role, p.role) = 0 OR EXISTS (SELECT FROM pg_roles o WHERE o.oid = coalesce(w.role, p.role)))
    LOOP
        EXECUTE format(CASE WHEN r.may THEN 'GRANT SELECT ON %s TO %s' ELSE 'REVOKE SELECT ON %s FROM %s' END,
                       view, CASE WHEN r.role = 0 THEN 'PUBLIC' ELSE quote_ident(r.name) END);
    END LOOP;
END $$;
COMMENT ON FUNCTION ml_private.share_bi(ml_private.model) IS 'Lets select from the view in ml_bi whoever may.';

CREATE OR REPLACE FUNCTION ml_private.drop_predictions(target ml_private.model) RETURNS void
LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp SET client_min_messages = warning
AS $$
BEGIN
    EXECUTE format('DROP VIEW IF EXISTS ml_bi.%I', target.name);
    INSERT INTO ml_private.dropped_model (model_id) SELECT l.model_id FROM ml_private.log_policy l WHERE l.model_id = target.id;
END $$;
COMMENT ON FUNCTION ml_private.drop_predictions(ml_private.model) IS 'Drops the view of a model in ml_bi, and has its log deleted at the next ml_private.keep_partitions().';
