package postgres_test

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/postgres"
	"github.com/rowcast/rowcast/internal/postgres/pgtest"
	"github.com/rowcast/rowcast/internal/rowcast"
)

func asDomain(t *testing.T, err error) *rowcast.Error {
	t.Helper()
	var e *rowcast.Error
	require.ErrorAs(t, err, &e)
	return e
}

func TestErrorKeepsWhatTheServerSaid(t *testing.T) {
	db := pgtest.NewEmpty(t)
	conn := db.Conn(t)
	for sql, want := range map[string]rowcast.Code{
		"SELECT 1/0":              rowcast.CodeInvalidArgument,
		"SELECT 'x'::int":         rowcast.CodeInvalidText,
		"SELECT 99999::smallint":  rowcast.CodeFeatureRange,
		"SELECT * FROM ml.models": rowcast.CodeNotFound,
		"CREATE SCHEMA public":    rowcast.CodeAlreadyExists,
		"SELECT nonsense":         rowcast.CodeInternal,
		"SET statement_timeout = '5ms'; SELECT pg_sleep(1)":                                                rowcast.CodeDeadline,
		"BEGIN READ ONLY; CREATE TABLE t ()":                                                               rowcast.CodeNotPermitted,
		"DO $$ BEGIN RAISE 'no model x' USING ERRCODE = 'no_data_found', DETAIL = 'd', HINT = 'h'; END $$": rowcast.CodeNotFound,
	} {
		_, err := conn.Exec(context.Background(), sql)
		require.Equal(t, want, rowcast.CodeOf(postgres.Error(err)), "%s: %v", sql, err)
		_, _ = conn.Exec(context.Background(), "ROLLBACK; SET statement_timeout = 0")
	}

	_, err := conn.Exec(context.Background(), "DO $$ BEGIN RAISE 'no model x' USING ERRCODE = 'no_data_found', DETAIL = 'd', HINT = 'h'; END $$")
	e := asDomain(t, postgres.Error(fmt.Errorf("while looking: %w", err)))
	require.Equal(t, []string{"no model x", "d", "h"}, []string{e.Message, e.Detail, e.Hint})
	require.Equal(t, "no model x: SQLSTATE P0002", e.Error())
	var pg *pgconn.PgError
	require.ErrorAs(t, e, &pg, "the cause stays")
	require.Same(t, e, postgres.Error(e))

	_, err = conn.Exec(context.Background(), "SELECT * FROM ml.models")
	require.Contains(t, asDomain(t, postgres.Error(err)).Hint, "rowcast migrate up")
}

func TestErrorOfGoAndNetwork(t *testing.T) {
	require.NoError(t, postgres.Error(nil))
	require.Equal(t, rowcast.CodeCanceled, rowcast.CodeOf(postgres.Error(context.Canceled)))
	require.Equal(t, rowcast.CodeDeadline, rowcast.CodeOf(postgres.Error(context.DeadlineExceeded)))
	require.Equal(t, rowcast.CodeNotFound, rowcast.CodeOf(postgres.Error(pgx.ErrNoRows)))

	db := pgtest.NewEmpty(t)
	one, other := db.Conn(t), db.Conn(t)
	_, err := other.Exec(context.Background(), "SELECT pg_terminate_backend($1)", int32(one.PgConn().PID()))
	require.NoError(t, err)
	_, err = one.Exec(context.Background(), "SELECT 1")
	require.Equal(t, rowcast.CodeUnavailable, rowcast.CodeOf(postgres.Error(err)), "%v", err)
	_, err = one.Exec(context.Background(), "SELECT 1")
	require.Equal(t, rowcast.CodeUnavailable, rowcast.CodeOf(postgres.Error(err)), "%v", err)
}

func TestOpenSaysWhereAndWhatToDo(t *testing.T) {
	ctx := context.Background()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	require.NoError(t, l.Close())

	_, err = postgres.Open(ctx, "postgres://u:topsecret@"+address+"/d", postgres.OpenOptions{})
	e := asDomain(t, err)
	require.Equal(t, rowcast.CodeUnavailable, e.Code)
	require.Equal(t, "cannot connect to PostgreSQL at "+address, e.Message)
	require.Contains(t, e.Detail, "connection refused")
	require.Contains(t, e.Hint, "rowcast dev")
	require.NotContains(t, e.Error()+e.Detail, "topsecret")

	_, err = postgres.Open(ctx, "host=/nowhere user=u dbname=d", postgres.OpenOptions{})
	require.Contains(t, asDomain(t, err).Message, "/nowhere/.s.PGSQL.")

	_, err = postgres.Open(ctx, "postgres://u:topsecret@host:port/d", postgres.OpenOptions{})
	require.Equal(t, rowcast.CodeInvalidArgument, rowcast.CodeOf(err))
	require.NotContains(t, err.Error()+asDomain(t, err).Detail, "topsecret")

	db := pgtest.NewEmpty(t)
	config, err := pgx.ParseConfig(db.URL)
	require.NoError(t, err)
	_, err = postgres.Open(ctx, fmt.Sprintf("host=%s port=%d user=postgres dbname=missing", config.Host, config.Port), postgres.OpenOptions{})
	require.Equal(t, rowcast.CodeNotFound, rowcast.CodeOf(err))
	require.Contains(t, asDomain(t, err).Hint, "createdb missing")
}

func TestOpenGivesUpOnAServerThatDoesNotAnswer(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	began := time.Now()
	_, err = postgres.Open(context.Background(), "postgres://u@"+l.Addr().String()+"/d", postgres.OpenOptions{ConnectTimeout: 100 * time.Millisecond})
	require.Equal(t, rowcast.CodeUnavailable, rowcast.CodeOf(err), "%v", err)
	require.Less(t, time.Since(began), 5*time.Second)
}
