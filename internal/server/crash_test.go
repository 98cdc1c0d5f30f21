package server_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/postgres/pgtest"
)

// program is a `rowcast serve` in processes of its own: supervisor and worker.
type program struct {
	cmd  *osexec.Cmd
	log  *syncBuffer
	done chan struct{}
}

// startProgram runs `rowcast serve` for the database and waits until it is ready.
func (s *sidecar) startProgram(t *testing.T, env ...string) *program {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "ready"), Net: "unixgram"})
	require.NoError(t, err)
	defer func() { _ = ready.Close() }()
	p := &program{cmd: osexec.Command(self, "serve"), log: s.log, done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), envProgram+"=1", "DATABASE_URL="+s.URL, "NOTIFY_SOCKET="+ready.LocalAddr().String(),
		"ROWCAST_HTTP=127.0.0.1:0", "ROWCAST_SOCKET_DIR=-", "ROWCAST_POLL=1s")
	p.cmd.Env = append(p.cmd.Env, env...)
	p.cmd.Stdout, p.cmd.Stderr = s.log, s.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, p.cmd.Start())
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.stop(t)
		if t.Failed() {
			t.Logf("sidecar's log:\n%s", s.log.String())
		}
	})
	require.NoError(t, ready.SetReadDeadline(time.Now().Add(30*time.Second)))
	_, err = ready.Read(make([]byte, 64))
	require.NoError(t, err, "the sidecar did not become ready: %s", s.log.String())
	return p
}

func (p *program) stop(t *testing.T) {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(30 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
		t.Error("the sidecar did not stop")
	}
}

// kill ends the supervisor without a word; the worker dies with it.
func (p *program) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// worker returns the process id of the supervisor's child.
func (p *program) worker(t testing.TB) int {
	t.Helper()
	pid := p.cmd.Process.Pid
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	require.NoError(t, err)
	for _, task := range tasks {
		if text, err := os.ReadFile(task); err == nil && len(strings.Fields(string(text))) > 0 {
			child, err := strconv.Atoi(strings.Fields(string(text))[0])
			require.NoError(t, err)
			return child
		}
	}
	return 0
}

