package server_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/postgres/pgtest"
)

const irisRow = "ARRAY[5.1, 3.5, 1.4, 0.2]"

func TestRightsAreDeniedByDefaultAndGranted(t *testing.T) {
	s := start(t)
	admin := s.Conn(t)
	s.register(t, demo("iris_v2"), "iris")
	s.register(t, demo("diabetes"))
	plain, plainURL := s.Role(t, "")
	group, _ := s.Role(t, "")
	conn := pgtest.Connect(t, plainURL)
	const predict = "SELECT predict_label('iris', " + irisRow + ")"

	refused(t, conn, "42501", predict)
	for _, sql := range []string{ // before anything else is looked at
		"SELECT predict_label('iris', ARRAY[1]::double precision[])", "SELECT predict('iris', NULL::text)", "SELECT predict_proba('iris@9', '{}')",
		"SELECT ml.infer('iris', '{}')", "SELECT ml.promote('iris', 9)", "SELECT ml.grant_model('iris', 'nobody')", "SELECT ml.drop_model('iris')",
		"SELECT ml.rollback('iris')", "SELECT ml.model_chunk('iris', 0)", "SELECT ml.register_model('new', '\\x00'::bytea)", "SELECT ml.rotate_gateway()",
		"SELECT ml.begin_upload(repeat('0', 64), 1)", "SELECT ml.register_artifact('new', 'x')", "SELECT ml.release_version('iris', 1)",
	} {
		refused(t, conn, "42501", sql)
	}
	require.Zero(t, one[int](t, conn, "SELECT count(*)::integer FROM ml.models"))

	exec(t, admin, "SELECT ml.grant_model('iris', $1)", group)
	refused(t, conn, "42501", predict)
	exec(t, admin, fmt.Sprintf("GRANT %s TO %s", group, plain))
	require.Equal(t, "setosa", one[string](t, conn, predict), "reaches members")
	require.Equal(t, []string{"iris"}, one[[]string](t, conn, "SELECT array_agg(model) FROM ml.models"))
	require.Equal(t, []string{"iris"}, one[[]string](t, conn, "SELECT array_agg(model) FROM ml.versions"))
	refused(t, conn, "42501", "SELECT predict('diabetes', "+irisRow+")")
	e := refused(t, conn, "42501", "SELECT ml.promote('iris', 1)")
	require.Contains(t, e.Message, "not change it")

	exec(t, admin, fmt.Sprintf("ALTER ROLE %s NOINHERIT", plain))
	exec(t, admin, fmt.Sprintf("REVOKE %s FROM %s; GRANT %s TO %s", group, plain, group, plain))
	refused(t, conn, "42501", predict)
	exec(t, conn, "SET ROLE "+group)
	require.Equal(t, "setosa", one[string](t, conn, predict), "SET ROLE counts")
	exec(t, conn, "RESET ROLE")
	refused(t, conn, "42501", predict)
	exec(t, admin, "SET ROLE "+plain)
	refused(t, admin, "42501", predict)
	exec(t, admin, "RESET ROLE")

	exec(t, admin, "SELECT ml.revoke_model('iris', $1)", group)
	exec(t, admin, "SELECT ml.grant_model('iris', 'public')")
	require.Equal(t, "setosa", one[string](t, conn, predict), "PUBLIC")
	require.Equal(t, "PUBLIC", one[string](t, conn, "SELECT grantee FROM ml.grants"))
	exec(t, admin, "SELECT ml.revoke_model('iris', 'PUBLIC')")
	refused(t, conn, "42501", predict)
	e = refused(t, admin, "42704", "SELECT ml.revoke_model('iris', 'public')")
	require.Contains(t, e.Hint, "ml.grants")
}

func TestGrantsSurviveTheDropOfARole(t *testing.T) {
	s := start(t)
	admin := s.Conn(t)
	s.register(t, demo("iris_v2"), "iris")
	name, keptURL := s.Role(t, "")
	exec(t, admin, "CREATE ROLE rowcast_test_dropped")
	exec(t, admin, "SELECT ml.grant_model('iris', 'rowcast_test_dropped'), ml.grant_model('iris', $1)", name)
	exec(t, admin, "DROP ROLE rowcast_test_dropped")
	require.Equal(t, "setosa", one[string](t, pgtest.Connect(t, keptURL), "SELECT predict_label('iris', "+irisRow+")"))
	s.register(t, demo("iris"), "iris")
	require.Equal(t, "setosa", one[string](t, pgtest.Connect(t, keptURL), "SELECT predict_label('iris@2', "+irisRow+")"), "new versions, too")
}

