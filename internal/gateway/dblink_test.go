package gateway

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/postgres"
)

// These tests use the real client: dblink and libpq inside PostgreSQL.

// harness makes the least that a call needs. The real functions are in migrations/functions.
const harness = `
CREATE EXTENSION dblink;
CREATE SERVER gateway FOREIGN DATA WRAPPER dblink_fdw OPTIONS (host '%s', port '%d', dbname 'any');
CREATE USER MAPPING FOR CURRENT_USER SERVER gateway OPTIONS (user 'rowcast', password '%s');
CREATE FUNCTION seal(body text) RETURNS text LANGUAGE sql AS $$
  SELECT left(encode(sha256('\x%s'::bytea || convert_to(body, 'UTF8')), 'hex'), 32) || ' ' || body $$;
CREATE FUNCTION tag(body text, fail boolean DEFAULT false) RETURNS text LANGUAGE sql AS $$ SELECT dblink_exec('rowcast', seal(body), fail) $$;
CREATE FUNCTION answer(body text) RETURNS text LANGUAGE sql AS $$
  SELECT status || coalesce(value, '') FROM dblink('rowcast', seal(body), false) AS t(status text, value text) $$;
CREATE FUNCTION reconnect() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
  IF 'rowcast' = ANY (dblink_get_connections()) THEN PERFORM dblink_disconnect('rowcast'); END IF;
  PERFORM dblink_connect('rowcast', 'gateway'); END $$;
SET client_min_messages = error;
SELECT reconnect();
`

// database is a connection to a PostgreSQL whose dblink has a connection to the gateway.
type database struct {
	t       *testing.T
	conn    *pgx.Conn
	gateway *Gateway
	engine  *arithmetic
	socket  string // folder of the gateway's unix socket
}

func newDatabase(t *testing.T) *database {
	t.Helper()
	cluster, err := postgres.StartCluster(context.Background(), postgres.ClusterOptions{})
	require.NoError(t, err, "the gateway's tests need a PostgreSQL server: run `make deps`")
	t.Cleanup(func() { require.NoError(t, cluster.Stop(context.Background())) })
	// Over TCP, as the server may run as a user that cannot enter a test's folder.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	db := &database{t: t}
	db.gateway, db.engine, db.socket = start(t, func(o *Options) { o.Listeners = append(o.Listeners, l) })
	db.conn, err = pgx.Connect(context.Background(), cluster.URL("postgres"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.conn.Close(context.Background()) })
	db.do(fmt.Sprintf(harness, "127.0.0.1", l.Addr().(*net.TCPAddr).Port, secret.Password, hex.EncodeToString(secret.Key)))
	return db
}

func (db *database) do(sql string) {
	db.t.Helper()
	_, err := db.conn.Exec(context.Background(), sql, pgx.QueryExecModeSimpleProtocol)
	require.NoError(db.t, err)
}

func (db *database) try(expression string, args ...any) (string, error) {
	var answer *string
	err := db.conn.QueryRow(context.Background(), "SELECT "+expression, args...).Scan(&answer)
	if answer == nil {
		return "", err
	}
	return *answer, err
}

func (db *database) get(expression string, args ...any) string {
	db.t.Helper()
	answer, err := db.try(expression, args...)
	require.NoError(db.t, err)
	return answer
}

