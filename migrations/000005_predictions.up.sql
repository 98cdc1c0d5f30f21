-- What was predicted: the log policy of each model, the log itself, and who may read all of it. The sidecar writes the log in bulk, or the SQL
-- functions do in the caller's transaction; see functions/50_predictions.sql.

CREATE TABLE ml_private.log_policy (
    model_id       bigint PRIMARY KEY REFERENCES ml_private.model ON DELETE CASCADE,
    policy         text NOT NULL CHECK (policy IN ('none', 'sampled', 'all', 'transactional')),
    sample         double precision NOT NULL CHECK (sample > 0 AND sample <= 1),
    retention_days integer NOT NULL CHECK (retention_days BETWEEN 1 AND 36500),
    inputs         boolean NOT NULL,
    key            text CHECK (key <> ''),
    changed_at     timestamptz NOT NULL DEFAULT now(),
    changed_by     regrole NOT NULL
);
COMMENT ON TABLE ml_private.log_policy IS 'Which predictions of a model are kept. A model without a row logs nothing.';
COMMENT ON COLUMN ml_private.log_policy.sample IS 'The share of predictions that policy sampled keeps.';
COMMENT ON COLUMN ml_private.log_policy.inputs IS 'Whether the features are kept, or only their hash.';
COMMENT ON COLUMN ml_private.log_policy.key IS 'The column of a record whose value is kept as the key.';

CREATE TABLE ml_private.prediction_grant (
    model_id   bigint NOT NULL REFERENCES ml_private.model ON DELETE CASCADE,
    grantee    regrole NOT NULL,
    granted_at timestamptz NOT NULL DEFAULT now(),
    granted_by regrole NOT NULL,
    PRIMARY KEY (model_id, grantee)
);
COMMENT ON TABLE ml_private.prediction_grant IS 'Who besides the owner and ml_admin may read every logged prediction of a model.';

-- Numbers are handed out 32 at a time, so that sessions that log in their own transactions do not queue for them.
CREATE SEQUENCE ml_private.prediction_id CACHE 32;
COMMENT ON SEQUENCE ml_private.prediction_id IS 'Numbers of predictions; with gaps.';

-- A row tells everything by itself: the version may be dropped later, and the transaction that registered or promoted it may have been rolled back.
-- So there are no foreign keys, and the hash of the model file is kept beside the number of the version.
CREATE TABLE ml_private.prediction (
    id            bigint NOT NULL DEFAULT nextval('ml_private.prediction_id'),
    at            timestamptz NOT NULL,
    model_id      bigint NOT NULL,
    version       integer NOT NULL,
    sha256        bytea NOT NULL,
    reference     text NOT NULL,
    entry         bigint,
    caller        text NOT NULL,
    key           text,
    input_hash    bytea NOT NULL,
    inputs        jsonb,
    value         double precision,
    label         text,
    probability   double precision,
    probabilities double precision[],
    outputs       jsonb,
    latency_ms    real NOT NULL,
    PRIMARY KEY (id, at)
) PARTITION BY RANGE (at);
CREATE INDEX prediction_model ON ml_private.prediction (model_id, at);
CREATE INDEX prediction_key ON ml_private.prediction (model_id, key) WHERE key IS NOT NULL;
COMMENT ON TABLE ml_private.prediction IS 'Logged predictions, a partition for each day (UTC). Read them through ml.predictions.';
COMMENT ON COLUMN ml_private.prediction.reference IS 'The model as the caller wrote it: churn, churn@3, churn@challenger.';
COMMENT ON COLUMN ml_private.prediction.entry IS 'The entry of alias_history that the reference was resolved by; NULL for a version.';
COMMENT ON COLUMN ml_private.prediction.input_hash IS 'SHA-256 of inputs::text.';

-- What comes for a day that has no partition (a clock that is wrong, a sidecar that has not run for a week) lands here, and moves when the
-- partition is made.
CREATE TABLE ml_private.prediction_other PARTITION OF ml_private.prediction DEFAULT;
COMMENT ON TABLE ml_private.prediction_other IS 'Predictions of days without a partition.';

-- One row for each sidecar that logs: which of its batches is committed. A sidecar that lost the connection during COMMIT learns here what came of it.
CREATE TABLE ml_private.recorder (
    id    uuid PRIMARY KEY,
    batch bigint NOT NULL,
    at    timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 20);
