package postgres

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/rowcast"
)

func startCluster(t *testing.T, o ClusterOptions) *Cluster {
	t.Helper()
	c, err := StartCluster(context.Background(), o)
	require.NoError(t, err, detail(err))
	t.Cleanup(func() { require.NoError(t, c.Stop(context.Background())) })
	return c
}

func detail(err error) string {
	var e *rowcast.Error
	if err != nil && asError(err, &e) {
		return e.Detail
	}
	return ""
}

func query(t *testing.T, url, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	var answer string
	require.NoError(t, conn.QueryRow(context.Background(), sql).Scan(&answer))
	return answer
}

func TestClusterAnswersOnSocketAndLoopbackOnly(t *testing.T) {
	c := startCluster(t, ClusterOptions{Settings: map[string]string{"max_connections": "23"}})

	require.Equal(t, "postgres UTF8 C.UTF-8 23 off", query(t, c.URL("postgres"), `SELECT concat_ws(' ', current_user,
		current_setting('server_encoding'), (SELECT datcollate FROM pg_database WHERE datname = 'postgres'),
		current_setting('max_connections'), current_setting('fsync'))`))
	require.Equal(t, "127.0.0.1/32", query(t, c.TCPURL("postgres"), `SELECT inet_client_addr()::text`))
	require.Equal(t, "127.0.0.1", query(t, c.URL("postgres"), `SHOW listen_addresses`))

	info, err := os.Stat(c.Dir())
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
}

func TestClusterDemandsThePasswordOverTCP(t *testing.T) {
	c := startCluster(t, ClusterOptions{})
	for _, password := range []string{"", "wrong"} {
		url := fmt.Sprintf("postgres://postgres:%s@127.0.0.1:%d/postgres?sslmode=disable", password, c.Port())
		_, err := Open(context.Background(), url, OpenOptions{})
		require.Equal(t, rowcast.CodeAuthentication, rowcast.CodeOf(err), "%v", err)
	}
}

func TestClusterNeverRunsAsRoot(t *testing.T) {
	c := startCluster(t, ClusterOptions{})
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.PID()))
	require.NoError(t, err)
	if os.Geteuid() == 0 {
		require.NotContains(t, string(status), "Uid:\t0\t")
	}
	require.Contains(t, string(status), "CapEff:\t0000000000000000")
}

// A clone under /root, or any folder that is closed to others: root is then an ordinary user of a user namespace.
func TestClusterInAFolderThatOthersCannotReach(t *testing.T) {
	closed := filepath.Join(t.TempDir(), "closed")
	require.NoError(t, os.Mkdir(closed, 0o700))
	c := startCluster(t, ClusterOptions{Dir: closed})
	require.Equal(t, "1", query(t, c.URL("postgres"), "SELECT 1::text"))
	require.Equal(t, "1", query(t, c.TCPURL("postgres"), "SELECT 1::text"))
	if os.Geteuid() == 0 && identityWorks(t, identity{uid: 65534, gid: 65534, namespace: true}, closed) {
		require.True(t, c.id.namespace)
		require.Equal(t, closed, filepath.Dir(c.Dir()))
	}
}

// There are machines without user namespaces: a chroot, a container. Root then needs a folder elsewhere, and the server's programs with it
// where those are closed as well.
func TestClusterWhereThereAreNoNamespaces(t *testing.T) {
	if os.Geteuid() != 0 {
		return // an ordinary user needs neither
	}
	server, err := FindServer(context.Background())
	require.NoError(t, err)
	c := &Cluster{Server: server, log: discard()}
	t.Cleanup(func() { require.NoError(t, c.Stop(context.Background())) })
	ctx := context.Background()
	accounts := ordinaryAccounts()
	require.NotEmpty(t, accounts)
	relocate := isDir(filepath.Join(filepath.Dir(server.BinDir), "share"))
	require.NoError(t, c.makeFolder(place{
		identity: identity{uid: accounts[0].uid, gid: accounts[0].gid, drop: true}, parent: "/tmp", relocate: relocate,
	}))
	require.NoError(t, c.initdb(ctx))
	require.NoError(t, c.configure(nil))
	port, err := FreePort(ctx)
	require.NoError(t, err)
	require.NoError(t, c.launch(ctx, port))
	_ = query(t, c.URL("postgres"), "SELECT 'ok'")
	if relocate {
		require.Equal(t, filepath.Join(c.Dir(), "pg", "bin"), c.Server.BinDir)
	}
}

func identityWorks(t *testing.T, id identity, dir string) bool {
	t.Helper()
	return id.try(context.Background(), "/bin/true", dir) == nil
}

