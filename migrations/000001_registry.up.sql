-- Models, versions, artifacts, aliases and rights. Everything that people may see goes through the views and functions of schema ml; the tables
-- live in ml_private, where nobody but the owner looks.

CREATE SCHEMA IF NOT EXISTS ml_private;
COMMENT ON SCHEMA ml_private IS 'Rowcast: tables and internals. Use schema ml.';
REVOKE ALL ON SCHEMA ml_private FROM PUBLIC;

CREATE SCHEMA ml;
COMMENT ON SCHEMA ml IS 'Rowcast: models are rows, predictions are queries. Start with \df+ ml.* and SELECT * FROM ml.models.';
GRANT USAGE ON SCHEMA ml TO PUBLIC;

-- The one row that opens the gateway: read by SECURITY DEFINER functions and by the sidecar only.
CREATE TABLE ml_private.gateway (
    singleton  boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    password   text NOT NULL,
    key        bytea NOT NULL CHECK (octet_length(key) = 32),
    rotated_at timestamptz NOT NULL DEFAULT now(),
    rotated_by name NOT NULL DEFAULT session_user
);
COMMENT ON TABLE ml_private.gateway IS 'Password of the gateway and the key that signs each call.';
COMMENT ON COLUMN ml_private.gateway.password IS 'SCRAM-SHA-256 password, the same as in the user mapping of server rowcast_gateway.';
COMMENT ON COLUMN ml_private.gateway.key IS '32 random bytes; a call carries sha256(key || body), so that an open connection is of no use to anybody else.';

CREATE TABLE ml_private.artifact (
    sha256            bytea PRIMARY KEY CHECK (octet_length(sha256) = 32),
    size              bigint NOT NULL CHECK (size >= 0),
    created_at        timestamptz NOT NULL DEFAULT now(),
    created_by        regrole NOT NULL,
    quarantined_at    timestamptz,
    quarantine_reason text
);
COMMENT ON TABLE ml_private.artifact IS 'Model files by content: the key is the SHA-256 over all bytes.';
COMMENT ON COLUMN ml_private.artifact.size IS 'Bytes of the whole file.';
COMMENT ON COLUMN ml_private.artifact.quarantined_at IS 'Set when the model killed or stalled the sidecar; it is not loaded until ml.release_version().';

CREATE TABLE ml_private.artifact_chunk (
    sha256 bytea NOT NULL REFERENCES ml_private.artifact ON DELETE CASCADE,
    number integer NOT NULL CHECK (number >= 0),
    data   bytea NOT NULL,
    PRIMARY KEY (sha256, number)
);
-- Model files do not compress; storing them plain saves the decompression at every load.
ALTER TABLE ml_private.artifact_chunk ALTER COLUMN data SET STORAGE EXTERNAL;
COMMENT ON TABLE ml_private.artifact_chunk IS 'The bytes of an artifact in order, 1 MiB a chunk.';