COMMENT ON TABLE ml_private.recorder IS 'The last batch of predictions that each sidecar has committed.';

CREATE TABLE ml_private.dropped_model (
    model_id   bigint PRIMARY KEY,
    dropped_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE ml_private.dropped_model IS 'Dropped models whose log is still to be deleted; nobody can read it any more.';

-- The columns of the views in ml_bi. Rows are only ever added, so that names and order stay.
CREATE TABLE ml_private.bi_column (
    model_id bigint NOT NULL REFERENCES ml_private.model ON DELETE CASCADE,
    position integer NOT NULL,
    name     text NOT NULL,
    feature  text,
    type     text NOT NULL,
    versions integer[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (model_id, position),
    UNIQUE (model_id, name)
);
COMMENT ON TABLE ml_private.bi_column IS 'Columns of the views in schema ml_bi, in their order.';
COMMENT ON COLUMN ml_private.bi_column.feature IS 'The feature that the column shows; NULL for key, prediction and the like.';
COMMENT ON COLUMN ml_private.bi_column.versions IS 'The versions whose feature the column shows.';

CREATE SCHEMA ml_bi;
COMMENT ON SCHEMA ml_bi IS 'Rowcast: one view for each model whose predictions are logged with their inputs, with typed columns, for BI tools. See ml.set_log_policy().';
GRANT USAGE ON SCHEMA ml_bi TO PUBLIC;

ALTER TABLE ml_private.route ADD COLUMN log text;
COMMENT ON COLUMN ml_private.route.log IS 'NULL where predictions are not logged. Else A (the sidecar writes) or T (the caller''s transaction does) and what to log, as JSON.';

REVOKE ALL ON ALL TABLES IN SCHEMA ml_private FROM PUBLIC;

CREATE FUNCTION ml_private.reads_predictions(model_id bigint, role name) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
RETURN EXISTS (
    SELECT FROM ml_private.model m
    WHERE m.id = reads_predictions.model_id
      AND (pg_has_role(reads_predictions.role, m.owner::oid, 'USAGE')
           OR pg_has_role(reads_predictions.role, current_user, 'USAGE')
           OR EXISTS (SELECT FROM pg_roles r WHERE r.rolname = 'ml_admin' AND pg_has_role(reads_predictions.role, r.oid, 'USAGE'))
           OR EXISTS (SELECT FROM ml_private.prediction_grant g
                      WHERE g.model_id = m.id AND (g.grantee = 0 OR pg_has_role(reads_predictions.role, g.grantee::oid, 'USAGE')))));
COMMENT ON FUNCTION ml_private.reads_predictions(bigint, name) IS 'Whether the role may read everybody''s logged predictions: as owner, ml_admin, owner of the schema, or by ml.grant_predictions().';

CREATE VIEW ml.log_policies WITH (security_barrier) AS
SELECT m.name AS model, coalesce(p.policy, 'none') AS policy, p.sample, p.retention_days, p.inputs, p.key,
       ARRAY(SELECT CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE pg_get_userbyid(g.grantee) END::text
             FROM ml_private.prediction_grant g WHERE g.model_id = m.id ORDER BY 1) AS readers,
       p.changed_at, pg_get_userbyid(p.changed_by) AS changed_by
FROM ml_private.model m
LEFT JOIN ml_private.log_policy p ON p.model_id = m.id
WHERE ml_private.may_use(m.id, current_user);
COMMENT ON VIEW ml.log_policies IS 'Which predictions of the models that you may use are kept. Example: SELECT policy, retention_days FROM ml.log_policies WHERE model = ''churn'';';
COMMENT ON COLUMN ml.log_policies.model IS 'Name of the model.';
COMMENT ON COLUMN ml.log_policies.policy IS 'none, sampled, all (both written by the sidecar), or transactional (written in the caller''s transaction).';
COMMENT ON COLUMN ml.log_policies.sample IS 'The share of predictions that policy sampled keeps.';
COMMENT ON COLUMN ml.log_policies.retention_days IS 'Days that predictions are kept.';
COMMENT ON COLUMN ml.log_policies.inputs IS 'Whether the features are kept, or only their hash.';
COMMENT ON COLUMN ml.log_policies.key IS 'The column of a record whose value is kept as the key.';
COMMENT ON COLUMN ml.log_policies.readers IS 'Who may read everybody''s predictions, besides the owner and ml_admin.';
COMMENT ON COLUMN ml.log_policies.changed_at IS 'When it was set.';
COMMENT ON COLUMN ml.log_policies.changed_by IS 'Who set it.';

CREATE VIEW ml.predictions WITH (security_barrier) AS
WITH visible AS MATERIALIZED ( -- asked once for each model, not for each row
    SELECT m.id, m.name, ml_private.reads_predictions(m.id, current_user) AS every_row FROM ml_private.model m
    WHERE ml_private.may_use(m.id, current_user) OR ml_private.reads_predictions(m.id, current_user)
)
SELECT p.id, p.at, m.name AS model, p.version, encode(p.sha256, 'hex') AS sha256, p.reference,
       CASE WHEN position('@' IN p.reference) = 0 THEN 'champion'
            WHEN split_part(p.reference, '@', 2) !~ '^[0-9]+$' THEN split_part(p.reference, '@', 2) END AS alias,
       p.entry AS alias_entry, h.changed_at AS alias_set_at, pg_get_userbyid(h.changed_by) AS alias_set_by,
       p.caller, p.key, encode(p.input_hash, 'hex') AS input_hash, p.inputs, p.value, p.label, p.probability, p.probabilities, p.outputs, p.latency_ms
FROM ml_private.prediction p
JOIN visible m ON m.id = p.model_id
LEFT JOIN ml_private.alias_history h ON h.id = p.entry
WHERE m.every_row OR p.caller = current_user;
COMMENT ON VIEW ml.predictions IS 'Logged predictions: all of them for the model''s owner, ml_admin and the readers of ml.grant_predictions(), your own for you. Example: SELECT at, key, value, label FROM ml.predictions WHERE model = ''churn'' AND at > now() - interval ''1 hour'';';
COMMENT ON COLUMN ml.predictions.id IS 'Number of the prediction.';
COMMENT ON COLUMN ml.predictions.at IS 'When it was made.';
COMMENT ON COLUMN ml.predictions.model IS 'Name of the model.';
COMMENT ON COLUMN ml.predictions.version IS 'The version that made it.';
COMMENT ON COLUMN ml.predictions.sha256 IS 'SHA-256 of the model file, hexadecimal; stays when the version is dropped.';
COMMENT ON COLUMN ml.predictions.reference IS 'The model as the caller wrote it: churn, churn@3, churn@challenger.';
COMMENT ON COLUMN ml.predictions.alias IS 'The alias that the reference names; NULL where it names a version.';
COMMENT ON COLUMN ml.predictions.alias_entry IS 'The entry of ml.alias_history that made the alias point to this version.';
COMMENT ON COLUMN ml.predictions.alias_set_at IS 'When the alias was pointed to this version.';
COMMENT ON COLUMN ml.predictions.alias_set_by IS 'Who did that; NULL where that transaction was rolled back.';
COMMENT ON COLUMN ml.predictions.caller IS 'The role that predicted.';
COMMENT ON COLUMN ml.predictions.key IS 'Value of the record''s column that the log policy names as key.';
COMMENT ON COLUMN ml.predictions.input_hash IS 'sha256(convert_to(inputs::text, ''UTF8'')), hexadecimal; kept also where inputs are not.';
COMMENT ON COLUMN ml.predictions.inputs IS 'The features by name as the model read them: after defaults, in the type of its tensors; NULL where they are not kept.';
COMMENT ON COLUMN ml.predictions.value IS 'Regression value, or the class as a number.';
COMMENT ON COLUMN ml.predictions.label IS 'The label.';
COMMENT ON COLUMN ml.predictions.probability IS 'Probability of the label.';
COMMENT ON COLUMN ml.predictions.probabilities IS 'Probability of each label, in the order of ml.versions.labels.';
COMMENT ON COLUMN ml.predictions.outputs IS 'All outputs by name, where the answer is neither a value nor a label.';
COMMENT ON COLUMN ml.predictions.latency_ms IS 'Milliseconds from the call''s arrival at the sidecar to its answer.';

GRANT SELECT ON ml.log_policies, ml.predictions TO PUBLIC;
