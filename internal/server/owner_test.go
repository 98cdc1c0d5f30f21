package server_test

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/cli"
	"github.com/rowcast/rowcast/internal/config"
	"github.com/rowcast/rowcast/internal/postgres"
	"github.com/rowcast/rowcast/internal/postgres/pgtest"
	"github.com/rowcast/rowcast/internal/rowcast"
	"github.com/rowcast/rowcast/migrations"
)

// command runs the command line and returns what it printed; it must end with the status.
func command(t testing.TB, status int, args ...string) (out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	require.Equal(t, status, cli.Main("test", args, strings.NewReader(""), &o, &e), "rowcast %s: %s%s", strings.Join(args, " "), &o, &e)
	return o.String(), e.String()
}

// privateCluster is a cluster that no other test sees: without the role ml_admin, and with roles and settings of its own.
func privateCluster(t testing.TB) *postgres.Cluster {
	t.Helper()
	c, err := postgres.StartCluster(context.Background(), postgres.ClusterOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Stop(context.Background())) })
	return c
}

// as returns the URL of the same database for another role.
func as(t testing.TB, databaseURL, role, password string) string {
	t.Helper()
	u, err := url.Parse(databaseURL)
	require.NoError(t, err)
	u.User = url.UserPassword(role, password)
	return u.String()
}

// administer runs the SQL in the hint of a refused installation, and nothing else, as an administrator.
func administer(t testing.TB, admin *pgx.Conn, refusal error) (sql string) {
	t.Helper()
	var e *rowcast.Error
	require.ErrorAs(t, refusal, &e)
	require.Equal(t, rowcast.CodeNotPermitted, e.Code)
	intro, sql, ok := strings.Cut(e.Hint, ":\n")
	require.True(t, ok, e.Hint)
	require.Contains(t, intro, "An administrator runs in database")
	exec(t, admin, sql)
	return sql
}

