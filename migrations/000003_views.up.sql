-- What people and BI tools look at. Each shows only the models that the reader may use.
CREATE FUNCTION ml_private.may_use(model_id bigint, role name) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
RETURN EXISTS (
    SELECT FROM ml_private.model m
    WHERE m.id = may_use.model_id
      AND (pg_has_role(may_use.role, m.owner::oid, 'USAGE')
           OR pg_has_role(may_use.role, current_user, 'USAGE')
           OR EXISTS (SELECT FROM pg_roles r WHERE r.rolname = 'ml_admin' AND pg_has_role(may_use.role, r.oid, 'USAGE'))
           OR EXISTS (SELECT FROM ml_private.model_grant g
                      WHERE g.model_id = m.id AND (g.grantee = 0 OR pg_has_role(may_use.role, g.grantee::oid, 'USAGE')))));
COMMENT ON FUNCTION ml_private.may_use(bigint, name) IS 'Whether the role may use the model: as owner, ml_admin, owner of the schema, or by grant.';

CREATE VIEW ml.models WITH (security_barrier) AS
SELECT m.name AS model, m.description, v.signature ->> 'task' AS task, a.version AS champion,
       (SELECT count(*) FROM ml_private.version n WHERE n.model_id = m.id) AS versions,
       pg_get_userbyid(m.owner) AS owner, m.created_at
FROM ml_private.model m
LEFT JOIN ml_private.alias a ON a.model_id = m.id AND a.alias = 'champion'
LEFT JOIN ml_private.version v ON v.model_id = m.id AND v.version = a.version
WHERE ml_private.may_use(m.id, current_user);
COMMENT ON VIEW ml.models IS 'The models that you may use. Example: SELECT model, task, champion FROM ml.models;';
COMMENT ON COLUMN ml.models.model IS 'Name, as in predict(''name'', …).';
COMMENT ON COLUMN ml.models.description IS 'What the model is for.';
COMMENT ON COLUMN ml.models.task IS 'classification, regression, anomaly, clustering or tensors (of the champion).';
COMMENT ON COLUMN ml.models.champion IS 'The version that predict(''name'', …) uses.';
COMMENT ON COLUMN ml.models.versions IS 'How many versions are stored.';
COMMENT ON COLUMN ml.models.owner IS 'The role that may change the model, besides ml_admin.';
COMMENT ON COLUMN ml.models.created_at IS 'When its first version was registered.';

CREATE VIEW ml.versions WITH (security_barrier) AS
SELECT m.name AS model, v.version, encode(v.sha256, 'hex') AS sha256, f.size, v.format, encode(v.source_sha256, 'hex') AS source_sha256,
       (SELECT s.size FROM ml_private.artifact s WHERE s.sha256 = v.source_sha256) AS source_size, v.signature ->> 'task' AS task,
       (SELECT array_agg(a.alias ORDER BY a.alias) FROM ml_private.alias a WHERE a.model_id = m.id AND a.version = v.version) AS aliases,
       (SELECT array_agg(e.feature ->> 'name' ORDER BY e.position)
        FROM jsonb_array_elements(v.signature -> 'features') WITH ORDINALITY AS e(feature, position)) AS features,
       (SELECT array_agg(e.label ORDER BY e.position)
        FROM jsonb_array_elements_text(v.signature -> 'labels') WITH ORDINALITY AS e(label, position)) AS labels,
       v.description, v.parameters, v.tags, v.signature, v.example, f.quarantined_at, f.quarantine_reason,
       v.created_at, pg_get_userbyid(v.created_by) AS created_by