func TestRolesOfAnyName(t *testing.T) {
	s := start(t)
	admin := s.Conn(t)
	s.register(t, demo("iris_v2"), "iris")
	const role = `"Odd ""Role"", é"`
	exec(t, admin, "CREATE ROLE "+role+"; GRANT ml_admin TO "+role)
	t.Cleanup(func() { exec(t, admin, "DROP ROLE "+role) })
	exec(t, admin, "SET ROLE "+role)
	exec(t, admin, "SELECT ml.register_model('odd', $1, $2)", artifact(t, "iris_v2"), optionsJSON(t, "iris_v2"))
	exec(t, admin, "RESET ROLE; REVOKE ml_admin FROM "+role)
	exec(t, admin, "SELECT ml.grant_model('iris', $1)", `Odd "Role", é`)
	exec(t, admin, "SET ROLE "+role)
	require.Equal(t, "setosa", one[string](t, admin, "SELECT predict_label('iris', "+irisRow+")"))
	require.Equal(t, `Odd "Role", é`, one[string](t, admin, "SELECT owner FROM ml.models WHERE model = 'odd'"))
	exec(t, admin, "SELECT ml.drop_model('odd')")
	exec(t, admin, "RESET ROLE")
}

func TestMlAdminAndOwnersMayChange(t *testing.T) {
	s := start(t)
	admin := s.Conn(t)
	boss, bossURL := s.Role(t, "")
	_, plainURL := s.Role(t, "")
	exec(t, admin, "GRANT ml_admin TO "+boss)
	b := pgtest.Connect(t, bossURL)
	exec(t, b, "SELECT ml.register_model('mine', $1, $2)", artifact(t, "iris_v2"), optionsJSON(t, "iris_v2"))
	exec(t, b, "SELECT ml.register_model('mine', $1, $2)", artifact(t, "iris"), optionsJSON(t, "iris"))
	exec(t, b, "SELECT ml.promote('mine', 2)")
	require.Equal(t, boss, one[string](t, b, "SELECT owner FROM ml.models"))
	exec(t, admin, "REVOKE ml_admin FROM "+boss)
	exec(t, b, "SELECT ml.promote('mine', 1)") // as its owner
	exec(t, b, "SELECT ml.register_model('mine', $1, $2)", artifact(t, "iris"), optionsJSON(t, "iris"))
	refused(t, b, "42501", "SELECT ml.register_model('other', $1)", artifact(t, "iris"))
	refused(t, pgtest.Connect(t, plainURL), "42501", "SELECT ml.promote('mine', 1)")
	// The role cannot be dropped while its model names it as owner, so the model goes first.
	exec(t, b, "SELECT ml.drop_model('mine')")
}

// A plain role must not be able to read a secret, open the server, or use the connection that predict opened, even where dblink is there for all.
func TestNothingButPredictionsCanBeHadFromTheGateway(t *testing.T) {
	s := start(t)
	admin := s.Conn(t)
	s.register(t, demo("iris_v2"), "iris")
	s.register(t, demo("diabetes"))
	plain, plainURL := s.Role(t, "")
	exec(t, admin, "SELECT ml.grant_model('iris', $1)", plain)
	conn := pgtest.Connect(t, plainURL)
	attack := func(dblink string) {
		require.Equal(t, "setosa", one[string](t, conn, "SELECT predict_label('iris', "+irisRow+")"))
		for _, sql := range []string{
			"SELECT * FROM ml_private.gateway", "SELECT * FROM ml_private.artifact_chunk", "SELECT ml_private.gateway_key()",
			"SELECT ml_private.call('p', 'diabetes', 'b', NULL)", "SELECT sealed FROM ml_private.route", "SELECT ml_private.exchange('\\x00', 'N', false)", "SELECT ml_private.connect()",
			"SELECT " + dblink + ".dblink_connect('mine', 'rowcast_gateway')", "SELECT ml_private.dblink_get_connections()",
		} {
			refused(t, conn, "42501", sql)
		}
		require.Zero(t, one[int](t, conn, "SELECT count(*)::integer FROM pg_user_mappings WHERE srvname = 'rowcast_gateway' AND umoptions IS NOT NULL"))
		refused(t, conn, "42501", "SELECT * FROM pg_user_mapping")
		require.NotContains(t, one[string](t, conn, "SELECT coalesce(string_agg(prosrc, ''), '') FROM pg_proc WHERE pronamespace = 'ml'::regnamespace"), secret(t, admin))
	}
	attack("ml_private")

	// The same with a dblink that everybody may call.
	exec(t, admin, "ALTER EXTENSION dblink SET SCHEMA public")
	t.Cleanup(func() { exec(t, admin, "ALTER EXTENSION dblink SET SCHEMA ml_private") })
	migrateUp(t, s.URL)
	conn = pgtest.Connect(t, plainURL)
	require.Equal(t, "setosa", one[string](t, conn, "SELECT predict_label('iris', "+irisRow+")"))
	spec := one[string](t, admin, "SELECT call FROM ml_private.route WHERE ref = 'diabetes'")
	for _, call := range []string{"N", "p" + spec + "- b00", strings.Repeat("0", 32) + " p" + spec + "- b00", "SELECT 1", "E", "F", ""} {
		_, err := conn.Exec(context.Background(), "SELECT public.dblink_exec('rowcast', $1, true)", call)
		require.Error(t, err, call)
		_, err = conn.Exec(context.Background(), "SELECT * FROM public.dblink('rowcast', $1, true) AS x(a text, b text)", call)
		require.Error(t, err, call)
	}
	refused(t, conn, "42704", "SELECT public.dblink_connect('mine', 'rowcast_gateway')") // no user mapping of its own
	require.Equal(t, "setosa", one[string](t, conn, "SELECT predict_label('iris', "+irisRow+")"), "the session still predicts")
}