func TestAPlainOwnerNeedsOnlyWhatPreflightSays(t *testing.T) {
	cluster := privateCluster(t)
	exec(t, pgtest.Connect(t, cluster.URL("postgres")), "CREATE ROLE shop_owner LOGIN PASSWORD 'o'; CREATE ROLE analyst LOGIN PASSWORD 'a'; CREATE ROLE engineer LOGIN PASSWORD 'e'")
	exec(t, pgtest.Connect(t, cluster.URL("postgres")), "CREATE DATABASE shop OWNER shop_owner")
	admin := pgtest.Connect(t, cluster.URL("shop"))
	ownerURL := as(t, cluster.URL("shop"), "shop_owner", "o")

	// Refused, with the administrator's SQL.
	_, errOut := command(t, 1, "migrate", "up", "--database-url", ownerURL)
	for _, line := range []string{
		"role shop_owner cannot install Rowcast in database shop", "CREATE SCHEMA dblink;", "CREATE EXTENSION dblink SCHEMA dblink;",
		"GRANT USAGE ON SCHEMA dblink TO \"shop_owner\";", "GRANT USAGE ON FOREIGN DATA WRAPPER dblink_fdw TO \"shop_owner\";", "CREATE ROLE ml_admin NOLOGIN;",
	} {
		require.Contains(t, errOut, line)
	}
	m, err := postgres.NewMigrator(ownerURL, postgres.MigratorOptions{Source: migrations.Files, SetSearchPath: true})
	require.NoError(t, err)
	_, err = m.Up(context.Background())
	administer(t, admin, err)
	out, _ := command(t, 0, "migrate", "up", "--database-url", ownerURL)
	require.Contains(t, out, "schema from version 0 to")

	// Everything is the owner's, and nothing was left to a superuser.
	require.Equal(t, []string{"shop_owner"}, one[[]string](t, admin, `SELECT array_agg(DISTINCT pg_get_userbyid(o)) FROM (
		SELECT nspowner FROM pg_namespace WHERE nspname IN ('ml', 'ml_private')
		UNION ALL SELECT relowner FROM pg_class WHERE relnamespace IN ('ml'::regnamespace, 'ml_private'::regnamespace)
		UNION ALL SELECT proowner FROM pg_proc WHERE pronamespace IN ('ml'::regnamespace, 'ml_private'::regnamespace)
		UNION ALL SELECT srvowner FROM pg_foreign_server UNION ALL SELECT umuser FROM pg_user_mapping) AS x(o)`))

	s := &sidecar{Database: &pgtest.Database{Name: "shop", URL: ownerURL}, log: &syncBuffer{}}
	c := config.Default()
	c.DatabaseURL = ownerURL
	s.serve(t, c)
	s.register(t, demo("iris_v2"), "iris")
	s.register(t, demo("diabetes"))
	owner := s.Conn(t)
	admin = pgtest.Connect(t, cluster.URL("shop")) // with the search_path that the installation has set
	const predict = "SELECT predict_label('iris', " + irisRow + ")"
	require.Equal(t, "setosa", one[string](t, owner, predict))
	require.Equal(t, "setosa", one[string](t, admin, predict), "a superuser may, too")

	analyst := pgtest.Connect(t, as(t, cluster.URL("shop"), "analyst", "a"))
	refused(t, analyst, "42501", predict)
	exec(t, owner, "SELECT ml.grant_model('iris', 'analyst')")
	require.Equal(t, "setosa", one[string](t, analyst, predict))
	require.Equal(t, "setosa", one[string](t, analyst, "SELECT predict_json('iris', "+irisRow+") ->> 'label'"))
	refused(t, analyst, "42501", "SELECT predict('diabetes', '{1}')")
	nothingElse(t, analyst, secret(t, admin))

	// ml_admin may register and change, but the gateway's secrets are the owner's.
	exec(t, admin, "GRANT ml_admin TO engineer")
	engineer := pgtest.Connect(t, as(t, cluster.URL("shop"), "engineer", "e"))
	require.Equal(t, 1, one[int](t, engineer, "SELECT ml.register_model('mine', $1)", artifact(t, "iris_v2")))
	require.Equal(t, "setosa", one[string](t, engineer, "SELECT predict_label('mine', "+irisRow+")"))
	require.Equal(t, "setosa", one[string](t, owner, "SELECT predict_label('mine', "+irisRow+")"))
	exec(t, engineer, "SELECT ml.rotate_gateway()")
	require.Equal(t, "setosa", one[string](t, engineer, predict))
	nothingElse(t, engineer, secret(t, admin))

	// The owner updates it, and so may a superuser, who leaves everything the owner's.
	command(t, 0, "migrate", "up", "--database-url", ownerURL)
	command(t, 0, "migrate", "up", "--database-url", cluster.URL("shop"))
	require.Equal(t, "shop_owner", one[string](t, admin, "SELECT string_agg(DISTINCT pg_get_userbyid(proowner), ' ') FROM pg_proc WHERE pronamespace = 'ml'::regnamespace"))
	require.Equal(t, "setosa", one[string](t, analyst, predict))
	_, errOut = command(t, 1, "migrate", "up", "--database-url", as(t, cluster.URL("shop"), "analyst", "a"))
	require.Contains(t, errOut, "shop_owner")

	// Down and up again by the owner; what the administrator did stays.
	command(t, 0, "migrate", "down", "all", "--database-url", ownerURL)
	require.Equal(t, []string{"dblink", "public"}, one[[]string](t, admin, `SELECT array_agg(nspname::text ORDER BY nspname) FROM pg_namespace
		WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'`))
	require.Zero(t, one[int](t, admin, "SELECT (SELECT count(*) FROM pg_foreign_server) + (SELECT count(*) FROM pg_user_mapping)"))
	gateway := s.worker0(t)
	command(t, 0, "migrate", "up", "--gateway", gateway, "--database-url", ownerURL)
	s.register(t, demo("iris_v2"), "iris")
	refused(t, analyst, "42501", predict)
	exec(t, owner, "SELECT ml.grant_model('iris', 'analyst')")
	require.Equal(t, "setosa", one[string](t, analyst, predict), "through the same sidecar and in the same session")
}

