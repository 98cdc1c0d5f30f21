package modelmigrate_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/cli"
	"github.com/rowcast/rowcast/internal/modelmigrate"
	"github.com/rowcast/rowcast/internal/postgres/pgtest"
	"github.com/rowcast/rowcast/internal/registry"
)

// The test binary is also the program: the sidecar and the runners that are killed run in processes of their own.
const envProgram = "ROWCAST_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(envProgram) != "" || len(os.Args) == 2 && os.Args[1] == registry.ChildArgument {
		os.Exit(cli.Main("test", os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	for _, name := range []string{"DATABASE_URL", "PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGPASSWORD", "PGSERVICE", "ROWCAST_CONFIG"} {
		_ = os.Unsetenv(name)
	}
	pgtest.Main(m)
}

// site is a database, perhaps with a sidecar.
type site struct {
	*pgtest.Database
	stop func() // of the sidecar
	pid  int    // of its supervisor
}

// program makes the command of this program in a process of its own.
func program(databaseURL string, args ...string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), envProgram+"=1", "DATABASE_URL="+databaseURL)
	return cmd
}

// serve makes a database with a sidecar.
func serve(t testing.TB, environment ...string) *site {
	t.Helper()
	s := &site{Database: pgtest.New(t)}
	s.serve(t, environment...)
	return s
}

func (s *site) serve(t testing.TB, environment ...string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	require.NoError(t, l.Close())
	out, err := program(s.URL, "migrate", "up", "--gateway", address).CombinedOutput()
	require.NoError(t, err, "%s", out)
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "ready"), Net: "unixgram"})
	require.NoError(t, err)
	defer func() { _ = ready.Close() }()
	var log bytes.Buffer
	cmd := program(s.URL, "serve")
	cmd.Env = append(append(cmd.Env, "NOTIFY_SOCKET="+ready.LocalAddr().String(), "ROWCAST_HTTP=-", "ROWCAST_SOCKET_DIR=-", "ROWCAST_POLL=1s"), environment...)
	cmd.Stdout, cmd.Stderr = &log, &log
	require.NoError(t, cmd.Start())
	s.pid = cmd.Process.Pid
	s.stop = sync.OnceFunc(func() {
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		require.NoError(t, cmd.Wait(), "%s", &log)
	})
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			text := log.String()
			t.Logf("the end of the sidecar's log:\n%s", text[max(0, len(text)-2000):])
		}
	})
	require.NoError(t, ready.SetReadDeadline(time.Now().Add(30*time.Second)))
	_, err = ready.Read(make([]byte, 64))
	require.NoError(t, err, "the sidecar did not become ready")
}

// runner makes a Runner for a folder.
func (s *site) runner(t testing.TB, dir string, change ...func(*modelmigrate.Options)) *modelmigrate.Runner {
	t.Helper()
	o := modelmigrate.Options{Dir: dir}
	for _, f := range change {
		f(&o)
	}
	r, err := modelmigrate.New(s.URL, o)
	require.NoError(t, err)
	return r
}

// demo is the model file of a folder of this repository.
func demo(name string) string {
	return filepath.Join("..", "..", "examples", "demo", "models", name, "model.onnx")
}

// options reads model.yaml beside a model file.
func options(t testing.TB, file string) registry.Options {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(filepath.Dir(file), "model.yaml"))
	require.NoError(t, err)
	o, err := registry.ParseYAML(text)
	require.NoError(t, err)
	return o
}

// add writes a migration that registers a model file.
func add(t testing.TB, dir, name, file, model string, change ...func(*modelmigrate.NewOptions)) *modelmigrate.Created {
	t.Helper()
	o := modelmigrate.NewOptions{Dir: dir, Name: name, File: file, Model: model}
	if file != "" {
		o.Options = options(t, file)
	}
	for _, f := range change {
		f(&o)
	}
	c, err := modelmigrate.Create(context.Background(), o)
	require.NoError(t, err)
	return c
}

// promoted lets a migration promote what it registers.
func promoted(o *modelmigrate.NewOptions) { o.Promote = true }

// write writes a migration of the given statements.
func write(t testing.TB, dir, name string, statements ...string) *modelmigrate.Created {
	t.Helper()
	c := add(t, dir, name, "", "")
	text, err := os.ReadFile(c.Up)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(c.Up, []byte(string(text)+strings.Join(statements, ";\n")+";\n"), 0o644))
	return c
}

// up runs the next n migrations of a folder, which must go well.
func (s *site) up(t testing.TB, dir string, n int) modelmigrate.Report {
	t.Helper()
	report, err := s.runner(t, dir).Up(context.Background(), n)
	require.NoError(t, err)
	return report
}

