package server_test

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/postgres/pgtest"
)

// A file system of its own, as small as the test needs: only root can make one.
func TestAFullDiskReachesTheJobAndItGoesOnWhenThereIsRoom(t *testing.T) {
	cluster := privateCluster(t)
	folder, err := os.MkdirTemp("/tmp", "rowcast-disk-") // where PostgreSQL's user can enter
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	require.NoError(t, os.Chmod(folder, 0o755))
	if err := syscall.Mount("tmpfs", folder, "tmpfs", 0, "size=4m"); err != nil {
		t.Skipf("what a full disk does is not shown here: the test fills a file system of 4 MB, and mounting one failed: %v. "+
			"Run it as root, in a container that may mount (CAP_SYS_ADMIN)", err)
	}
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(folder, syscall.MNT_DETACH)) })
	space := filepath.Join(folder, "space")
	require.NoError(t, os.Mkdir(space, 0o700))
	owner, err := os.Stat(cluster.Dir())
	require.NoError(t, err)
	id := owner.Sys().(*syscall.Stat_t)
	require.NoError(t, os.Chown(space, int(id.Uid), int(id.Gid)))

	exec(t, pgtest.Connect(t, cluster.URL("postgres")), fmt.Sprintf("CREATE TABLESPACE small LOCATION '%s'", space))
	exec(t, pgtest.Connect(t, cluster.URL("postgres")), "CREATE DATABASE shop")
	command(t, 0, "migrate", "up", "--database-url", cluster.URL("shop"))
	s := &sidecar{Database: &pgtest.Database{Name: "shop", URL: cluster.URL("shop")}, log: &syncBuffer{}}
	s.serve(t, s.config(t))
	conn := pgtest.Connect(t, s.URL)
	s.register(t, demo("iris_v2"), "iris")
	flowers(t, conn, "flowers", 100_000)
	exec(t, conn, "ALTER DATABASE shop SET default_tablespace = small")
	job := score(t, conn, `'iris', 'flowers', 'scores', 'id', options => '{"chunk_rows": 10000}'`)
	require.Eventually(t, func() bool { return look(t, conn, job).SQLState == "53100" }, 30*time.Second, 10*time.Millisecond)
	j := look(t, conn, job)
	require.Equal(t, "running", j.State)
	require.Contains(t, j.Error, "No space left")
	require.Contains(t, j.Hint, "room")
	t.Logf("%s; %s", j.Error, j.Hint)
	require.False(t, one[bool](t, conn, "SELECT to_regclass('scores') IS NOT NULL"))
	require.NoError(t, syscall.Mount("tmpfs", folder, "tmpfs", syscall.MS_REMOUNT, "size=64m"))
	require.Equal(t, "done", await(t, conn, job, "done", "failed").State)
	equalsPredict(t, conn, "flowers", "scores")
	require.Empty(t, look(t, conn, job).Error)
	exec(t, conn, "ALTER DATABASE shop RESET default_tablespace")
}
