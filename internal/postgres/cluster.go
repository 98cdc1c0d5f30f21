package postgres

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// ClusterOptions says how to make a private cluster. The zero value is good.
type ClusterOptions struct {
	BinDir string // folder of the server's programs; empty: FindServer

	// Dir is the folder in which the cluster gets a new folder of its own; empty: the system's folder for temporary files.
	Dir string

	// Settings go into postgresql.conf after the defaults, which trade durability for speed (fsync is off), as fits a cluster whose data are
	// removed when it stops.
	Settings map[string]string

	Logger *slog.Logger // nil: silent
}

// Cluster is a running private cluster. Its superuser is postgres, its only database postgres.
type Cluster struct {
	Server   Server
	dir      string // the folder of everything, removed by Stop
	data     string
	socket   string // folder of the unix socket, "" where its path would be too long
	port     int
	password string
	id       identity
	log      *slog.Logger

	reaper *reaper
	server *process

	stop    sync.Mutex
	stopped bool
}

const (
	superuser = "postgres"
	// sockaddr_un holds 108 bytes with the final NUL, "/.s.PGSQL.65535" takes 15 of them.
	maxSocketDir   = 108 - 1 - 15
	startTimeout   = time.Minute
	portAttempts   = 5
	fastShutdown   = 15 * time.Second
	killAfter      = 5 * time.Second
	readyPollEvery = 10 * time.Millisecond
)

// StartCluster makes a new cluster and starts its server; it answers queries when StartCluster returns. It listens on a unix socket in a folder
// that only its user (and root) can enter, where no password is asked, and on a free port of 127.0.0.1 with SCRAM-SHA-256. The cluster dies
// with this process, and its folder is removed, however the process ends. The caller calls Stop.
// Errors are *rowcast.Error with the server's last words in the detail.
func StartCluster(ctx context.Context, o ClusterOptions) (*Cluster, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	server, err := clusterServer(ctx, o.BinDir)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	c := &Cluster{Server: server, log: o.Logger}
	if err := c.start(ctx, o); err != nil {
		_ = c.Stop(context.WithoutCancel(ctx))
		return nil, err
	}
	c.log.Info("private PostgreSQL cluster started", "version", server.Version, "dir", c.dir, "port", c.port, "took", time.Since(began).String())
	return c, nil
}

func clusterServer(ctx context.Context, bin string) (Server, error) {
	if bin == "" {
		return FindServer(ctx)
	}
	server, err := inspectServer(ctx, bin)
	if err != nil {
		return Server{}, rowcast.Errorf(rowcast.CodeInvalidArgument, "no PostgreSQL server that can be used in %s", bin).WithDetail("%v", err)
	}
	return server, nil
}

func (c *Cluster) start(ctx context.Context, o ClusterOptions) error {
	if err := c.makeFolders(ctx, o.Dir); err != nil {
		return err
	}
	if err := c.initdb(ctx); err != nil {
		return err
	}
	if err := c.configure(o.Settings); err != nil {
		return failed("cannot write the private cluster's configuration", err)
	}
	for attempt := 1; ; attempt++ {
		port, err := FreePort(ctx)
		if err != nil {
			return failed("no free port for a private cluster", err)
		}
		err = c.launch(ctx, port)
		if err == nil || !errors.Is(err, errPortTaken) || attempt == portAttempts {
			return err
		}
		c.log.Debug("port was taken in the meantime", "port", c.port)
	}
}

func (c *Cluster) makeFolders(ctx context.Context, parent string) error {
	if parent == "" {
		parent = os.TempDir()
	}
	parent, err := filepath.Abs(parent)
	if err == nil {
		err = os.MkdirAll(parent, 0o755)
	}
	if err == nil {
		// The reaper and the kernel's view of the server's working directory know no symbolic links.
		parent, err = filepath.EvalSymlinks(parent)
	}
	if err != nil {
		return failed("no folder for a private cluster", err)
	}
	where, err := choosePlace(ctx, filepath.Join(c.Server.BinDir, "postgres"), parent)
	if err != nil {
		return err
	}
	if where.parent != parent {
		c.log.Info("no ordinary user can use the folder; the private cluster goes elsewhere", "folder", parent, "instead", where.parent)
	}
	return c.makeFolder(where)
}

func (c *Cluster) makeFolder(where place) (err error) {
	c.id = where.identity
	if c.dir, err = os.MkdirTemp(where.parent, "rowcast-pg-"); err != nil {
		return failed("no folder for a private cluster", err)
	}
	if c.reaper, err = startReaper(c.dir); err != nil {
		return failed("cannot guard the private cluster's folder", err)
	}
	if err := c.id.own(c.dir); err != nil {
		return failed("cannot hand the private cluster's folder over", err)
	}
	if where.relocate {
		copied := filepath.Join(c.dir, "pg")
		if err := os.CopyFS(copied, os.DirFS(filepath.Dir(c.Server.BinDir))); err != nil {
			return failed("cannot copy PostgreSQL to where an ordinary user can run it", err)
		}
		c.Server.BinDir = filepath.Join(copied, filepath.Base(c.Server.BinDir))
	}
	c.data = filepath.Join(c.dir, "data")
	if socket := filepath.Join(c.dir, "s"); len(socket) <= maxSocketDir {
		c.socket = socket
		if err := os.Mkdir(socket, 0o700); err != nil {
			return failed("no folder for the private cluster's socket", err)
		}
		if err := c.id.own(socket); err != nil {
			return failed("cannot hand the private cluster's folder over", err)
		}
	}
	return nil
}

