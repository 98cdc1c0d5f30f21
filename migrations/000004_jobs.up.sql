-- Scoring jobs. The rows here are the truth: a sidecar that dies leaves nothing else behind, and whoever comes next goes on from them.

CREATE TABLE ml_private.schedule (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name        text NOT NULL UNIQUE CHECK (name <> ''),
    cron        text NOT NULL,
    timezone    text NOT NULL,
    model       text NOT NULL,
    model_id    bigint NOT NULL REFERENCES ml_private.model ON DELETE CASCADE,
    source      text NOT NULL,
    target      text NOT NULL,
    key         text NOT NULL,
    mode        text NOT NULL CHECK (mode IN ('create', 'replace', 'append')),
    on_error    text NOT NULL CHECK (on_error IN ('stop', 'skip')),
    options     jsonb NOT NULL,
    search_path text NOT NULL,
    started_by  regrole NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    next_at     timestamptz,
    last_at     timestamptz,
    error       text,
    sqlstate    text
);
COMMENT ON TABLE ml_private.schedule IS 'Scoring jobs that start by themselves. Use ml.schedule_score() and ml.schedules.';
COMMENT ON COLUMN ml_private.schedule.model IS 'The reference as written; an alias is resolved at each start.';
COMMENT ON COLUMN ml_private.schedule.timezone IS 'The cron expression means wall time there: TimeZone of the session that made the schedule.';
COMMENT ON COLUMN ml_private.schedule.next_at IS 'When it is due next; NULL until a sidecar has worked it out, or where error says why there is no next time.';
COMMENT ON COLUMN ml_private.schedule.error IS 'Why the last start failed, or why the cron expression is no good.';

CREATE TABLE ml_private.job (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model_id      bigint REFERENCES ml_private.model ON DELETE SET NULL,
    model         text NOT NULL,
    ref           text NOT NULL,
    version       integer NOT NULL,
    spec          text NOT NULL,
    source        text NOT NULL,
    target        text NOT NULL,
    key           text NOT NULL,
    mode          text NOT NULL CHECK (mode IN ('create', 'replace', 'append')),
    on_error      text NOT NULL CHECK (on_error IN ('stop', 'skip')),
    options       jsonb NOT NULL,
    search_path   text NOT NULL,
    started_by    regrole NOT NULL,
    schedule_id   bigint REFERENCES ml_private.schedule ON DELETE SET NULL,
    schedule      text,
    state         text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'running', 'paused', 'done', 'failed', 'canceled')),
    phase         text NOT NULL DEFAULT 'plan' CHECK (phase IN ('plan', 'score', 'publish', 'clean', 'end')),
    plan          jsonb,
    rows_total    bigint,
    rows_done     bigint NOT NULL DEFAULT 0,
    rows_skipped  bigint NOT NULL DEFAULT 0,
    rows_before   bigint NOT NULL DEFAULT 0,
    scoring_since timestamptz,
    created_at    timestamptz NOT NULL DEFAULT now(),
    started_at    timestamptz,
    finished_at   timestamptz,
    error         text,
    sqlstate      text,
    detail        text,
    hint          text,
    attempts      integer NOT NULL DEFAULT 0,
    retry_at      timestamptz,
    epoch         integer NOT NULL DEFAULT 0,
    sidecar       text,
    lease_until   timestamptz
) WITH (fillfactor = 50);
CREATE INDEX job_open ON ml_private.job (id) WHERE phase <> 'end';
CREATE INDEX job_schedule ON ml_private.job (schedule_id, id);
COMMENT ON TABLE ml_private.job IS 'Scoring jobs. Use ml.score() and ml.jobs.';
COMMENT ON COLUMN ml_private.job.ref IS 'The model reference as written; version is what it meant when the job started.';
COMMENT ON COLUMN ml_private.job.spec IS 'What the sidecar caches the version by.';
COMMENT ON COLUMN ml_private.job.state IS 'What people see and change.';
COMMENT ON COLUMN ml_private.job.phase IS 'What is to be done next: plan (look at source and target, cut ranges), score (the chunks), publish (results into the target), clean (drop what a job that ended left), end.';
COMMENT ON COLUMN ml_private.job.plan IS 'What planning found: columns, types, where the rows are read and where results are gathered.';
COMMENT ON COLUMN ml_private.job.rows_total IS 'Rows to score: an estimate first, exact when the rows were counted.';
COMMENT ON COLUMN ml_private.job.rows_done IS 'Rows of the chunks that are committed.';
COMMENT ON COLUMN ml_private.job.rows_before IS 'rows_done when scoring started or was taken up again at scoring_since: the rate counts from there.';
COMMENT ON COLUMN ml_private.job.attempts IS 'Failures since something last went well; the wait before the next try grows with it.';
COMMENT ON COLUMN ml_private.job.epoch IS 'Grows with each claim of a phase that one sidecar does alone; a late one finds another number and must not write.';
COMMENT ON COLUMN ml_private.job.lease_until IS 'By the database''s clock; past it another sidecar may take over.';

CREATE TABLE ml_private.job_chunk (
    job_id      bigint NOT NULL REFERENCES ml_private.job ON DELETE CASCADE,
    number      integer NOT NULL,
    lo          text,
    hi          text,
    nulls       boolean NOT NULL DEFAULT false,
    state       text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'running', 'done')),
    epoch       integer NOT NULL DEFAULT 0,
    sidecar     text,
    lease_until timestamptz,
    seen        bigint NOT NULL DEFAULT 0,
    rows        bigint NOT NULL DEFAULT 0,
    skipped     bigint NOT NULL DEFAULT 0,
    finished_at timestamptz,
    PRIMARY KEY (job_id, number)
) WITH (fillfactor = 50);
COMMENT ON TABLE ml_private.job_chunk IS 'The ledger of a job: ranges of its source. A chunk''s results and its state done are committed together.';
COMMENT ON COLUMN ml_private.job_chunk.lo IS 'Keys above this one, or block from this one on; NULL for no bound.';
COMMENT ON COLUMN ml_private.job_chunk.hi IS 'Keys up to this one, or blocks before this one; NULL for no bound.';
COMMENT ON COLUMN ml_private.job_chunk.nulls IS 'The chunk of the rows without a key.';
COMMENT ON COLUMN ml_private.job_chunk.epoch IS 'Grows with each claim; results of an older one are refused.';
COMMENT ON COLUMN ml_private.job_chunk.seen IS 'Rows that the running chunk has read, for the progress that people watch.';

-- Where a job keeps rows before they are published. Nobody else can read its tables: the rows may be what only the job's starter may see. The starter
-- is granted a table in the transaction that publishes it, and needs to enter the schema for that.
CREATE SCHEMA ml_staging;
COMMENT ON SCHEMA ml_staging IS 'Rowcast: results of scoring jobs that are not published yet.';
REVOKE ALL ON SCHEMA ml_staging FROM PUBLIC;
GRANT USAGE ON SCHEMA ml_staging TO PUBLIC;

REVOKE ALL ON ml_private.schedule, ml_private.job, ml_private.job_chunk FROM PUBLIC;
