package score

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// Reasons for giving up a claim that are nobody's fault.
var (
	errLost    = errors.New("the claim is somebody else's now")
	errHalted  = errors.New("the job was paused or canceled")
	errStopped = errors.New("the sidecar stops")
)

// failure is an error as the job's row tells it.
type failure struct {
	state, message, detail, hint string
	passing                      bool // may pass by itself: the job waits and tries again
}

// problem is an error of a job with an SQLSTATE of its own.
type problem struct {
	state                 string
	message, detail, hint string
}

// refuse makes a problem whose message is formatted.
func refuse(state, format string, args ...any) *problem {
	return &problem{state: state, message: fmt.Sprintf(format, args...)}
}

func (p *problem) because(format string, args ...any) *problem {
	p.detail = fmt.Sprintf(format, args...)
	return p
}

func (p *problem) advise(format string, args ...any) *problem {
	p.hint = fmt.Sprintf(format, args...)
	return p
}

// Error is the message.
func (p *problem) Error() string { return p.message }

// diagnose says what an error is to a job.
func (s *Service) diagnose(err error) failure {
	var own *problem
	var pg *pgconn.PgError
	var domain *rowcast.Error
	switch {
	case errors.As(err, &own):
		return failure{state: own.state, message: own.message, detail: own.detail, hint: own.hint}
	case errors.As(err, &pg):
		f := failure{state: pg.Code, message: pg.Message, detail: pg.Detail, hint: pg.Hint, passing: passing(pg.Code)}
		if f.passing && strings.HasPrefix(pg.Code, "53") {
			f.hint = strings.TrimSpace(f.hint + " The job goes on by itself when PostgreSQL has room again.")
		}
		return f
	case errors.As(err, &domain):
		f := failure{state: s.o.SQLState(domain.Code), message: domain.Message, detail: domain.Detail, hint: domain.Hint}
		if f.detail == "" && domain.Cause != nil {
			f.detail = domain.Cause.Error()
		}
		f.passing = domain.Code == rowcast.CodeUnavailable || passing(f.state)
		return f
	case lostConnection(err):
		return failure{state: "08006", message: "the connection to PostgreSQL was lost", detail: err.Error(), passing: true}
	}
	return failure{state: "58000", message: "the sidecar failed", detail: err.Error(), hint: "See the log of rowcast serve."}
}

// passing reports whether an error of PostgreSQL may pass by itself: connections, transactions that were rolled back for others' sake, want of
// resources, shutdown. A limit that somebody has set (53400) comes again.
func passing(state string) bool {
	if len(state) != 5 || state == "53400" {
		return false
	}
	switch state[:2] {
	case "08", "40", "53":
		return true
	}
	return strings.HasPrefix(state, "57P") || state == "55P03" || state == "58030"
}

func lostConnection(err error) bool {
	var network net.Error
	var connect *pgconn.ConnectError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.As(err, &network) ||
		errors.As(err, &connect) || errors.Is(err, context.DeadlineExceeded) || pgconn.Timeout(err) || strings.Contains(err.Error(), "conn closed")
}

// stateOf is the SQLSTATE of PostgreSQL's error in err's chain, "" where there is none.
func stateOf(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}
