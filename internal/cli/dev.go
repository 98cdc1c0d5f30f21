package cli

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/rowcast/rowcast/internal/postgres"
	"github.com/rowcast/rowcast/internal/rowcast"
	"github.com/rowcast/rowcast/migrations"
)

const (
	devDatabase  = "rowcast"
	devPort      = 7432
	devReadyIn   = 30 * time.Second
	devStopIn    = 30 * time.Second
	stateFolder  = ".cache"
	sidecarLines = 20 // of the sidecar's log that are shown when it fails to start
)

func (a *app) devCommand() *cobra.Command {
	var verbose bool
	c := &cobra.Command{
		Use:   "dev [-- COMMAND [ARGUMENT…]]",
		Short: "A private PostgreSQL with Rowcast ready; with a command, for as long as that runs",
		Long: `Starts a private PostgreSQL cluster and the sidecar, prints the psql line to paste, and stops both at ctrl-C. Nothing stays behind.

With a command it runs that instead, with DATABASE_URL, PGHOST, PGPORT, PGUSER and PGDATABASE set, and returns its exit status. Any number may run
at once. The server is the newest PostgreSQL (15 or later) found on this machine; ROWCAST_PG_BIN names another one's bin folder.`,
		Example: `  rowcast dev
  rowcast dev -- psql -c "SELECT * FROM ml.models"
  rowcast dev -- go test ./...`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return a.dev(cmd.Context(), args, verbose) },
	}
	c.Flags().SetInterspersed(false)
	c.Flags().BoolVarP(&verbose, "verbose", "v", false, "show the sidecar's log")
	return c
}

func (a *app) dev(ctx context.Context, command []string, verbose bool) (err error) {
	cluster, err := postgres.StartCluster(ctx, postgres.ClusterOptions{Dir: filepath.Join(projectFolder(), stateFolder, "dev")})
	if err != nil {
		return err
	}
	defer func() {
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), devStopIn)
		defer cancel()
		err = errors.Join(err, cluster.Stop(stop))
	}()
	if err := installDev(ctx, cluster); err != nil {
		return err
	}
	sidecar, err := a.startSidecar(ctx, cluster, verbose || len(command) == 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sidecar.stop()) }()
	if len(command) > 0 {
		return a.runWith(cluster, command)
	}
	printf(a.out, "\nRowcast is ready on PostgreSQL %s. Paste this into another terminal:\n\n  psql %q\n\n", cluster.Server.Version, cluster.URL(devDatabase))
	printf(a.out, "From other programs: %s\nctrl-C stops everything and removes it.\n\n", cluster.TCPURL(devDatabase))
	select {
	case <-ctx.Done():
		printf(a.out, "\nstopping\n")
		return nil
	case <-cluster.Done():
		return rowcast.Errorf(rowcast.CodeUnavailable, "PostgreSQL ended by itself").WithHint("See %s.", cluster.LogFile())
	case <-sidecar.done:
		return rowcast.Errorf(rowcast.CodeUnavailable, "the sidecar ended by itself")
	}
}

// installDev creates the database and installs Rowcast; the gateway listens beside the cluster's socket where it has one, else on a free port.
func installDev(ctx context.Context, cluster *postgres.Cluster) error {
	conn, err := pgx.Connect(ctx, cluster.URL("postgres"))
	if err != nil {
		return postgres.Error(err)
	}
	_, err = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{devDatabase}.Sanitize())
	if err = errors.Join(err, conn.Close(ctx)); err != nil {
		return postgres.Error(err)
	}
	o := postgres.MigratorOptions{Source: migrations.Files, SetSearchPath: true, GatewayHost: cluster.Host(), GatewayPort: devPort}
	if !strings.HasPrefix(o.GatewayHost, "/") {
		if o.GatewayPort, err = postgres.FreePort(ctx); err != nil {
			return rowcast.Errorf(rowcast.CodeUnavailable, "no free port on 127.0.0.1").WithCause(err)
		}
	}
	m, err := postgres.NewMigrator(cluster.URL(devDatabase), o)
	if err != nil {
		return err
	}
	_, err = m.Up(ctx)
	return err
}

