package postgres

import (
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"syscall"
)

// process is a child that dies with us.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how; read after done
}

// startProcess starts cmd so that the kernel sends it death when we end, however that happens. The kernel ties this to the thread that
// started the child, not to the process; hence a goroutine that keeps its thread until the child has ended.
func startProcess(cmd *exec.Cmd, death syscall.Signal) (*process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = death
	// A group of its own: ctrl-C at the terminal goes to us, and we stop things in order.
	cmd.SysProcAttr.Setpgid = true
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

func (p *process) signal(s syscall.Signal) {
	// An error means that it has ended already.
	_ = p.cmd.Process.Signal(s)
}

// reaper is a shell that waits for us to end, and then ends a server that is still there and removes the folder. It is in its own session, so
// that a signal to our group does not reach it. It covers what PDEATHSIG cannot: the folder.
type reaper struct {
	cmd  *exec.Cmd
	pipe io.WriteCloser
}

// The pid counts only if that process still has the data folder as its working directory, as every PostgreSQL server has.
const reaperScript = `
while read -r _; do :; done
pid=$(sed -n 1p "$1/data/postmaster.pid" 2>/dev/null)
if [ -n "$pid" ] && [ "$(readlink "/proc/$pid/cwd")" = "$1/data" ]; then
	kill -QUIT "$pid" 2>/dev/null
	n=0
	while [ "$(readlink "/proc/$pid/cwd")" = "$1/data" ] && [ "$n" -lt 100 ]; do sleep 0.1; n=$((n + 1)); done
	[ "$n" -lt 100 ] || kill -KILL "$pid" 2>/dev/null
fi
n=0
while ! rm -rf -- "$1" 2>/dev/null && [ "$n" -lt 50 ]; do sleep 0.1; n=$((n + 1)); done
`

// startReaper guards the folder dir, whose path has no symbolic links.
func startReaper(dir string) (*reaper, error) {
	cmd := exec.Command("/bin/sh", "-c", reaperScript, "rowcast-cluster-reaper", dir) //nolint:noctx // it must outlive every context
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Dir = "/"
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start /bin/sh: %w", err)
	}
	return &reaper{cmd: cmd, pipe: pipe}, nil
}

// release lets the reaper do its work, which by now is nothing, and waits for it.
func (r *reaper) release() {
	_ = r.pipe.Close()
	_ = r.cmd.Wait()
}
