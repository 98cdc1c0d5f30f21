package postgres

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// StartStandby starts a hot standby of the cluster, in a folder and on a port of its own, with the same superuser and password. It follows the
// cluster by streaming and answers read-only queries. The caller stops both.
func (c *Cluster) StartStandby(ctx context.Context) (*Cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	s := &Cluster{Server: c.Server, log: c.log, password: c.password}
	if err := s.follow(ctx, c); err != nil {
		_ = s.Stop(context.WithoutCancel(ctx))
		return nil, err
	}
	return s, nil
}

func (c *Cluster) follow(ctx context.Context, primary *Cluster) error {
	err := c.makeFolder(place{
		identity: primary.id, parent: filepath.Dir(primary.dir), relocate: strings.HasPrefix(primary.Server.BinDir, primary.dir),
	})
	if err != nil {
		return err
	}
	if err := c.copyData(ctx, primary); err != nil {
		return failed("cannot copy the primary's data", err)
	}
	password := ""
	if primary.socket == "" {
		password = " password=" + primary.password
	}
	err = c.appendSettings(map[string]string{
		"unix_socket_directories": c.socketSetting(),
		"primary_conninfo":        fmt.Sprintf("host='%s' port=%d user=%s%s", escapeConninfo(primary.Host()), primary.port, superuser, password),
	})
	if err != nil {
		return failed("cannot write the standby's configuration", err)
	}
	port, err := FreePort(ctx)
	if err != nil {
		return failed("no free port for a standby", err)
	}
	return c.launch(ctx, port)
}

// copyData takes a base backup: the server's own program for that is not in every installation.
func (c *Cluster) copyData(ctx context.Context, primary *Cluster) error {
	conn, err := pgx.Connect(ctx, primary.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, "SELECT pg_backup_start('rowcast standby', true)"); err != nil {
		return err
	}
	if err := c.copyTree(primary.data); err != nil {
		return err
	}
	var label string
	if err := conn.QueryRow(ctx, "SELECT labelfile FROM pg_backup_stop(false)").Scan(&label); err != nil {
		return err
	}
	for name, text := range map[string]string{"backup_label": label, "standby.signal": ""} {
		path := filepath.Join(c.data, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
		if err := c.id.own(path); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) copyTree(from string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil // the primary is at work: files come and go
		}
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil || relative == "postmaster.pid" || relative == "postmaster.opts" {
			return err
		}
		to := filepath.Join(c.data, relative)
		if entry.IsDir() {
			err = os.Mkdir(to, 0o700)
		} else {
			err = copyFile(path, to)
		}
		if os.IsNotExist(err) {
			return nil
		}
		if err != nil {
			return err
		}
		return c.id.own(to)
	})
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		_ = out.Close()
		return err
	}
	return out.Close()
}

// CatchUp waits until the standby shows all that is committed on the primary now.
func (c *Cluster) CatchUp(ctx context.Context, primary *Cluster) error {
	from, err := pgx.Connect(ctx, primary.URL("postgres"))
	if err != nil {
		return Error(err)
	}
	defer from.Close(context.WithoutCancel(ctx))
	var now string
	// A record of our own, after all that is committed: its commit is what gets asynchronous ones before it written, too.
	if err := from.QueryRow(ctx, "SELECT pg_logical_emit_message(true, 'rowcast', '')::text").Scan(&now); err != nil {
		return Error(err)
	}
	to, err := pgx.Connect(ctx, c.URL("postgres"))
	if err != nil {
		return Error(err)
	}
	defer to.Close(context.WithoutCancel(ctx))
	for {
		var there bool
		if err := to.QueryRow(ctx, "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", now).Scan(&there); err != nil || there {
			return Error(err)
		}
		select {
		case <-ctx.Done():
			return Error(ctx.Err())
		case <-time.After(readyPollEvery):
		}
	}
}

func escapeConninfo(s string) string { return strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) }
