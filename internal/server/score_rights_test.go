package server_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/config"
	"github.com/rowcast/rowcast/internal/postgres/pgtest"
)

func TestAJobHasTheRightsOfItsStarterAndNoMore(t *testing.T) {
	s := start(t)
	admin := s.Conn(t)
	s.register(t, demo("iris_v2"), "iris")
	flowers(t, admin, "flowers", 3_000)
	role, roleURL := s.Role(t, "")
	conn := pgtest.Connect(t, roleURL)
	refused(t, conn, "42501", "SELECT ml.score('iris', 'flowers', 'scores', 'id')")
	exec(t, admin, "SELECT ml.grant_model('iris', $1)", role)

	require.Contains(t, fails(t, conn, "42501", "'iris', 'flowers', 'scores', 'id'").Hint, "GRANT CREATE ON SCHEMA")
	exec(t, admin, "CREATE SCHEMA mine; GRANT CREATE, USAGE ON SCHEMA mine TO "+role)
	require.Contains(t, fails(t, conn, "42501", "'iris', 'flowers', 'mine.scores', 'id'").Error, "permission denied for table flowers")
	// Rights to columns are enough.
	exec(t, admin, "GRANT SELECT (id, sepal_length, sepal_width, petal_length, petal_width) ON flowers TO "+role+"; ALTER TABLE flowers ADD secret text")
	succeeds(t, conn, "'iris', 'flowers', 'mine.scores', 'id'")
	require.Equal(t, role, one[string](t, conn, "SELECT tableowner FROM pg_tables WHERE tablename = 'scores'"))
	require.Equal(t, 3000, one[int](t, conn, "SELECT count(*)::int FROM mine.scores"))
	// Row security holds.
	exec(t, admin, "ALTER TABLE flowers ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON flowers USING (id <= 100 AND current_user = '"+role+"')")
	require.Equal(t, 100, succeeds(t, conn, "'iris', 'flowers', 'mine.some', 'id'").Done)
	// An existing target needs INSERT, and a replacement DELETE, both seen before anything is scored.
	exec(t, admin, "CREATE TABLE theirs (id bigint, label text); GRANT SELECT ON theirs TO "+role)
	require.Contains(t, fails(t, conn, "42501", "'iris', 'flowers', 'theirs', 'id', 'append'").Error, "permission denied for table theirs")
	exec(t, admin, "GRANT INSERT ON theirs TO "+role)
	require.Equal(t, 100, succeeds(t, conn, "'iris', 'flowers', 'theirs', 'id', 'append'").Done)
	fails(t, conn, "42501", "'iris', 'flowers', 'theirs', 'id', 'replace'")
	// Nobody reads what is gathered.
	refused(t, conn, "42501", "CREATE TABLE ml_staging.mine ()")
	// A source may predict, with the starter's rights.
	s.register(t, demo("diabetes"))
	exec(t, conn, "CREATE VIEW mine.asks AS SELECT f.id, f.sepal_length, f.sepal_width, f.petal_length, f.petal_width, predict('diabetes', '{0,0,0,0,0,0,0,0,0,0}') FROM flowers f")
	require.Contains(t, fails(t, conn, "42501", "'iris', 'SELECT a.*, predict + 1 AS p FROM mine.asks a WHERE predict > 0', 'mine.asked', 'id'").Error, "diabetes")

	// The admin follows and steers it, a stranger does not see it.
	require.Positive(t, one[int](t, admin, "SELECT count(*)::int FROM ml.jobs WHERE started_by = '"+role+"'"))
	_, strangerURL := s.Role(t, "")
	require.Zero(t, one[int](t, pgtest.Connect(t, strangerURL), "SELECT count(*)::int FROM ml.jobs"))
}

// attempts are what code of a starter may try, run on a session of a superuser.
func attempts() []string {
	return []string{
		"RESET ROLE", "SET ROLE NONE", "SET LOCAL ROLE NONE", "SET SESSION AUTHORIZATION DEFAULT", "RESET SESSION AUTHORIZATION",
		"SELECT set_config('role', 'none', false)", "SELECT set_config('session_authorization', session_user, false)", "SET ROLE %[2]s", "SET SESSION AUTHORIZATION %[2]s",
		"ALTER ROLE %[1]s SUPERUSER", "GRANT %[2]s TO %[1]s", "SELECT ml.drop_model('iris')", "SELECT ml.grant_model('diabetes', '%[1]s')",
		"SELECT password FROM ml_private.gateway", "DELETE FROM ml_private.job", "SELECT ml_private.gateway_key()",
		"ALTER FUNCTION pg_temp.rowcast_borrowed() SECURITY INVOKER; ALTER ROLE %[1]s SUPERUSER",
		"DO 'BEGIN RESET ROLE; ALTER ROLE %[1]s SUPERUSER; END'",
	}
}