func (s *site) down(t testing.TB, dir string, n int) modelmigrate.Report {
	t.Helper()
	report, err := s.runner(t, dir).Down(context.Background(), n)
	require.NoError(t, err)
	return report
}

// one runs a query of one value.
func one[T any](t testing.TB, conn *pgx.Conn, sql string, args ...any) T {
	t.Helper()
	var v T
	require.NoError(t, conn.QueryRow(context.Background(), sql, args...).Scan(&v), sql)
	return v
}

func execute(t testing.TB, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	_, err := conn.Exec(context.Background(), sql, args...)
	require.NoError(t, err, sql)
}

// refused runs a statement that must fail with the SQLSTATE, and returns the error.
func refused(t testing.TB, conn *pgx.Conn, state, sql string, args ...any) *pgconn.PgError {
	t.Helper()
	_, err := conn.Exec(context.Background(), sql, args...)
	var pg *pgconn.PgError
	require.ErrorAs(t, err, &pg, sql)
	require.Equal(t, state, pg.Code, "%s: %s (%s)", sql, pg.Message, pg.Detail)
	return pg
}

// image is every row of every table of the registry, and the state of its sequences, as text. Artifacts that were only uploaded are no part of it: they
// are there before a migration runs and stay until the cleanup. times tells whether points in time are.
func image(t testing.TB, conn *pgx.Conn, times bool) map[string]string {
	t.Helper()
	ctx := context.Background()
	all := map[string]string{}
	rows, err := conn.Query(ctx, `SELECT c.relname, c.relkind = 'S', coalesce(array_agg(a.attname::text ORDER BY a.attnum) FILTER (WHERE a.attnum > 0), '{}')
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped
		WHERE (n.nspname = 'ml_private' OR n.nspname = 'ml' AND c.relname = 'model_migrations') AND c.relkind IN ('r', 'S', 'p')
			AND NOT c.relispartition AND c.relname NOT IN ('gateway', 'schema_migrations', 'artifact_chunk', 'prediction', 'prediction_id', 'recorder',
				'job', 'job_id_seq', 'job_chunk')
		GROUP BY 1, 2`)
	require.NoError(t, err)
	type relation struct {
		name     string
		sequence bool
		columns  []string
	}
	points := regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?\+00`)
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (r relation, err error) {
		return r, row.Scan(&r.name, &r.sequence, &r.columns)
	})
	require.NoError(t, err)
	require.Greater(t, len(list), 12)
	for _, r := range list {
		sql := fmt.Sprintf("SELECT (last_value, is_called)::text FROM ml_private.%s", pgx.Identifier{r.name}.Sanitize())
		if !r.sequence {
			var columns []string
			for _, c := range r.columns {
				if times || !strings.HasSuffix(c, "_at") && c != "xact" && (r.name != "change_row" || c != "number") { // a cascade has no order
					columns = append(columns, "t."+pgx.Identifier{c}.Sanitize())
				}
			}
			schema, where := "ml_private", ""
			if r.name == "model_migrations" {
				schema = "ml"
			}
			if r.name == "artifact" {
				where = "WHERE EXISTS (SELECT FROM ml_private.version v WHERE v.sha256 = t.sha256)"
			}
			sql = fmt.Sprintf("SELECT coalesce(string_agg(r, E'\\n' ORDER BY r), '') FROM (SELECT ROW(%s)::text AS r FROM %s.%s t %s) x",
				strings.Join(columns, ", "), schema, pgx.Identifier{r.name}.Sanitize(), where)
		}
		all[r.name] = one[string](t, conn, sql)
		if !times { // those in the journal
			all[r.name] = points.ReplaceAllString(all[r.name], "TIME")
		}
	}
	return all
}

// path is the URL of another database of the same cluster.
func (s *site) path(t testing.TB, database string) string {
	t.Helper()
	u, err := url.Parse(s.URL)
	require.NoError(t, err)
	u.Path = "/" + database
	return u.String()
}

// same compares two images table by table, so that a failure shows only what differs.
func same(t testing.TB, want, got map[string]string, message string, args ...any) {
	t.Helper()
	for name := range want {
		require.Equal(t, want[name], got[name], "%s: %s", name, fmt.Sprintf(message, args...))
	}
	require.Len(t, got, len(want))
}

// fileSHA is the SHA-256 of a file, as people write it.
func fileSHA(t testing.TB, path string) string {
	t.Helper()
	file, err := os.Open(path)
	require.NoError(t, err)
	defer func() { _ = file.Close() }()
	h := sha256.New()
	_, err = io.Copy(h, file)
	require.NoError(t, err)
	return fmt.Sprintf("%x", h.Sum(nil))
}
