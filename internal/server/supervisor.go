package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// SuperviseOptions configure Supervise. A zero value stands for the default beside it.
type SuperviseOptions struct {
	Listeners []net.Listener // sockets that the worker serves; they stay open while workers come and go, so that clients wait rather than fail
	Path      string         // os.Executable()
	Args      []string       // os.Args[1:]
	Env       []string       // os.Environ()
	Stdout    io.Writer      // os.Stdout
	Stderr    io.Writer      // os.Stderr
	MinDelay  time.Duration  // before a worker is started again; 100 ms, doubled each time
	MaxDelay  time.Duration  // 5 s
	Steady    time.Duration  // a worker that lived this long resets the delay; 30 s
	Signals   <-chan os.Signal
	Logger    *slog.Logger
}

const (
	envWorker    = "ROWCAST_WORKER"
	envListeners = "ROWCAST_WORKER_LISTENERS"
	envVerdicts  = "ROWCAST_WORKER_VERDICTS"

	crumbsFD        = 3
	firstListenerFD = 4
)

func (o SuperviseOptions) withDefaults() (SuperviseOptions, error) {
	if o.Path == "" {
		path, err := os.Executable()
		if err != nil {
			return o, fmt.Errorf("finding this program: %w", err)
		}
		o.Path = path
	}
	if o.Args == nil {
		o.Args = os.Args[1:]
	}
	if o.Env == nil {
		o.Env = os.Environ()
	}
	if o.Stdout == nil {
		o.Stdout = os.Stdout
	}
	if o.Stderr == nil {
		o.Stderr = os.Stderr
	}
	if o.MinDelay <= 0 {
		o.MinDelay = 100 * time.Millisecond
	}
	if o.MaxDelay <= 0 {
		o.MaxDelay = 5 * time.Second
	}
	if o.Steady <= 0 {
		o.Steady = 30 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

// supervisor runs one worker after the other.
type supervisor struct {
	o        SuperviseOptions
	crumbs   *Crumbs
	files    []*os.File // what a worker inherits: crumbs, listeners
	verdicts Verdicts
	stops    int // signals seen
	last     os.Signal
}

// Supervise runs this program as a worker, again and again, until a signal or ctx ends it. The first SIGTERM, SIGINT or SIGHUP is passed on
// and lets the worker stop by itself, the second kills it. A worker that dies of a crash is started again and told which artifacts were
// running; one that ends by itself, or fails before it was ready, is not.
//
// The result is the status for the program to exit with: the worker's own, or 128 + the number of the signal where it had to be killed.
func Supervise(ctx context.Context, o SuperviseOptions) int {
	o, err := o.withDefaults()
	if err != nil {
		o.Logger.Error("the supervisor cannot start", "error", err)
		return 1
	}
	s := &supervisor{o: o}
	if err := s.open(); err != nil {
		o.Logger.Error("the supervisor cannot start", "error", err)
		return 1
	}
	defer s.close()
	signals := o.Signals
	if signals == nil {
		caught := make(chan os.Signal, 4)
		signal.Notify(caught, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
		defer signal.Stop(caught)
		signals = caught
	}
	// The kernel sends a worker its parent's death signal when the *thread* that started it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	delay := o.MinDelay
	for {
		began := time.Now()
		kills := oomKills()
		state, err := s.run(ctx, signals)
		if err != nil {
			o.Logger.Error("the worker cannot be started", "error", err)
			return 1
		}
		status, again := s.judge(state, oomKills() > kills)
		if !again {
			return status
		}
		if time.Since(began) >= o.Steady {
			delay = o.MinDelay
		}
		o.Logger.Error("the worker died and is started again", "status", state.String(), "after_ms", time.Since(began).Milliseconds(),
			"delay_ms", delay.Milliseconds(), "quarantined", len(s.verdicts.Quarantine), "suspects", len(s.verdicts.Suspects))
		select {
		case <-time.After(delay):
		case sig := <-signals:
			return 128 + signalNumber(sig)
		case <-ctx.Done():
			return 0
		}
		delay = min(2*delay, o.MaxDelay)
	}
}

func (s *supervisor) open() error {
	crumbs, file, err := newCrumbs()
	if err != nil {
		return err
	}
	s.crumbs, s.files = crumbs, []*os.File{file}
	for _, l := range s.o.Listeners {
		socket, ok := l.(interface{ File() (*os.File, error) })
		if !ok {
			s.close()
			return fmt.Errorf("listener %s cannot be passed on", l.Addr())
		}
		file, err := socket.File()
		if err != nil {
			s.close()
			return fmt.Errorf("listener %s cannot be passed on: %w", l.Addr(), err)
		}
		s.files = append(s.files, file)
	}
	return nil
}

func (s *supervisor) close() {
	for _, f := range s.files {
		_ = f.Close()
	}
}

// run starts a worker and returns how it ended.
func (s *supervisor) run(ctx context.Context, signals <-chan os.Signal) (*os.ProcessState, error) {
	s.crumbs.reset()
	verdicts, err := json.Marshal(s.verdicts)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), s.o.Path, s.o.Args...) // the end of ctx is a request to stop, not to kill
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = s.o.Stdout, s.o.Stderr, s.files
	cmd.Env = slices.Concat(s.o.Env, []string{
		envWorker + "=1", envListeners + "=" + strconv.Itoa(len(s.files)-1), envVerdicts + "=" + string(verdicts),
	})
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig: syscall.SIGKILL,
		Setpgid:   true, // a ctrl-C is for the supervisor alone, which passes it on
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s.o.Logger.Debug("worker started", "pid", cmd.Process.Pid)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	done := ctx.Done()
	for {
		select {
		case err := <-ended:
			if s.crumbs.recorded() {
				s.verdicts.Quarantine = nil
			}
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) && cmd.ProcessState == nil {
				return nil, err
			}
			return cmd.ProcessState, nil
		case sig := <-signals:
			s.forward(cmd.Process, sig)
		case <-done:
			done = nil
			s.forward(cmd.Process, syscall.SIGTERM)
		}
	}
}