func TestCodeOfTheStarterStaysTheStarters(t *testing.T) {
	s := start(t)
	admin := s.Conn(t)
	super := one[string](t, admin, "SELECT current_user::text")
	s.register(t, demo("iris_v2"), "iris")
	s.register(t, demo("diabetes"))
	role, roleURL := s.Role(t, "")
	conn := pgtest.Connect(t, roleURL)
	exec(t, admin, "SELECT ml.grant_model('iris', $1)", role)
	exec(t, admin, "CREATE SCHEMA lab; GRANT ALL ON SCHEMA lab TO "+role)
	exec(t, conn, "SET search_path = lab, pg_catalog, ml") // its operators come before PostgreSQL's
	flowers(t, conn, "flowers", 50)
	exec(t, conn, "CREATE TABLE lab.seen (place text, who name, attempt text, outcome text)")
	var code strings.Builder
	for _, a := range attempts() {
		sql := fmt.Sprintf(a, role, super)
		fmt.Fprintf(&code, `BEGIN EXECUTE %s; outcome := 'did it'; EXCEPTION WHEN OTHERS THEN outcome := sqlstate || ' ' || sqlerrm; END;
			BEGIN INSERT INTO lab.seen VALUES (place, current_user, %[1]s, outcome); EXCEPTION WHEN OTHERS THEN NULL; END;
`, quote(sql))
	}
	exec(t, conn, "CREATE FUNCTION lab.attack(place text) RETURNS void LANGUAGE plpgsql AS $f$ DECLARE outcome text; BEGIN "+code.String()+" END $f$")
	exec(t, conn, `CREATE FUNCTION lab.evil(x float8) RETURNS float8 LANGUAGE plpgsql VOLATILE AS 'BEGIN PERFORM lab.attack(''view''); RETURN x; END';
		CREATE FUNCTION lab.evil_immutable(x bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM lab.attack(''planner''); RETURN x; END';
		CREATE FUNCTION lab.evil_policy() RETURNS boolean LANGUAGE plpgsql AS 'BEGIN PERFORM lab.attack(''policy''); RETURN true; END';
		CREATE FUNCTION lab.evil_check(x bigint) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN PERFORM lab.attack(''check''); RETURN true; END';
		CREATE FUNCTION lab.evil_eq(a bigint, b integer) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN PERFORM lab.attack(''operator''); RETURN a::text = b::text; END';
		CREATE OPERATOR lab.= (LEFTARG = bigint, RIGHTARG = integer, FUNCTION = lab.evil_eq);
		CREATE FUNCTION lab.evil_trigger() RETURNS trigger LANGUAGE plpgsql AS
			'BEGIN PERFORM lab.attack(tg_name); IF tg_name = ''again'' AND (SELECT count(*) FROM lab.chain) < 3 THEN
				SET CONSTRAINTS ALL DEFERRED; INSERT INTO lab.chain VALUES (1);
			END IF; RETURN new; END';
		CREATE DOMAIN lab.odd AS bigint CHECK (lab.evil_check(VALUE));
		CREATE TABLE lab.chain (n integer);
		CREATE CONSTRAINT TRIGGER again AFTER INSERT ON lab.chain DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION lab.evil_trigger();
		CREATE VIEW lab.trap AS SELECT id::lab.odd AS id, lab.evil(sepal_length) AS sepal_length, sepal_width, petal_length, petal_width FROM lab.flowers;
		CREATE TABLE lab.target (id bigint CHECK (lab.evil_check(id)), label text, n bigint DEFAULT lab.evil_immutable(7));
		CREATE INDEX ON lab.target (lab.evil_immutable(1));
		CREATE TRIGGER before BEFORE INSERT ON lab.target FOR EACH ROW EXECUTE FUNCTION lab.evil_trigger();
		CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON lab.target DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION lab.evil_trigger();
		CREATE FUNCTION lab.start_chain() RETURNS trigger LANGUAGE plpgsql AS
			'BEGIN SET CONSTRAINTS ALL DEFERRED; INSERT INTO lab.chain VALUES (0);
			EXECUTE ''DECLARE later CURSOR WITH HOLD FOR SELECT lab.attack(''''cursor'''')'';
			PERFORM set_config(''search_path'', ''lab, pg_catalog'', false); PERFORM set_config(''standard_conforming_strings'', ''off'', false); RETURN NULL; END';
		CREATE CONSTRAINT TRIGGER zlast AFTER INSERT ON lab.target DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (new.id OPERATOR(pg_catalog.=) 50) EXECUTE FUNCTION lab.start_chain();
		ALTER TABLE lab.flowers ENABLE ROW LEVEL SECURITY; ALTER TABLE lab.flowers FORCE ROW LEVEL SECURITY; CREATE POLICY p ON lab.flowers USING (lab.evil_policy());
		CREATE INDEX ON lab.flowers (lab.evil_immutable(2));
		TRUNCATE lab.seen`)
	unchanged := func() {
		t.Helper()
		require.False(t, one[bool](t, admin, "SELECT rolsuper FROM pg_roles WHERE rolname = $1", role), "it became a superuser")
		require.False(t, one[bool](t, admin, "SELECT pg_has_role($1, $2, 'MEMBER')", role, super))
		require.Equal(t, 2, one[int](t, admin, "SELECT count(*)::int FROM ml.models"))
		refused(t, conn, "42501", "SELECT predict('diabetes', '{0,0,0,0,0,0,0,0,0,0}')")
	}
	for _, args := range []string{
		"'iris', 'lab.trap', 'lab.out1', 'id'", "'iris', 'lab.flowers', 'lab.out2', 'id'", "'iris', 'SELECT * FROM lab.trap', 'lab.target', 'id', 'append'",
		"'iris', 'lab.trap', 'lab.target', 'id', 'replace', 'skip'",
	} {
		j := await(t, conn, score(t, conn, args), "done", "failed")
		require.Equal(t, "done", j.State, "%s: %s %s; %s", args, j.SQLState, j.Error, j.Detail)
		unchanged()
	}
	// What wrote a record ran as the role, and what asked for more was refused; the triggers at least can write one.
	rows, err := admin.Query(t.Context(), "SELECT DISTINCT place, who::text, attempt, outcome FROM lab.seen")
	require.NoError(t, err)
	type record struct{ Place, Who, Attempt, Outcome string }
	seen, err := pgx.CollectRows(rows, pgx.RowToStructByPos[record])
	require.NoError(t, err)
	places := map[string]bool{}
	for _, r := range seen {
		places[r.Place] = true
		require.Equal(t, role, r.Who, "%+v", r)
		require.NotEqual(t, "did it", r.Outcome, "%+v", r)
	}
	for _, place := range []string{"before", "deferred", "again", "check"} {
		require.True(t, places[place], "the test's %s did not run: %v", place, places)
	}
	require.NotContains(t, places, "cursor")
}