func secret(t *testing.T, admin *pgx.Conn) string {
	t.Helper()
	return one[string](t, admin, "SELECT password FROM ml_private.gateway")
}

func TestAHostileSearchPathChangesNothing(t *testing.T) {
	s := start(t)
	admin := s.Conn(t)
	s.register(t, demo("iris_v2"), "iris")
	plain, plainURL := s.Role(t, "")
	exec(t, admin, "SELECT ml.grant_model('iris', $1)", plain)
	exec(t, admin, fmt.Sprintf("CREATE SCHEMA evil; GRANT ALL ON SCHEMA evil TO %s", plain))
	conn := pgtest.Connect(t, plainURL)
	exec(t, conn, `
		CREATE FUNCTION evil.boom() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'evil ran as %', current_user; END $$;
		CREATE FUNCTION evil.encode(bytea, text) RETURNS text LANGUAGE sql AS 'SELECT evil.boom()';
		CREATE FUNCTION evil.sha256(bytea) RETURNS bytea LANGUAGE sql AS 'SELECT evil.boom()::bytea';
		CREATE FUNCTION evil.left(text, integer) RETURNS text LANGUAGE sql AS 'SELECT evil.boom()';
		CREATE FUNCTION evil.substr(text, integer) RETURNS text LANGUAGE sql AS 'SELECT evil.boom()';
		CREATE FUNCTION evil.row_to_json(record) RETURNS json LANGUAGE plpgsql AS 'BEGIN RETURN evil.boom()::json; END';
		CREATE FUNCTION evil.current_setting(text) RETURNS text LANGUAGE sql AS 'SELECT evil.boom()';
		CREATE FUNCTION evil.current_setting(text, boolean) RETURNS text LANGUAGE sql AS 'SELECT evil.boom()';
		CREATE FUNCTION evil.cat(text, text) RETURNS text LANGUAGE sql AS 'SELECT evil.boom()';
		CREATE OPERATOR evil.|| (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.cat);
		CREATE FUNCTION evil.eq(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT evil.boom()::boolean';
		CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.eq);
		CREATE FUNCTION evil.array_send(double precision[]) RETURNS bytea LANGUAGE sql AS 'SELECT evil.boom()::bytea';
		CREATE FUNCTION evil.starts_with(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT evil.boom()::boolean';
		CREATE FUNCTION evil.convert_to(text, name) RETURNS bytea LANGUAGE sql AS 'SELECT evil.boom()::bytea';
		CREATE FUNCTION evil.replace(text, text, text) RETURNS text LANGUAGE sql AS 'SELECT evil.boom()';
		CREATE FUNCTION evil.pg_has_role(name, oid, text) RETURNS boolean LANGUAGE sql AS 'SELECT evil.boom()::boolean';
		CREATE FUNCTION evil.pg_has_role(text, oid, text) RETURNS boolean LANGUAGE sql AS 'SELECT evil.boom()::boolean';
		CREATE FUNCTION evil.gt(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT evil.boom()::boolean';
		CREATE OPERATOR evil.> (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.gt);
		CREATE OPERATOR evil.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.gt);
		CREATE FUNCTION evil.eq(oid, oid) RETURNS boolean LANGUAGE sql AS 'SELECT evil.boom()::boolean';
		CREATE OPERATOR evil.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = evil.eq);
		CREATE FUNCTION evil.cat(bytea, bytea) RETURNS bytea LANGUAGE sql AS 'SELECT evil.boom()::bytea';
		CREATE OPERATOR evil.|| (LEFTARG = bytea, RIGHTARG = bytea, FUNCTION = evil.cat);
		CREATE DOMAIN evil.text AS integer; CREATE DOMAIN evil.name AS integer; CREATE DOMAIN evil.oid AS integer; CREATE DOMAIN evil.float8 AS integer;
		CREATE TEMPORARY TABLE route (ref pg_catalog.text, call pg_catalog.text);
		SET search_path = evil, pg_catalog, ml, pg_temp`)
	require.Equal(t, "setosa", one[string](t, conn, "SELECT ml.predict_label('iris', "+irisRow+")"))
	require.Equal(t, "setosa", one[string](t, conn, "SELECT ml.predict_label('iris', x) FROM (SELECT 5.1 AS sepal_length, 3.5 AS sepal_width, 1.4 AS petal_length, 0.2 AS petal_width) x"))
	require.Equal(t, 1, one[int](t, conn, "SELECT (ml.predict_json('iris', '{5.1,3.5,1.4,0.2}') OPERATOR(pg_catalog.->) 'version')::integer"))
	require.Equal(t, 1, one[int](t, conn, "SELECT pg_catalog.count(*)::integer FROM ml.models"))
	refused(t, conn, "42704", "SELECT ml.predict('nothing', ARRAY[1, 2])")
	refused(t, conn, "22023", "SELECT ml.predict_label('iris', ARRAY[1, 2])")
	require.Equal(t, "setosa", one[string](t, pgtest.Connect(t, plainURL+"&options=-csearch_path%3Devil"), "SELECT ml.predict_label('iris', '{5.1,3.5,1.4,0.2}'::pg_catalog.text)"), "from the first call on")
}

