package server_test

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/cli"
	"github.com/rowcast/rowcast/internal/config"
	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/postgres/pgtest"
	"github.com/rowcast/rowcast/internal/registry"
	"github.com/rowcast/rowcast/internal/server"
)

// The test binary is also the program: validation re-executes it, and the crash tests run `rowcast serve` with it.
const envProgram = "ROWCAST_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(envProgram) != "" || len(os.Args) == 2 && os.Args[1] == registry.ChildArgument {
		os.Exit(cli.Main("test", os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	pgtest.Main(m)
}

// ONNX Runtime can be opened once in a process.
var runtime = sync.OnceValues(func() (*onnx.Runtime, error) {
	library, err := onnx.FindLibrary()
	if err != nil {
		return nil, err
	}
	return onnx.Open(onnx.Config{LibraryPath: library, Threads: 1})
})

// sidecar is a worker in this process and a database that it serves.
type sidecar struct {
	*pgtest.Database
	worker *server.Worker
	log    *syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// start serves a fresh database. change may adjust the settings.
func start(t testing.TB, change ...func(*config.Config)) *sidecar {
	t.Helper()
	s := &sidecar{Database: pgtest.New(t), log: &syncBuffer{}}
	c := config.Default()
	c.DatabaseURL = s.URL
	c.Poll = time.Second
	for _, f := range change {
		f(&c)
	}
	s.worker = s.serve(t, c)
	return s
}

// serve starts a worker for the database on a free port of the loopback and points the foreign server there.
func (s *sidecar) serve(t testing.TB, c config.Config) *server.Worker {
	t.Helper()
	r, err := runtime()
	require.NoError(t, err, "the tests need ONNX Runtime: run `make deps`")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s.pointAt(t, "127.0.0.1", l.Addr().(*net.TCPAddr).Port)
	w, err := server.Start(context.Background(), server.WorkerOptions{
		Config: c, Listeners: []net.Listener{l}, Runtime: r,
		Logger: slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(t, w.Stop(ctx))
		if t.Failed() {
			t.Logf("sidecar's log:\n%s", s.log.String())
		}
	})
	return w
}

// pointAt sets where the SQL functions look for the sidecar.
func (s *sidecar) pointAt(t testing.TB, host string, port int) {
	t.Helper()
	s.Exec(t, fmt.Sprintf(`
		DO $$ DECLARE o text; BEGIN
			FOREACH o IN ARRAY ARRAY['host', 'port'] LOOP
				IF EXISTS (SELECT FROM pg_foreign_server, unnest(srvoptions) x WHERE srvname = 'rowcast_gateway' AND x LIKE o || '=%%') THEN
					EXECUTE format('ALTER SERVER rowcast_gateway OPTIONS (DROP %%I)', o);
				END IF;
			END LOOP;
		END $$;
		ALTER SERVER rowcast_gateway OPTIONS (ADD host '%s', ADD port '%d')`, host, port))
}

// register registers a model folder's file through the command line's path and returns the version.
func (s *sidecar) register(t testing.TB, folder string, name ...string) int {
	t.Helper()
	file, err := os.Open(filepath.Join(folder, "model.onnx"))
	require.NoError(t, err)
	defer func() { _ = file.Close() }()
	o := options(t, folder)
	if len(name) > 0 {
		o.Name = name[0]
	}
	v, _, err := registry.NewCatalog(s.Pool(t)).Register(context.Background(), o.Name, file, o, nil)
	require.NoError(t, err)
	return v
}

func options(t testing.TB, folder string) registry.Options {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(folder, "model.yaml"))
	if errors.Is(err, os.ErrNotExist) {
		return registry.Options{Name: filepath.Base(folder)}
	}
	require.NoError(t, err)
	o, err := registry.ParseYAML(text)
	require.NoError(t, err)
	return o
}

// demo is a model folder of this repository.
func demo(name string) string { return filepath.Join("..", "..", "examples", "demo", "models", name) }

// folders returns every model folder there is: this repository's, and those of ../shared/models where a checkout has it beside it.
func folders(t testing.TB) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join("..", "..", "..", "shared", "models", "*", "model.onnx"))
	require.NoError(t, err)
	if len(all) == 0 {
		all, err = filepath.Glob(demo(filepath.Join("*", "model.onnx")))
		require.NoError(t, err)
	}
	require.NotEmpty(t, all)
	for i := range all {
		all[i] = filepath.Dir(all[i])
	}
	return all
}

// table is a CSV file with its header.
type table struct {
	columns []string
	rows    [][]string
}

func readCSV(t testing.TB, path string) table {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	rows, err := csv.NewReader(f).ReadAll()
	require.NoError(t, err)
	return table{columns: rows[0], rows: rows[1:]}
}

// load makes a table of the CSV file; columns that types does not name are text.
func load(t testing.TB, conn *pgx.Conn, name, path string, types map[string]string) table {
	t.Helper()
	data := readCSV(t, path)
	var columns []string
	for _, c := range data.columns {
		kind := types[c]
		if kind == "" {
			kind = "text"
		}
		columns = append(columns, pgx.Identifier{c}.Sanitize()+" "+kind)
	}
	ctx := context.Background()
	_, err := conn.Exec(ctx, fmt.Sprintf("CREATE TABLE %s (%s)", pgx.Identifier{name}.Sanitize(), strings.Join(columns, ", ")))
	require.NoError(t, err)
	f, err := os.Open(path)
	require.NoError(t, err)
	defer func() { _ = f.Close() }()
	_, err = conn.PgConn().CopyFrom(ctx, f, fmt.Sprintf("COPY %s FROM STDIN (FORMAT csv, HEADER)", pgx.Identifier{name}.Sanitize()))
	require.NoError(t, err)
	return data
}

// one runs a query of one value.
func one[T any](t testing.TB, conn *pgx.Conn, sql string, args ...any) T {
	t.Helper()
	var v T
	require.NoError(t, conn.QueryRow(context.Background(), sql, args...).Scan(&v), sql)
	return v
}

// exec runs a statement that must succeed.
func exec(t testing.TB, conn *pgx.Conn, sql string, args ...any) {
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
