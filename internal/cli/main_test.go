package cli_test

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/cli"
	"github.com/rowcast/rowcast/internal/postgres/pgtest"
	"github.com/rowcast/rowcast/internal/registry"
)

// The test binary is also the program: the sidecar runs in a process of its own and re-executes itself for its worker and for validation.
const envProgram = "ROWCAST_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(envProgram) != "" || len(os.Args) == 2 && os.Args[1] == registry.ChildArgument {
		os.Exit(cli.Main("test", os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	// What the machine's user has set must not reach the commands.
	for _, name := range []string{"DATABASE_URL", "PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGPASSWORD", "PGSERVICE", "ROWCAST_CONFIG"} {
		_ = os.Unsetenv(name)
	}
	pgtest.Main(m)
}

// database is one that commands are run on.
type database struct {
	*pgtest.Database
}

// served makes a database with a sidecar.
func served(t *testing.T) database {
	t.Helper()
	db := database{pgtest.New(t)}
	db.does(t, "migrate", "up", "--gateway", freeAddress(t))
	db.serve(t)
	return db
}

// serve starts a sidecar, which stops when the test ends or by the function that is returned, whichever is first.
func (db database) serve(t *testing.T) (stop func()) {
	t.Helper()
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "ready"), Net: "unixgram"})
	require.NoError(t, err)
	defer func() { _ = ready.Close() }()
	var log bytes.Buffer
	cmd := db.program(t, "serve")
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET="+ready.LocalAddr().String(), "ROWCAST_HTTP=-", "ROWCAST_SOCKET_DIR=-", "ROWCAST_POLL=1s")
	cmd.Stdout, cmd.Stderr = &log, &log
	require.NoError(t, cmd.Start())
	stop = sync.OnceFunc(func() {
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		require.NoError(t, cmd.Wait(), "%s", &log)
		if t.Failed() {
			t.Logf("sidecar's log:\n%s", &log)
		}
	})
	t.Cleanup(stop)
	require.NoError(t, ready.SetReadDeadline(time.Now().Add(30*time.Second)))
	_, err = ready.Read(make([]byte, 64))
	require.NoError(t, err, "the sidecar did not become ready")
	return stop
}

// program makes a command of the command line in a process of its own.
func (db database) program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), envProgram+"=1", "DATABASE_URL="+db.URL)
	return cmd
}

// rowcast runs the command line and returns its exit status and what it printed.
func rowcast(args ...string) (status int, out, errOut string) {
	var o, e bytes.Buffer
	status = cli.Main("test", args, strings.NewReader(""), &o, &e)
	return status, o.String(), e.String()
}

// does runs a command that must succeed without a complaint and returns what it printed.
func (db database) does(t *testing.T, args ...string) string {
	t.Helper()
	status, out, errOut := rowcast(append(args, "--database-url", db.URL)...)
	require.Zero(t, status, "rowcast %s: %s", strings.Join(args, " "), errOut)
	require.Empty(t, errOut)
	return out
}

// fails runs a command that must end with the status and print nothing but an error, which it returns.
func (db database) fails(t *testing.T, status int, args ...string) string {
	t.Helper()
	got, out, errOut := rowcast(append(args, "--database-url", db.URL)...)
	require.Equal(t, status, got, "rowcast %s: %s%s", strings.Join(args, " "), out, errOut)
	require.Empty(t, out)
	require.NotEmpty(t, errOut)
	return errOut
}

// one runs a query of one value.
func one[T any](t *testing.T, db database, sql string, args ...any) T {
	t.Helper()
	var v T
	require.NoError(t, db.Conn(t).QueryRow(context.Background(), sql, args...).Scan(&v), sql)
	return v
}

// demo is a file of a model folder of this repository.
func demo(parts ...string) string {
	return filepath.Join(append([]string{"..", "..", "examples", "demo", "models"}, parts...)...)
}

// times matches points in time, as text and as JSON write them.
var times = regexp.MustCompile(`\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?`)

// timeless replaces points in time, which no test can foresee.
func timeless(s string) string { return times.ReplaceAllString(s, "TIME") }

// freeAddress is one on which nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	return l.Addr().String()
}