FROM ml_private.version v
JOIN ml_private.model m ON m.id = v.model_id
JOIN ml_private.artifact f ON f.sha256 = v.sha256
WHERE ml_private.may_use(m.id, current_user);
COMMENT ON VIEW ml.versions IS 'Every version of the models that you may use. Example: SELECT version, aliases, created_at FROM ml.versions WHERE model = ''churn'';';
COMMENT ON COLUMN ml.versions.model IS 'Name of the model.';
COMMENT ON COLUMN ml.versions.version IS 'Number of the version, from 1; predict(''name@2'', …) uses version 2.';
COMMENT ON COLUMN ml.versions.sha256 IS 'SHA-256 of the ONNX file that is run, hexadecimal.';
COMMENT ON COLUMN ml.versions.size IS 'Bytes of the ONNX file.';
COMMENT ON COLUMN ml.versions.format IS 'What was registered: onnx, xgboost-json, xgboost-ubj, lightgbm-text, mlflow-onnx, mlflow-xgboost or mlflow-lightgbm.';
COMMENT ON COLUMN ml.versions.source_sha256 IS 'SHA-256 of the file that was registered, where it was converted to ONNX; NULL where it was ONNX.';
COMMENT ON COLUMN ml.versions.source_size IS 'Bytes of that file.';
COMMENT ON COLUMN ml.versions.task IS 'classification, regression, anomaly, clustering or tensors.';
COMMENT ON COLUMN ml.versions.aliases IS 'Aliases that point here now.';
COMMENT ON COLUMN ml.versions.features IS 'Feature names in the order of the array form.';
COMMENT ON COLUMN ml.versions.labels IS 'Labels in the order of predict_proba.';
COMMENT ON COLUMN ml.versions.description IS 'What this version is.';
COMMENT ON COLUMN ml.versions.parameters IS 'Parameters given at registration, and what the model file keeps of its training.';
COMMENT ON COLUMN ml.versions.tags IS 'Tags given at registration, and those of an MLflow model.';
COMMENT ON COLUMN ml.versions.signature IS 'Inputs, features with types and defaults, outputs and labels.';
COMMENT ON COLUMN ml.versions.example IS 'Example input with its outputs, replayed at every load.';
COMMENT ON COLUMN ml.versions.quarantined_at IS 'Since when the model is not run because it killed or stalled the sidecar; ml.release_version() lifts that.';
COMMENT ON COLUMN ml.versions.quarantine_reason IS 'What it did.';
COMMENT ON COLUMN ml.versions.created_at IS 'When it was registered.';
COMMENT ON COLUMN ml.versions.created_by IS 'Who registered it.';

CREATE VIEW ml.aliases WITH (security_barrier) AS
SELECT m.name AS model, a.alias, a.version, h.changed_at AS since, pg_get_userbyid(h.changed_by) AS set_by
FROM ml_private.alias a
JOIN ml_private.model m ON m.id = a.model_id
JOIN ml_private.alias_history h ON h.id = a.entry
WHERE ml_private.may_use(m.id, current_user);
COMMENT ON VIEW ml.aliases IS 'Where each alias points now. Example: SELECT * FROM ml.aliases WHERE model = ''churn'';';
COMMENT ON COLUMN ml.aliases.model IS 'Name of the model.';
COMMENT ON COLUMN ml.aliases.alias IS 'Name of the alias; champion is the one that a bare model name means.';
COMMENT ON COLUMN ml.aliases.version IS 'The version it points to.';
COMMENT ON COLUMN ml.aliases.since IS 'When it was set.';
COMMENT ON COLUMN ml.aliases.set_by IS 'Who set it.';

CREATE VIEW ml.alias_history WITH (security_barrier) AS
SELECT h.id, m.name AS model, h.alias, h.version, h.action, h.changed_at, pg_get_userbyid(h.changed_by) AS changed_by
FROM ml_private.alias_history h
JOIN ml_private.model m ON m.id = h.model_id
WHERE ml_private.may_use(m.id, current_user);
COMMENT ON VIEW ml.alias_history IS 'Every change of every alias, append-only. Example: SELECT * FROM ml.alias_history WHERE model = ''churn'' ORDER BY id;';
COMMENT ON COLUMN ml.alias_history.id IS 'Order of the changes.';
COMMENT ON COLUMN ml.alias_history.model IS 'Name of the model.';
COMMENT ON COLUMN ml.alias_history.alias IS 'Name of the alias.';
COMMENT ON COLUMN ml.alias_history.version IS 'The version it pointed to from then on; NULL when it was dropped.';
COMMENT ON COLUMN ml.alias_history.action IS 'set, rollback or drop.';
COMMENT ON COLUMN ml.alias_history.changed_at IS 'When.';
COMMENT ON COLUMN ml.alias_history.changed_by IS 'Who.';

CREATE VIEW ml.grants WITH (security_barrier) AS
SELECT m.name AS model, CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE pg_get_userbyid(g.grantee) END::text AS grantee, g.granted_at,
       pg_get_userbyid(g.granted_by) AS granted_by
FROM ml_private.model_grant g
JOIN ml_private.model m ON m.id = g.model_id
WHERE ml_private.may_use(m.id, current_user);
COMMENT ON VIEW ml.grants IS 'Who may use a model, besides its owner and ml_admin. Example: SELECT grantee FROM ml.grants WHERE model = ''churn'';';
COMMENT ON COLUMN ml.grants.model IS 'Name of the model.';
COMMENT ON COLUMN ml.grants.grantee IS 'The role, or PUBLIC.';
COMMENT ON COLUMN ml.grants.granted_at IS 'When it was granted.';
COMMENT ON COLUMN ml.grants.granted_by IS 'Who granted it.';

GRANT SELECT ON ml.models, ml.versions, ml.aliases, ml.alias_history, ml.grants TO PUBLIC;
