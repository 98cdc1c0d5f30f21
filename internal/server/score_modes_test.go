package server_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/postgres/pgtest"
)

func TestAJobReadsQueriesAndKeysOfAnyOrder(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	s.register(t, demo("iris_v2"), "iris")
	flowers(t, conn, "flowers", 12_000)
	for name, setup := range map[string]struct{ sql, source, key string }{
		"query":         {"", "SELECT * FROM flowers WHERE id > 7 -- a comment; and more", "id"},
		"with":          {"", "WITH x AS (SELECT * FROM flowers) SELECT * FROM x;", "id"},
		"values":        {"", "SELECT v.id, 5.1 sepal_length, 3.5 sepal_width, 1.4 petal_length, 0.2 petal_width FROM (VALUES (1), (2)) v(id)", "id"},
		"heap":          {"CREATE TABLE heap AS SELECT * FROM flowers", "heap", "id"},
		"uuid":          {"CREATE TABLE uuids AS SELECT gen_random_uuid() AS id, f.sepal_length, f.sepal_width, f.petal_length, f.petal_width FROM flowers f; ALTER TABLE uuids ADD PRIMARY KEY (id)", "uuids", "id"},
		"text":          {"CREATE TABLE texts AS SELECT 'key ''' || lpad(f.id::text, 8, '0') || E'\\\\' AS id, f.sepal_length, f.sepal_width, f.petal_length, f.petal_width FROM flowers f; ALTER TABLE texts ADD PRIMARY KEY (id)", "texts", "id"},
		"collated":      {"CREATE TABLE collated (id text COLLATE \"C\" PRIMARY KEY, sepal_length float8, sepal_width real, petal_length numeric, petal_width int); INSERT INTO collated SELECT to_char(i, 'FM000000'), 5, 3, 1.4, 1 FROM generate_series(1, 9000) i", "collated", "id"},
		"timestamps":    {"CREATE TABLE times AS SELECT timestamptz '2026-01-01' + f.id * interval '1 minute' AS id, f.sepal_length, f.sepal_width, f.petal_length, f.petal_width FROM flowers f; ALTER TABLE times ADD PRIMARY KEY (id)", "times", "id"},
		"enum":          {"CREATE TYPE colour AS ENUM ('red', 'green'); CREATE TABLE colours (id colour PRIMARY KEY, sepal_length float8, sepal_width real, petal_length numeric, petal_width int); INSERT INTO colours VALUES ('red', 5, 3, 1, 1), ('green', 6, 3, 5, 2)", "colours", "id"},
		"domain":        {"CREATE DOMAIN small AS numeric(12,2) CHECK (VALUE > 0); CREATE TABLE domains (id small PRIMARY KEY, sepal_length float8, sepal_width real, petal_length numeric, petal_width int); INSERT INTO domains SELECT i, 5, 3, 1, 1 FROM generate_series(1, 100) i", "domains", "id"},
		"partitioned":   {"CREATE TABLE parts (id bigint PRIMARY KEY, sepal_length float8, sepal_width real, petal_length numeric, petal_width float8) PARTITION BY RANGE (id); CREATE TABLE parts1 PARTITION OF parts FOR VALUES FROM (0) TO (5000); CREATE TABLE parts2 PARTITION OF parts DEFAULT; INSERT INTO parts SELECT id, sepal_length, sepal_width, petal_length, petal_width FROM flowers", "parts", "id"},
		"materialized":  {"CREATE MATERIALIZED VIEW mat AS SELECT * FROM flowers; CREATE UNIQUE INDEX ON mat (id)", "mat", "id"},
		"view":          {"CREATE VIEW seen AS SELECT id AS \"The Key\", sepal_length::text::float8, sepal_width, petal_length, petal_width, now() AS extra FROM flowers", "seen", "The Key"},
		"empty":         {"CREATE TABLE nothing (LIKE flowers INCLUDING INDEXES)", "nothing", "id"},
		"no statistics": {"CREATE TABLE Quoted (LIKE flowers INCLUDING ALL); ALTER TABLE Quoted SET (autovacuum_enabled = off); INSERT INTO Quoted SELECT * FROM flowers", "Quoted", "id"},
	} {
		t.Run(name, func(t *testing.T) {
			if setup.sql != "" {
				exec(t, conn, setup.sql)
			}
			from := setup.source
			if name == "query" || name == "with" || name == "values" {
				from = "(" + setup.source + "\n)"
				if name == "with" {
					from = "flowers"
				}
			}
			n := one[int](t, conn, "SELECT count(*)::int FROM "+from+" x")
			target := "out_" + pgx.Identifier{name}.Sanitize()[1:3]
			exec(t, conn, "DROP TABLE IF EXISTS "+target)
			j := await(t, conn, one[int](t, conn, `SELECT ml.score('iris', $1, $2, $3, options => '{"chunk_rows": 4000}')`, setup.source, target, setup.key), "done", "failed")
			require.Equal(t, job{State: "done", Total: n, Done: n}, j)
			require.Equal(t, n, one[int](t, conn, "SELECT count(*)::int FROM "+target))
			key := pgx.Identifier{setup.key}.Sanitize()
			require.Zero(t, one[int](t, conn, "SELECT count(*)::int FROM "+from+" s LEFT JOIN "+target+" r USING ("+key+") WHERE r.label IS DISTINCT FROM predict_label('iris', s)"))
		})
	}
	require.Zero(t, one[int](t, conn, "SELECT count(*)::int FROM pg_class WHERE relnamespace = 'ml_staging'::regnamespace"))
}