// nothingElse checks that a session that may predict can read none of the secrets and cannot open the server.
func nothingElse(t *testing.T, conn *pgx.Conn, password string) {
	t.Helper()
	for _, sql := range []string{
		"SELECT * FROM ml_private.gateway", "TABLE ml_private.artifact_chunk", "TABLE ml_private.version", "TABLE ml_private.route", "TABLE pg_user_mapping",
		"SELECT ml_private.gateway_key()", "SELECT ml_private.connect()", "SELECT ml_private.exchange('\\x00', 'N', false)",
		"SELECT dblink.dblink_connect('mine', 'rowcast_gateway')", "SELECT dblink.dblink_get_connections()", "SELECT dblink.dblink_exec('rowcast', 'N')",
		"CREATE USER MAPPING FOR CURRENT_USER SERVER rowcast_gateway", "ALTER SERVER rowcast_gateway OPTIONS (SET host '127.0.0.1')",
		"DROP SERVER rowcast_gateway", "CREATE SERVER mine FOREIGN DATA WRAPPER dblink_fdw", "SET ROLE shop_owner",
		"CREATE FUNCTION ml.mine() RETURNS integer LANGUAGE sql RETURN 1", "CREATE FUNCTION ml_private.mine() RETURNS integer LANGUAGE sql RETURN 1",
		"ALTER USER MAPPING FOR shop_owner SERVER rowcast_gateway OPTIONS (SET password 'x')", "DELETE FROM ml_private.model_grant", "DROP VIEW ml.models",
	} {
		refused(t, conn, "42501", sql)
	}
	require.Zero(t, one[int](t, conn, "SELECT count(*)::integer FROM pg_user_mappings WHERE umoptions IS NOT NULL"))
	require.Zero(t, one[int](t, conn, "SELECT count(*)::integer FROM information_schema.user_mapping_options WHERE option_value IS NOT NULL"))
	for _, sql := range []string{
		"SELECT coalesce(string_agg(prosrc, ''), '') FROM pg_proc", "SELECT coalesce(string_agg(query, ''), '') FROM pg_stat_activity",
		"SELECT coalesce(string_agg(srvoptions::text, ''), '') FROM pg_foreign_server", "SELECT coalesce(string_agg(setting, ''), '') FROM pg_settings",
		"SELECT coalesce(string_agg(s::text, ''), '') FROM pg_stats s",
	} {
		require.NotContains(t, one[string](t, conn, sql), password, sql)
	}
}

// worker0 returns the address of the gateway that the first worker of the test listens on, as its log tells it.
func (s *sidecar) worker0(t testing.TB) string {
	t.Helper()
	_, rest, ok := strings.Cut(s.log.String(), "gateway=[")
	require.True(t, ok)
	address, _, _ := strings.Cut(rest, "]")
	return address
}

func TestPreflightNamesTheSQLForEachThingThatIsMissing(t *testing.T) {
	db := pgtest.NewEmpty(t)
	admin := db.Conn(t)
	role, roleURL := db.Role(t, "")
	quoted := pgx.Identifier{role}.Sanitize()
	up := func() error {
		m, err := postgres.NewMigrator(roleURL, postgres.MigratorOptions{Source: migrations.Files})
		require.NoError(t, err)
		_, err = m.Up(context.Background())
		return err
	}
	// Not the owner of the database, so it may not even create schemas.
	sql := administer(t, admin, up())
	require.Contains(t, sql, fmt.Sprintf("GRANT CREATE ON DATABASE %s TO %s;", pgx.Identifier{db.Name}.Sanitize(), quoted))
	require.Contains(t, sql, "CREATE EXTENSION dblink SCHEMA dblink;")
	// One right after the other goes, and each is asked for by itself.
	for _, missing := range []string{"USAGE ON SCHEMA dblink", "USAGE ON FOREIGN DATA WRAPPER dblink_fdw"} {
		exec(t, admin, "REVOKE "+missing+" FROM "+quoted)
		require.Equal(t, "GRANT "+missing+" TO "+quoted+";", strings.ReplaceAll(administer(t, admin, up()), `"dblink"`, "dblink"))
		require.NoError(t, up())
		m, err := postgres.NewMigrator(roleURL, postgres.MigratorOptions{Source: migrations.Files})
		require.NoError(t, err)
		_, err = m.Down(context.Background(), -1)
		require.NoError(t, err)
	}
	// Somebody else's installation.
	require.NoError(t, up())
	_, otherURL := db.Role(t, "")
	m, err := postgres.NewMigrator(otherURL, postgres.MigratorOptions{Source: migrations.Files})
	require.NoError(t, err)
	_, err = m.Up(context.Background())
	require.Error(t, err)
	require.Contains(t, err.Error(), role)
	var e *rowcast.Error
	require.ErrorAs(t, err, &e)
	require.Contains(t, e.Hint, "GRANT "+quoted)
}

