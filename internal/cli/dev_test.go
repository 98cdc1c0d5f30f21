package cli_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/postgres"
)

// project is a folder in which the built program is run, far from the source tree.
type project struct {
	program string
	dir     string
	env     []string
}

func newProject(t *testing.T) project {
	t.Helper()
	program := filepath.Join(t.TempDir(), "rowcast")
	out, err := exec.Command("go", "build", "-buildvcs=false", "-o", program, "../../cmd/rowcast").CombinedOutput()
	require.NoError(t, err, "%s", out)
	server, err := postgres.FindServer(context.Background())
	require.NoError(t, err)
	library, err := onnx.FindLibrary()
	require.NoError(t, err)
	library, err = filepath.Abs(library)
	require.NoError(t, err)
	p := project{program: program, dir: t.TempDir()}
	// PostgreSQL may run as another user, who must be able to come here.
	for _, dir := range []string{p.dir, filepath.Dir(p.dir)} {
		require.NoError(t, os.Chmod(dir, 0o755))
	}
	temporary := filepath.Join(p.dir, "tmp")
	require.NoError(t, os.Mkdir(temporary, 0o777))
	require.NoError(t, os.Chmod(temporary, 0o777))
	p.env = append(os.Environ(), "ROWCAST_PG_BIN="+server.BinDir, "ROWCAST_ONNXRUNTIME="+library, "TMPDIR="+temporary, "ROWCAST="+program)
	return p
}