func TestDblink(t *testing.T) {
	db := newDatabase(t)

	t.Run("tags and rows", func(t *testing.T) {
		require.Equal(t, "=", db.get("tag('N')"))
		require.Equal(t, "=1.5", db.get("tag($1)", predict("echo 1.5")))
		require.Equal(t, "=漢字", db.get("tag($1)", predict("echo 漢字")))
		long := strings.Repeat("0123456789", 10)
		require.Equal(t, "~", db.get("tag($1)", predict("echo "+long)))
		require.Equal(t, "="+long, db.get("answer('F')"))
		require.Equal(t, "={1,2}", db.get("answer($1)", "P "+spec+" churn@3 - techo {1,2}"))
		require.Equal(t, "={1,2}", db.get("tag($1)", "Q "+spec+" churn@3 - techo {1,2}"))
	})

	t.Run("errors", func(t *testing.T) {
		for _, expression := range []string{"tag($1)", "answer($1)"} {
			body := predict("refuse")
			if strings.HasPrefix(expression, "answer") {
				body = "P" + body[1:]
			}
			require.Equal(t, "!", db.get(expression, body))
			_, err := db.try("tag('E', true)")
			var e *pgconn.PgError
			require.ErrorAs(t, err, &e)
			require.Equal(t, "22003", e.Code)
			require.Equal(t, `model "churn": feature "age" is infinite`, e.Message)
			require.Equal(t, "a detail", e.Detail)
			require.Equal(t, "a hint", e.Hint)
		}
	})

	t.Run("pending", func(t *testing.T) {
		require.Equal(t, ".", db.get("tag($1)", predict("sleep 120ms")))
		require.Equal(t, "=slept 120ms", db.get("tag('W')"))
		require.Equal(t, ".", db.get("answer($1)", "P "+spec+" churn@3 - tsleep 120ms"))
		require.Equal(t, "=slept 120ms", db.get("answer('W')"))
	})

	// See doc.go for what is left on the wire.
	t.Run("an interrupted call leaves no answer to the next", func(t *testing.T) {
		for _, pause := range []string{"0", "0.2"} { // the next call comes before the answer, or after
			db.do("SELECT reconnect(); SET statement_timeout = '40ms'")
			_, err := db.try("tag($1) || pg_sleep(0.05)", predict("sleep 60ms"))
			var e *pgconn.PgError
			require.ErrorAs(t, err, &e)
			require.Equal(t, "57014", e.Code)
			db.do("SET statement_timeout = 0; SELECT pg_sleep(" + pause + ")")
			// What must not come is "=slept 60ms". ERROR is how the functions know that they have to reconnect.
			require.Contains(t, []string{"ERROR", "=9"}, db.get("tag($1)", predict("echo 9")))
			db.do("SELECT reconnect()")
			require.Equal(t, "=9", db.get("tag($1)", predict("echo 9")))
		}
	})

	t.Run("an interrupted row call cleans up after itself", func(t *testing.T) {
		db.do("SELECT reconnect(); SET statement_timeout = '40ms'")
		_, err := db.try("answer($1) || pg_sleep(0.05)", "P "+spec+" churn@3 - tsleep 60ms")
		require.Error(t, err)
		db.do("SET statement_timeout = 0")
		require.Equal(t, "=9", db.get("answer($1)", "P "+spec+" churn@3 - techo 9"))
	})

	t.Run("an interrupted call is stopped", func(t *testing.T) {
		db.do("SELECT reconnect(); SET statement_timeout = '150ms'")
		_, err := db.try("tag($1) || tag('W') || tag('W') || tag('W')", predict("sleep 1m"))
		require.Error(t, err)
		db.do("SET statement_timeout = 0; SELECT reconnect()")
		select {
		case <-db.engine.ended:
		case <-time.After(time.Second):
			t.Fatal("the call goes on")
		}
	})

	t.Run("a lost connection is ERROR in the tag and no row otherwise", func(t *testing.T) {
		lose := func() {
			db.do("SELECT reconnect()")
			db.gateway.each(func(c net.Conn) { _ = c.Close() })
		}
		lose()
		require.Equal(t, "ERROR", db.get("tag('N')"))
		require.Equal(t, "ERROR", db.get("tag('N')"))
		lose()
		require.Empty(t, db.get("answer($1)", "P "+spec+" churn@3 - techo 9"))
		// This is why a row call must not be the first on a connection that may be lost.
		_, err := db.try("answer($1)", "P "+spec+" churn@3 - techo 9")
		require.ErrorContains(t, err, "could not send query")
		db.do("SELECT reconnect()")
		require.Equal(t, "=9", db.get("tag($1)", predict("echo 9")))
	})

	t.Run("dblink_cancel_query", func(t *testing.T) {
		require.Equal(t, ".", db.get("tag($1)", predict("sleep 1m")))
		require.Equal(t, "OK", db.get("dblink_cancel_query('rowcast')"))
		<-db.engine.ended
		require.Equal(t, "!", db.get("tag('W')"))
		_, err := db.try("tag('E', true)")
		require.ErrorContains(t, err, "on request of the client")
	})

	t.Run("a call as large as a batch", func(t *testing.T) {
		payload := strings.Repeat("x", 8_000_000)
		answer := db.get("answer($1)", "P "+spec+" churn@3 - techo "+payload)
		for answer == "." {
			answer = db.get("answer('W')")
		}
		require.True(t, answer == "="+payload, "%d bytes: %.20s", len(answer), answer)
		require.Equal(t, "!", db.get("answer('P "+spec+" churn@3 - techo ' || repeat('x', 70000000))"), "larger than a message may be")
		_, err := db.try("tag('E', true)")
		require.ErrorContains(t, err, "54000")
	})
}

func TestPsql(t *testing.T) {
	server, err := postgres.FindServer(context.Background())
	require.NoError(t, err)
	psql := server.Psql()
	require.NotEmpty(t, psql, "the gateway's tests need psql: run `make deps`")
	_, _, dir := start(t, nil)
	run := func(password string, args ...string) (string, error) {
		cmd := exec.Command(psql, append([]string{"-h", dir, "-U", User, "-d", "any", "-X", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose"}, args...)...)
		cmd.Env = append(os.Environ(), "PGPASSWORD="+password)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	require.FileExists(t, filepath.Join(dir, ".s.PGSQL.5432"))
	out, err := run(secret.Password, "-Atc", seal(secret.Key, "j "+spec+` churn@3 - jecho {"value": 1}`))
	require.NoError(t, err, out)
	require.Equal(t, `=|{"value": 1}`+"\n", out)
	out, err = run(secret.Password, "-c", "SELECT 1")
	require.Error(t, err)
	require.Contains(t, out, "28000: this connection takes calls of Rowcast's functions only")
	out, err = run("guess", "-c", "SELECT 1")
	require.Error(t, err)
	require.Contains(t, out, `password authentication failed for user "rowcast"`)
}