// run runs a program of the server as the server's user until it ends and returns what it printed.
func (c *Cluster) run(ctx context.Context, name string, args ...string) ([]byte, error) {
	var out bytes.Buffer
	cmd := c.command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := startProcess(cmd, syscall.SIGKILL)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.done:
		return out.Bytes(), p.err
	case <-ctx.Done():
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.done
		return out.Bytes(), context.Cause(ctx)
	}
}

func (c *Cluster) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(c.Server.BinDir, name), args...) //nolint:noctx // run kills it in its own way
	cmd.Dir = c.dir
	cmd.SysProcAttr = c.id.attributes()
	// Nothing of the caller's PG* variables, locale or time zone.
	cmd.Env = []string{"PATH=" + c.Server.BinDir + ":/usr/local/bin:/usr/bin:/bin", "LC_ALL=C.UTF-8", "TZ=UTC", "HOME=" + c.dir}
	return cmd
}

func (c *Cluster) initdb(ctx context.Context) error {
	c.password = randomHex(24)
	pwfile := filepath.Join(c.dir, "password")
	if err := os.WriteFile(pwfile, []byte(c.password+"\n"), 0o600); err != nil {
		return failed("cannot write the private cluster's password", err)
	}
	if err := c.id.own(pwfile); err != nil {
		return failed("cannot hand the private cluster's folder over", err)
	}
	args := []string{
		"-D", c.data, "-U", superuser, "--pwfile", pwfile, "--auth-local=trust", "--auth-host=scram-sha-256",
		"-E", "UTF8", "--no-sync", "--no-instructions",
	}
	out, err := c.run(ctx, "initdb", append(args, "--locale=C.UTF-8")...)
	if err != nil && bytes.Contains(out, []byte("invalid locale")) {
		out, err = c.run(ctx, "initdb", append(args, "--locale=C")...)
	}
	if err != nil {
		return failed("initdb of a private cluster failed", err).WithDetail("%s", tail(string(out)))
	}
	return os.Remove(pwfile)
}

// configure writes the settings that do not change between attempts to start.
func (c *Cluster) configure(extra map[string]string) error {
	settings := map[string]string{
		"listen_addresses":        "127.0.0.1",
		"unix_socket_permissions": "0777", // the folder is closed
		"max_connections":         "100",
		"fsync":                   "off",
		"synchronous_commit":      "off",
		"full_page_writes":        "off",
		"max_wal_size":            "2GB", // fewer checkpoints
		"shared_buffers":          "128MB",
		"timezone":                "UTC",
		"log_timezone":            "UTC",
		"datestyle":               "ISO, MDY",
		"lc_messages":             "C.UTF-8",
		"password_encryption":     "scram-sha-256",
		"log_line_prefix":         "%m [%p] %q%u@%d ",
		"autovacuum_naptime":      "10s",
	}
	settings["unix_socket_directories"] = c.socketSetting()
	for name, value := range extra {
		settings[strings.ToLower(name)] = value
	}
	return c.appendSettings(settings)
}

func (c *Cluster) socketSetting() string {
	if c.socket == "" {
		return ""
	}
	// A list: the quotes keep commas and spaces in the path from ending it.
	return pgx.Identifier{c.socket}.Sanitize()
}

