-- The functions that people call. Each is SECURITY DEFINER, since only the owner may open the gateway, and immune to the caller's settings: all names
-- are spelled with their schema (see ml_private.call), and what takes a record pins how floats are written. STABLE, so the version is that of the
-- caller's snapshot; COST tells the planner that a call is dear.

CREATE OR REPLACE FUNCTION ml.predict(model text, features text) RETURNS double precision
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER COST 1000
AS $$ BEGIN RETURN ml_private.call('p', model, 't' OPERATOR(pg_catalog.||) features)::pg_catalog.float8; END $$;
COMMENT ON FUNCTION ml.predict(text, text) IS $$Regression value, or the class as a number; text labels need predict_label(). Model: 'churn' (its champion), 'churn@3' or 'churn@alias'; features as text: an array literal, a JSON object, or the text itself for a model of one text feature. NULL features give NULL.
Example: SELECT predict('churn', '{41, 3.5}');$$;

CREATE OR REPLACE FUNCTION ml.predict(model text, features double precision[]) RETURNS double precision
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER COST 1000
AS $$ BEGIN RETURN ml_private.call('p', model, 'b' OPERATOR(pg_catalog.||) pg_catalog.encode(pg_catalog.array_send(features), 'hex'))::pg_catalog.float8; END $$;
COMMENT ON FUNCTION ml.predict(text, double precision[]) IS $$Regression value, or the class as a number; text labels need predict_label(). Model: 'churn' (its champion), 'churn@3' or 'churn@alias'; features as an array, in the order of the version's features. NULL features give NULL.
Example: SELECT predict('churn', ARRAY[41, 3.5]);$$;

CREATE OR REPLACE FUNCTION ml.predict(model text, features jsonb) RETURNS double precision
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER COST 1000
AS $$ BEGIN RETURN ml_private.call('p', model, 'j' OPERATOR(pg_catalog.||) features::pg_catalog.text)::pg_catalog.float8; END $$;
COMMENT ON FUNCTION ml.predict(text, jsonb) IS $$Regression value, or the class as a number; text labels need predict_label(). Model: 'churn' (its champion), 'churn@3' or 'churn@alias'; features as a JSON object by name; a key that is no feature is an error. NULL features give NULL.
Example: SELECT predict('churn', jsonb_build_object('age', age, 'plan', plan)) FROM customers;$$;

CREATE OR REPLACE FUNCTION ml.predict(model text, features record) RETURNS double precision
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER COST 1000
    SET search_path = pg_catalog, pg_temp SET extra_float_digits = 1
AS $$ BEGIN RETURN ml_private.call('p', model, 'r' || row_to_json(features)::text)::double precision; END $$;
COMMENT ON FUNCTION ml.predict(text, record) IS $$Regression value, or the class as a number; text labels need predict_label(). Model: 'churn' (its champion), 'churn@3' or 'churn@alias'; features as a table row by column name; columns that are no feature are ignored. NULL features give NULL.
Example: SELECT id, predict('churn', t) FROM customers t;$$;

CREATE OR REPLACE FUNCTION ml.predict_label(model text, features text) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER COST 1000
AS $$ BEGIN RETURN ml_private.call('l', model, 't' OPERATOR(pg_catalog.||) features); END $$;
COMMENT ON FUNCTION ml.predict_label(text, text) IS $$Predicted label as text. Model: 'churn' (its champion), 'churn@3' or 'churn@alias'; features as text: an array literal, a JSON object, or the text itself for a model of one text feature. NULL features give NULL.
Example: SELECT predict_label('tickets', 'where is my parcel');$$;

CREATE OR REPLACE FUNCTION ml.predict_label(model text, features double precision[]) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER COST 1000
AS $$ BEGIN RETURN ml_private.call('l', model, 'b' OPERATOR(pg_catalog.||) pg_catalog.encode(pg_catalog.array_send(features), 'hex')); END $$;
COMMENT ON FUNCTION ml.predict_label(text, double precision[]) IS $$Predicted label as text. Model: 'churn' (its champion), 'churn@3' or 'churn@alias'; features as an array, in the order of the version's features. NULL features give NULL.
Example: SELECT predict_label('iris', ARRAY[5.1, 3.5, 1.4, 0.2]);$$;