// forward passes the first signal on and kills at the second.
func (s *supervisor) forward(p *os.Process, sig os.Signal) {
	s.stops++
	s.last = sig
	if s.stops == 1 {
		if sig == syscall.SIGHUP {
			sig = syscall.SIGTERM
		}
		_ = p.Signal(sig)
		return
	}
	s.o.Logger.Warn("second signal: the worker is killed")
	_ = p.Kill()
}

// judge decides what follows from a worker's end.
func (s *supervisor) judge(state *os.ProcessState, outOfMemory bool) (status int, again bool) {
	wait, _ := state.Sys().(syscall.WaitStatus)
	switch {
	case s.stops > 1:
		return 128 + signalNumber(s.last), false
	case s.stops == 1 && wait.Signaled():
		return 128 + int(wait.Signal()), false
	case s.stops == 1 || wait.Exited() && wait.ExitStatus() == 0:
		return wait.ExitStatus(), false
	case wait.Exited() && wait.ExitStatus() == 1 && !s.crumbs.ready():
		return 1, false // it has said why, and would say so again
	}
	if crashed(wait, outOfMemory) {
		s.verdicts.crash(s.crumbs.running(), state.String())
	}
	return 0, true
}

// crashed reports whether the worker's own doing ended it, so that what it was running is to blame. Go's runtime turns a fatal signal inside
// C code into exit status 2. A SIGKILL comes from an operator, who blames no model, unless the kernel was short of memory.
func crashed(wait syscall.WaitStatus, outOfMemory bool) bool {
	if wait.Exited() {
		return wait.ExitStatus() == 2
	}
	switch wait.Signal() {
	case syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGFPE, syscall.SIGILL, syscall.SIGABRT, syscall.SIGTRAP, syscall.SIGSYS, syscall.SIGXCPU:
		return true
	case syscall.SIGKILL:
		return outOfMemory
	}
	return false
}

// oomKills returns how many processes the kernel has killed for want of memory, on the whole machine; 0 where it does not say.
func oomKills() (n int64) {
	stat, err := os.ReadFile("/proc/vmstat")
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(stat) {
		if count, ok := bytes.CutPrefix(line, []byte("oom_kill ")); ok {
			n, _ = strconv.ParseInt(string(bytes.TrimSpace(count)), 10, 64)
		}
	}
	return n
}

func signalNumber(sig os.Signal) int {
	if n, ok := sig.(syscall.Signal); ok {
		return int(n)
	}
	return 0
}

// Inheritance is what a worker gets from its supervisor.
type Inheritance struct {
	Listeners []net.Listener // in the order of SuperviseOptions.Listeners
	Crumbs    *Crumbs
	Verdicts  Verdicts
}

// Inherit returns what the supervisor handed over, or nil where this process is no worker. It removes the variables that say so from the
// environment, for the children of this process. Call it once.
func Inherit() (*Inheritance, error) {
	if os.Getenv(envWorker) != "1" {
		return nil, nil
	}
	count, err := strconv.Atoi(os.Getenv(envListeners))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", envListeners, err)
	}
	w := &Inheritance{}
	if err := json.Unmarshal([]byte(os.Getenv(envVerdicts)), &w.Verdicts); err != nil {
		return nil, fmt.Errorf("%s: %w", envVerdicts, err)
	}
	syscall.CloseOnExec(crumbsFD)
	if w.Crumbs, err = OpenCrumbs(crumbsFD); err != nil {
		return nil, err
	}
	if len(w.Verdicts.Suspects) > 0 {
		w.Crumbs.suspects = map[[32]byte]bool{}
		for _, sha := range w.Verdicts.Suspects {
			w.Crumbs.suspects[sha] = true
		}
	}
	for i := range count {
		syscall.CloseOnExec(firstListenerFD + i)
		file := os.NewFile(uintptr(firstListenerFD+i), "listener "+strconv.Itoa(i))
		l, err := net.FileListener(file)
		_ = file.Close() // FileListener has its own copy
		if err != nil {
			return nil, fmt.Errorf("inherited listener %d: %w", i, err)
		}
		w.Listeners = append(w.Listeners, l)
	}
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, envWorker) {
			_ = os.Unsetenv(name)
		}
	}
	return w, nil
}
