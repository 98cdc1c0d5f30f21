-- Every row of every model, by row, by array and by JSON, against what the framework itself predicted.
\set ON_ERROR_STOP on
CREATE FUNCTION pg_temp.check(model text, form text, rows bigint, wrong bigint, largest double precision) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF wrong > 0 OR largest > 1e-5 OR largest IS NULL OR rows = 0 THEN
        RAISE EXCEPTION '% by %: % of % labels differ, largest difference %', model, form, wrong, rows, largest USING ERRCODE = 'data_exception';
    END IF;
    RETURN format('  %s by %s: %s rows, labels equal, largest difference %s', rpad(model, 9), rpad(form, 5), lpad(rows::text, 3), to_char(largest, '9.9EEEE'));
END $$;

\pset tuples_only on
\pset format unaligned
\echo
\echo '== Every prediction against the framework''s own'

SELECT pg_temp.check(m.ref, f.form, count(*), count(*) FILTER (WHERE g.answer ->> 'label' IS DISTINCT FROM e.label),
                     max(greatest(abs((g.answer -> 'probabilities' ->> 'setosa')::double precision - e.setosa),
                                  abs((g.answer -> 'probabilities' ->> 'versicolor')::double precision - e.versicolor),
                                  abs((g.answer -> 'probabilities' ->> 'virginica')::double precision - e.virginica))))
FROM (VALUES ('iris@1'), ('iris@2')) AS m(ref)
CROSS JOIN (VALUES ('row'), ('array'), ('JSON')) AS f(form)
CROSS JOIN iris i
JOIN LATERAL (SELECT * FROM expected.iris x WHERE m.ref = 'iris@1' AND x.id = i.id
              UNION ALL SELECT * FROM expected.iris_v2 x WHERE m.ref = 'iris@2' AND x.id = i.id) e ON true
CROSS JOIN LATERAL (SELECT CASE f.form
    WHEN 'row' THEN predict_json(m.ref, i)
    WHEN 'array' THEN predict_json(m.ref, ARRAY[i.sepal_length, i.sepal_width, i.petal_length, i.petal_width])
    ELSE predict_json(m.ref, to_jsonb(i) - 'id' - 'species') END AS answer) g
GROUP BY m.ref, f.form ORDER BY 1;

SELECT pg_temp.check('diabetes', f.form, count(*), 0, max(abs(g.value - e.value) / greatest(1, abs(e.value))))
FROM (VALUES ('row'), ('array'), ('JSON')) AS f(form)
CROSS JOIN diabetes d
JOIN expected.diabetes e USING (id)
CROSS JOIN LATERAL (SELECT CASE f.form
    WHEN 'row' THEN predict('diabetes', d)
    WHEN 'array' THEN predict('diabetes', ARRAY[d.age, d.sex, d.bmi, d.bp, d.s1, d.s2, d.s3, d.s4, d.s5, d.s6])
    ELSE predict('diabetes', to_jsonb(d) - 'id' - 'progression') END AS value) g
GROUP BY f.form ORDER BY 1;

-- Its island and sex are text, which an array of numbers cannot hold: by row and by JSON.
SELECT pg_temp.check('penguins', f.form, count(*), count(*) FILTER (WHERE g.answer ->> 'label' IS DISTINCT FROM e.label),
                     max(greatest(abs((g.answer -> 'probabilities' ->> 'Adelie')::double precision - e.adelie),
                                  abs((g.answer -> 'probabilities' ->> 'Chinstrap')::double precision - e.chinstrap),
                                  abs((g.answer -> 'probabilities' ->> 'Gentoo')::double precision - e.gentoo))))
FROM (VALUES ('row'), ('JSON')) AS f(form)
CROSS JOIN penguins p
JOIN expected.penguins e USING (id)
CROSS JOIN LATERAL (SELECT CASE f.form
    WHEN 'row' THEN predict_json('penguins', p)
    ELSE predict_json('penguins', to_jsonb(p) - 'id' - 'species') END AS answer) g
GROUP BY f.form ORDER BY 1;

-- Batches: every row of the tables that the jobs wrote, and of predict_rows. A row that is missing counts as wrong.
SELECT pg_temp.check('iris', w.form, count(*), count(*) FILTER (WHERE f.label IS DISTINCT FROM e.label), 0)
FROM expected.iris e
CROSS JOIN (VALUES ('job'), ('rows')) AS w(form)
LEFT JOIN (SELECT 'job' AS form, id, label FROM iris_scores
           UNION ALL SELECT 'rows', key, label FROM predict_rows('iris', 'SELECT * FROM iris', NULL::bigint)) AS f ON f.id = e.id AND f.form = w.form
GROUP BY w.form ORDER BY 1;

SELECT pg_temp.check('diabetes', w.form, count(*), count(*) FILTER (WHERE f.prediction IS NULL), max(abs(f.prediction - e.value) / greatest(1, abs(e.value))))
FROM expected.diabetes e
CROSS JOIN (VALUES ('job'), ('rows')) AS w(form)
LEFT JOIN (SELECT 'job' AS form, id, prediction FROM diabetes_scores
           UNION ALL SELECT 'rows', key, prediction FROM predict_rows('diabetes', 'SELECT * FROM diabetes', NULL::bigint)) AS f ON f.id = e.id AND f.form = w.form
GROUP BY w.form ORDER BY 1;

SELECT pg_temp.check('penguins', w.form, count(*), count(*) FILTER (WHERE f.label IS DISTINCT FROM e.label), 0)
FROM expected.penguins e
CROSS JOIN (VALUES ('job'), ('rows')) AS w(form)
LEFT JOIN (SELECT 'job' AS form, id, label FROM penguins_scores
           UNION ALL SELECT 'rows', key, label FROM predict_rows('penguins', 'SELECT * FROM penguins', NULL::bigint)) AS f ON f.id = e.id AND f.form = w.form
GROUP BY w.form ORDER BY 1;