// row_to_json() uses the casts to json that a user's types have: they must run with the user's rights.
func TestTypesOfTheCallerRunNoCodeAsTheOwner(t *testing.T) {
	s := start(t)
	s.register(t, demo("iris_v2"), "iris")
	plain, plainURL := s.Role(t, "")
	exec(t, s.Conn(t), fmt.Sprintf("SELECT ml.grant_model('iris', '%[1]s'); CREATE SCHEMA evil; GRANT ALL ON SCHEMA evil TO %[1]s", plain))
	conn := pgtest.Connect(t, plainURL)
	exec(t, conn, `
		CREATE TYPE evil.length AS ENUM ('5.1');
		CREATE TABLE evil.ran (role name);
		CREATE FUNCTION evil.json(evil.length) RETURNS json LANGUAGE plpgsql AS
			$$ BEGIN IF current_user <> session_user THEN RAISE EXCEPTION 'evil runs as %', current_user; END IF; RETURN '5.1'; END $$;
		CREATE CAST (evil.length AS json) WITH FUNCTION evil.json(evil.length)`)
	for _, f := range []string{"predict_label('iris', x)", "predict_proba('iris', x)::text", "predict_json('iris', x)::text"} {
		require.Contains(t, one[string](t, conn, "SELECT "+f+" FROM (SELECT '5.1'::evil.length AS sepal_length, 3.5 AS sepal_width, 1.4 AS petal_length, 0.2 AS petal_width) x"),
			map[bool]string{true: "0.9", false: "setosa"}[strings.HasPrefix(f, "predict_proba")])
	}
	refused(t, conn, "22023", "SELECT ml.call_record('W', 'iris', '{}')")
	refused(t, conn, "22023", "SELECT ml.call_record(E'p \n', 'iris', '{}')")
	refused(t, conn, "22023", "SELECT ml.call_record(NULL, 'iris', '{}')")
}

// Settings of the caller must not change a prediction.
func TestTheCallersSettingsChangeNothing(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	s.register(t, demo("diabetes"))
	exec(t, conn, `CREATE TABLE d AS SELECT 0.038075905::double precision AS age, 0.05068012::double precision AS sex, 0.061696205::double precision AS bmi,
		0.021872386::double precision AS bp, -0.0442235::double precision AS s1, -0.03482076::double precision AS s2, -0.043400846::double precision AS s3,
		-0.0025922621::double precision AS s4, 0.019907486::double precision AS s5, -0.017646125::double precision AS s6`)
	const q = `SELECT ARRAY[predict('diabetes', d), predict('diabetes', ARRAY[age, sex, bmi, bp, s1, s2, s3, s4, s5, s6]), predict('diabetes', to_jsonb(d))] FROM d`
	want := one[[]float64](t, conn, q)
	require.Equal(t, want[0], want[1])
	exec(t, conn, "SET extra_float_digits = -15; SET bytea_output = 'escape'; SET DateStyle = 'German'; SET standard_conforming_strings = off; SET IntervalStyle = 'sql_standard'")
	got := one[[]float64](t, conn, q)
	require.Equal(t, want[:2], got[:2]) // the caller's own to_jsonb is the caller's
}