func TestClusterFolderWithSpacesQuotesAndLinks(t *testing.T) {
	base := t.TempDir()
	odd := filepath.Join(base, `it's, "odd"`)
	require.NoError(t, os.Mkdir(odd, 0o755))
	link := filepath.Join(base, "link")
	require.NoError(t, os.Symlink(odd, link))
	// Short enough for a socket, whatever t.TempDir() gave.
	c := startCluster(t, ClusterOptions{Dir: link})
	require.Equal(t, "1", query(t, c.URL("postgres"), "SELECT 1::text"))
}

// The path of a unix socket holds 107 bytes; past that only TCP is left.
func TestClusterInADeepFolder(t *testing.T) {
	base := t.TempDir()
	require.NoError(t, os.Chmod(filepath.Dir(base), 0o755), "others must reach it, else the cluster goes elsewhere where there are no namespaces")
	deep := filepath.Join(base, strings.Repeat("a-long-name/", 12))
	c := startCluster(t, ClusterOptions{Dir: deep})
	require.Equal(t, "127.0.0.1", c.Host())
	require.Equal(t, "1", query(t, c.URL("postgres"), "SELECT 1::text"))
	require.Contains(t, c.Env("postgres"), "PGPASSWORD="+c.Password())
}

func TestClustersSideBySide(t *testing.T) {
	var wait sync.WaitGroup
	dirs := make([]string, 3)
	for i := range dirs {
		wait.Add(1)
		go func() {
			defer wait.Done()
			c, err := StartCluster(context.Background(), ClusterOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			dirs[i] = c.Dir()
			if err := c.Stop(context.Background()); err != nil {
				t.Error(err)
			}
		}()
	}
	wait.Wait()
	require.NotEqual(t, dirs[0], dirs[1])
}

func TestClusterStopLeavesNothing(t *testing.T) {
	c := startCluster(t, ClusterOptions{})
	pid := c.PID()
	conn, err := pgx.Connect(context.Background(), c.URL("postgres"))
	require.NoError(t, err)
	defer conn.Close(context.Background())

	require.NoError(t, c.Stop(context.Background()))
	require.NoError(t, c.Stop(context.Background()), "twice is fine")
	<-c.Done()
	require.NoDirExists(t, c.Dir())
	require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH)
}

func TestClusterDiesWithItsStarter(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), StarterDir+"="+dir)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	folder, number, ok := strings.Cut(strings.TrimSpace(line), " ")
	require.True(t, ok, line)
	pid, err := strconv.Atoi(number)
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, 0), "the server runs")

	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()

	require.Eventually(t, func() bool { return ended(pid) }, 10*time.Second, 5*time.Millisecond, "the server outlived its starter")
	require.Eventually(t, func() bool { _, err := os.Stat(folder); return os.IsNotExist(err) }, 10*time.Second, 5*time.Millisecond)
}

// ended also counts a zombie: its new parent need not have collected it.
func ended(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

func TestClusterThatCannotStartSaysWhy(t *testing.T) {
	dir := t.TempDir()
	_, err := StartCluster(context.Background(), ClusterOptions{Dir: dir, Settings: map[string]string{"shared_buffers": "a lot"}})
	require.Equal(t, rowcast.CodeUnavailable, rowcast.CodeOf(err))
	require.Contains(t, detail(err), "shared_buffers")
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left, "nothing stays behind")
}

func TestClusterStartIsCancelled(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(context.Background(), 150*time.Millisecond)
	defer cancel()
	_, err := StartCluster(ctx, ClusterOptions{Dir: dir})
	require.Error(t, err)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestClusterTakesAnotherPortWhenOneIsTaken(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	c := &Cluster{}
	server, err := FindServer(context.Background())
	require.NoError(t, err)
	c.Server = server
	c.log = discard()
	t.Cleanup(func() { require.NoError(t, c.Stop(context.Background())) })
	ctx := context.Background()
	require.NoError(t, c.makeFolders(ctx, ""))
	require.NoError(t, c.initdb(ctx))
	require.NoError(t, c.configure(nil))
	require.ErrorIs(t, c.launch(ctx, l.Addr().(*net.TCPAddr).Port), errPortTaken)
	port, err := FreePort(ctx)
	require.NoError(t, err)
	require.NoError(t, c.launch(ctx, port))
}

func TestFindServerRefusesWhatDoesNotDo(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("ROWCAST_PG_BIN", dir)
	_, err := FindServer(context.Background())
	require.ErrorContains(t, err, "ROWCAST_PG_BIN")
	require.Contains(t, detail(err), "has no postgres")

	for name, text := range map[string]string{"postgres": "#!/bin/sh\necho 'postgres (PostgreSQL) 14.9 (Debian)'\n", "initdb": "#!/bin/sh\n"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755))
	}
	_, err = FindServer(context.Background())
	require.Contains(t, detail(err), "is PostgreSQL 14.9")
}
