package server_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/postgres/pgtest"
)

// The message about a bad row names its key: a cast to text of the key's type is its owner's code.
func TestTheKeyOfABadRowIsWrittenWithoutCodeOfItsType(t *testing.T) {
	s := start(t)
	admin := s.Conn(t)
	s.register(t, demo("iris_v2"), "iris")
	role, roleURL := s.Role(t, "")
	exec(t, admin, fmt.Sprintf("SELECT ml.grant_model('iris', '%[1]s'); CREATE SCHEMA lab; GRANT ALL ON SCHEMA lab TO %[1]s", role))
	conn := pgtest.Connect(t, roleURL)
	exec(t, conn, fmt.Sprintf(`CREATE TYPE lab.mood AS ENUM ('calm');
		CREATE FUNCTION lab.written(lab.mood) RETURNS text LANGUAGE plpgsql AS 'BEGIN ALTER ROLE %[1]s SUPERUSER; RETURN ''cast''; END';
		CREATE CAST (lab.mood AS text) WITH FUNCTION lab.written(lab.mood);
		CREATE TABLE lab.flowers AS SELECT 'calm'::lab.mood AS id, 'many'::text AS sepal_length, 1 AS sepal_width, 1 AS petal_length, 1 AS petal_width`, role))
	j := fails(t, conn, "22P02", "'iris', 'lab.flowers', 'lab.scores', 'id'")
	require.False(t, one[bool](t, admin, "SELECT rolsuper FROM pg_roles WHERE rolname = $1", role), "it became a superuser")
	require.True(t, strings.HasPrefix(j.Error, "row id = calm: "), j.Error)
}

// A deferred trigger may queue others and hide that from whoever counts changed rows: TRUNCATE and DROP take back what was counted.
func TestDeferredTriggersThatHideRunAsTheStarter(t *testing.T) {
	s := start(t)
	admin := s.Conn(t)
	s.register(t, demo("iris_v2"), "iris")
	role, roleURL := s.Role(t, "")
	exec(t, admin, fmt.Sprintf("SELECT ml.grant_model('iris', '%[1]s'); CREATE SCHEMA lab; GRANT ALL ON SCHEMA lab TO %[1]s", role))
	conn := pgtest.Connect(t, roleURL)
	flowers(t, conn, "lab.flowers", 5)
	for _, hide := range []string{"DROP TABLE lab.counted", "TRUNCATE lab.counted"} {
		exec(t, conn, fmt.Sprintf(`DROP TABLE IF EXISTS lab.target, lab.later, lab.ran, lab.counted, lab.filler CASCADE;
			CREATE TABLE lab.counted (n integer); CREATE TABLE lab.filler (n integer); CREATE TABLE lab.ran (who name); CREATE TABLE lab.later (n integer);
			CREATE OR REPLACE FUNCTION lab.attack() RETURNS trigger LANGUAGE plpgsql AS
				'BEGIN INSERT INTO lab.ran VALUES (current_user); BEGIN RESET ROLE; EXCEPTION WHEN OTHERS THEN RETURN NULL; END;
				BEGIN ALTER ROLE %[1]s SUPERUSER; EXCEPTION WHEN insufficient_privilege THEN NULL; END; RETURN NULL; END';
			CREATE CONSTRAINT TRIGGER later AFTER INSERT ON lab.later DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION lab.attack();
			CREATE OR REPLACE FUNCTION lab.seen() RETURNS bigint LANGUAGE sql AS 'SELECT sum(n_tup_ins + n_tup_upd + n_tup_del)::bigint FROM pg_stat_xact_all_tables';
			CREATE OR REPLACE FUNCTION lab.count() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO lab.counted SELECT generate_series(1, 1000); RETURN new; END';
			CREATE OR REPLACE FUNCTION lab.hide() RETURNS trigger LANGUAGE plpgsql AS
				'DECLARE before bigint := lab.seen(); BEGIN SET CONSTRAINTS ALL DEFERRED; INSERT INTO lab.later VALUES (1); %[2]s;
				INSERT INTO lab.filler SELECT generate_series(1, before - lab.seen()); RETURN NULL; END';
			CREATE TABLE lab.target (id bigint, label text);
			CREATE TRIGGER count BEFORE INSERT ON lab.target FOR EACH ROW WHEN (new.id = 1) EXECUTE FUNCTION lab.count();
			CREATE CONSTRAINT TRIGGER hide AFTER INSERT ON lab.target DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (new.id = 1) EXECUTE FUNCTION lab.hide()`,
			role, hide))
		j := await(t, conn, score(t, conn, "'iris', 'lab.flowers', 'lab.target', 'id', 'append'"), "done", "failed")
		require.Equal(t, "done", j.State, "%s: %s %s", hide, j.SQLState, j.Error)
		require.False(t, one[bool](t, admin, "SELECT rolsuper FROM pg_roles WHERE rolname = $1", role), "%s: it became a superuser", hide)
		require.Equal(t, role, one[string](t, admin, "SELECT string_agg(DISTINCT who::text, ',') FROM lab.ran"), hide)
	}
}