func TestAJobReplacesAndAppendsWhatReadersSeeAtOnce(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	s.register(t, demo("iris_v2"), "iris")
	flowers(t, conn, "flowers", 20_000)
	succeeds(t, conn, "'iris', 'flowers', 'scores', 'id'")
	fails(t, conn, "42P07", "'iris', 'flowers', 'scores', 'id'")

	// Replace: what depends on the table stays, and a reader's snapshot never sees a part.
	exec(t, conn, "CREATE VIEW counted AS SELECT count(*) AS n FROM scores; GRANT SELECT ON scores TO PUBLIC; DELETE FROM flowers WHERE id > 15000")
	reader := s.Conn(t)
	exec(t, reader, "BEGIN ISOLATION LEVEL REPEATABLE READ")
	require.Equal(t, 20_000, one[int](t, reader, "SELECT n::int FROM counted"))
	succeeds(t, conn, "'iris', 'flowers', 'scores', 'id', 'replace'")
	require.Equal(t, 20_000, one[int](t, reader, "SELECT n::int FROM counted"))
	exec(t, reader, "COMMIT")
	require.Equal(t, 15_000, one[int](t, reader, "SELECT n::int FROM counted"))
	equalsPredict(t, conn, "flowers", "scores")

	// Append: the same keys again are refused by the primary key, and nothing of them stays; new ones are added.
	j := fails(t, conn, "23505", "'iris', 'flowers', 'scores', 'id', 'append'")
	require.Contains(t, j.Detail, "already exists")
	require.Contains(t, j.Hint, "new_rows")
	require.Equal(t, 15_000, one[int](t, conn, "SELECT count(*)::int FROM scores"))
	exec(t, conn, "INSERT INTO flowers SELECT id + 50000, sepal_length, sepal_width, petal_length, petal_width FROM flowers")
	succeeds(t, conn, "'iris', 'SELECT * FROM flowers WHERE id > 50000', 'scores', 'id', 'append'")
	equalsPredict(t, conn, "flowers", "scores")

	// Partitioned, unlogged, with columns and triggers of its own.
	exec(t, conn, `CREATE TABLE kept (note text DEFAULT 'new', id bigint, label text NOT NULL CHECK (label <> ''), at timestamptz DEFAULT now()) PARTITION BY HASH (id);
		CREATE TABLE kept0 PARTITION OF kept FOR VALUES WITH (MODULUS 2, REMAINDER 0); CREATE UNLOGGED TABLE kept1 PARTITION OF kept FOR VALUES WITH (MODULUS 2, REMAINDER 1);
		CREATE TABLE told (id bigint);
		CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO told VALUES (new.id); RETURN NULL; END';
		CREATE CONSTRAINT TRIGGER tell AFTER INSERT ON kept DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION tell()`)
	succeeds(t, conn, "'iris', 'flowers', 'kept', 'id', 'append'")
	require.Equal(t, 30_000, one[int](t, conn, "SELECT count(*)::int FROM kept WHERE note = 'new' AND at IS NOT NULL"))
	require.Equal(t, 30_000, one[int](t, conn, "SELECT count(*)::int FROM told"))
	succeeds(t, conn, `'iris', 'flowers', 'fast', 'id', options => '{"unlogged": true}'`)
	require.Equal(t, "u", one[string](t, conn, "SELECT relpersistence::text FROM pg_class WHERE relname = 'fast'"))
}

