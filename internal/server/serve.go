package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rowcast/rowcast/db"
	"github.com/rowcast/rowcast/internal/config"
	"github.com/rowcast/rowcast/internal/postgres"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// Serve runs the sidecar until a signal ends it and returns the exit status: as supervisor, or as the worker that a supervisor started.
func Serve(ctx context.Context, c config.Config, logger *slog.Logger) (int, error) {
	inherited, err := Inherit()
	if err != nil {
		return 1, err
	}
	if inherited != nil {
		return 0, work(ctx, c, inherited, logger)
	}
	listeners, err := listen(ctx, c, logger)
	if err != nil {
		return 1, err
	}
	defer func() {
		for _, l := range listeners {
			_ = l.Close()
		}
	}()
	present, leave := context.WithCancel(context.WithoutCancel(ctx))
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		showPresence(present, c)
	}()
	defer func() {
		leave()
		<-gone
	}()
	// Signals reach the supervisor by themselves; as a cancelled context, too, one would count twice.
	return Supervise(context.WithoutCancel(ctx), SuperviseOptions{Listeners: listeners, Logger: logger}), nil
}

// showPresence keeps a session open that tells the SQL functions that a supervisor holds the sockets, also while no worker runs.
func showPresence(ctx context.Context, c config.Config) {
	tick := time.NewTicker(c.Poll)
	defer tick.Stop()
	var pool *pgxpool.Pool
	defer func() {
		if pool != nil {
			pool.Close()
		}
	}()
	for {
		// The worker says what is wrong with the database; here a failure only means to try again.
		if pool == nil {
			pool, _ = postgres.Open(ctx, c.DatabaseURL, postgres.OpenOptions{ApplicationName: supervisorName, MaxConns: 1})
		} else {
			_ = pool.Ping(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// work is the worker's life. The HTTP listener, where there is one, is the last that it inherited.
func work(ctx context.Context, c config.Config, in *Inheritance, logger *slog.Logger) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	o := WorkerOptions{Config: c, Listeners: in.Listeners, Crumbs: in.Crumbs, Verdicts: in.Verdicts, Logger: logger, Ready: notifyReady}
	if c.HTTP != "" {
		last := len(o.Listeners) - 1
		o.HTTP, o.Listeners = o.Listeners[last], o.Listeners[:last]
	}
	w, err := Start(ctx, o)
	if err != nil {
		return err
	}
	<-ctx.Done()
	logger.Info("stopping", "grace", c.StopTimeout.String())
	final, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.StopTimeout)
	defer cancel()
	if err := w.Stop(final); err != nil {
		logger.Warn("not everything stopped by itself", "error", err)
	}
	return nil
}

// listen opens the gateway's sockets and the HTTP socket, in this order.
func listen(ctx context.Context, c config.Config, logger *slog.Logger) (_ []net.Listener, err error) {
	addresses := c.Listen
	if len(addresses) == 0 {
		if addresses, err = gatewayAddresses(ctx, c, logger); err != nil {
			return nil, err
		}
	}
	var listeners []net.Listener
	defer func() {
		if err != nil {
			for _, l := range listeners {
				_ = l.Close()
			}
		}
	}()
	for _, a := range addresses {
		l, err := listenOn(ctx, a)
		if err != nil {
			return nil, err
		}
		listeners = append(listeners, l)
	}
	if c.HTTP != "" {
		l, err := listenOn(ctx, c.HTTP)
		if err != nil {
			return nil, err
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

// gatewayAddresses are where the SQL functions look for the sidecar, and a unix socket of the same port. It waits for a database that is not up yet.
func gatewayAddresses(ctx context.Context, c config.Config, logger *slog.Logger) ([]string, error) {
	host, port := "127.0.0.1", "7432"
	for wait := 250 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		options, err := gatewayServer(ctx, c.DatabaseURL)
		if err == nil {
			for _, o := range options {
				if v, ok := strings.CutPrefix(o, "host="); ok {
					host = v
				} else if v, ok := strings.CutPrefix(o, "port="); ok {
					port = v
				}
			}
			break
		}
		if rowcast.CodeOf(err) != rowcast.CodeUnavailable {
			return nil, err
		}
		logger.Warn("waiting for PostgreSQL", "error", err, "retry_in", wait.String())
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(wait):
		}
	}
	socket := "unix:" + filepath.Join(c.SocketDir, ".s.PGSQL."+port)
	switch {
	case strings.HasPrefix(host, "/"):
		return []string{"unix:" + filepath.Join(host, ".s.PGSQL."+port)}, nil
	case c.SocketDir == "":
		return []string{net.JoinHostPort(host, port)}, nil
	}
	return []string{net.JoinHostPort(host, port), socket}, nil
}

func gatewayServer(ctx context.Context, url string) ([]string, error) {
	pool, err := postgres.Open(ctx, url, postgres.OpenOptions{ApplicationName: "rowcast", MaxConns: 1})
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	options, err := db.New(pool).GatewayServer(ctx)
	if err = postgres.Error(err); rowcast.CodeOf(err) == rowcast.CodeNotFound {
		return nil, rowcast.Errorf(rowcast.CodeNotFound, "Rowcast is not installed in this database").WithHint("Run: rowcast migrate up")
	}
	return options, err
}

// listenOn opens one address. A unix socket that nobody listens on any more is replaced.
func listenOn(ctx context.Context, address string) (net.Listener, error) {
	var lc net.ListenConfig
	path, unix := strings.CutPrefix(address, "unix:")
	if !unix {
		l, err := lc.Listen(ctx, "tcp", address)
		if err != nil {
			return nil, inUse(address, err)
		}
		return l, nil
	}
	var dialer net.Dialer
	if conn, err := dialer.DialContext(ctx, "unix", path); err == nil {
		_ = conn.Close()
		return nil, inUse(address, syscall.EADDRINUSE)
	} else if errors.Is(err, syscall.ECONNREFUSED) {
		_ = os.Remove(path)
	}
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, inUse(address, err)
	}
	// PostgreSQL runs as another user; who may call is decided by password.
	if err := os.Chmod(path, 0o777); err != nil { //nolint:gosec // see above
		_ = l.Close()
		return nil, inUse(address, err)
	}
	return l, nil
}

func inUse(address string, err error) error {
	e := rowcast.Errorf(rowcast.CodeUnavailable, "cannot listen on %s", address).WithCause(err)
	if errors.Is(err, syscall.EADDRINUSE) {
		e.Hint = "Is another sidecar running? For one of another database choose a free port: rowcast migrate up --gateway 127.0.0.1:PORT, " +
			"and serve with --http and --listen of its own."
	}
	return e
}

// notifyReady tells systemd, or whoever set NOTIFY_SOCKET, that the sidecar serves.
func notifyReady() {
	address := os.Getenv("NOTIFY_SOCKET")
	if address == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	_, _ = conn.Write([]byte("READY=1"))
}