CREATE OR REPLACE FUNCTION ml.predict_label(model text, features jsonb) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER COST 1000
AS $$ BEGIN RETURN ml_private.call('l', model, 'j' OPERATOR(pg_catalog.||) features::pg_catalog.text); END $$;
COMMENT ON FUNCTION ml.predict_label(text, jsonb) IS $$Predicted label as text. Model: 'churn' (its champion), 'churn@3' or 'churn@alias'; features as a JSON object by name; a key that is no feature is an error. NULL features give NULL.
Example: SELECT predict_label('churn', jsonb_build_object('age', age, 'plan', plan)) FROM customers;$$;

CREATE OR REPLACE FUNCTION ml.predict_label(model text, features record) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER COST 1000
    SET search_path = pg_catalog, pg_temp SET extra_float_digits = 1
AS $$ BEGIN RETURN ml_private.call('l', model, 'r' || row_to_json(features)::text); END $$;
COMMENT ON FUNCTION ml.predict_label(text, record) IS $$Predicted label as text. Model: 'churn' (its champion), 'churn@3' or 'churn@alias'; features as a table row by column name; columns that are no feature are ignored. NULL features give NULL.
Example: SELECT id, predict_label('churn', t) FROM customers t;$$;

CREATE OR REPLACE FUNCTION ml.predict_proba(model text, features text) RETURNS double precision[]
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER COST 1000
AS $$ BEGIN RETURN ml_private.call('Q', model, 't' OPERATOR(pg_catalog.||) features)::pg_catalog.float8[]; END $$;
COMMENT ON FUNCTION ml.predict_proba(text, text) IS $$Probabilities of the classes, in the order of ml.versions.labels. Model: 'churn' (its champion), 'churn@3' or 'churn@alias'; features as text: an array literal, a JSON object, or the text itself for a model of one text feature. NULL features give NULL.
Example: SELECT predict_proba('iris', '{5.1, 3.5, 1.4, 0.2}');$$;

CREATE OR REPLACE FUNCTION ml.predict_proba(model text, features double precision[]) RETURNS double precision[]
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER COST 1000
AS $$ BEGIN RETURN ml_private.call('Q', model, 'b' OPERATOR(pg_catalog.||) pg_catalog.encode(pg_catalog.array_send(features), 'hex'))::pg_catalog.float8[]; END $$;
COMMENT ON FUNCTION ml.predict_proba(text, double precision[]) IS $$Probabilities of the classes, in the order of ml.versions.labels. Model: 'churn' (its champion), 'churn@3' or 'churn@alias'; features as an array, in the order of the version's features. NULL features give NULL.
Example: SELECT predict_proba('iris', ARRAY[5.1, 3.5, 1.4, 0.2]);$$;

CREATE OR REPLACE FUNCTION ml.predict_proba(model text, features jsonb) RETURNS double precision[]
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER COST 1000
AS $$ BEGIN RETURN ml_private.call('Q', model, 'j' OPERATOR(pg_catalog.||) features::pg_catalog.text)::pg_catalog.float8[]; END $$;
COMMENT ON FUNCTION ml.predict_proba(text, jsonb) IS $$Probabilities of the classes, in the order of ml.versions.labels. Model: 'churn' (its champion), 'churn@3' or 'churn@alias'; features as a JSON object by name; a key that is no feature is an error. NULL features give NULL.
Example: SELECT predict_proba('churn', jsonb_build_object('age', age, 'plan', plan)) FROM customers;$$;

CREATE OR REPLACE FUNCTION ml.predict_proba(model text, features record) RETURNS double precision[]
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER COST 1000
    SET search_path = pg_catalog, pg_temp SET extra_float_digits = 1
