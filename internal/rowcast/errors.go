package rowcast

import (
	"errors"
	"fmt"
)

// Code says what kind of thing went wrong. The gateway maps each to an SQLSTATE, package postgres maps a PgError to one.
type Code string

// The codes of Error.
const (
	CodeInternal         Code = "internal"           // a bug or a broken environment
	CodeInvalidArgument  Code = "invalid_argument"   // an option or value that makes no sense
	CodeInvalidName      Code = "invalid_name"       // a model or alias name that is no lower-case SQL identifier
	CodeNotFound         Code = "not_found"          // no such model, version, alias or artifact
	CodeAlreadyExists    Code = "already_exists"     // the name is taken
	CodeFeatureCount     Code = "feature_count"      // too few or too many features
	CodeUnknownFeature   Code = "unknown_feature"    // a JSON key that is no feature
	CodeMissingFeature   Code = "missing_feature"    // a feature without value, default or tolerance for missing values
	CodeNullFeature      Code = "null_feature"       // a NULL feature without default or tolerance for missing values
	CodeFeatureType      Code = "feature_type"       // a value that cannot be the feature's type
	CodeFeatureRange     Code = "feature_range"      // NaN, infinity or an integer out of the tensor's range
	CodeDimensions       Code = "dimensions"         // an array of the wrong rank or an empty one
	CodeInvalidText      Code = "invalid_text"       // text that is neither an array literal nor a JSON object, or bad JSON
	CodeResultType       Code = "result_type"        // a text label asked as a number, several values asked as one
	CodeNotPermitted     Code = "not_permitted"      // the role lacks the right
	CodeBusy             Code = "busy"               // the queue is full
	CodeTooLarge         Code = "too_large"          // over a size limit
	CodeOutOfMemory      Code = "out_of_memory"      // the model asked for more memory than there is
	CodeDeadline         Code = "deadline"           // the call's time is up
	CodeCanceled         Code = "canceled"           // the caller went away or the sidecar stops
	CodeArtifactCorrupt  Code = "artifact_corrupt"   // stored bytes do not have the hash that names them
	CodeArtifactRefused  Code = "artifact_refused"   // validation refused the file
	CodeModelFailed      Code = "model_failed"       // ONNX Runtime returned an error for this input
	CodeModelUnavailable Code = "model_unavailable"  // quarantined, or not yet visible to the sidecar
	CodeUnavailable      Code = "unavailable"        // the database or the sidecar cannot be reached
	CodeProtocol         Code = "protocol_violation" // a gateway message that no Rowcast function sends
	CodeAuthentication   Code = "authentication"     // wrong password or call code
)

// Error is the one error type of the domain: what was wrong, what was expected and what to do.
type Error struct {
	Code    Code
	Message string // one line, lower case, names the model and the feature
	Detail  string // optional: what came and what was expected
	Hint    string // optional: what to do
	Cause   error  // optional
	Row     int    // of a batch, from 1; 0 where the error is about no one row
}

// Error returns the message, followed by the cause where there is one.
func (e *Error) Error() string {
	if e.Cause != nil {
		return e.Message + ": " + e.Cause.Error()
	}
	return e.Message
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Errorf makes an Error whose message is formatted.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// WithDetail sets the detail and returns e.
func (e *Error) WithDetail(format string, args ...any) *Error {
	e.Detail = fmt.Sprintf(format, args...)
	return e
}

// WithHint sets the hint and returns e.
func (e *Error) WithHint(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

// WithCause sets the cause and returns e.
func (e *Error) WithCause(cause error) *Error {
	e.Cause = cause
	return e
}

// CodeOf returns the code of the first Error in err's chain, or CodeInternal.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeInternal
}
