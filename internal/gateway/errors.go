package gateway

import (
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// SQLSTATEs that no domain error has: they belong to the connection.
const (
	stateTooManyConnections = "53300"
	stateShutdown           = "57P01"
	statePassword           = "28P01"
	stateUnsupported        = "0A000"
)

// SQLState returns the SQLSTATE of a domain error. It is the only place that knows them. Never one that PostgreSQL uses for its own failures
// (XX000, P0001, 38000, 39000, HV000); and for bad input never a class that clients take as "try again" or "reconnect" (08, 25, 53, 57).
func SQLState(code rowcast.Code) string {
	switch code {
	case rowcast.CodeInvalidArgument, rowcast.CodeFeatureCount, rowcast.CodeUnknownFeature:
		return "22023" // invalid_parameter_value
	case rowcast.CodeInvalidName:
		return "42602" // invalid_name
	case rowcast.CodeNotFound:
		return "42704" // undefined_object
	case rowcast.CodeAlreadyExists:
		return "42710" // duplicate_object
	case rowcast.CodeMissingFeature, rowcast.CodeNullFeature:
		return "22004" // null_value_not_allowed
	case rowcast.CodeFeatureType, rowcast.CodeInvalidText:
		return "22P02" // invalid_text_representation
	case rowcast.CodeFeatureRange:
		return "22003" // numeric_value_out_of_range
	case rowcast.CodeDimensions:
		return "2202E" // array_subscript_error
	case rowcast.CodeResultType:
		return "42804" // datatype_mismatch
	case rowcast.CodeNotPermitted:
		return "42501" // insufficient_privilege
	case rowcast.CodeBusy:
		return "53400" // configuration_limit_exceeded
	case rowcast.CodeTooLarge:
		return "54000" // program_limit_exceeded
	case rowcast.CodeOutOfMemory:
		return "53200" // out_of_memory
	case rowcast.CodeDeadline, rowcast.CodeCanceled:
		return "57014" // query_canceled
	case rowcast.CodeArtifactCorrupt:
		return "XX001" // data_corrupted
	case rowcast.CodeArtifactRefused, rowcast.CodeModelFailed:
		return "22000" // data_exception
	case rowcast.CodeModelUnavailable:
		return "55000" // object_not_in_prerequisite_state
	case rowcast.CodeProtocol:
		return "08P01" // protocol_violation
	case rowcast.CodeAuthentication:
		return "28000" // invalid_authorization_specification
	case rowcast.CodeInternal, rowcast.CodeUnavailable:
		return "58000" // system_error
	}
	return "58000"
}

// domainError returns the Error in err's chain, or an internal one that wraps err.
func domainError(err error) *rowcast.Error {
	var e *rowcast.Error
	if errors.As(err, &e) {
		return e
	}
	return rowcast.Errorf(rowcast.CodeInternal, "the sidecar failed").WithDetail("%s", err)
}

// errorResponse is the wire form of e. A cause that nothing else tells becomes the detail.
func errorResponse(e *rowcast.Error) *pgproto3.ErrorResponse {
	detail := e.Detail
	if detail == "" && e.Cause != nil {
		detail = e.Cause.Error()
	}
	return &pgproto3.ErrorResponse{
		Severity:            "ERROR",
		SeverityUnlocalized: "ERROR",
		Code:                SQLState(e.Code),
		Message:             wireText(e.Message),
		Detail:              wireText(detail),
		Hint:                wireText(e.Hint),
	}
}

// rowAnswer makes the answer to a batch out of an error about one of its rows, "!" and JSON: the SQL function that raises it knows the row's key.
// Other errors come back as they are.
func rowAnswer(dst []byte, err error) ([]byte, error) {
	e := domainError(err)
	if e.Row == 0 {
		return dst, err
	}
	r := errorResponse(e)
	text, fault := json.Marshal(map[string]any{"row": e.Row, "sqlstate": r.Code, "message": r.Message, "detail": r.Detail, "hint": r.Hint})
	if fault != nil {
		return dst, err
	}
	return append(append(dst, '!'), text...), nil
}

func fatalResponse(state, message string) *pgproto3.ErrorResponse {
	return &pgproto3.ErrorResponse{Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: state, Message: wireText(message)}
}

// wireText makes text that PostgreSQL can take in: bounded, UTF-8, no NUL. dblink hands it on unchecked.
func wireText(s string) string {
	const limit = 8 << 10
	if len(s) > limit {
		s = s[:limit] + "..."
	}
	if !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0 {
		s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
	}
	return s
}
