package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// runScript runs the statements of a file one by one in tx. An error names the file and the line.
func runScript(ctx context.Context, tx pgx.Tx, name, text string) error {
	for _, s := range splitStatements(text) {
		// The simple protocol: no parameters, and DO blocks and DDL as psql would send them.
		if _, err := tx.Conn().PgConn().Exec(ctx, s.text).ReadAll(); err != nil {
			return scriptError(name, s, err)
		}
	}
	return nil
}

func scriptError(name string, s statement, err error) error {
	var e *rowcast.Error
	if !errors.As(Error(err), &e) {
		return err
	}
	placed := *e
	line := s.line
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		line += linesBefore(s.text, int(pg.Position))
		if pg.Where != "" && placed.Detail == "" {
			placed.Detail = pg.Where
		}
	}
	placed.Message = fmt.Sprintf("%s:%d: %s", name, line, e.Message)
	return &placed
}

// linesBefore counts the line ends before the position (in characters, from 1; 0 for none) in s.
func linesBefore(s string, position int) int {
	n := 0
	for _, r := range s {
		if position--; position <= 0 {
			break
		}
		if r == '\n' {
			n++
		}
	}
	return n
}

// pinSession frees the transaction from what roles and databases set, so that a script means the same everywhere. Scripts write every schema.
func pinSession(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Conn().PgConn().Exec(ctx, strings.Join([]string{
		"SET LOCAL search_path = pg_catalog, pg_temp",
		"SET LOCAL standard_conforming_strings = on",
		"SET LOCAL check_function_bodies = on",
		"SET LOCAL statement_timeout = 0",
		"SET LOCAL client_min_messages = warning",
	}, ";")).ReadAll()
	return Error(err)
}