func quote(sql string) string { return "'" + strings.ReplaceAll(sql, "'", "''") + "'" }

func TestAnOwnerWithoutSuperuserRightsMustBeAMember(t *testing.T) {
	cluster := privateCluster(t)
	exec(t, pgtest.Connect(t, cluster.URL("postgres")), "CREATE ROLE shop_owner LOGIN PASSWORD 'o' CREATEROLE; CREATE ROLE \"An Analyst\" LOGIN PASSWORD 'a'")
	exec(t, pgtest.Connect(t, cluster.URL("postgres")), "CREATE DATABASE shop OWNER shop_owner")
	admin := pgtest.Connect(t, cluster.URL("shop"))
	exec(t, admin, "CREATE EXTENSION dblink; GRANT USAGE ON FOREIGN DATA WRAPPER dblink_fdw TO shop_owner")
	ownerURL := as(t, cluster.URL("shop"), "shop_owner", "o")
	command(t, 0, "migrate", "up", "--database-url", ownerURL)
	s := &sidecar{Database: &pgtest.Database{Name: "shop", URL: ownerURL}, log: &syncBuffer{}}
	c := config.Default()
	c.DatabaseURL = ownerURL
	s.serve(t, c)
	s.register(t, demo("iris_v2"), "iris")
	owner := s.Conn(t)
	exec(t, owner, "SELECT ml.grant_model('iris', 'An Analyst'); CREATE SCHEMA private; GRANT ALL ON SCHEMA private TO \"An Analyst\"")
	analyst := pgtest.Connect(t, as(t, cluster.URL("shop"), "An Analyst", "a"))
	flowers(t, analyst, "private.flowers", 2000)
	e := refused(t, analyst, "42501", "SELECT ml.score('iris', 'private.flowers', 'private.scores', 'id')")
	require.Equal(t, `An administrator runs: GRANT "An Analyst" TO shop_owner;`, e.Hint)
	exec(t, admin, `GRANT "An Analyst" TO shop_owner`)
	succeeds(t, analyst, "'iris', 'private.flowers', 'private.scores', 'id'")
	require.Equal(t, "An Analyst", one[string](t, analyst, "SELECT tableowner FROM pg_tables WHERE tablename = 'scores'"))
	// Where Rowcast may not make tables, the starter does.
	exec(t, admin, `CREATE SCHEMA own AUTHORIZATION "An Analyst"; REVOKE ALL ON SCHEMA own FROM shop_owner`)
	exec(t, admin, `REVOKE "An Analyst" FROM shop_owner; GRANT "An Analyst" TO shop_owner; ALTER ROLE shop_owner NOINHERIT`)
	succeeds(t, analyst, "'iris', 'SELECT * FROM private.flowers', 'own.scores', 'id', 'create', 'skip'")
	require.Equal(t, 2000, one[int](t, analyst, "SELECT count(*)::int FROM own.scores"))
	succeeds(t, analyst, "'iris', 'private.flowers', 'own.scores', 'id', 'replace'")
	// The analyst's code cannot become the owner.
	exec(t, analyst, `CREATE FUNCTION own.evil(x float8) RETURNS float8 LANGUAGE plpgsql AS 'BEGIN RESET ROLE; RETURN x; END';
		CREATE VIEW own.trap AS SELECT id, own.evil(sepal_length) AS sepal_length, sepal_width, petal_length, petal_width FROM private.flowers`)
	require.Contains(t, fails(t, analyst, "42501", "'iris', 'own.trap', 'own.trapped', 'id'").Error, "security-definer function")
}