func TestAnIncrementalJobScoresWhatIsNew(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	s.register(t, demo("iris_v2"), "iris")
	flowers(t, conn, "flowers", 3_000)
	exec(t, conn, "ALTER TABLE flowers ADD changed timestamptz DEFAULT now()")
	const args = `'iris', 'flowers', 'scores', 'id', 'append', options => '{"new_rows": true}'`
	require.Equal(t, 3000, succeeds(t, conn, args).Done)
	require.Equal(t, 0, succeeds(t, conn, args).Done)
	exec(t, conn, "INSERT INTO flowers SELECT id + 10000, sepal_length, sepal_width, petal_length, petal_width FROM flowers WHERE id <= 10")
	require.Equal(t, 10, succeeds(t, conn, args).Done)
	s.register(t, demo("iris_v2"), "iris")
	exec(t, conn, "SELECT ml.promote('iris', 2)")
	require.Equal(t, 3010, succeeds(t, conn, args).Done, "another version has scored none of them")
	require.Equal(t, []int{3010, 3010}, one[[]int](t, conn, "SELECT array_agg(n::int) FROM (SELECT count(*) AS n FROM scores GROUP BY version) x"))

	const since = `'iris', 'flowers', 'latest', 'id', 'append', options => '{"since": "changed"}'`
	require.Equal(t, 3010, succeeds(t, conn, since).Done)
	require.Equal(t, 0, succeeds(t, conn, since).Done)
	exec(t, conn, "UPDATE flowers SET petal_width = 9, changed = clock_timestamp() WHERE id <= 5")
	require.Equal(t, 5, succeeds(t, conn, since).Done)
	equalsPredict(t, conn, "flowers", "latest")
}

func TestBadRowsStopAJobOrAreSkipped(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	s.register(t, demo("iris_v2"), "iris")
	flowers(t, conn, "flowers", 12_000)
	exec(t, conn, "UPDATE flowers SET petal_width = NULL WHERE id = 4711; UPDATE flowers SET sepal_length = 'NaN' WHERE id IN (1, 11000)")
	j := fails(t, conn, "22004", "'iris', 'SELECT * FROM flowers WHERE id > 1 AND id < 9000', 'scores', 'id'")
	require.Contains(t, j.Error, "id = 4711")
	require.Contains(t, j.Error, "petal_width")
	require.False(t, one[bool](t, conn, "SELECT to_regclass('scores') IS NOT NULL"), "nothing half-written")
	j = succeeds(t, conn, "'iris', 'flowers', 'scores', 'id', on_error => 'skip'")
	require.Equal(t, job{State: "done", Total: 12_000, Done: 11_997, Skipped: 3}, j)
	require.Equal(t, "1 22003,4711 22004,11000 22003", one[string](t, conn, "SELECT string_agg(key || ' ' || sqlstate, ',' ORDER BY key) FROM scores_errors WHERE at > now() - interval '1 hour'"))
	require.Contains(t, one[string](t, conn, "SELECT reason FROM scores_errors WHERE key = 4711"), "petal_width")
	succeeds(t, conn, "'iris', 'flowers', 'scores', 'id', 'replace', 'skip'")
	require.Equal(t, 6, one[int](t, conn, "SELECT count(*)::int FROM scores_errors"))
	exec(t, conn, "ALTER TABLE flowers DROP CONSTRAINT flowers_pkey; ALTER TABLE flowers ALTER id DROP NOT NULL; UPDATE flowers SET id = NULL WHERE id = 77; CREATE INDEX ON flowers (id)")
	j = succeeds(t, conn, "'iris', 'flowers', 'others', 'id', 'create', 'skip'")
	require.Equal(t, 4, j.Skipped)
	require.Equal(t, "23502", one[string](t, conn, "SELECT sqlstate FROM others_errors WHERE key IS NULL"))
	fails(t, conn, "23502", "'iris', 'SELECT * FROM flowers WHERE id IS NULL', 'more', 'id'")
}

