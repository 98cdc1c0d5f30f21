package score

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// session is a connection of its own: code of the starter may run on it, so it is shared with nothing else and never outlives the job's use of it.
// Everything goes through the simple protocol, because such code could prepare statements under any name.
type session struct {
	conn *pgconn.PgConn
}

func (s *session) exec(ctx context.Context, sql string) error {
	_, err := s.conn.Exec(ctx, sql).ReadAll()
	return err
}

// affected runs one statement and returns how many rows it changed.
func (s *session) affected(ctx context.Context, sql string) (int64, error) {
	results, err := s.conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return 0, err
	}
	return results[len(results)-1].CommandTag.RowsAffected(), nil
}

// rows runs one query and returns its values as text, nil for NULL.
func (s *session) rows(ctx context.Context, sql string) ([][][]byte, error) {
	results, err := s.conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	return results[len(results)-1].Rows, nil
}

// starter is the role whose rights a job has, and what names mean to it.
type starter struct {
	role string // quoted where it must be
	path string // search_path
}

// lend begins a transaction and makes in it the function pg_temp.rowcast_borrowed() with the starter's rights, see the package's documentation.
// The function's search_path is the starter's while body runs, and ours again afterwards. readOnly transactions must be rolled back.
func (s *session) lend(ctx context.Context, who starter, returns, body string, readOnly bool) error {
	if err := s.exec(ctx, "BEGIN"); err != nil {
		return err
	}
	return s.lendWithin(ctx, who, returns, body, readOnly)
}

// lendWithin is lend in a transaction that is open.
func (s *session) lendWithin(ctx context.Context, who starter, returns, body string, readOnly bool) error {
	// Inside a function with a SET clause, what set_config() sets for the transaction ends with the function.
	body = fmt.Sprintf("BEGIN PERFORM pg_catalog.set_config('search_path', %s, true); %s END", literal(who.path), body)
	if rest, ok := strings.CutPrefix(returns, "DECLARE "); ok {
		declared, kind, _ := strings.Cut(rest, " RETURNS ")
		body, returns = "DECLARE "+declared+" "+body, kind
	}
	sql := fmt.Sprintf(`CREATE FUNCTION pg_temp.rowcast_borrowed() RETURNS %s LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS %s;
		ALTER FUNCTION pg_temp.rowcast_borrowed() OWNER TO %s; SET LOCAL ROLE %s`, returns, literal(body), who.role, who.role)
	if readOnly {
		sql += "; SET TRANSACTION READ ONLY"
	}
	return s.exec(ctx, sql)
}

// takeBack ends the starter's part of a transaction that goes on: what its code may have set is set again before any other statement is read.
// Cursors WITH HOLD would run at the commit, without the fence.
func (s *session) takeBack(ctx context.Context) error {
	return s.exec(ctx, `SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL standard_conforming_strings = on; CLOSE ALL;
		DROP FUNCTION IF EXISTS pg_temp.rowcast_borrowed(); RESET ROLE`)
}

// ask runs body, which returns a table, with the starter's rights in a transaction that is rolled back, and returns what it returned.
func (s *session) ask(ctx context.Context, who starter, returns, body string, readOnly bool) ([][][]byte, error) {
	err := s.lend(ctx, who, returns, body, readOnly)
	var rows [][][]byte
	if err == nil {
		rows, err = s.rows(ctx, "SELECT * FROM pg_temp.rowcast_borrowed()")
	}
	return rows, s.rollBack(ctx, err)
}

// rollBack ends the transaction and returns err, or what went wrong now.
func (s *session) rollBack(ctx context.Context, err error) error {
	if s.conn.IsClosed() {
		return err
	}
	if failed := s.exec(ctx, "ROLLBACK"); err == nil {
		return failed
	}
	return err
}

// close hangs up without waiting for the server.
func (s *session) close() {
	if s == nil || s.conn == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = s.conn.Close(ctx)
}

// literal quotes text for sessions with standard_conforming_strings, which ours set.
func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func identifier(parts ...string) string { return pgx.Identifier(parts).Sanitize() }
