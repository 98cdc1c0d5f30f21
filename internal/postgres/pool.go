package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// OpenOptions adjusts a pool. The zero value is good.
type OpenOptions struct {
	ApplicationName string        // shown in pg_stat_activity; "rowcast" where empty and the URL names none
	MaxConns        int32         // 0: pgxpool's default, or pool_max_conns of the URL
	ConnectTimeout  time.Duration // for one connection attempt; 0: 5 s, or connect_timeout of the URL

	Warning func(message string) // told what functions in the database warn of, not what the server itself does; nil: nobody is
}

// Open makes a pool of connections to the database at url and checks that it answers. An empty url means the PG* environment variables.
// Errors are *rowcast.Error: CodeInvalidArgument for a url that makes no sense, CodeUnavailable or CodeAuthentication for a server that
// does not answer or does not let us in. The caller closes the pool.
func Open(ctx context.Context, url string, o OpenOptions) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, rowcast.Errorf(rowcast.CodeInvalidArgument, "the database URL makes no sense").
			WithDetail("%v", err).
			WithHint("Write it as postgres://user:password@host:5432/database, or host=... dbname=...")
	}
	if o.ApplicationName == "" {
		o.ApplicationName = "rowcast"
	}
	if cfg.ConnConfig.RuntimeParams["application_name"] == "" {
		cfg.ConnConfig.RuntimeParams["application_name"] = o.ApplicationName
	}
	if o.MaxConns > 0 {
		cfg.MaxConns = o.MaxConns
	}
	switch {
	case o.ConnectTimeout > 0:
		cfg.ConnConfig.ConnectTimeout = o.ConnectTimeout
	case cfg.ConnConfig.ConnectTimeout == 0 || cfg.ConnConfig.ConnectTimeout > time.Minute:
		// pgx's own default is two minutes: too long to tell somebody that the host is wrong.
		cfg.ConnConfig.ConnectTimeout = defaultConnectTimeout
	}
	if o.Warning != nil {
		cfg.ConnConfig.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
			if n.SeverityUnlocalized == "WARNING" && n.Routine == "exec_stmt_raise" {
				o.Warning(n.Message)
			}
		}
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, Error(err)
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, Error(err)
	}
	return pool, nil
}

const defaultConnectTimeout = 5 * time.Second
