package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// Error turns an error of pgx into a *rowcast.Error and keeps it as the cause. nil stays nil, a *rowcast.Error comes back as it is.
// The message, detail and hint that the server sent are kept; the code follows its SQLSTATE.
func Error(err error) error {
	if err == nil {
		return nil
	}
	var known *rowcast.Error
	if errors.As(err, &known) {
		return err
	}
	var connect *pgconn.ConnectError
	connecting := errors.As(err, &connect)
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg) && connecting:
		return connectPgError(pg, connect.Config, err)
	case pg != nil:
		return &rowcast.Error{Code: codeOf(pg), Message: pg.Message, Detail: pg.Detail, Hint: hintOf(pg), Cause: reported{err}}
	case errors.Is(err, context.Canceled):
		return &rowcast.Error{Code: rowcast.CodeCanceled, Message: "canceled while waiting for PostgreSQL", Cause: err}
	case connecting:
		return &rowcast.Error{
			Code:    rowcast.CodeUnavailable,
			Message: "cannot connect to PostgreSQL at " + address(connect.Config),
			Detail:  lastLine(err.Error()),
			Hint:    "Start PostgreSQL, or set DATABASE_URL to one that runs; `rowcast dev` brings one of its own.",
			Cause:   reported{err},
		}
	case errors.Is(err, context.DeadlineExceeded):
		return &rowcast.Error{Code: rowcast.CodeDeadline, Message: "PostgreSQL did not answer in time", Cause: err}
	case errors.Is(err, pgx.ErrNoRows):
		return &rowcast.Error{Code: rowcast.CodeNotFound, Message: "no such row", Cause: reported{err}}
	case lost(err):
		return &rowcast.Error{
			Code: rowcast.CodeUnavailable, Message: "the connection to PostgreSQL was lost", Detail: lastLine(err.Error()), Cause: reported{err},
		}
	default:
		return &rowcast.Error{Code: rowcast.CodeInternal, Message: "PostgreSQL call failed", Cause: err}
	}
}

// reported is a cause whose text the message above it already tells: it stays in the chain for errors.As and prints as its SQLSTATE or kind.
type reported struct{ err error }

// Error is short on purpose, see reported.
func (r reported) Error() string {
	var pg *pgconn.PgError
	if errors.As(r.err, &pg) {
		return "SQLSTATE " + pg.Code
	}
	return lastLine(r.err.Error())
}

// Unwrap returns the error of pgx.
func (r reported) Unwrap() error { return r.err }

func connectPgError(pg *pgconn.PgError, cfg *pgconn.Config, err error) error {
	e := &rowcast.Error{
		Code: codeOf(pg), Message: fmt.Sprintf("PostgreSQL at %s refuses the connection: %s", address(cfg), pg.Message),
		Detail: pg.Detail, Hint: hintOf(pg), Cause: reported{err},
	}
	switch pg.Code {
	case "3D000":
		e.Hint = fmt.Sprintf("Create it with: createdb %s", cfg.Database)
	case "28P01", "28000":
		e.Hint = "Check user and password in DATABASE_URL."
	}
	return e
}

// codeOf maps an SQLSTATE to a code: first the exact one, then its class.
func codeOf(pg *pgconn.PgError) rowcast.Code {
	switch pg.Code {
	case "42501":
		return rowcast.CodeNotPermitted
	case "23505", "42710", "42P04", "42P06", "42P07", "42723":
		return rowcast.CodeAlreadyExists
	case "P0002", "42704", "42P01", "42883", "3D000", "3F000", "02000":
		return rowcast.CodeNotFound
	case "42602", "42622", "42939":
		return rowcast.CodeInvalidName
	case "57014":
		if strings.Contains(pg.Message, "timeout") {
			return rowcast.CodeDeadline
		}
		return rowcast.CodeCanceled
	case "55P03", "40001", "40P01":
		return rowcast.CodeBusy
	case "53200":
		return rowcast.CodeOutOfMemory
	case "22P02", "22P03", "22P05", "22021", "22032":
		return rowcast.CodeInvalidText
	case "22003":
		return rowcast.CodeFeatureRange
	case "42804":
		return rowcast.CodeFeatureType
	case "2202E":
		return rowcast.CodeDimensions
	case "22004":
		return rowcast.CodeNullFeature
	case "25006":
		return rowcast.CodeNotPermitted
	}
	if len(pg.Code) < 2 {
		return rowcast.CodeInternal
	}
	switch pg.Code[:2] {
	case "08", "57", "53":
		return rowcast.CodeUnavailable
	case "22", "23":
		return rowcast.CodeInvalidArgument
	case "28":
		return rowcast.CodeAuthentication
	case "54":
		return rowcast.CodeTooLarge
	}
	return rowcast.CodeInternal
}

func hintOf(pg *pgconn.PgError) string {
	if pg.Hint != "" {
		return pg.Hint
	}
	switch pg.Code {
	case "25006":
		return "This server only reads (a standby or a read-only transaction): connect to the primary."
	case "3F000", "42P01", "42883":
		if strings.Contains(pg.Message, "ml.") || strings.Contains(pg.Message, "ml_private") || strings.Contains(pg.Message, `"ml"`) {
			return "Install or update Rowcast in this database with: rowcast migrate up"
		}
	}
	return ""
}

// lost reports whether err is what a connection that broke under a query gives.
func lost(err error) bool {
	var network net.Error
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.As(err, &network) ||
		strings.Contains(err.Error(), "conn closed")
}

func address(cfg *pgconn.Config) string {
	if strings.HasPrefix(cfg.Host, "/") || strings.HasPrefix(cfg.Host, "@") {
		return fmt.Sprintf("%s/.s.PGSQL.%d", cfg.Host, cfg.Port)
	}
	return net.JoinHostPort(cfg.Host, fmt.Sprint(cfg.Port))
}

// lastLine cuts pgx's long reports, which list every address that was tried, down to the last of them.
func lastLine(s string) string {
	s = strings.TrimSpace(s)
	if i := strings.LastIndexByte(s, '\n'); i >= 0 {
		s = strings.TrimSpace(s[i+1:])
	}
	return s
}
