package server_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	osexec "os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/postgres"
	"github.com/rowcast/rowcast/internal/postgres/pgtest"
	"github.com/rowcast/rowcast/internal/rowcast"
	"github.com/rowcast/rowcast/migrations"
)

// dumpTools returns pg_dump and pg_restore of at least the server's major version, "" where this machine has none: the servers that come as a
// package for embedding bring no clients.
func dumpTools(t testing.TB, conn *pgx.Conn) (dump, restore string) {
	t.Helper()
	major := one[int](t, conn, "SELECT current_setting('server_version_num')::integer / 10000")
	var dirs []string
	if server, err := postgres.FindServer(context.Background()); err == nil {
		dirs = append(dirs, server.BinDir)
	}
	installed, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	require.NoError(t, err)
	dirs = append(dirs, installed...)
	if p, err := osexec.LookPath("pg_dump"); err == nil {
		dirs = append(dirs, filepath.Dir(p))
	}
	for _, dir := range dirs {
		dump, restore = filepath.Join(dir, "pg_dump"), filepath.Join(dir, "pg_restore")
		out, err := osexec.Command(dump, "--version").Output()
		if err != nil {
			continue
		}
		m := regexp.MustCompile(`\) (\d+)`).FindSubmatch(out)
		require.NotNil(t, m, "%s", out)
		if v, _ := strconv.Atoi(string(m[1])); v >= major {
			return dump, restore
		}
	}
	require.NotContains(t, installed, fmt.Sprintf("/usr/lib/postgresql/%d/bin", major), "its pg_dump must be used")
	return "", ""
}

