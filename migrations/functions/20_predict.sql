-- The functions that people call. Each is SECURITY DEFINER, since only the owner may open the gateway, and immune to the caller's settings: all names
-- are spelled with their schema, operators and types too, so that no search_path needs to be pinned, which would cost a microsecond of some twenty.
-- STABLE, so the version is that of the caller's snapshot; COST tells the planner that a call is dear; no EXCEPTION block, so parallel workers can run
-- them.
--
-- This is the hot path, and what it costs is the number of expressions, since each finds the processor's caches cold after a round trip: one index
-- probe gives what a call needs and who may use the model, one expression makes the call, one reads the answer from the command tag. Whatever is
-- out of the ordinary goes to ml_private.call(). So the functions are alike but for a few words, and made from one text.
--
-- The forms that take a record are the caller's own (SECURITY INVOKER): row_to_json() runs the casts that a user's types have, which must never
-- happen with the owner's rights. What they make of the row goes through ml.call_record().
DO $do$
DECLARE
    f    record;
    body text := $body$
CREATE OR REPLACE FUNCTION ml.%1$I(%2$s) RETURNS %3$s
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER COST 1000
AS $fn$
DECLARE
    sealed pg_catalog.text;
    reader pg_catalog.oid;
    answer pg_catalog.text;
BEGIN%6$s
    SELECT x.sealed, x.readers[1] INTO sealed, reader FROM ml_private.route x WHERE x.ref OPERATOR(pg_catalog.=) model;
    answer := CASE
        WHEN (reader OPERATOR(pg_catalog.=) 0::pg_catalog.oid
              OR pg_catalog.pg_has_role(CASE WHEN pg_catalog.current_setting('role') OPERATOR(pg_catalog.=) 'none' THEN session_user
                                             ELSE pg_catalog.current_setting('role')::pg_catalog.name END, reader, 'USAGE'))
            AND 'rowcast' OPERATOR(pg_catalog.=) ANY ({{.Dblink}}.dblink_get_connections())
        THEN {{.Dblink}}.dblink_exec('rowcast', %4$s OPERATOR(pg_catalog.||) sealed
            OPERATOR(pg_catalog.||) CASE WHEN pg_catalog.current_setting('rowcast.timeout', true) OPERATOR(pg_catalog.<>) ''
                                         THEN pg_catalog.replace(pg_catalog.current_setting('rowcast.timeout', true), ' ', '') ELSE '-' END
            OPERATOR(pg_catalog.||) ' ' OPERATOR(pg_catalog.||) %5$s, false) END;
    RETURN CASE WHEN pg_catalog.starts_with(answer, '=') THEN pg_catalog.substr(answer, 2)::%3$s
                ELSE ml_private.call(%4$s, model, %5$s, answer)::%3$s END;