CREATE TABLE ml_private.model (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name         text NOT NULL UNIQUE CHECK (name ~ '^[a-z_][a-z0-9_$]{0,62}$'),
    description  text,
    owner        regrole NOT NULL,
    last_version integer NOT NULL DEFAULT 0,
    created_at   timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE ml_private.model IS 'One row per model name.';
COMMENT ON COLUMN ml_private.model.last_version IS 'The highest version number ever given out; numbers are dense and never reused.';

CREATE TABLE ml_private.version (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model_id      bigint NOT NULL REFERENCES ml_private.model ON DELETE CASCADE,
    version       integer NOT NULL CHECK (version > 0),
    sha256        bytea NOT NULL REFERENCES ml_private.artifact,
    format        text NOT NULL DEFAULT 'onnx',
    source_sha256 bytea REFERENCES ml_private.artifact,
    spec          text NOT NULL CHECK (spec ~ '^[0-9a-f]{32}$'),
    signature     jsonb NOT NULL,
    example       jsonb,
    description   text,
    parameters    jsonb NOT NULL DEFAULT '{}',
    tags          jsonb NOT NULL DEFAULT '{}',
    created_at    timestamptz NOT NULL DEFAULT now(),
    created_by    regrole NOT NULL,
    UNIQUE (model_id, version),
    CHECK ((format = 'onnx') = (source_sha256 IS NULL))
);
CREATE INDEX version_sha256 ON ml_private.version (sha256);
CREATE INDEX version_source_sha256 ON ml_private.version (source_sha256) WHERE source_sha256 IS NOT NULL;
CREATE INDEX version_spec ON ml_private.version (spec);
COMMENT ON TABLE ml_private.version IS 'One row per registered version.';
COMMENT ON COLUMN ml_private.version.sha256 IS 'The ONNX file that is run.';
COMMENT ON COLUMN ml_private.version.format IS 'What was registered: onnx, xgboost-json, xgboost-ubj, lightgbm-text, mlflow-onnx, mlflow-xgboost or mlflow-lightgbm.';
COMMENT ON COLUMN ml_private.version.source_sha256 IS 'The file that was registered, where the ONNX file was made of it.';
COMMENT ON COLUMN ml_private.version.spec IS 'What the sidecar caches by: a hash over the artifact''s hash and the signature.';
COMMENT ON COLUMN ml_private.version.signature IS 'Inputs, features, outputs and labels: how a row becomes tensors and tensors an answer.';
COMMENT ON COLUMN ml_private.version.example IS 'Input run at registration with its outputs; replayed whenever the model is loaded.';

CREATE TABLE ml_private.alias_history (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model_id   bigint NOT NULL REFERENCES ml_private.model ON DELETE CASCADE,
    alias      text NOT NULL,
    version    integer,
    action     text NOT NULL CHECK (action IN ('set', 'rollback', 'drop')),
    before     bigint REFERENCES ml_private.alias_history,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_by regrole NOT NULL
);
CREATE INDEX alias_history_model ON ml_private.alias_history (model_id, alias, id);
COMMENT ON TABLE ml_private.alias_history IS 'Every change of every alias; rows are only ever added.';
COMMENT ON COLUMN ml_private.alias_history.before IS 'The entry that a rollback from here returns to.';

CREATE TABLE ml_private.alias (
    model_id bigint NOT NULL REFERENCES ml_private.model ON DELETE CASCADE,
    alias    text NOT NULL CHECK (alias ~ '^[a-z_][a-z0-9_$]{0,62}$'),
    version  integer NOT NULL,
    entry    bigint NOT NULL REFERENCES ml_private.alias_history,
    PRIMARY KEY (model_id, alias),
    FOREIGN KEY (model_id, version) REFERENCES ml_private.version (model_id, version)
);
COMMENT ON TABLE ml_private.alias IS 'Where each alias points now.';

CREATE TABLE ml_private.model_grant (
    model_id   bigint NOT NULL REFERENCES ml_private.model ON DELETE CASCADE,
    grantee    regrole NOT NULL,
    granted_at timestamptz NOT NULL DEFAULT now(),
    granted_by regrole NOT NULL,
    PRIMARY KEY (model_id, grantee)
);
COMMENT ON TABLE ml_private.model_grant IS 'Who besides the owner and ml_admin may use a model.';
COMMENT ON COLUMN ml_private.model_grant.grantee IS 'A role, or - for PUBLIC.';

-- What predict() looks up: one index probe gives the version under the caller's snapshot and who may use it. Derived from the tables above by
-- ml_private.route_model(), in the same transaction as the change.
CREATE TABLE ml_private.route (
    ref      text COLLATE "C" PRIMARY KEY,
    model_id bigint NOT NULL REFERENCES ml_private.model ON DELETE CASCADE,
    version  integer NOT NULL,
    call     text NOT NULL,
    readers  regrole[] NOT NULL,
    key      bytea NOT NULL,
    sealed   text
) WITH (fillfactor = 50);
CREATE INDEX route_model ON ml_private.route (model_id);
COMMENT ON TABLE ml_private.route IS 'Each way to name a version (churn, churn@3, churn@challenger) with what a call needs.';
COMMENT ON COLUMN ml_private.route.readers IS 'Who may use the model; PUBLIC, where granted, is the first.';
COMMENT ON COLUMN ml_private.route.key IS 'The gateway''s key, here too so that a prediction looks at one row.';
COMMENT ON COLUMN ml_private.route.sealed IS 'The same behind the gateway''s token, where dblink is Rowcast''s own and a call needs no code over its text.';
COMMENT ON COLUMN ml_private.route.call IS 'The middle of a gateway call: the spec and name@version.';

REVOKE ALL ON ALL TABLES IN SCHEMA ml_private FROM PUBLIC;