func TestAJobThatCannotWorkSaysWhyAndLeavesNothing(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	s.register(t, demo("iris_v2"), "iris")
	flowers(t, conn, "flowers", 5_000)
	exec(t, conn, "CREATE TABLE twice AS SELECT * FROM flowers UNION ALL SELECT * FROM flowers WHERE id = 42; CREATE TABLE twice_indexed AS TABLE twice; CREATE INDEX ON twice_indexed (id)")
	for _, source := range []string{"twice", "twice_indexed"} {
		j := fails(t, conn, "23505", "'iris', '"+source+"', 'scores', 'id'")
		require.Contains(t, j.Error, "not unique in the source")
		require.Contains(t, j.Detail, "(42)")
	}
	exec(t, conn, "CREATE TABLE lacks (id bigint, version integer); CREATE TABLE typed (id bigint, label integer); CREATE TABLE old (id bigint, label text)")
	require.Contains(t, fails(t, conn, "42703", "'iris', 'flowers', 'lacks', 'id', 'append'").Error, `has no column "label"`)
	require.Contains(t, fails(t, conn, "42804", "'iris', 'flowers', 'typed', 'id', 'append'").Error, `column "label" is of type integer`)
	require.Contains(t, fails(t, conn, "23505", "'iris', 'twice', 'old', 'id', 'append'").Detail, "(42)")
	require.Zero(t, one[int](t, conn, "SELECT count(*)::int FROM old"))
	require.Contains(t, fails(t, conn, "42P01", "'iris', 'nowhere', 'scores', 'id'").Hint, "search_path")
	fails(t, conn, "42601", "'iris', 'SELECT FROM WHERE', 'scores', 'id'")
	require.Contains(t, fails(t, conn, "42703", "'iris', 'flowers', 'scores', 'ID'").Detail, `"sepal_width"`)
	fails(t, conn, "3F000", "'iris', 'flowers', 'nowhere.scores', 'id'")
	fails(t, conn, "22004", "'iris', 'SELECT id, sepal_length FROM flowers', 'scores', 'id'")
	fails(t, conn, "42804", "'iris', 'SELECT ARRAY[id] AS id, f.sepal_length, sepal_width, petal_length, petal_width FROM flowers f', 'scores', 'id'")
	fails(t, conn, "42701", "'iris', 'SELECT id AS label, f.sepal_length, sepal_width, petal_length, petal_width FROM flowers f', 'scores', 'label'")
	fails(t, conn, "22012", "'iris', 'SELECT id / (id - 7) AS id, f.sepal_length, sepal_width, petal_length, petal_width FROM flowers f', 'scores', 'id'")
	require.False(t, one[bool](t, conn, "SELECT to_regclass('scores') IS NOT NULL"))

	refused(t, conn, "22023", "SELECT ml.score('iris', 'flowers', 'scores', 'id', mode => 'overwrite')")
	refused(t, conn, "22023", `SELECT ml.score('iris', 'flowers', 'scores', 'id', options => '{"chunks": 3}')`)
	refused(t, conn, "22023", `SELECT ml.score('iris', 'flowers', 'scores', 'id', options => '{"new_rows": true}')`)
	refused(t, conn, "22004", "SELECT ml.score('iris', NULL, 'scores', 'id')")
	refused(t, conn, "42704", "SELECT ml.score('irish', 'flowers', 'scores', 'id')")
	refused(t, conn, "42704", "SELECT ml.cancel_job(4711)")

	// A source that vanishes under way, and a retry when it is back.
	exec(t, conn, "CREATE TABLE vanishing AS TABLE flowers; ALTER TABLE vanishing ADD PRIMARY KEY (id)")
	lock := s.Conn(t)
	exec(t, lock, "BEGIN; LOCK TABLE vanishing")
	id := score(t, conn, `'iris', 'vanishing', 'scores', 'id', options => '{"chunk_rows": 1000}'`)
	require.Eventually(t, func() bool {
		return one[int](t, conn, "SELECT count(*)::int FROM pg_stat_activity WHERE application_name LIKE 'rowcast job %' AND wait_event_type = 'Lock'") > 0
	},
		20*time.Second, 10*time.Millisecond)
	exec(t, lock, "ALTER TABLE vanishing RENAME TO hidden; COMMIT")
	j := await(t, conn, id, "failed")
	require.Equal(t, "42P01", j.SQLState)
	exec(t, conn, "ALTER TABLE hidden RENAME TO vanishing")
	exec(t, conn, "SELECT ml.retry_job($1)", id)
	require.Equal(t, 5000, await(t, conn, id, "done").Done)
	equalsPredict(t, conn, "flowers", "scores")
	require.Zero(t, one[int](t, conn, fmt.Sprintf("SELECT count(*)::int FROM pg_class WHERE relnamespace = 'ml_staging'::regnamespace AND relname ~ '^job_%d_'", id)))
}