func (c *Cluster) appendSettings(settings map[string]string) error {
	names := make([]string, 0, len(settings))
	for name := range settings {
		names = append(names, name)
	}
	sort.Strings(names)
	var text strings.Builder
	text.WriteString("\n# Rowcast's private cluster\n")
	for _, name := range names {
		fmt.Fprintf(&text, "%s = '%s'\n", name, strings.ReplaceAll(settings[name], "'", "''"))
	}
	f, err := os.OpenFile(filepath.Join(c.data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(text.String()); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

var errPortTaken = errors.New("port taken")

// launch starts the server on the port and waits until it answers.
func (c *Cluster) launch(ctx context.Context, port int) error {
	c.port = port
	log, err := os.OpenFile(c.LogFile(), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return failed("cannot write the private cluster's log", err)
	}
	defer log.Close()
	if err := c.id.own(c.LogFile()); err != nil {
		return failed("cannot hand the private cluster's folder over", err)
	}
	// The port is an argument and not in the file because another attempt takes another one.
	cmd := c.command("postgres", "-D", c.data, "-p", strconv.Itoa(port))
	cmd.Stdout, cmd.Stderr = log, log
	// SIGQUIT is PostgreSQL's immediate shutdown: nobody is left to want the data.
	if c.server, err = startProcess(cmd, syscall.SIGQUIT); err != nil {
		return failed("cannot start PostgreSQL", err)
	}
	return c.awaitReady(ctx)
}

func (c *Cluster) awaitReady(ctx context.Context) error {
	ticker := time.NewTicker(readyPollEvery)
	defer ticker.Stop()
	var last error
	for {
		conn, err := pgconn.Connect(ctx, c.URL("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		last = err
		select {
		case <-c.server.done:
			words := c.logTail()
			if strings.Contains(words, "Address already in use") || strings.Contains(words, "could not create any TCP/IP sockets") {
				return errPortTaken
			}
			return failed("the private cluster's server ended while it started", c.server.err).WithDetail("%s", words)
		case <-ctx.Done():
			return failed("the private cluster did not become ready", errors.Join(context.Cause(ctx), last)).WithDetail("%s", c.logTail())
		case <-ticker.C:
		}
	}
}

// FreePort returns a TCP port of 127.0.0.1 that nothing listens on now. Somebody else may take it before the caller does.
func FreePort(ctx context.Context) (int, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0, fmt.Errorf("listener has address %v", l.Addr())
	}
	return addr.Port, nil
}

// Stop shuts the server down, at first in an orderly way, at the end of ctx or after 15 s the hard way, and removes the cluster's folder.
// It may be called twice and by several goroutines.
func (c *Cluster) Stop(ctx context.Context) error {
	c.stop.Lock()
	defer c.stop.Unlock()
	if c.stopped {
		return nil
	}
	c.stopped = true
	if c.server != nil {
		c.shutdown(ctx)
	}
	var err error
	if c.dir != "" {
		if err = os.RemoveAll(c.dir); err != nil {
			err = failed("cannot remove the private cluster's folder", err)
		}
	}
	if c.reaper != nil {
		c.reaper.release()
	}
	return err
}

func (c *Cluster) shutdown(ctx context.Context) {
	for _, step := range []struct {
		signal syscall.Signal
		wait   time.Duration
	}{
		{syscall.SIGINT, fastShutdown}, // disconnects everybody
		{syscall.SIGQUIT, killAfter},   // at once
		{syscall.SIGKILL, killAfter},
	} {
		c.server.signal(step.signal)
		timer := time.NewTimer(step.wait)
		select {
		case <-c.server.done:
			timer.Stop()
			return
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			ctx = context.Background() // hurry once, then give each step its time
		}
	}
}

// Done is closed when the server has ended, by Stop or otherwise.
func (c *Cluster) Done() <-chan struct{} { return c.server.done }

// Dir is the cluster's folder. The server's user can enter it, others (but root) cannot.
func (c *Cluster) Dir() string { return c.dir }

// LogFile is where the server writes its log.
func (c *Cluster) LogFile() string { return filepath.Join(c.dir, "postgres.log") }

// Host is the folder of the unix socket, or 127.0.0.1 where the path of a socket would be too long.
func (c *Cluster) Host() string {
	if c.socket != "" {
		return c.socket
	}
	return "127.0.0.1"
}

// Port is both the TCP port and the number in the socket's name.
func (c *Cluster) Port() int { return c.port }

// User is the name of the superuser.
func (c *Cluster) User() string { return superuser }

// Password is the superuser's, for connections over TCP.
func (c *Cluster) Password() string { return c.password }

// PID is the process id of the server.
func (c *Cluster) PID() int { return c.server.cmd.Process.Pid }

// URL names a database of the cluster for the superuser, over the socket where there is one.
func (c *Cluster) URL(database string) string {
	if c.socket == "" {
		return c.TCPURL(database)
	}
	q := url.Values{"host": {c.socket}, "port": {strconv.Itoa(c.port)}}
	u := url.URL{Scheme: "postgres", User: url.User(superuser), Path: "/" + database, RawQuery: q.Encode()}
	return u.String()
}

// TCPURL names a database of the cluster for the superuser over 127.0.0.1, with the password.
func (c *Cluster) TCPURL(database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(superuser, c.password), Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(c.port)),
		Path: "/" + database, RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Env is what psql and other clients need in their environment to reach a database of the cluster: DATABASE_URL, PGHOST, PGPORT, PGUSER,
// PGDATABASE and, where only TCP is left, PGPASSWORD.
func (c *Cluster) Env(database string) []string {
	env := []string{
		"DATABASE_URL=" + c.URL(database), "PGHOST=" + c.Host(), "PGPORT=" + strconv.Itoa(c.port), "PGUSER=" + superuser, "PGDATABASE=" + database,
	}
	if c.socket == "" {
		env = append(env, "PGPASSWORD="+c.password)
	}
	return env
}

func (c *Cluster) logTail() string {
	text, err := os.ReadFile(c.LogFile())
	if err != nil {
		return err.Error()
	}
	return tail(string(text))
}

// tail returns the last lines of a program's output.
func tail(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	if len(lines) > 8 {
		lines = lines[len(lines)-8:]
	}
	return strings.Join(lines, "\n")
}

func failed(message string, cause error) *rowcast.Error {
	return rowcast.Errorf(rowcast.CodeUnavailable, "%s", message).WithCause(cause)
}

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
