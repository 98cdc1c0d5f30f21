package server

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	envActor = "ROWCAST_TEST_ACTOR" // what the actor does
	envStage = "ROWCAST_TEST_STAGE" // path of a socket: be the supervisor of an actor that listens there
)

// TestActor is the worker of the tests below: it obeys the lines that it reads from its first listener. As a test of its own it does nothing.
func TestActor(*testing.T) {
	if os.Getenv(envActor) == "" {
		return
	}
	if path := os.Getenv(envStage); path != "" {
		l, err := net.Listen("unix", path)
		if err != nil {
			os.Exit(1)
		}
		_ = os.Unsetenv(envStage)
		os.Exit(Supervise(context.Background(), SuperviseOptions{Listeners: []net.Listener{l}, Args: os.Args[1:]}))
	}
	inherited, err := Inherit()
	if err != nil || inherited == nil {
		fmt.Println("actor:", err)
		os.Exit(1)
	}
	if os.Getenv(envActor) == "fails" {
		os.Exit(1)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	go func() {
		<-signals
		if os.Getenv(envActor) != "deaf" {
			os.Exit(0)
		}
	}()
	for {
		conn, err := inherited.Listeners[0].Accept()
		if err != nil {
			os.Exit(1)
		}
		go act(inherited, conn)
	}
}

func act(w *Inheritance, conn net.Conn) {
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		word, argument, _ := strings.Cut(lines.Text(), " ")
		number, _ := strconv.Atoi(argument)
		answer := "ok"
		switch word {
		case "pid":
			answer = strconv.Itoa(os.Getpid())
		case "ready":
			w.Crumbs.MarkReady()
		case "recorded":
			w.Crumbs.MarkRecorded()
		case "enter":
			answer = strconv.Itoa(w.Crumbs.Enter(artifact(argument)))
		case "leave":
			w.Crumbs.Leave(number)
		case "verdicts":
			text, _ := json.Marshal(w.Verdicts)
			answer = string(text)
		case "environment":
			answer = strconv.FormatBool(os.Getenv(envWorker) != "")
		case "exit":
			os.Exit(number)
		case "kill":
			_ = syscall.Kill(os.Getpid(), syscall.Signal(number))
			select {} // the signal comes when it comes
		}
		_, _ = fmt.Fprintln(conn, answer)
	}
}

func artifact(name string) (sha [32]byte) {
	copy(sha[:], name)
	return sha
}

// stage is a supervisor with an actor.
type stage struct {
	t       *testing.T
	path    string
	signals chan os.Signal
	status  chan int
	cancel  context.CancelFunc
	over    sync.Once
}

func newStage(t *testing.T, role string) *stage {
	t.Helper()
	s := &stage{t: t, path: filepath.Join(t.TempDir(), "s"), signals: make(chan os.Signal), status: make(chan int, 1)}
	l, err := net.Listen("unix", s.path)
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	var ctx context.Context
	ctx, s.cancel = context.WithCancel(context.Background())
	go func() {
		s.status <- Supervise(ctx, SuperviseOptions{
			Listeners: []net.Listener{l}, Args: []string{"-test.run=^TestActor$"}, Env: append(os.Environ(), envActor+"="+role),
			MinDelay: time.Millisecond, Signals: s.signals, Stdout: t.Output(), Stderr: t.Output(),
		})
	}()
	t.Cleanup(func() {
		s.cancel()
		s.over.Do(func() { <-s.status })
	})
	return s
}

// tell sends a line to the worker, whichever it is, and returns its answer: "" where it died of it.
func (s *stage) tell(format string, args ...any) string {
	s.t.Helper()
	conn, err := net.Dial("unix", s.path)
	require.NoError(s.t, err)
	defer func() { _ = conn.Close() }()
	_, err = fmt.Fprintf(conn, format+"\n", args...)
	require.NoError(s.t, err)
	answer, _ := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(answer)
}

func (s *stage) verdicts() (v Verdicts) {
	s.t.Helper()
	require.NoError(s.t, json.Unmarshal([]byte(s.tell("verdicts")), &v))
	return v
}

func (s *stage) ended() int {
	s.t.Helper()
	status := -1
	s.over.Do(func() {
		select {
		case status = <-s.status:
		case <-time.After(10 * time.Second):
			s.t.Fatal("the supervisor goes on")
		}
	})
	return status
}

func TestWorkerIsStartedAgain(t *testing.T) {
	s := newStage(t, "worker")
	require.Equal(t, "false", s.tell("environment"), "children of a worker are no workers")
	first := s.tell("pid")
	for _, sig := range []syscall.Signal{syscall.SIGSEGV, syscall.SIGKILL, syscall.SIGFPE} {
		require.Empty(t, s.tell("kill %d", sig))
		next := s.tell("pid")
		require.NotEqual(t, first, next, "clients that connect meanwhile are served by the next worker")
		first = next
	}
	require.Empty(t, s.verdicts().Quarantine, "nothing was running")
	s.tell("ready")
	s.tell("exit 1")
	require.NotEqual(t, first, s.tell("pid"))
	s.signals <- syscall.SIGTERM
	require.Zero(t, s.ended())
}

