package postgres

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// RunFile sends the statements of a file as one query, as golang-migrate does, so that current_query() is the whole file for them. An error names the
// file and the line; it leaves the connection's transaction, which the caller has begun, failed.
func RunFile(ctx context.Context, conn *pgx.Conn, name, text string) error {
	statements := splitStatements(text)
	if len(statements) == 0 {
		return nil
	}
	done := 0
	results := conn.PgConn().Exec(ctx, text)
	for results.NextResult() {
		if _, err := results.ResultReader().Close(); err != nil {
			break // Close below reports it
		}
		done++
	}
	err := results.Close()
	if err == nil {
		return nil
	}
	var pg *pgconn.PgError
	at := statement{line: statements[min(done, len(statements)-1)].line}
	if errors.As(err, &pg) && pg.Position > 0 {
		at = statement{text: text, line: 1} // the position counts from the start of the file
	}
	err = scriptError(name, at, err)
	var e *rowcast.Error
	if pg != nil && errors.As(err, &e) {
		e.Detail = pg.Detail // the context names functions that the file does not
		if e.Code == rowcast.CodeInternal {
			e.Code = rowcast.CodeInvalidArgument // the file is somebody's own
		}
	}
	return err
}

// TransactionControl finds the first statement of a file that would begin or end a transaction. line is 0 where there is none.
func TransactionControl(text string) (word string, line int) {
	for _, s := range splitStatements(text) {
		words := strings.Fields(strings.ToUpper(s.text))
		switch words[0] {
		case "BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT":
			return words[0], s.line
		case "PREPARE":
			if len(words) > 1 && words[1] == "TRANSACTION" {
				return "PREPARE TRANSACTION", s.line
			}
		}
	}
	return "", 0
}
