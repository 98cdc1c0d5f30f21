-- Many rows at once. predict_rows() reads the caller's query through a cursor and answers a few thousand rows per round trip:
--
--   ml.predict_rows      with the caller's rights: opens the cursor, runs one statement per batch, returns its rows
--   ml.plan_rows         with the owner's: looks at the columns' names and types, asks the sidecar which of them the model reads, writes the statement
--   ml.fetch_rows        with the caller's: the next rows of the cursor
--   ml.predict_columns   with the owner's: checks the caller's right to the model and sends a batch of columns through the gateway
--
-- The caller's query runs in the first and the third only, so it never has the owner's rights. The other two take data, no SQL of the caller's, and
-- give what predict() gives to anybody who may use the model: it does no harm that everybody may call them.
--
-- How a batch travels was chosen by measurement (README, "How a batch travels"): one array_agg per column, array_send of each, base64 of all.

CREATE OR REPLACE FUNCTION ml_private.raise_row(failure jsonb, place text) RETURNS void
LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    message text := place || ': ' || (failure ->> 'message');
    state   text := failure ->> 'sqlstate';
    detail  text := nullif(failure ->> 'detail', '');
    hint    text := nullif(failure ->> 'hint', '');
BEGIN
    IF detail IS NOT NULL AND hint IS NOT NULL THEN
        RAISE EXCEPTION USING MESSAGE = message, ERRCODE = state, DETAIL = detail, HINT = hint;
    ELSIF detail IS NOT NULL THEN
        RAISE EXCEPTION USING MESSAGE = message, ERRCODE = state, DETAIL = detail;
    ELSIF hint IS NOT NULL THEN
        RAISE EXCEPTION USING MESSAGE = message, ERRCODE = state, HINT = hint;
    END IF;
    RAISE EXCEPTION USING MESSAGE = message, ERRCODE = state;
END $$;
COMMENT ON FUNCTION ml_private.raise_row(jsonb, text) IS 'Raises the sidecar''s error about one row of a batch.';

CREATE OR REPLACE FUNCTION ml.refuse_row(failure jsonb, key text, number bigint) RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM ml_private.raise_row(failure, format('row %s of the query, key %s', number, coalesce(quote_literal(left(key, 100)), 'NULL')));
END $$;
COMMENT ON FUNCTION ml.refuse_row(jsonb, text, bigint) IS $$Part of predict_rows(): raises the error of one of its rows, with the row's key.
Example: SELECT ml.refuse_row('{"message": "feature \"age\" is NULL", "sqlstate": "22004"}', '17', 3);$$;