// objects lists everything in the database that is not PostgreSQL's own.
func objects(t testing.TB, conn *pgx.Conn) []string {
	t.Helper()
	return one[[]string](t, conn, `SELECT coalesce(array_agg(x ORDER BY x), '{}') FROM (
		SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname !~ '^pg_(toast|temp)'
		UNION ALL SELECT 'relation ' || c.oid::regclass FROM pg_class c WHERE c.oid >= 16384
		UNION ALL SELECT 'function ' || p.oid::regprocedure FROM pg_proc p WHERE p.oid >= 16384
		UNION ALL SELECT 'type ' || y.oid::regtype FROM pg_type y WHERE y.oid >= 16384
		UNION ALL SELECT 'extension ' || extname FROM pg_extension
		UNION ALL SELECT 'wrapper ' || fdwname FROM pg_foreign_data_wrapper
		UNION ALL SELECT 'server ' || srvname FROM pg_foreign_server
		UNION ALL SELECT 'mapping ' || srvname FROM pg_user_mappings
		UNION ALL SELECT 'setting ' || setconfig::text FROM pg_db_role_setting WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
		UNION ALL SELECT 'rights ' || defaclacl::text FROM pg_default_acl
	) AS o(x)`)
}

func TestDownRemovesAllOfRowcastAndUpBringsItBack(t *testing.T) {
	s := unserved(t)
	clean := objects(t, pgtest.NewEmpty(t).Conn(t))
	s.worker = s.serve(t, s.config(t))
	admin := s.Conn(t)
	s.register(t, demo("iris"), "iris")
	s.register(t, demo("iris_v2"), "iris")
	exec(t, admin, "SELECT ml.promote('iris', 2)")
	exec(t, admin, "SELECT ml.grant_model('iris', 'public')")
	const predict = "SELECT predict_label('iris', " + irisRow + ")"
	require.Equal(t, "setosa", one[string](t, admin, predict))

	// What a user made with predict is not torn away, and a refusal changes nothing.
	exec(t, admin, "CREATE VIEW scored AS "+predict+" AS species")
	before := objects(t, admin)
	_, errOut := command(t, 1, "migrate", "down", "all", "--database-url", s.URL)
	require.Contains(t, errOut, "view public.scored depends on function")
	require.Contains(t, errOut, "predict_label")
	require.Equal(t, before, objects(t, admin), "a refusal changes nothing")
	require.Equal(t, "setosa", one[string](t, s.Conn(t), "SELECT species FROM scored"))
	exec(t, admin, "DROP VIEW scored")

	// The same for one that shows models.
	exec(t, admin, "CREATE VIEW mine AS SELECT model FROM ml.models")
	_, errOut = command(t, 1, "migrate", "down", "all", "--database-url", s.URL)
	require.Contains(t, errOut, "view public.mine depends on view ml.models")
	require.Equal(t, "setosa", one[string](t, admin, predict))
	exec(t, admin, "DROP VIEW mine")

	out, _ := command(t, 0, "migrate", "down", "all", "--database-url", s.URL)
	require.Contains(t, out, "to 0")
	require.Equal(t, clean, objects(t, admin), "not a trace")
	refused(t, s.Conn(t), "42883", predict)

	command(t, 0, "migrate", "up", "--gateway", s.worker0(t), "--database-url", s.URL)
	require.Zero(t, one[int](t, admin, "SELECT count(*)::integer FROM ml.models"))
	require.Equal(t, 1, s.register(t, demo("iris_v2"), "iris"))
	require.Equal(t, "setosa", one[string](t, admin, predict), "the same session and the same sidecar go on")
	require.Equal(t, `"$user", public, ml`, one[string](t, s.Conn(t), "SHOW search_path"))

	// Step by step, too: the models stay until the first migration goes.
	command(t, 0, "migrate", "down", "1", "--database-url", s.URL)
	command(t, 0, "migrate", "up", "--database-url", s.URL)
	require.Equal(t, "setosa", one[string](t, s.Conn(t), predict))
	command(t, 0, "migrate", "goto", "1", "--database-url", s.URL)
	command(t, 0, "migrate", "up", "--gateway", s.worker0(t), "--database-url", s.URL)
	require.Equal(t, "setosa", one[string](t, s.Conn(t), predict))
}
