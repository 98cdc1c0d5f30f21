package postgres_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/postgres"
	"github.com/rowcast/rowcast/internal/postgres/pgtest"
	"github.com/rowcast/rowcast/internal/rowcast"
	"github.com/rowcast/rowcast/migrations"
)

// small is an installation of two migrations and one function, in the shape of the real one.
func small() fstest.MapFS {
	return files(map[string]string{
		"000001_first.up.sql":    "CREATE SCHEMA ml; CREATE TABLE ml_private.model (id int);",
		"000001_first.down.sql":  "DROP TABLE ml_private.model; DROP SCHEMA ml CASCADE;",
		"000002_second.up.sql":   "ALTER TABLE ml_private.model ADD name text;\nCREATE EXTENSION dblink SCHEMA ml_private;",
		"000002_second.down.sql": "DROP EXTENSION dblink;\nALTER TABLE ml_private.model DROP name;",
		"functions/10_first.sql": "CREATE OR REPLACE FUNCTION ml.answer() RETURNS int LANGUAGE sql RETURN 1;",
	})
}

func files(texts map[string]string) fstest.MapFS {
	m := fstest.MapFS{}
	for name, text := range texts {
		m[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return m
}

func migrator(t *testing.T, url string, source fstest.MapFS) *postgres.Migrator {
	t.Helper()
	m, err := postgres.NewMigrator(url, postgres.MigratorOptions{Source: source})
	require.NoError(t, err)
	return m
}

func scan[T any](t *testing.T, url, sql string) T {
	t.Helper()
	var v T
	require.NoError(t, pgtest.Connect(t, url).QueryRow(context.Background(), sql).Scan(&v))
	return v
}

func TestMigrateUpDownUp(t *testing.T) {
	ctx := context.Background()
	db := pgtest.NewEmpty(t)
	m := migrator(t, db.URL, small())

	v, err := m.Version(ctx)
	require.NoError(t, err)
	require.Equal(t, postgres.MigrationVersion{Current: 0, Latest: 2}, v)

	for range 2 {
		report, err := m.Up(ctx)
		require.NoError(t, err)
		require.Equal(t, postgres.MigrationReport{
			From: 0, To: 2, Applied: []string{"000001_first.up.sql", "000002_second.up.sql"}, Functions: 1,
		}, report)
		require.Equal(t, 1, scan[int](t, db.URL, "SELECT ml.answer()"))

		report, err = m.Down(ctx, 1)
		require.NoError(t, err)
		require.Equal(t, []string{"000002_second.down.sql"}, report.Applied)
		require.Equal(t, 1, scan[int](t, db.URL, "SELECT version::int FROM ml_private.schema_migrations"))

		report, err = m.Down(ctx, -1)
		require.NoError(t, err)
		require.Equal(t, []string{"000001_first.down.sql"}, report.Applied)
		require.Zero(t, scan[int](t, db.URL, "SELECT count(*) FROM pg_namespace WHERE nspname IN ('ml', 'ml_private')"), "nothing stays")
	}
}

func TestMigrateRealFilesUpDownUp(t *testing.T) {
	ctx := context.Background()
	db := pgtest.NewEmpty(t)
	m, err := postgres.NewMigrator(db.URL, postgres.MigratorOptions{
		Source: migrations.Files, SetSearchPath: true, GatewayHost: "127.0.0.1", GatewayPort: 7432,
	})
	require.NoError(t, err)
	up, err := m.Up(ctx)
	require.NoError(t, err)
	require.Equal(t, `"$user", public, ml`, scan[string](t, db.URL, "SHOW search_path"))
	require.Contains(t, scan[string](t, db.URL, "SELECT srvoptions::text FROM pg_foreign_server"), "host=127.0.0.1,port=7432")
	down, err := m.Down(ctx, -1)
	require.NoError(t, err)
	require.Zero(t, down.To)
	require.Equal(t, `"$user", public`, scan[string](t, db.URL, "SHOW search_path"))
	require.Zero(t, scan[int](t, db.URL, `SELECT (SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'ml%')
		+ (SELECT count(*) FROM pg_foreign_server) + (SELECT count(*) FROM pg_extension WHERE extname = 'dblink')`))
	again, err := m.Up(ctx)
	require.NoError(t, err)
	require.Equal(t, up, again)
}

func TestMigrateOneByOneAndBack(t *testing.T) {
	ctx := context.Background()
	db := pgtest.NewEmpty(t)
	m := migrator(t, db.URL, small())
	report, err := m.Goto(ctx, 1)
	require.NoError(t, err)
	require.Zero(t, report.Functions, "the functions belong to the latest version")
	_, err = m.Goto(ctx, 7)
	require.ErrorContains(t, err, "there is no migration 7, the latest is 2")
	_, err = m.Up(ctx)
	require.NoError(t, err)
	report, err = m.Goto(ctx, 1)
	require.NoError(t, err)
	require.Equal(t, 1, report.To)
	report, err = m.Force(ctx, 2)
	require.NoError(t, err)
	require.Equal(t, 2, report.To)
	require.Empty(t, report.Applied)
}

func TestFunctionsAreReplacedAtEveryUp(t *testing.T) {
	ctx := context.Background()
	db := pgtest.NewEmpty(t)
	source := small()
	_, err := migrator(t, db.URL, source).Up(ctx)
	require.NoError(t, err)

	source["functions/10_first.sql"].Data = []byte("CREATE OR REPLACE FUNCTION ml.answer() RETURNS int LANGUAGE sql RETURN 42;")
	report, err := migrator(t, db.URL, source).Up(ctx)
	require.NoError(t, err)
	require.Empty(t, report.Applied)
	require.Equal(t, 42, scan[int](t, db.URL, "SELECT ml.answer()"))
}

func TestFailingFunctionsFileKeepsTheOldFunctionsAndSaysWhere(t *testing.T) {
	ctx := context.Background()
	db := pgtest.NewEmpty(t)
	source := small()
	_, err := migrator(t, db.URL, source).Up(ctx)
	require.NoError(t, err)
	source["functions/10_first.sql"].Data = []byte("CREATE OR REPLACE FUNCTION ml.answer() RETURNS int LANGUAGE sql RETURN 2;")

	for text, where := range map[string]string{
		// A position within a statement, after multi-byte characters.
		"-- für später\nSELECT 1;\n\nSELECT\n  'ä',\n  nonsense;": `functions/20_bad.sql:6: column "nonsense" does not exist`,
		// No position: the line where the statement begins.
		"SELECT 1;\n/* ; */\n\nDROP TABLE ml.nowhere;": `functions/20_bad.sql:4: table "nowhere" does not exist`,
		// Within the body of a function.
		"\nCREATE FUNCTION ml.bad() RETURNS int LANGUAGE plpgsql AS $f$\nBEGIN\n  RETURN 1 +;\nEND $f$;": "functions/20_bad.sql:4: ",
		// Not closed.
		"SELECT 1;\nSELECT 'never closed":    "functions/20_bad.sql:2: unterminated quoted string",
		"SELECT 1;\n\nSELECT {{.Nonsense}};": "functions/20_bad.sql:3: there is no {{.Nonsense}}",
	} {
		source["functions/20_bad.sql"] = &fstest.MapFile{Data: []byte(text)}
		_, err := migrator(t, db.URL, source).Up(ctx)
		require.ErrorContains(t, err, where)
		require.Equal(t, 1, scan[int](t, db.URL, "SELECT ml.answer()"), "the old function is still there")
	}
}

func TestFunctionsLearnWhereDblinkIs(t *testing.T) {
	db := pgtest.NewEmpty(t)
	db.Exec(t, `CREATE SCHEMA "Odd name"; CREATE EXTENSION dblink SCHEMA "Odd name"`)
	source := small()
	source["000002_second.up.sql"].Data = []byte("CREATE EXTENSION IF NOT EXISTS dblink SCHEMA ml_private")
	source["functions/20_dblink.sql"] = &fstest.MapFile{Data: []byte(
		"-- takes '{{1,2},{3,4}}' too\nCREATE FUNCTION ml.names() RETURNS text[] LANGUAGE sql AS 'SELECT {{.Dblink}}.dblink_get_connections()';")}
	_, err := migrator(t, db.URL, source).Up(context.Background())
	require.NoError(t, err)
	require.Contains(t, scan[string](t, db.URL, "SELECT prosrc FROM pg_proc WHERE proname = 'names'"), `"Odd name".dblink_get`)
}

func TestFailingMigrationLeavesNothingToCleanUp(t *testing.T) {
	ctx := context.Background()
	db := pgtest.NewEmpty(t)
	source := small()
	good := source["000002_second.up.sql"].Data
	source["000002_second.up.sql"].Data = []byte("ALTER TABLE ml_private.model ADD name text;\nSELECT 1/0;")

	m := migrator(t, db.URL, source)
	report, err := m.Up(ctx)
	require.ErrorContains(t, err, "000002_second.up.sql:2: division by zero")
	require.Equal(t, 1, report.To)
	v, err := m.Version(ctx)
	require.NoError(t, err)
	require.Equal(t, postgres.MigrationVersion{Current: 1, Latest: 2}, v)

	source["000002_second.up.sql"].Data = good
	_, err = m.Up(ctx)
	require.NoError(t, err, "the next try needs no hand")
}

func TestMigratorsAtOnce(t *testing.T) {
	db := pgtest.NewEmpty(t)
	source := small()
	source["000001_first.up.sql"].Data = append(source["000001_first.up.sql"].Data, " SELECT pg_sleep(0.3);"...)
	var wait sync.WaitGroup
	var mu sync.Mutex
	applied := 0
	for range 4 {
		wait.Add(1)
		go func() {
			defer wait.Done()
			m, err := postgres.NewMigrator(db.URL, postgres.MigratorOptions{Source: source, SetSearchPath: true})
			if err != nil {
				t.Error(err)
				return
			}
			report, err := m.Up(context.Background())
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			applied += len(report.Applied)
			mu.Unlock()
		}()
	}
	wait.Wait()
	require.Equal(t, 2, applied, "each migration ran once")
}

func TestMigrateIsCancelled(t *testing.T) {
	db := pgtest.NewEmpty(t)
	source := small()
	source["000001_first.up.sql"].Data = []byte("SELECT pg_sleep(60)")
	ctx, cancel := context.WithCancel(context.Background())
	conn := db.Conn(t)
	go func() {
		for {
			var n int
			err := conn.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'").Scan(&n)
			if err != nil || n > 0 {
				cancel()
				return
			}
		}
	}()
	_, err := migrator(t, db.URL, source).Up(ctx)
	require.Equal(t, rowcast.CodeCanceled, rowcast.CodeOf(err), "%v", err)
}

func TestDatabaseOfANewerRowcast(t *testing.T) {
	ctx := context.Background()
	db := pgtest.NewEmpty(t)
	source := small()
	_, err := migrator(t, db.URL, source).Up(ctx)
	require.NoError(t, err)
	delete(source, "000002_second.up.sql")
	delete(source, "000002_second.down.sql")
	_, err = migrator(t, db.URL, source).Up(ctx)
	require.ErrorContains(t, err, "the database is at version 2, this program knows versions up to 1")
}

func TestSearchPathOfTheUserIsKept(t *testing.T) {
	ctx := context.Background()
	db := pgtest.NewEmpty(t)
	db.Exec(t, `ALTER DATABASE `+db.Name+` SET search_path TO "My Schema", public`)
	m, err := postgres.NewMigrator(db.URL, postgres.MigratorOptions{Source: small(), SetSearchPath: true})
	require.NoError(t, err)
	report, err := m.Up(ctx)
	require.NoError(t, err)
	require.Contains(t, strings.Join(report.Notes, "\n"), `is now "My Schema", public, ml`)
	require.Equal(t, `"My Schema", public, ml`, scan[string](t, db.URL, "SHOW search_path"))
	report, err = m.Up(ctx)
	require.NoError(t, err)
	require.Empty(t, report.Notes)
	_, err = m.Down(ctx, 2)
	require.NoError(t, err)
	require.Equal(t, `"My Schema", public`, scan[string](t, db.URL, "SHOW search_path"))
}

func TestOrdinaryOwnerIsToldWhatAnAdministratorMustRun(t *testing.T) {
	ctx := context.Background()
	db := pgtest.NewEmpty(t)
	// Other tests install Rowcast for real, so the cluster may have the role.
	db.Exec(t, "DO $$ BEGIN IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'ml_admin') THEN ALTER ROLE ml_admin RENAME TO ml_admin_away; END IF; END $$")
	defer db.Exec(t, "DO $$ BEGIN IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'ml_admin_away') THEN DROP ROLE IF EXISTS ml_admin;"+
		"ALTER ROLE ml_admin_away RENAME TO ml_admin; END IF; END $$")
	owner, url := db.Role(t, "")
	m, err := postgres.NewMigrator(url, postgres.MigratorOptions{Source: migrations.Files, SetSearchPath: true})
	require.NoError(t, err)

	_, err = m.Up(ctx)
	var e *rowcast.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, rowcast.CodeNotPermitted, e.Code)
	require.Contains(t, e.Message, "role "+owner+" cannot install Rowcast in database "+db.Name)
	require.Contains(t, e.Hint, `CREATE ROLE ml_admin NOLOGIN;`)

	// What the hint says is enough.
	_, sql, _ := strings.Cut(e.Hint, "\n")
	db.Exec(t, sql)
	report, err := m.Up(ctx)
	require.NoError(t, err)
	require.Contains(t, strings.Join(report.Notes, "\n"), "only the owner of the database may change it")
	require.Equal(t, owner, scan[string](t, db.URL, "SELECT pg_get_userbyid(nspowner)::text FROM pg_namespace WHERE nspname = 'ml'"))

	// A superuser who updates it leaves the owner the owner.
	super, err := postgres.NewMigrator(db.URL, postgres.MigratorOptions{Source: migrations.Files})
	require.NoError(t, err)
	_, err = super.Down(ctx, 1)
	require.NoError(t, err)
	_, err = super.Up(ctx)
	require.NoError(t, err)
	require.Zero(t, scan[int](t, db.URL, `SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname IN ('ml', 'ml_private') AND pg_get_userbyid(c.relowner) <> '`+owner+`'`))
	_, err = super.Down(ctx, -1)
	require.NoError(t, err)
}

func TestPreflightRefusesOtherEncodings(t *testing.T) {
	db := pgtest.NewEmpty(t)
	db.Exec(t, "CREATE DATABASE "+db.Name+"_latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
	defer db.Exec(t, "DROP DATABASE "+db.Name+"_latin")
	config, err := pgx.ParseConfig(db.URL)
	require.NoError(t, err)
	config.Database += "_latin"
	conn, err := pgx.ConnectConfig(context.Background(), config)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	require.ErrorContains(t, postgres.Preflight(context.Background(), conn), "has the encoding LATIN1, Rowcast needs UTF8")
}