// run runs a program and returns what it printed and its exit status.
func run(t testing.TB, program string, args ...string) (output string, status int) {
	t.Helper()
	cmd := osexec.Command(program, args...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		require.NoError(t, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// scores predicts the first rows of every model that has a table of its name, as one text for each model.
func scores(t testing.TB, conn *pgx.Conn, models []string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, m := range models {
		table := pgx.Identifier{m}.Sanitize()
		all[m] = one[string](t, conn, fmt.Sprintf("SELECT md5(string_agg(ml.predict_json('%s', t)::text, ' ' ORDER BY t.id)) FROM %s t WHERE id < 30", m, table))
	}
	return all
}

// registryOf reads all that schema ml shows about models.
func registryOf(t testing.TB, conn *pgx.Conn) map[string]string {
	t.Helper()
	all := map[string]string{}
	for view, key := range map[string]string{
		"models": "model", "versions": "model, version", "aliases": "model, alias", "alias_history": "id", "grants": "model, grantee",
	} {
		all[view] = one[string](t, conn, fmt.Sprintf("SELECT coalesce(jsonb_agg(v ORDER BY %s), '[]')::text FROM ml.%s v", key, view))
	}
	return all
}

func TestDumpAndRestoreKeepEveryModelWorking(t *testing.T) {
	source := start(t)
	admin := source.Conn(t)
	var models []string
	for _, folder := range folders(t) {
		name := filepath.Base(folder)
		source.register(t, folder, name)
		if _, err := os.Stat(filepath.Join(folder, "data.csv")); err != nil {
			continue
		}
		models = append(models, name)
		types := map[string]string{"id": "bigint"}
		for _, f := range options(t, folder).Features {
			types[f.Name] = string(f.Type)
		}
		load(t, admin, name, filepath.Join(folder, "data.csv"), types)
	}
	// A history to go back along, aliases, grants to a role, to everybody and to one that is gone.
	for range 2 {
		source.register(t, demo("iris_v2"), "m")
	}
	exec(t, admin, "SELECT ml.promote('m', 2), ml.set_alias('m', 'challenger', 1)")
	granted, grantedURL := source.Role(t, "")
	exec(t, admin, "CREATE ROLE rowcast_test_gone; SELECT ml.grant_model('m', 'rowcast_test_gone')")
	exec(t, admin, "SELECT ml.grant_model('iris', $1), ml.grant_model('diabetes', 'public')", granted)
	exec(t, admin, "DROP ROLE rowcast_test_gone")
	exec(t, admin, "CREATE VIEW scored AS SELECT id, predict_label('iris', i) AS species FROM iris i")

	target := &sidecar{Database: pgtest.NewEmpty(t), log: &syncBuffer{}}
	if dump, restore := dumpTools(t, admin); dump != "" {
		file := filepath.Join(t.TempDir(), "shop.dump")
		out, status := run(t, dump, "--format=custom", "--file", file, source.URL)
		require.Zero(t, status, out)
		out, status = run(t, restore, "--exit-on-error", "--dbname", target.URL, file)
		require.Zero(t, status, out)
		require.Empty(t, out)
	} else {
		source.copyDatabase(t, target.Name, "DEFAULT")
		admin = source.Conn(t)
	}

	command(t, 0, "migrate", "up", "--database-url", target.URL)
	target.worker = target.serve(t, target.config(t))
	there := target.Conn(t)
	require.Equal(t, registryOf(t, admin), registryOf(t, there))
	require.Equal(t, scores(t, admin, models), scores(t, there, models))
	require.Equal(t, one[string](t, admin, "SELECT string_agg(species, ',' ORDER BY id) FROM scored"),
		one[string](t, there, "SELECT string_agg(species, ',' ORDER BY id) FROM scored"))

	// Rights are those that were granted; the database is another, so that the role's own connection shows it.
	plain := pgtest.Connect(t, strings.Replace(grantedURL, source.Name, target.Name, 1))
	require.Equal(t, target.Name, one[string](t, plain, "SELECT current_database()"))
	require.Equal(t, "setosa", one[string](t, plain, "SELECT predict_label('iris', "+irisRow+")"))
	require.NotZero(t, one[float64](t, plain, "SELECT predict('diabetes', '{0,0,0,0,0,0,0,0,0,0}')"))
	refused(t, plain, "42501", "SELECT predict_label('m', "+irisRow+")")
	refused(t, plain, "42501", "SELECT * FROM ml_private.gateway")

	// History and numbers go on where they were, in this database only.
	require.Equal(t, 1, one[int](t, there, "SELECT ml.rollback('m')"))
	exec(t, there, "SELECT ml.drop_alias('m', 'challenger')")
	require.Equal(t, 3, target.register(t, demo("iris"), "m"))
	exec(t, there, "SELECT ml.rotate_gateway()")
	require.Equal(t, "setosa", one[string](t, there, "SELECT predict_label('m@3', "+irisRow+")"))
	require.Equal(t, 2, one[int](t, admin, "SELECT champion FROM ml.models WHERE model = 'm'"))
	require.Equal(t, "setosa", one[string](t, admin, "SELECT predict_label('m@challenger', "+irisRow+")"))
	refused(t, admin, "42704", "SELECT predict_label('m@3', "+irisRow+")")
	exec(t, there, "DROP VIEW scored")
	command(t, 0, "migrate", "down", "all", "--database-url", target.URL)
}

// copyDatabase makes a database as a copy of another, which must not be in use meanwhile: its sidecar and all its sessions end.
func (s *sidecar) copyDatabase(t testing.TB, name, owner string) {
	t.Helper()
	t.Log("no pg_dump of this server's version here: the same through CREATE DATABASE ... TEMPLATE")
	require.NoError(t, s.worker.Stop(context.Background()))
	u, err := url.Parse(s.URL)
	require.NoError(t, err)
	u.Path = "/postgres"
	elsewhere := pgtest.Connect(t, u.String())
	sessions := fmt.Sprintf("FROM pg_stat_activity WHERE datname = '%s' AND backend_type = 'client backend'", s.Name)
	exec(t, elsewhere, "SELECT pg_terminate_backend(pid) "+sessions)
	require.Eventually(t, func() bool { return one[int](t, elsewhere, "SELECT count(*)::integer "+sessions) == 0 }, 10*time.Second, 10*time.Millisecond)
	exec(t, elsewhere, "DROP DATABASE IF EXISTS "+name)
	exec(t, elsewhere, fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s OWNER %s", name, s.Name, owner))
	s.worker = s.serve(t, s.config(t))
}

// A plain owner dumps and restores without a superuser: into a database that an administrator has prepared as for a new installation.
func TestAPlainOwnerDumpsAndRestores(t *testing.T) {
	cluster := privateCluster(t)
	root := pgtest.Connect(t, cluster.URL("postgres"))
	dump, restore := dumpTools(t, root)
	exec(t, root, "CREATE ROLE shop_owner LOGIN PASSWORD 'o'; CREATE ROLE analyst LOGIN PASSWORD 'a'")
	prepare := func(database string) (ownerURL string, m *postgres.Migrator) {
		exec(t, root, "CREATE DATABASE "+database+" OWNER shop_owner")
		ownerURL = as(t, cluster.URL(database), "shop_owner", "o")
		m, err := postgres.NewMigrator(ownerURL, postgres.MigratorOptions{Source: migrations.Files, SetSearchPath: true})
		require.NoError(t, err)
		_, err = m.Up(context.Background())
		require.Equal(t, rowcast.CodeNotPermitted, rowcast.CodeOf(err))
		administer(t, pgtest.Connect(t, cluster.URL(database)), err)
		return ownerURL, m
	}
	ownerURL, m := prepare("shop")
	_, err := m.Up(context.Background())
	require.NoError(t, err)
	source := &sidecar{Database: &pgtest.Database{Name: "shop", URL: ownerURL}, log: &syncBuffer{}}
	source.worker = source.serve(t, source.config(t))
	source.register(t, demo("iris"))
	source.register(t, demo("iris_v2"), "iris")
	owner := source.Conn(t)
	exec(t, owner, "SELECT ml.promote('iris', 2), ml.grant_model('iris', 'analyst')")

	copyURL := as(t, cluster.URL("shop_copy"), "shop_owner", "o")
	if dump != "" {
		var copied *postgres.Migrator
		_, copied = prepare("shop_copy")
		file := filepath.Join(t.TempDir(), "shop.dump")
		out, status := run(t, dump, "--format=custom", "--file", file, ownerURL)
		require.Zero(t, status, out)
		out, _ = run(t, restore, "--dbname", copyURL, file)
		for line := range strings.Lines(out) {
			if _, complaint, ok := strings.Cut(line, "pg_restore: error: "); ok {
				t.Log(strings.TrimSpace(complaint))
				require.Contains(t, complaint, "dblink", "only what the administrator has made already may be refused: %s", out)
			}
		}
		_, err = copied.Up(context.Background())
		require.NoError(t, err)
	} else {
		root := &sidecar{Database: &pgtest.Database{Name: "shop", URL: cluster.URL("shop")}, log: source.log, worker: source.worker}
		root.copyDatabase(t, "shop_copy", "shop_owner")
		source.worker, owner = root.worker, source.Conn(t)
		command(t, 0, "migrate", "up", "--database-url", copyURL)
	}
	target := &sidecar{Database: &pgtest.Database{Name: "shop_copy", URL: copyURL}, log: &syncBuffer{}}
	target.worker = target.serve(t, target.config(t))
	there := target.Conn(t)
	require.Equal(t, registryOf(t, owner), registryOf(t, there))
	require.Equal(t, 2, one[int](t, there, irisVersion))
	analyst := pgtest.Connect(t, as(t, copyURL, "analyst", "a"))
	require.Equal(t, "setosa", one[string](t, analyst, "SELECT predict_label('iris', "+irisRow+")"))
	nothingElse(t, analyst, one[string](t, there, "SELECT password FROM ml_private.gateway"))
	require.Equal(t, 3, target.register(t, demo("iris"), "iris"))
	require.Equal(t, 1, one[int](t, there, "SELECT ml.rollback('iris')"))
	require.Equal(t, 2, one[int](t, owner, irisVersion))
}