// sidecar is a `rowcast serve` of our own.
type sidecar struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// startSidecar starts `rowcast serve` and waits until it says that it is ready.
func (a *app) startSidecar(ctx context.Context, cluster *postgres.Cluster, verbose bool) (*sidecar, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, rowcast.Errorf(rowcast.CodeInternal, "cannot find this program").WithCause(err)
	}
	// The name is abstract: no file to remove, no folder too deep for a socket.
	ready, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: "@rowcast-dev-" + strconv.Itoa(os.Getpid()), Net: "unixgram"})
	if err != nil {
		return nil, rowcast.Errorf(rowcast.CodeInternal, "cannot wait for the sidecar").WithCause(err)
	}
	defer func() { _ = ready.Close() }()
	s := &sidecar{cmd: exec.Command(self, "serve"), done: make(chan struct{})} //nolint:noctx // this program; it must outlive ctx to stop gracefully
	s.cmd.Env = append(os.Environ(), "DATABASE_URL="+cluster.URL(devDatabase), "NOTIFY_SOCKET="+ready.LocalAddr().String(),
		"ROWCAST_HTTP=127.0.0.1:0", "ROWCAST_CONFIG=", "ROWCAST_LISTEN=", "ROWCAST_SOCKET_DIR=-")
	// A group of its own: ctrl-C reaches it only through stop, after the command has ended.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	log, err := s.cmd.StderrPipe()
	if err != nil {
		return nil, rowcast.Errorf(rowcast.CodeInternal, "cannot read the sidecar's log").WithCause(err)
	}
	lines := &tail{}
	started := make(chan error, 1)
	go func() {
		// The parent's death signal follows the thread that starts the child, so this one stays until the child has ended.
		runtime.LockOSThread()
		defer close(s.done)
		err := s.cmd.Start()
		started <- err
		if err == nil {
			lines.follow(log, verbose, a.errOut)
			_ = s.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, rowcast.Errorf(rowcast.CodeInternal, "cannot start the sidecar").WithCause(err)
	}
	told := make(chan error, 1)
	go func() {
		_ = ready.SetReadDeadline(time.Now().Add(devReadyIn))
		_, err := ready.Read(make([]byte, 64))
		told <- err
	}()
	select {
	case err = <-told:
	case <-s.done:
		err = errors.New("it ended")
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		_ = s.stop()
		return nil, rowcast.Errorf(rowcast.CodeUnavailable, "the sidecar did not start").WithCause(err).WithDetail("%s", lines.text())
	}
	return s, nil
}

// stop ends the sidecar as a signal would, and waits.
func (s *sidecar) stop() error {
	select {
	case <-s.done:
		return nil
	default:
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
		return nil
	case <-time.After(devStopIn):
		_ = s.cmd.Process.Kill()
		<-s.done
		return rowcast.Errorf(rowcast.CodeInternal, "the sidecar did not stop and was killed")
	}
}

// tail passes a log on and keeps its last lines.
type tail struct{ lines []string }

func (t *tail) follow(log io.Reader, show bool, w io.Writer) {
	scanner := bufio.NewScanner(log)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		if t.lines = append(t.lines, scanner.Text()); len(t.lines) > sidecarLines {
			t.lines = t.lines[1:]
		}
		if show {
			printf(w, "%s\n", scanner.Text())
		}
	}
	_, _ = io.Copy(io.Discard, log) // a line over the limit must not block the sidecar
}

func (t *tail) text() string { return strings.Join(t.lines, "\n") }

// runWith runs the user's command beside the cluster and ends with its status.
func (a *app) runWith(cluster *postgres.Cluster, command []string) error {
	cmd := exec.Command(command[0], command[1:]...) //nolint:noctx // the user's own command; a ctrl-C reaches it by the terminal
	cmd.Env = append(os.Environ(), cluster.Env(devDatabase)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.in, a.out, a.errOut
	if err := cmd.Start(); err != nil {
		return rowcast.Errorf(rowcast.CodeInvalidArgument, "cannot run %s", command[0]).WithCause(err)
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(signals)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case err := <-ended:
			var exit *exec.ExitError
			switch {
			case err == nil:
				return nil
			case !errors.As(err, &exit):
				return rowcast.Errorf(rowcast.CodeInternal, "%s failed", command[0]).WithCause(err)
			case exit.ExitCode() >= 0:
				return exitStatus(exit.ExitCode())
			}
			if status, ok := exit.Sys().(syscall.WaitStatus); ok {
				return exitStatus(128 + int(status.Signal()))
			}
			return exitStatus(exitFailure)
		case sig := <-signals:
			// A ctrl-C reaches the command from the terminal too; a SIGTERM came to this process only.
			if sig == syscall.SIGTERM {
				_ = cmd.Process.Signal(sig)
			}
		}
	}
}

// projectFolder is where a checkout's `make build` put this program, or the working directory.
func projectFolder() string {
	if self, err := os.Executable(); err == nil {
		root := filepath.Dir(filepath.Dir(self))
		if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
			return root
		}
	}
	dir, err := os.Getwd()
	if err != nil {
		return os.TempDir()
	}
	return dir
}