func TestSoleArtifactOfACrashIsQuarantined(t *testing.T) {
	s := newStage(t, "worker")
	s.tell("leave %s", s.tell("enter innocent"))
	s.tell("enter guilty")
	s.tell("enter guilty")
	s.tell("kill %d", syscall.SIGFPE)
	v := s.verdicts()
	require.Len(t, v.Quarantine, 1)
	require.Equal(t, artifact("guilty"), v.Quarantine[0].SHA256)
	require.Contains(t, v.Quarantine[0].Reason, "the sidecar died (exit status 2) while it ran this model alone")
	require.Empty(t, v.Suspects)

	s.tell("kill %d", syscall.SIGABRT)
	require.Len(t, s.verdicts().Quarantine, 1, "a verdict is repeated until a worker has recorded it")
	s.tell("recorded")
	s.tell("kill %d", syscall.SIGABRT)
	require.Empty(t, s.verdicts().Quarantine)
}

func TestOneOfSeveralArtifactsIsFoundByTheNextCrash(t *testing.T) {
	s := newStage(t, "worker")
	s.tell("enter popular")
	s.tell("enter guilty")
	s.tell("kill %d", syscall.SIGSEGV)
	v := s.verdicts()
	require.Empty(t, v.Quarantine)
	require.ElementsMatch(t, [][32]byte{artifact("popular"), artifact("guilty")}, v.Suspects)

	s.tell("enter bystander")
	slot := s.tell("enter popular")
	s.tell("enter popular") // beside itself, that is
	entered := make(chan string)
	go func() { entered <- s.tell("enter guilty") }()
	select {
	case <-entered:
		t.Fatal("suspects run side by side")
	case <-time.After(100 * time.Millisecond):
	}
	s.tell("leave %s", slot)
	second, err := strconv.Atoi(slot)
	require.NoError(t, err)
	s.tell("leave %d", second+1)
	<-entered
	s.tell("kill %d", syscall.SIGSEGV)
	v = s.verdicts()
	require.Len(t, v.Quarantine, 1)
	require.Equal(t, artifact("guilty"), v.Quarantine[0].SHA256)
	require.Empty(t, v.Suspects)
}

func TestKillByAnOperatorBlamesNoModel(t *testing.T) {
	s := newStage(t, "worker")
	s.tell("enter churn")
	s.tell("kill %d", syscall.SIGKILL)
	require.Equal(t, Verdicts{}, s.verdicts())
}

func TestWorkerThatCannotStartIsNotStartedAgain(t *testing.T) {
	require.Equal(t, 1, newStage(t, "fails").ended())
}

func TestWorkerThatEndsByItself(t *testing.T) {
	s := newStage(t, "worker")
	s.tell("exit 0")
	require.Zero(t, s.ended())
}

func TestSecondSignalKills(t *testing.T) {
	s := newStage(t, "deaf")
	pid := s.tell("pid")
	s.signals <- syscall.SIGTERM
	require.Equal(t, pid, s.tell("pid"), "the worker is still at it")
	s.signals <- syscall.SIGINT
	require.Equal(t, 128+int(syscall.SIGINT), s.ended())
}

func TestWorkerDiesWithItsSupervisor(t *testing.T) {
	s := &stage{t: t, path: filepath.Join(t.TempDir(), "s")}
	supervisor := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestActor$")
	supervisor.Env = append(os.Environ(), envActor+"=deaf", envStage+"="+s.path)
	require.NoError(t, supervisor.Start())
	require.Eventually(t, func() bool { _, err := os.Stat(s.path); return err == nil }, 10*time.Second, 5*time.Millisecond)
	pid, err := strconv.Atoi(s.tell("pid"))
	require.NoError(t, err)
	require.NoError(t, supervisor.Process.Kill())
	require.Error(t, supervisor.Wait())
	require.Eventually(t, func() bool { return gone(pid) }, 5*time.Second, 5*time.Millisecond)
}

// gone reports whether a process has ended; one that only waits to be reaped by somebody has.
func gone(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(status), ") Z ")
}

func TestEndOfTheContextStopsTheWorker(t *testing.T) {
	s := newStage(t, "worker")
	s.tell("pid")
	s.cancel()
	require.Zero(t, s.ended())
}

func TestCrumbs(t *testing.T) {
	c := PrivateCrumbs()
	var slots []int
	for i := range crumbSlots {
		slot := c.Enter(artifact(strconv.Itoa(i % 10)))
		require.GreaterOrEqual(t, slot, 0)
		slots = append(slots, slot)
	}
	require.Equal(t, -1, c.Enter(artifact("one too many")))
	require.Len(t, c.running(), 10)
	for _, slot := range slots {
		c.Leave(slot)
	}
	c.Leave(-1)
	require.Empty(t, c.running())
}

func TestCrumbsOfManyGoroutines(t *testing.T) {
	c := PrivateCrumbs()
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for range 10_000 {
				c.Leave(c.Enter(artifact(strconv.Itoa(i))))
			}
		})
	}
	group.Wait()
	require.Empty(t, c.running())
}

func BenchmarkCrumbs(b *testing.B) {
	c := PrivateCrumbs()
	for b.Loop() {
		c.Leave(c.Enter(artifact("churn")))
	}
}