END $fn$$body$;
BEGIN
    EXECUTE format(body, 'call_record', 'verb text, model text, features json', 'pg_catalog.text', 'verb', $$'r' OPERATOR(pg_catalog.||) features::pg_catalog.text$$, $$
    IF (verb OPERATOR(pg_catalog.=) ANY ('{p,l,Q,J}'::pg_catalog.text[])) IS NOT TRUE THEN
        RAISE EXCEPTION 'call_record() has no verb "%"', verb USING ERRCODE = '22023', HINT = 'It is p, l, Q or J; call predict() and its like instead.';
    END IF;$$);
    FOR f IN
        SELECT n.name, n.verb, n.result, n.what, t.type, t.payload, t.how, x.example
        FROM (VALUES
            ('predict', 'p', 'pg_catalog.float8', 'Regression value, or the class as a number; text labels need predict_label().'),
            ('predict_label', 'l', 'pg_catalog.text', 'Predicted label as text.'),
            ('predict_proba', 'Q', 'pg_catalog.float8[]', 'Probabilities of the classes, in the order of ml.versions.labels.'),
            ('predict_json', 'J', 'pg_catalog.jsonb', 'Everything: model, version, value, label, probabilities by label, and every raw output.')
        ) AS n(name, verb, result, what)
        CROSS JOIN (VALUES
            (1, 'text', $$'t' OPERATOR(pg_catalog.||) features$$,
                'as text: an array literal, a JSON object, or the text itself for a model of one text feature'),
            (2, 'double precision[]', $$'b' OPERATOR(pg_catalog.||) pg_catalog.encode(pg_catalog.array_send(features), 'hex')$$,
                'as an array, in the order of the version''s features'),
            (3, 'jsonb', $$'j' OPERATOR(pg_catalog.||) features::pg_catalog.text$$,
                'as a JSON object by name; a key that is no feature is an error'),
            (4, 'record', NULL, 'as a table row by column name; columns that are no feature are ignored')
        ) AS t(position, type, payload, how)
        JOIN (VALUES
            ('predict', ARRAY[$$SELECT predict('churn', '{41, 3.5}');$$, $$SELECT predict('churn', ARRAY[41, 3.5]);$$,
                $$SELECT predict('churn', jsonb_build_object('age', age, 'plan', plan)) FROM customers;$$, $$SELECT id, predict('churn', t) FROM customers t;$$]),
            ('predict_label', ARRAY[$$SELECT predict_label('tickets', 'where is my parcel');$$, $$SELECT predict_label('iris', ARRAY[5.1, 3.5, 1.4, 0.2]);$$,
                $$SELECT predict_label('churn', jsonb_build_object('age', age, 'plan', plan)) FROM customers;$$,
                $$SELECT id, predict_label('churn', t) FROM customers t;$$]),
            ('predict_proba', ARRAY[$$SELECT predict_proba('iris', '{5.1, 3.5, 1.4, 0.2}');$$, $$SELECT predict_proba('iris', ARRAY[5.1, 3.5, 1.4, 0.2]);$$,
                $$SELECT predict_proba('churn', jsonb_build_object('age', age, 'plan', plan)) FROM customers;$$,
                $$SELECT id, predict_proba('churn', t) FROM customers t;$$]),
            ('predict_json', ARRAY[$$SELECT predict_json('churn', '{"age": 41, "plan": "gold"}');$$, $$SELECT predict_json('churn@2', ARRAY[41, 3.5]);$$,
                $$SELECT predict_json('churn', jsonb_build_object('age', age, 'plan', plan)) FROM customers;$$,
                $$SELECT id, predict_json('churn', t) FROM customers t;$$])
        ) AS e(name, examples) ON e.name = n.name
        CROSS JOIN LATERAL (SELECT e.examples[t.position]) AS x(example)
    LOOP
        IF f.payload IS NOT NULL THEN
            EXECUTE format(body, f.name, 'model text, features ' || f.type, f.result, quote_literal(f.verb), f.payload, '');
        ELSE
            EXECUTE format($fn$
                CREATE OR REPLACE FUNCTION ml.%1$I(model text, features record) RETURNS %2$s
                LANGUAGE plpgsql STABLE PARALLEL SAFE COST 1000
                    SET search_path = pg_catalog, pg_temp SET extra_float_digits = 1
                AS $$ BEGIN RETURN ml.call_record(%3$L, model, row_to_json(features))::%2$s; END $$$fn$, f.name, f.result, f.verb);
        END IF;
        EXECUTE format('COMMENT ON FUNCTION ml.%I(text, %s) IS %L', f.name, f.type,
            format(E'%s Model: ''churn'' (its champion), ''churn@3'' or ''churn@alias''; features %s. NULL features give NULL.\nExample: %s', f.what, f.how, f.example));
    END LOOP;
END $do$;
COMMENT ON FUNCTION ml.call_record(text, text, json) IS $$What the forms of predict() and its like that take a record go through; call those. verb is p, l, Q or J.
Example: SELECT ml.call_record('p', 'churn', '{"age": 41, "plan": "gold"}');$$;

CREATE OR REPLACE FUNCTION ml.infer(model text, inputs jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER COST 1000
AS $$ BEGIN RETURN ml_private.call('I', model, 'j' OPERATOR(pg_catalog.||) inputs::pg_catalog.text)::pg_catalog.jsonb; END $$;
COMMENT ON FUNCTION ml.infer(text, jsonb) IS $$Runs a model on tensors by input name and returns every output by name, whatever their rank and type. A tensor is nested arrays, a bare value for
rank 0, or {"shape": [0, 3], "data": []}; NaN and infinities are the strings "NaN", "Infinity", "-Infinity"; int64 is exact.
Example: SELECT ml.infer('iris', '{"X": [[5.1, 3.5, 1.4, 0.2]]}');$$;