AS $$ BEGIN RETURN ml_private.call('Q', model, 'r' || row_to_json(features)::text)::double precision[]; END $$;
COMMENT ON FUNCTION ml.predict_proba(text, record) IS $$Probabilities of the classes, in the order of ml.versions.labels. Model: 'churn' (its champion), 'churn@3' or 'churn@alias'; features as a table row by column name; columns that are no feature are ignored. NULL features give NULL.
Example: SELECT id, predict_proba('churn', t) FROM customers t;$$;

CREATE OR REPLACE FUNCTION ml.predict_json(model text, features text) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER COST 1000
AS $$ BEGIN RETURN ml_private.call('J', model, 't' OPERATOR(pg_catalog.||) features)::pg_catalog.jsonb; END $$;
COMMENT ON FUNCTION ml.predict_json(text, text) IS $$Everything: model, version, value, label, probabilities by label, and every raw output. Model: 'churn' (its champion), 'churn@3' or 'churn@alias'; features as text: an array literal, a JSON object, or the text itself for a model of one text feature. NULL features give NULL.
Example: SELECT predict_json('churn', '{"age": 41, "plan": "gold"}');$$;

CREATE OR REPLACE FUNCTION ml.predict_json(model text, features double precision[]) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER COST 1000
AS $$ BEGIN RETURN ml_private.call('J', model, 'b' OPERATOR(pg_catalog.||) pg_catalog.encode(pg_catalog.array_send(features), 'hex'))::pg_catalog.jsonb; END $$;
COMMENT ON FUNCTION ml.predict_json(text, double precision[]) IS $$Everything: model, version, value, label, probabilities by label, and every raw output. Model: 'churn' (its champion), 'churn@3' or 'churn@alias'; features as an array, in the order of the version's features. NULL features give NULL.
Example: SELECT predict_json('churn@2', ARRAY[41, 3.5]);$$;

CREATE OR REPLACE FUNCTION ml.predict_json(model text, features jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER COST 1000
AS $$ BEGIN RETURN ml_private.call('J', model, 'j' OPERATOR(pg_catalog.||) features::pg_catalog.text)::pg_catalog.jsonb; END $$;
COMMENT ON FUNCTION ml.predict_json(text, jsonb) IS $$Everything: model, version, value, label, probabilities by label, and every raw output. Model: 'churn' (its champion), 'churn@3' or 'churn@alias'; features as a JSON object by name; a key that is no feature is an error. NULL features give NULL.
Example: SELECT predict_json('churn', jsonb_build_object('age', age, 'plan', plan)) FROM customers;$$;

CREATE OR REPLACE FUNCTION ml.predict_json(model text, features record) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER COST 1000
    SET search_path = pg_catalog, pg_temp SET extra_float_digits = 1
AS $$ BEGIN RETURN ml_private.call('J', model, 'r' || row_to_json(features)::text)::jsonb; END $$;
COMMENT ON FUNCTION ml.predict_json(text, record) IS $$Everything: model, version, value, label, probabilities by label, and every raw output. Model: 'churn' (its champion), 'churn@3' or 'churn@alias'; features as a table row by column name; columns that are no feature are ignored. NULL features give NULL.
Example: SELECT id, predict_json('churn', t) FROM customers t;$$;

CREATE OR REPLACE FUNCTION ml.infer(model text, inputs jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER COST 1000
AS $$ BEGIN RETURN ml_private.call('I', model, 'j' OPERATOR(pg_catalog.||) inputs::pg_catalog.text)::pg_catalog.jsonb; END $$;
COMMENT ON FUNCTION ml.infer(text, jsonb) IS $$Runs a model on tensors by input name and returns every output by name, whatever their rank and type. A tensor is nested arrays, a bare value for
rank 0, or {"shape": [0, 3], "data": []}; NaN and infinities are the strings "NaN", "Infinity", "-Infinity"; int64 is exact.
Example: SELECT ml.infer('iris', '{"X": [[5.1, 3.5, 1.4, 0.2]]}');$$;