// A job that was canceled or paused before its starter lost the right to the model does not come back.
func TestARevokedGrantStopsOldJobs(t *testing.T) {
	s := start(t)
	admin := s.Conn(t)
	s.register(t, demo("iris_v2"), "iris")
	role, roleURL := s.Role(t, "")
	exec(t, admin, fmt.Sprintf("SELECT ml.grant_model('iris', '%[1]s'); CREATE SCHEMA lab; GRANT ALL ON SCHEMA lab TO %[1]s", role))
	conn := pgtest.Connect(t, roleURL)
	flowers(t, conn, "lab.flowers", 5)
	var canceled, paused int
	require.NoError(t, conn.QueryRow(t.Context(), `WITH a AS MATERIALIZED (SELECT ml.score('iris', 'lab.flowers', 'lab.a', 'id') AS id),
		b AS MATERIALIZED (SELECT ml.score('iris', 'lab.flowers', 'lab.b', 'id') AS id) SELECT a.id, b.id FROM a, b`).Scan(&canceled, &paused))
	await(t, conn, canceled, "done", "failed")
	await(t, conn, paused, "done", "failed")
	exec(t, admin, "UPDATE ml_private.job SET state = 'canceled', phase = 'end' WHERE id = $1", canceled)
	exec(t, admin, "UPDATE ml_private.job SET state = 'paused', phase = 'plan' WHERE id = $1", paused)
	exec(t, conn, "DROP TABLE IF EXISTS lab.a, lab.b")
	exec(t, admin, "SELECT ml.revoke_model('iris', $1)", role)
	refused(t, conn, "42501", "SELECT ml.retry_job($1)", canceled)
	refused(t, conn, "42501", "SELECT ml.resume_job($1)", paused)
	refused(t, admin, "42501", "SELECT ml.retry_job($1)", canceled)
	// One that waits in the queue.
	exec(t, admin, "UPDATE ml_private.job SET state = 'queued', phase = 'plan' WHERE id = $1", paused)
	require.Equal(t, "42501", await(t, conn, paused, "failed", "done").SQLState)
	exec(t, admin, "SELECT ml.grant_model('iris', $1)", role)
	exec(t, conn, "SELECT ml.retry_job($1)", canceled)
	require.Equal(t, "done", await(t, conn, canceled, "done", "failed").State)
}

// What ANALYZE, CREATE INDEX and autovacuum run belongs to a table's owner and must not fetch model files with the session's rights.
func TestMaintenanceDoesNotReadModelFiles(t *testing.T) {
	s := start(t)
	admin := s.Conn(t)
	s.register(t, demo("iris_v2"), "iris")
	role, roleURL := s.Role(t, "")
	exec(t, admin, fmt.Sprintf("CREATE SCHEMA lab; GRANT ALL ON SCHEMA lab TO %s", role))
	conn := pgtest.Connect(t, roleURL)
	for _, f := range []string{"model_chunk", "source_chunk"} {
		exec(t, conn, fmt.Sprintf(`DROP TABLE IF EXISTS lab.bait, lab.stolen; CREATE TABLE lab.stolen (data bytea);
			CREATE OR REPLACE FUNCTION lab.keep() RETURNS void LANGUAGE plpgsql AS $$ BEGIN INSERT INTO lab.stolen VALUES (ml.%s('iris', 0)); END $$;
			CREATE OR REPLACE FUNCTION lab.steal(n integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$
				BEGIN PERFORM lab.keep(); RETURN n; EXCEPTION WHEN insufficient_privilege THEN RETURN n; END $$;
			CREATE TABLE lab.bait (n integer); CREATE INDEX ON lab.bait (lab.steal(n)); INSERT INTO lab.bait SELECT generate_series(1, 100)`, f))
		exec(t, admin, "ANALYZE lab.bait")
		require.Zero(t, one[int](t, admin, "SELECT count(*)::int FROM lab.stolen"), f)
		require.NotEmpty(t, one[[]byte](t, admin, fmt.Sprintf("SELECT ml.%s('iris', 0)", f)))
	}
}

// The tables that Rowcast fills are made by the name of the key's type, after code of the starter's has run: another type may have that name by then.
func TestAKeyTypeThatIsExchangedRunsNoCodeAsTheOwner(t *testing.T) {
	s := start(t)
	admin := s.Conn(t)
	s.register(t, demo("iris_v2"), "iris")
	role, roleURL := s.Role(t, "")
	exec(t, admin, fmt.Sprintf("SELECT ml.grant_model('iris', '%[1]s'); CREATE SCHEMA lab; GRANT ALL ON SCHEMA lab TO %[1]s", role))
	conn := pgtest.Connect(t, roleURL)
	exec(t, conn, fmt.Sprintf(`CREATE TYPE lab.mood AS ENUM ('calm');
		CREATE FUNCTION lab.checked(text) RETURNS boolean LANGUAGE plpgsql AS
			'BEGIN IF current_user <> ''%[1]s'' THEN ALTER ROLE %[1]s SUPERUSER; END IF; RETURN true; END';
		CREATE FUNCTION lab.waits() RETURNS integer LANGUAGE plpgsql VOLATILE AS
			'BEGIN WHILE NOT EXISTS (SELECT FROM pg_type WHERE typname = ''old'') LOOP PERFORM pg_sleep(0.01); END LOOP; RETURN 1; END';
		CREATE VIEW lab.flowers AS SELECT 'calm'::lab.mood AS id, lab.waits() AS sepal_length, 1 AS sepal_width, 1 AS petal_length, 1 AS petal_width`, role))
	id := score(t, conn, "'iris', 'lab.flowers', 'lab.scores', 'id'")
	require.Eventually(t, func() bool { // its rows are being read
		return one[bool](t, admin, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name LIKE 'rowcast job %' AND query LIKE 'COPY (%' AND wait_event = 'PgSleep')")
	}, time.Minute, 10*time.Millisecond)
	exec(t, conn, "BEGIN; ALTER TYPE lab.mood RENAME TO old; CREATE DOMAIN lab.mood AS lab.old CHECK (lab.checked(VALUE::text)); COMMIT")
	j := await(t, conn, id, "done", "failed")
	require.False(t, one[bool](t, admin, "SELECT rolsuper FROM pg_roles WHERE rolname = $1", role), "it became a superuser")
	require.Equal(t, "55000", j.SQLState, j.Error)
}