func TestAJobIsPausedResumedAndCanceled(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	s.register(t, demo("iris_v2"), "iris")
	// A source that takes its time: a hundred rows a second.
	exec(t, conn, `CREATE FUNCTION wait(x float8) RETURNS float8 LANGUAGE plpgsql VOLATILE AS 'BEGIN PERFORM pg_sleep(0.01); RETURN x; END';
		CREATE VIEW slow AS SELECT i AS id, wait(5) AS sepal_length, 3 AS sepal_width, 1 AS petal_length, 1 AS petal_width FROM generate_series(1, 100000) i`)
	busy := func() int {
		return one[int](t, conn, "SELECT count(*)::int FROM pg_stat_activity WHERE application_name LIKE 'rowcast job %' AND state = 'active' AND datname = current_database()")
	}
	id := score(t, conn, "'iris', 'slow', 'scores', 'id'")
	require.Eventually(t, func() bool { return look(t, conn, id).State == "running" && busy() > 0 }, 20*time.Second, 10*time.Millisecond)
	exec(t, conn, "SELECT ml.pause_job($1)", id)
	require.Eventually(t, func() bool { return busy() == 0 }, 2*time.Second, 10*time.Millisecond, "what is under way is given up within two seconds")
	require.Equal(t, "paused", look(t, conn, id).State)
	exec(t, conn, "SELECT ml.resume_job($1)", id)
	require.Eventually(t, func() bool { return busy() > 0 }, 20*time.Second, 10*time.Millisecond)
	exec(t, conn, "SELECT ml.cancel_job($1)", id)
	require.Eventually(t, func() bool { return busy() == 0 }, 2*time.Second, 10*time.Millisecond, "cancel takes effect within two seconds")
	require.Equal(t, "canceled", look(t, conn, id).State)
	require.Eventually(t, func() bool {
		return one[int](t, conn, "SELECT count(*)::int FROM pg_class WHERE relnamespace = 'ml_staging'::regnamespace") == 0
	}, 20*time.Second, 10*time.Millisecond)
	exec(t, conn, "CREATE OR REPLACE FUNCTION wait(x float8) RETURNS float8 LANGUAGE sql RETURN x")
	require.Eventually(t, func() bool {
		_, err := conn.Exec(context.Background(), "SELECT ml.retry_job($1)", id)
		return err == nil
	}, 10*time.Second, 50*time.Millisecond)
	require.Equal(t, 100_000, await(t, conn, id, "done").Done)

	_, other := s.Role(t, "")
	stranger := pgtest.Connect(t, other)
	refused(t, stranger, "42704", "SELECT ml.cancel_job($1)", id)
	require.Zero(t, one[int](t, stranger, "SELECT count(*)::int FROM ml.jobs"))
	refused(t, conn, "55000", "SELECT ml.cancel_job($1)", id)
	refused(t, conn, "55000", "SELECT ml.resume_job($1)", id)
}