-- Data only: names of columns and, for each, array_send() of its values.
CREATE OR REPLACE FUNCTION ml.predict_columns(model text, size integer, names text[], columns bytea[],
    OUT predictions double precision[], OUT labels text[], OUT failure jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER COST 10000
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    answer text := ml_private.call('B', model, 'c' || size || ' ' || array_to_json(names) || E'\n' || encode(array_send(columns), 'base64'));
BEGIN
    CASE left(answer, 1)
    WHEN '!' THEN
        failure := substr(answer, 2);
    WHEN 't' THEN
        predictions := split_part(substr(answer, 2), ' ', 1);
        labels := substr(answer, position(' ' IN answer) + 1);
    ELSE
        predictions := substr(answer, 2);
    END CASE;
END $$;
COMMENT ON FUNCTION ml.predict_columns(text, integer, text[], bytea[]) IS $$Part of predict_rows(): predicts a batch of columns, each array_send() of an array of size values. predictions holds a value or class per row; where the labels are text it holds positions in labels. failure is an error about one row.
Example: SELECT predictions FROM ml.predict_columns('diabetes_2', 2, ARRAY['bmi', 'age'], ARRAY[array_send(ARRAY[0.1, 0.2]::float8[]), array_send(ARRAY[41, 42])]);$$;

-- Takes the shape as data: row_to_json(record) would run casts to json of the caller's types, here with the owner's rights.
CREATE OR REPLACE FUNCTION ml.plan_rows(model text, names text[], shape bytea, key_type regtype, OUT statement text, OUT size integer)
LANGUAGE plpgsql STABLE SECURITY DEFINER COST 10000
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- What a Frame of the sidecar reads: bool, "char", name, int8, int2, int4, text, oid, json, float4, float8, bpchar, varchar, numeric, jsonb.
    readable oid[] := '{16,18,19,20,21,23,25,26,114,700,701,1042,1043,1700,3802}';
    -- Their values can be of any length.
    long     oid[] := '{25,114,1042,1043,3802}';
    types    oid[];
    base     oid;
    plan     jsonb;
    value    text;
    columns  text;
    arrays   text;
    lengths  text;
    answers  text;
    used     text[];
    latest   integer;
BEGIN
    -- record_send() of a row of NULLs: the number of columns, then for each its type and -1, four bytes each.
    types := ARRAY(SELECT ('x' || encode(substr(shape, 8 * i - 3, 4), 'hex'))::bit(32)::bigint::oid FROM generate_series(1, cardinality(names)) AS i);
    IF cardinality(names) = 0 THEN
        RAISE EXCEPTION 'the query of predict_rows returns no column'
            USING ERRCODE = '42804', HINT = 'Its first column is the key, the others are features by name.';
    ELSIF types[1] <> key_type THEN
        RAISE EXCEPTION 'the key, column "%" of the query, is of type %, not %', names[1], format_type(types[1], NULL), key_type
            USING ERRCODE = '42804', DETAIL = 'The first column is the key; the third argument of predict_rows says its type.',
                  HINT = format('Pass NULL::%s, or write %I::%s in the query.', format_type(types[1], NULL), names[1], key_type);
    END IF;
    SELECT string_agg(format('c%s %s', i, format_type(types[i], NULL)), ', ' ORDER BY i) INTO columns FROM generate_series(1, cardinality(names)) AS i;
    -- A domain is read as its base type. What the sidecar does not read goes as JSON, which is how predict() reads a whole row.
    FOR i IN 2 .. cardinality(types) LOOP
        base := types[i];
        WHILE EXISTS (SELECT FROM pg_type t WHERE t.oid = base AND t.typtype = 'd') LOOP
            base := (SELECT t.typbasetype FROM pg_type t WHERE t.oid = base);
        END LOOP;
        used[i] := CASE WHEN NOT base = ANY (readable) THEN format('pg_catalog.to_json(t.c%s)', i)
                        WHEN base <> types[i] THEN format('t.c%s::%s', i, format_type(base, NULL)) ELSE format('t.c%s', i) END;
        types[i] := CASE WHEN base = ANY (readable) THEN base ELSE 114 END;
    END LOOP;
    plan := ml_private.call('B', model, 's' || json_build_object('names', names[2:], 'types', array_to_json(types[2:]::bigint[])));
    SELECT string_agg(format('pg_catalog.array_send(pg_catalog.array_agg(%s ORDER BY t.ordinality))', used[c.i + 1]), ', ' ORDER BY c.n),
           string_agg(format('coalesce(pg_catalog.octet_length((%s)::pg_catalog.text), 0)', used[c.i + 1]), ' OPERATOR(pg_catalog.+) ' ORDER BY c.n)
               FILTER (WHERE types[c.i + 1] = ANY (long)),
           array_agg(names[c.i + 1] ORDER BY c.n)
    INTO arrays, lengths, used
    FROM (SELECT e.text::integer AS i, e.n FROM jsonb_array_elements_text(plan -> 'columns') WITH ORDINALITY AS e(text, n)) AS c;
    SELECT r.version INTO latest FROM ml_private.route r WHERE r.ref = model;
    -- Of the answers that a batch got, that of a row; or the error, raised where the row's key is known.
    value := format('CASE WHEN a.failure IS NULL THEN a.%s WHEN (a.failure OPERATOR(pg_catalog.->>) ''row'')::pg_catalog.int8 OPERATOR(pg_catalog.=) a.place '
        'THEN ml.refuse_row(a.failure, t.c1::pg_catalog.text, $4 OPERATOR(pg_catalog.+) t.ordinality)::pg_catalog.text::%s END',
        CASE plan ->> 'answer' WHEN 't' THEN 'labels[a.predictions[a.place::pg_catalog.int4]::pg_catalog.int4]' ELSE 'predictions[a.place::pg_catalog.int4]' END,
        CASE plan ->> 'answer' WHEN 't' THEN 'pg_catalog.text' ELSE 'pg_catalog.float8' END);
    answers := CASE plan ->> 'answer' WHEN 'v' THEN value || ', NULL::pg_catalog.text'
                                      WHEN 't' THEN 'NULL::pg_catalog.float8, ' || value
                                      ELSE value || ', a.predictions[a.place::pg_catalog.int4]::pg_catalog.int8::pg_catalog.text' END;
    IF lengths IS NULL THEN
        -- Every row takes about the same room, and rows stay in order: no sort.
        size := greatest(64, least(2048, 131072 / greatest(cardinality(used), 1)));
        statement := format('WITH b AS MATERIALIZED (SELECT * FROM ROWS FROM (ml.fetch_rows($1, $2) AS (%s)) WITH ORDINALITY), '
            'a AS MATERIALIZED (SELECT p.* FROM (SELECT pg_catalog.count(*)::pg_catalog.int4 AS size, ARRAY[%s]::pg_catalog.bytea[] AS columns FROM b AS t) AS s '
            'CROSS JOIN LATERAL ml.predict_columns($3, nullif(s.size, 0), %L::pg_catalog.text[], s.columns) AS p) '
            'SELECT t.c1, %s, %s FROM b AS t CROSS JOIN a', columns, replace(coalesce(arrays, ''), ' ORDER BY t.ordinality', ''), coalesce(used, '{}'),
            replace(answers, 'a.place', 't.ordinality'), latest);
        RETURN;
    END IF;
    -- Texts can be long: parts of a few megabytes each, however many rows that is.
    size := greatest(64, least(2048, 131072 / greatest(cardinality(used), 1)));
    statement := format('WITH b AS MATERIALIZED (SELECT t.*, pg_catalog.sum(%s) OVER (ORDER BY t.ordinality ROWS UNBOUNDED PRECEDING) '
        'OPERATOR(pg_catalog./) 4194304 AS part FROM ROWS FROM (ml.fetch_rows($1, $2) AS (%s)) WITH ORDINALITY AS t), '
        'a AS MATERIALIZED (SELECT s.part, s.first, p.* FROM (SELECT t.part, pg_catalog.min(t.ordinality) AS first, pg_catalog.count(*)::pg_catalog.int4 AS size, '
        'ARRAY[%s]::pg_catalog.bytea[] AS columns FROM b AS t GROUP BY t.part) AS s CROSS JOIN LATERAL ml.predict_columns($3, s.size, %L::pg_catalog.text[], s.columns) AS p) '
        'SELECT t.c1, %s, %s FROM b AS t JOIN a ON t.part OPERATOR(pg_catalog.=) a.part ORDER BY t.ordinality', lengths, columns, arrays, used,
        replace(answers, 'a.place', '(t.ordinality OPERATOR(pg_catalog.-) a.first OPERATOR(pg_catalog.+) 1)'), latest);
END $$;
COMMENT ON FUNCTION ml.plan_rows(text, text[], bytea, regtype) IS $$Part of predict_rows(): the statement that predicts a batch of rows with columns of these names and of the types that record_send() of a row of NULLs tells, and how many rows that should be. The statement takes a cursor's name, the number of rows, the model and the number of rows before.
Example: SELECT statement FROM ml.plan_rows('churn', '{id,age,plan}', record_send(ROW(NULL::bigint, NULL::integer, NULL::text)), 'bigint');$$;

-- VOLATILE, since PostgreSQL lets only such functions FETCH. No search_path is set: the functions of the caller's query run in here.
CREATE OR REPLACE FUNCTION ml.fetch_rows(source text, size integer) RETURNS SETOF record
LANGUAGE plpgsql VOLATILE
AS $$ BEGIN RETURN QUERY EXECUTE pg_catalog.format('FETCH %s FROM %I', size, source); END $$;
COMMENT ON FUNCTION ml.fetch_rows(text, integer) IS $$Part of predict_rows(): the next rows of a cursor of the caller's.
Example: BEGIN; DECLARE c CURSOR FOR SELECT 1, 'a'::text; SELECT * FROM ml.fetch_rows('c', 10) AS t(n integer, word text); COMMIT;$$;

-- STABLE, so the version and the rows are those of the caller's snapshot, and the query can't write. All of it is read, so the plan that suits is that
-- of a whole query, not of a cursor's first rows.
CREATE OR REPLACE FUNCTION ml.predict_rows(model text, query text, key_type anyelement)
RETURNS TABLE (key anyelement, prediction double precision, label text, version integer)
LANGUAGE plpgsql STABLE COST 1000000 ROWS 10000
    SET cursor_tuple_fraction = 1
AS $$
DECLARE
    shape  pg_catalog.record;
    plan   pg_catalog.record;
    source pg_catalog.refcursor;
    done   pg_catalog.int8 := 0;
    got    pg_catalog.int8;
BEGIN
    PERFORM ml.predict_columns(model, NULL, NULL, NULL); -- the right to use the model comes first
    IF model IS NULL OR query IS NULL THEN
        RAISE EXCEPTION 'predict_rows needs a model and a query, and got NULL' USING ERRCODE = '22004';
    END IF;
    query := pg_catalog.regexp_replace(query, '[\s;]+$', '');
    -- The query's columns, without running it.
    EXECUTE pg_catalog.format(E'SELECT q.* FROM (SELECT) AS one LEFT JOIN (SELECT * FROM (%s\n) AS q LIMIT 0) AS q ON true', query) INTO shape;
    SELECT * INTO plan FROM ml.plan_rows(model, ARRAY(SELECT k.name FROM pg_catalog.json_object_keys(pg_catalog.row_to_json(shape)) WITH ORDINALITY AS k(name, n)
        ORDER BY k.n), pg_catalog.record_send(shape), pg_catalog.pg_typeof(key_type));
    OPEN source NO SCROLL FOR EXECUTE query;
    LOOP
        RETURN QUERY EXECUTE plan.statement USING source::pg_catalog.text, plan.size, model, done;
        GET DIAGNOSTICS got = ROW_COUNT;
        done := done OPERATOR(pg_catalog.+) got;
        EXIT WHEN got OPERATOR(pg_catalog.<) plan.size;
    END LOOP;
    CLOSE source;
END $$;
COMMENT ON FUNCTION ml.predict_rows(text, text, anyelement) IS $$Predicts every row of a query, thousands per round trip. The query runs with the caller's rights in the caller's transaction; its first column is the key, of the type of the third argument, the others are features by name; columns that are no feature are ignored. prediction is NULL where the labels are text, label where the model is a regression.
Example: INSERT INTO scores SELECT * FROM predict_rows('churn', 'SELECT id, age, plan FROM customers', NULL::bigint);$$;

CREATE OR REPLACE FUNCTION ml.predict_batch(model text, features double precision[]) RETURNS double precision[]
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER COST 100000
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    step   integer := CASE WHEN array_ndims(features) = 2 THEN greatest(1, 262144 / array_length(features, 2)) END; -- rows per call: two megabytes
    answer text;
    result double precision[] := '{}';
BEGIN
    IF cardinality(features) <= 262144 OR step IS NULL THEN
        answer := ml_private.call('B', model, 'm' || encode(array_send(features), 'base64'));
        IF answer LIKE '!%' THEN
            PERFORM ml_private.raise_row(substr(answer, 2)::jsonb, format('row %s', substr(answer, 2)::jsonb ->> 'row'));
        END IF;
        RETURN answer;
    END IF;
    FOR start IN array_lower(features, 1) .. array_upper(features, 1) BY step LOOP
        answer := ml_private.call('B', model, 'm' || encode(array_send(features[start : least(start + step - 1, array_upper(features, 1))][:]), 'base64'));
        IF answer LIKE '!%' THEN
            PERFORM ml_private.raise_row(substr(answer, 2)::jsonb,
                format('row %s', (substr(answer, 2)::jsonb ->> 'row')::integer + start - array_lower(features, 1)));
        END IF;
        result := result || answer::double precision[];
    END LOOP;
    RETURN result;
END $$;
COMMENT ON FUNCTION ml.predict_batch(text, double precision[]) IS $$Predicts each row of a two-dimensional array, with the features of the version in order, and gives one number per row, as predict() does. NULL features give NULL, an empty array an empty one; a NULL element takes the feature's default.
Example: SELECT predict_batch('iris_numeric', ARRAY[[5.1, 3.5, 1.4, 0.2], [6.2, 2.9, 4.3, 1.3]]);$$;
