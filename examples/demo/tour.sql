\set ON_ERROR_STOP on
\pset footer off
\set ECHO queries
\set SHOW_CONTEXT never

\echo
\echo '== The models are rows'
SELECT model, task, champion, description FROM ml.models;

\echo '== Predictions are queries: a whole row, its columns found by name'
SELECT id, species, predict_label('penguins', p) AS predicted FROM penguins p WHERE id IN (0, 3, 200, 300) ORDER BY id;

\echo '== An array, in the order of the features'
SELECT predict_label('iris', ARRAY[5.1, 3.5, 1.4, 0.2]) AS label, predict_proba('iris', ARRAY[5.1, 3.5, 1.4, 0.2]) AS probabilities;

\echo '== JSON, by name; the answer says which version gave it'
SELECT jsonb_pretty(predict_json('iris', '{"sepal_length": 6.3, "sepal_width": 2.5, "petal_length": 4.9, "petal_width": 1.5}') - 'outputs') AS answer;

\echo '== It is SQL: filter, aggregate, join'
SELECT width_bucket(predict('diabetes', d), 50, 350, 3) AS band, count(*), round(avg(progression)) AS measured, round(avg(predict('diabetes', d))) AS predicted
FROM diabetes d GROUP BY band ORDER BY band;

\echo '== Many rows at once: thousands in one call, in your transaction'
SELECT key AS id, round(prediction) AS predicted FROM predict_rows('diabetes', 'SELECT * FROM diabetes', NULL::bigint) ORDER BY prediction DESC LIMIT 3;

\echo '== A second version is registered. It changes nothing until it is promoted, and a promotion is a transaction'
SELECT version, aliases, description FROM ml.versions WHERE model = 'iris' ORDER BY version;
SELECT count(*) AS rows_on_which_they_differ FROM iris i WHERE predict_label('iris@1', i) <> predict_label('iris@2', i);
BEGIN;
SELECT ml.promote('iris', 2);
SELECT predict_json('iris', i) ->> 'version' AS version_inside FROM iris i WHERE id = 0;
ROLLBACK;
SELECT predict_json('iris', i) ->> 'version' AS version_after_rollback FROM iris i WHERE id = 0;

\echo '== Promoted for good, and taken back along its history'
SELECT ml.promote('iris', 2);
SELECT ml.rollback('iris') AS back_to_version;
SELECT alias, version, action FROM ml.alias_history WHERE model = 'iris' ORDER BY id;

\echo '== A mistake gets an answer'
\set ON_ERROR_STOP off
SELECT predict('iriss', ARRAY[5.1, 3.5, 1.4, 0.2]);
SELECT predict_label('iris', ARRAY[5.1, 3.5, 1.4]);
SELECT predict('iris', ARRAY[5.1, 3.5, 1.4, 0.2]);
\set ON_ERROR_STOP on
\set ECHO none