// dev makes the command `rowcast dev ARGS`, with its output in the buffers.
func (p project) dev(args ...string) (cmd *exec.Cmd, out, errOut *bytes.Buffer) {
	out, errOut = &bytes.Buffer{}, &bytes.Buffer{}
	cmd = exec.Command(p.program, append([]string{"dev"}, args...)...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = p.dir, p.env, out, errOut
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd, out, errOut
}

// leavesNothing checks that no process of the project runs and that no file stays but an empty folder.
func (p project) leavesNothing(t *testing.T) {
	t.Helper()
	var left []string
	require.Eventually(t, func() bool {
		left = nil
		processes, _ := filepath.Glob("/proc/[0-9]*")
		for _, process := range processes {
			cwd, _ := os.Readlink(filepath.Join(process, "cwd"))
			exe, _ := os.Readlink(filepath.Join(process, "exe"))
			line, _ := os.ReadFile(filepath.Join(process, "cmdline"))
			if strings.HasPrefix(cwd, p.dir) || exe == p.program || bytes.Contains(line, []byte(p.dir)) {
				left = append(left, filepath.Base(process)+" "+string(bytes.ReplaceAll(line, []byte{0}, []byte{' '})))
			}
		}
		_ = filepath.WalkDir(p.dir, func(path string, entry os.DirEntry, err error) error {
			if err == nil && !entry.IsDir() || strings.HasPrefix(entry.Name(), "rowcast-") {
				left = append(left, path)
			}
			return nil
		})
		return len(left) == 0
	}, 30*time.Second, 50*time.Millisecond, "what stays behind: %v", &left)
}

func TestDevRunsACommandAndReturnsItsStatus(t *testing.T) {
	p := newProject(t)
	cmd, out, errOut := p.dev("--", "sh", "-c", `cat; echo "$PGHOST|$PGPORT|$PGUSER|$PGDATABASE|$DATABASE_URL"; "$ROWCAST" model list; ls .cache/dev; exit 7`)
	cmd.Stdin = strings.NewReader("from stdin\n")
	_ = cmd.Run()
	require.Equal(t, 7, cmd.ProcessState.ExitCode(), errOut.String())
	require.Empty(t, errOut.String())
	lines := strings.Split(out.String(), "\n")
	require.Len(t, lines, 5, "only what the command prints: %s", out)
	require.Equal(t, "from stdin", lines[0])
	variables := strings.Split(lines[1], "|")
	require.NotEmpty(t, variables[0])
	_, err := strconv.Atoi(variables[1])
	require.NoError(t, err)
	require.Equal(t, []string{"postgres", "rowcast"}, variables[2:4])
	require.Contains(t, variables[4], "postgres://")
	require.Equal(t, "No models yet. Register one: rowcast model register NAME FILE", lines[2], "the schema is there")
	require.Regexp(t, "^rowcast-pg-[0-9]+$", lines[3], "the cluster lives in the project's folder")
	p.leavesNothing(t)

	// The sidecar is ready, too; status 0; no -- needed.
	model, err := filepath.Abs(demo("iris", "model.onnx"))
	require.NoError(t, err)
	cmd, out, errOut = p.dev("sh", "-c", `"$ROWCAST" model register "$0" --json`, model)
	require.NoError(t, cmd.Run(), errOut.String())
	require.Contains(t, out.String(), `"version": 1`)
	p.leavesNothing(t)
}

func TestDevPassesOnWhatASignalDoes(t *testing.T) {
	p := newProject(t)
	cmd, _, errOut := p.dev("--", "sh", "-c", "kill -KILL $$")
	_ = cmd.Run()
	require.Equal(t, 128+9, cmd.ProcessState.ExitCode(), errOut.String())

	cmd, _, errOut = p.dev("--", "no-such-command")
	_ = cmd.Run()
	require.Equal(t, 1, cmd.ProcessState.ExitCode())
	require.Contains(t, errOut.String(), "cannot run no-such-command")
	p.leavesNothing(t)

	// SIGTERM reaches the command; it decides how it ends.
	started := filepath.Join(p.dir, "tmp", "started")
	cmd, out, errOut := p.dev("--", "sh", "-c", `trap 'echo stopped; exit 3' TERM; : > "$0"; while :; do sleep 0.05; done`, started)
	require.NoError(t, cmd.Start())
	p.await(t, started)
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	_ = cmd.Wait()
	require.Equal(t, 3, cmd.ProcessState.ExitCode(), errOut.String())
	require.Equal(t, "stopped\n", out.String())
	require.NoError(t, os.Remove(started))
	p.leavesNothing(t)
}

// await waits until a file is there.
func (p project) await(t *testing.T, path string) {
	t.Helper()
	require.Eventually(t, func() bool { _, err := os.Stat(path); return err == nil }, time.Minute, 20*time.Millisecond, path)
}

func TestAKilledDevLeavesNothing(t *testing.T) {
	p := newProject(t)
	started := filepath.Join(p.dir, "tmp", "started")
	cmd, _, _ := p.dev("--", "sh", "-c", `: > "$0"; cat`, started)
	in, err := cmd.StdinPipe() // its end is what tells the command that nobody wants it any more
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	p.await(t, started)
	require.NoError(t, cmd.Process.Kill())
	require.NoError(t, in.Close())
	_ = cmd.Wait()
	require.NoError(t, os.Remove(started))
	p.leavesNothing(t)
}

func TestTwoDevsAtOnceDoNotMeet(t *testing.T) {
	p := newProject(t)
	model, err := filepath.Abs(demo("iris", "model.onnx"))
	require.NoError(t, err)
	files := filepath.Join(p.dir, "tmp")
	// Each registers a model of its own while the other runs, and sees that one alone.
	const script = `
: > "$1/$2-up"; while [ ! -e "$1/$3-up" ]; do sleep 0.05; done
"$ROWCAST" model register "$2" "$0" > "$1/$2-log" || exit 1
: > "$1/$2-done"; while [ ! -e "$1/$3-done" ]; do sleep 0.05; done
"$ROWCAST" model list`
	a, outA, errA := p.dev("--", "sh", "-c", script, model, files, "one", "two")
	b, outB, errB := p.dev("--", "sh", "-c", script, model, files, "two", "one")
	require.NoError(t, a.Start())
	require.NoError(t, b.Start())
	require.NoError(t, a.Wait(), errA.String())
	require.NoError(t, b.Wait(), errB.String())
	require.Contains(t, outA.String(), "one")
	require.NotContains(t, outA.String(), "two")
	require.Contains(t, outB.String(), "two")
	require.NotContains(t, outB.String(), "one ")
	for _, f := range []string{"one-up", "two-up", "one-done", "two-done", "one-log", "two-log"} {
		require.NoError(t, os.Remove(filepath.Join(files, f)))
	}
	p.leavesNothing(t)
}

func TestDevWithoutACommandPrintsWhatToPasteAndStopsAtCtrlC(t *testing.T) {
	p := newProject(t)
	cmd, _, _ := p.dev()
	cmd.Stdout, cmd.Stderr = nil, nil
	log, err := os.Create(filepath.Join(t.TempDir(), "out"))
	require.NoError(t, err)
	cmd.Stdout, cmd.Stderr = log, log
	printed := func() string {
		text, err := os.ReadFile(log.Name())
		require.NoError(t, err)
		return string(text)
	}
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return strings.Contains(printed(), "ctrl-C stops everything") }, time.Minute, 20*time.Millisecond)
	paste := regexp.MustCompile(`\n  psql "(postgres://\S+)"\n`).FindStringSubmatch(printed())
	require.NotNil(t, paste, printed())
	other := regexp.MustCompile(`From other programs: (postgres://\S+)\n`).FindStringSubmatch(printed())
	require.NotNil(t, other, printed())
	for _, url := range []string{paste[1], other[1]} {
		conn, err := pgx.Connect(context.Background(), url)
		require.NoError(t, err)
		var path string
		require.NoError(t, conn.QueryRow(context.Background(), "SHOW search_path").Scan(&path))
		require.Equal(t, `"$user", public, ml`, path)
		require.NoError(t, conn.Close(context.Background()))
	}
	require.NoError(t, syscall.Kill(-cmd.Process.Pid, syscall.SIGINT)) // as a terminal sends it: to the whole group
	require.NoError(t, cmd.Wait(), printed())
	require.Contains(t, printed(), "\nstopping\n")
	p.leavesNothing(t)
}
