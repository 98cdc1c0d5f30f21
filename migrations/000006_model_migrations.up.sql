-- Migrations of people's own models (rowcast model migration): the version table and the journal that takes a change back.

-- golang-migrate's version table, in a place where members of ml_admin may write: `rowcast model migration` and the tool migrate share it.
CREATE TABLE ml.model_migrations (
    version bigint NOT NULL PRIMARY KEY,
    dirty   boolean NOT NULL
);
COMMENT ON TABLE ml.model_migrations IS 'The model migration that this database is at. Example: SELECT version FROM ml.model_migrations;';
COMMENT ON COLUMN ml.model_migrations.version IS 'Number of the last migration that ran.';
COMMENT ON COLUMN ml.model_migrations.dirty IS 'Set while the tool migrate runs a step, and left set where it was interrupted.';
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ml.model_migrations TO ml_admin;

-- One row for each change that was begun with ml.begin_change() and not taken back.
CREATE TABLE ml_private.change (
    name     text PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 200),
    number   bigint NOT NULL,
    checksum bytea CHECK (octet_length(checksum) = 32),
    xact     xid8 NOT NULL,
    begun_at timestamptz NOT NULL,
    begun_by regrole NOT NULL
);
COMMENT ON TABLE ml_private.change IS 'Named changes of the registry, each of one transaction, with what is needed to take them back.';
COMMENT ON COLUMN ml_private.change.number IS 'Order: a change that began after another has committed has a higher number.';
COMMENT ON COLUMN ml_private.change.checksum IS 'SHA-256 over the file that made the change, line ends as \n; NULL where it is not known.';
COMMENT ON COLUMN ml_private.change.xact IS 'The transaction that makes the change: its row changes are journaled. Together with begun_at it means no other one, in a restored database either.';

CREATE TABLE ml_private.change_row (
    change    text NOT NULL REFERENCES ml_private.change ON DELETE CASCADE,
    number    integer NOT NULL,
    relation  text NOT NULL,
    operation text NOT NULL CHECK (operation IN ('INSERT', 'UPDATE', 'DELETE')),
    before    jsonb,
    after     jsonb,
    PRIMARY KEY (change, number)
);
COMMENT ON TABLE ml_private.change_row IS 'Each row that a change touched, in order.';
COMMENT ON COLUMN ml_private.change_row.relation IS 'Its table, without the schema ml_private.';
COMMENT ON COLUMN ml_private.change_row.before IS 'The row before: each column as the text that its type writes and reads without a loss.';
COMMENT ON COLUMN ml_private.change_row.after IS 'The row after. What a table counts as its own state of work is in neither.';

CREATE TABLE ml_private.change_sequence (
    change     text NOT NULL REFERENCES ml_private.change ON DELETE CASCADE,
    relation   text NOT NULL,
    attribute  name NOT NULL,
    last_value bigint NOT NULL,
    is_called  boolean NOT NULL,
    PRIMARY KEY (change, relation, attribute)
);
COMMENT ON TABLE ml_private.change_sequence IS 'Where the identity columns were when a change began.';

CREATE TABLE ml_private.change_artifact (
    change text NOT NULL REFERENCES ml_private.change ON DELETE CASCADE,
    sha256 bytea NOT NULL,
    PRIMARY KEY (change, sha256)
);
CREATE INDEX change_artifact_sha256 ON ml_private.change_artifact (sha256);
COMMENT ON TABLE ml_private.change_artifact IS 'Artifacts whose bytes stay because taking a change back needs them.';

REVOKE ALL ON ml_private.change, ml_private.change_row, ml_private.change_sequence, ml_private.change_artifact FROM PUBLIC;