// unserved is a database whose sidecar the test starts itself, on a free port.
func unserved(t *testing.T) *sidecar {
	t.Helper()
	s := &sidecar{Database: pgtest.New(t), log: &syncBuffer{}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := l.Addr().(*net.TCPAddr).Port
	require.NoError(t, l.Close())
	s.pointAt(t, "127.0.0.1", port)
	return s
}

// busy predicts in eight sessions until stop is called, which returns each session's errors.
func (s *sidecar) busy(t *testing.T) (stop func() [][]error, served func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var mu sync.Mutex
	count := 0
	failures := make([][]error, 8)
	for i := range failures {
		conn := s.Conn(t)
		wg.Go(func() {
			for ctx.Err() == nil {
				var label string
				err := conn.QueryRow(context.Background(), "SELECT predict_label('iris', "+irisRow+")").Scan(&label)
				mu.Lock()
				if err != nil {
					failures[i] = append(failures[i], err)
				} else if count++; label != "setosa" {
					failures[i] = append(failures[i], errors.New("another answer: "+label))
				}
				mu.Unlock()
				if err != nil {
					time.Sleep(100 * time.Millisecond) // as a client would before it tries again
				}
			}
		})
	}
	return func() [][]error { cancel(); wg.Wait(); return failures }, func() int { mu.Lock(); defer mu.Unlock(); return count }
}

func TestAKilledWorkerCostsEachSessionAtMostOneError(t *testing.T) {
	s := unserved(t)
	p := s.startProgram(t)
	s.register(t, demo("iris_v2"), "iris")
	stop, served := s.busy(t)
	for range 3 {
		before := served()
		require.Eventually(t, func() bool { return served() > before+200 }, 20*time.Second, 10*time.Millisecond)
		pid := p.worker(t)
		require.NotZero(t, pid)
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		require.Eventually(t, func() bool { w := p.worker(t); return w != 0 && w != pid }, 20*time.Second, 10*time.Millisecond)
	}
	before := served()
	require.Eventually(t, func() bool { return served() > before+200 }, 20*time.Second, 10*time.Millisecond, "they go on without reconnecting")
	for i, errs := range stop() {
		require.LessOrEqual(t, len(errs), 3, "session %d, three kills: %v", i, errs)
		for _, err := range errs {
			var pg *pgconn.PgError
			require.ErrorAs(t, err, &pg, "PostgreSQL keeps running")
			t.Logf("session %d: %v %s", i, err, pg.Detail)
		}
	}
}

func TestAKilledSidecarIsMissedClearlyAndFoundAgain(t *testing.T) {
	s := unserved(t)
	p := s.startProgram(t)
	s.register(t, demo("iris_v2"), "iris")
	stop, served := s.busy(t)
	require.Eventually(t, func() bool { return served() > 200 }, 20*time.Second, 10*time.Millisecond)
	p.kill()
	time.Sleep(300 * time.Millisecond)
	s.startProgram(t)
	before := served()
	require.Eventually(t, func() bool { return served() > before+200 }, 20*time.Second, 10*time.Millisecond)
	for i, errs := range stop() {
		for _, err := range errs {
			var pg *pgconn.PgError
			require.ErrorAs(t, err, &pg, "PostgreSQL keeps running")
			require.Contains(t, []string{"HV00N", "58000", "08001"}, pg.Code, "session %d: %v", i, err)
		}
	}
}

// A model that passes validation can still kill the process: the one integer division that overflows raises SIGFPE.
func TestAModelThatKillsTheSidecarIsQuarantined(t *testing.T) {
	s := unserved(t)
	p := s.startProgram(t)
	conn := s.Conn(t)
	s.register(t, demo("iris_v2"), "iris")
	exec(t, conn, `SELECT ml.register_model('divide', $1, '{"example": {"inputs": {"a": [[7]], "b": [[2]]}}}')`, mustRead(t, "../onnx/testdata/divide.onnx"))
	exec(t, conn, `SELECT ml.register_model('divide', $1, '{"example": {"inputs": {"a": [[7]], "b": [[2]]}}}')`, mustRead(t, "../onnx/testdata/divide.onnx"))
	require.Equal(t, "[[3]]", one[string](t, conn, `SELECT ml.infer('divide', '{"a": [[7]], "b": [[2]]}') ->> 'y'`))
	before := p.worker(t)
	_, err := conn.Exec(context.Background(), `SELECT ml.infer('divide', '{"a": [[-9223372036854775808]], "b": [[-1]]}')`)
	require.Error(t, err)
	var pg *pgconn.PgError
	require.ErrorAs(t, err, &pg)
	t.Logf("%s: %s; %s; %s", pg.Code, pg.Message, pg.Detail, pg.Hint)
	require.Contains(t, []string{"58000", "55000"}, pg.Code)
	require.Equal(t, "setosa", one[string](t, conn, "SELECT predict_label('iris', "+irisRow+")"), "the sidecar is back, other models are served")
	require.NotEqual(t, before, p.worker(t))
	e := refused(t, conn, "55000", `SELECT ml.infer('divide', '{"a": [[7]], "b": [[2]]}')`)
	require.Contains(t, e.Message, "quarantine")
	require.Contains(t, e.Hint, "release")
	require.NotEmpty(t, one[string](t, conn, "SELECT quarantine_reason FROM ml.versions WHERE model = 'divide' LIMIT 1"))
	exec(t, conn, "SELECT ml.release_version('divide', 1)")
	require.Eventually(t, func() bool {
		var y string
		return conn.QueryRow(context.Background(), `SELECT ml.infer('divide', '{"a": [[7]], "b": [[2]]}') ->> 'y'`).Scan(&y) == nil && y == "[[3]]"
	}, 10*time.Second, 50*time.Millisecond)
}

func TestTheFirstSignalStopsGracefully(t *testing.T) {
	s := unserved(t)
	p := s.startProgram(t)
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		t.Fatal("it did not stop")
	}
	require.Zero(t, p.cmd.ProcessState.ExitCode(), s.log.String())
	require.Zero(t, p.worker(t))
}

func TestServeWithoutRowcastInstalledSaysSo(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := osexec.Command(self, "serve")
	cmd.Env = append(os.Environ(), envProgram+"=1", "DATABASE_URL="+pgtest.NewEmpty(t).URL)
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "rowcast migrate up")
}
