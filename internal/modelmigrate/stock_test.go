package modelmigrate_test

import (
	"context"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/modelmigrate"
)

// stock is golang-migrate's own program, built from the version in go.mod.
var stock = sync.OnceValues(func() (string, error) {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, ".cache", "bin", "migrate")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	out, err := exec.Command(filepath.Join(root, "build", "fetch-tools.sh"), "migrate").CombinedOutput()
	if err != nil {
		return "", &exec.Error{Name: string(out), Err: err}
	}
	return path, nil
})

// migrate runs the program on the folder with the version table that Rowcast brings.
func (s *site) migrate(t *testing.T, dir string, args ...string) (output string, status int) {
	t.Helper()
	path, err := stock()
	require.NoError(t, err)
	u, err := url.Parse(s.URL)
	require.NoError(t, err)
	u.Scheme = "pgx5"
	q := u.Query()
	q.Set("x-migrations-table", `"ml"."model_migrations"`)
	q.Set("x-migrations-table-quoted", "1")
	u.RawQuery = q.Encode()
	cmd := exec.Command(path, append([]string{"-path", dir, "-database", u.String()}, args...)...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		require.NoError(t, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func TestTheFilesRunWithTheStockTool(t *testing.T) {
	s := serve(t)
	ctx := context.Background()
	conn := s.Conn(t)
	dir := t.TempDir()
	first := add(t, dir, "iris", demo("iris"), "iris")
	add(t, dir, "iris_v2", demo("iris_v2"), "iris", promoted)
	write(t, dir, "rights", "SELECT ml.grant_model('iris', 'public')", "SELECT ml.drop_version('iris', 1)")

	// Without its artifacts the first step fails, and leaves nothing but the mark.
	out, status := s.migrate(t, dir, "up")
	require.NotZero(t, status)
	require.Contains(t, out, "is not stored")
	_, err := s.runner(t, dir).Up(ctx, -1)
	e := problem(t, err)
	require.Equal(t, "version 1 is marked dirty: the tool migrate was interrupted or failed there", e.Message)
	require.Equal(t, "000001_iris left nothing behind.", e.Detail)
	require.Contains(t, e.Hint, "rowcast model migration force 0")
	st, err := s.runner(t, dir).Status(ctx)
	require.NoError(t, err)
	require.True(t, st.Dirty)
	require.Contains(t, st.Advice, "force 0")
	_, err = s.runner(t, dir).Force(ctx, 0)
	require.NoError(t, err)

	files, err := filepath.Glob(filepath.Join(dir, modelmigrate.ArtifactDir, "*"))
	require.NoError(t, err)
	uploaded, err := program(s.URL, append([]string{"model", "upload"}, files...)...).CombinedOutput()
	require.NoError(t, err, "%s", uploaded)
	require.Contains(t, string(uploaded), first.SHA256)

	// What the stock tool did is known to the runner, with its checksums, and the other way round.
	out, status = s.migrate(t, dir, "up")
	require.Zero(t, status, out)
	require.Contains(t, out, "3/u rights")
	require.Equal(t, 3, s.up(t, dir, -1).From)
	st, err = s.runner(t, dir).Status(ctx)
	require.NoError(t, err)
	for _, m := range st.Migrations {
		require.Equal(t, modelmigrate.StateApplied, m.State, m.Name)
	}
	byStock := image(t, conn, false)
	out, status = s.migrate(t, dir, "down", "2")
	require.Zero(t, status, out)
	s.up(t, dir, -1)
	same(t, byStock, image(t, conn, false), "by the runner")
	out, status = s.migrate(t, dir, "goto", "1")
	require.Zero(t, status, out)
	require.Equal(t, "setosa", one[string](t, conn, "SELECT predict_label('iris', ARRAY[5.1, 3.5, 1.4, 0.2])"))
	s.down(t, dir, 1)
	out, status = s.migrate(t, dir, "up")
	require.Zero(t, status, out)
	same(t, byStock, image(t, conn, false), "by the tool again")

	// A file that is edited after the stock tool ran it is noticed.
	text, err := os.ReadFile(first.Up)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(first.Up, append(text, '\n'), 0o644))
	_, err = s.runner(t, dir).Plan(ctx, -1)
	require.Equal(t, "000001_iris.up.sql was edited after it ran", problem(t, err).Message)
	require.NoError(t, os.WriteFile(first.Up, text, 0o644))

	// A way down that is refused leaves everything, and the mark.
	execute(t, conn, "SELECT ml.set_alias('iris', 'canary', 2)")
	out, status = s.migrate(t, dir, "goto", "1")
	require.NotZero(t, status)
	require.Contains(t, out, `version 2 of model "iris" has an alias that was set since`)
	_, err = s.runner(t, dir).Up(ctx, -1)
	e = problem(t, err)
	require.Equal(t, "000002_iris_v2 is still in place: its way down left nothing changed.", e.Detail)
	require.Contains(t, e.Hint, "rowcast model migration force 2")
}

// The tool's option x-multi-statement sends a file piece by piece: then nothing can be journaled as one change, and the file's checksum is not known.
func TestAFileThatIsSentPieceByPieceHasNoChecksum(t *testing.T) {
	s := serve(t)
	conn := s.Conn(t)
	dir := t.TempDir()
	c := write(t, dir, "nothing", "SELECT 1")
	for _, sql := range []string{"SELECT ml.begin_change('000001_nothing')", "-- a comment\n  select  ml.begin_change('000001_nothing');\n"} {
		execute(t, conn, sql)
		require.True(t, one[bool](t, conn, "SELECT checksum IS NULL FROM ml.changes"))
		execute(t, conn, "SELECT ml.forget_change('000001_nothing')")
	}
	text, err := os.ReadFile(c.Up)
	require.NoError(t, err)
	_, err = conn.PgConn().Exec(context.Background(), strings.ReplaceAll(string(text), "\n", "\r\n")).ReadAll()
	require.NoError(t, err)
	execute(t, conn, "INSERT INTO ml.model_migrations VALUES (1, false)")
	st, err := s.runner(t, dir).Status(context.Background())
	require.NoError(t, err)
	require.Equal(t, modelmigrate.StateApplied, st.Migrations[0].State)
}
