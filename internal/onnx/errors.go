package onnx

import (
	"context"
	"errors"
	"regexp"
	"strings"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// refused is the error of a file that Inspect or a load does not accept.
func refused(format string, args ...any) *rowcast.Error {
	return rowcast.Errorf(rowcast.CodeArtifactRefused, format, args...)
}

// sourcePlaces are what ONNX Runtime puts before its messages: files, lines and C++ signatures of its own build, of no use to an analyst.
var sourcePlaces = regexp.MustCompile(`(/onnxruntime_src/|/_work/|/mnt/|/home/)\S+:\d+ [^\n]*?\) ?(\[with [^\]]*\] )?`)

// runtimeError turns the text that ONNX Runtime returns into a domain error. doing says what was tried, such as "load the model".
func runtimeError(code rowcast.Code, doing string, err error) *rowcast.Error {
	text := strings.TrimPrefix(err.Error(), "Error running network: ")
	text = strings.TrimPrefix(text, "Error creating C session: ")
	clean := strings.Join(strings.Fields(sourcePlaces.ReplaceAllString(text, "")), " ")
	e := rowcast.Errorf(code, "ONNX Runtime can't %s", doing).WithDetail("%s", clean)
	switch {
	case strings.Contains(text, "Failed to construct locale"):
		name := "en_US.UTF-8"
		if _, after, ok := strings.Cut(text, "name:"); ok {
			name = strings.TrimSpace(strings.FieldsFunc(after, func(r rune) bool { return r == ':' || r == '\n' })[0])
		}
		return e.WithHint("The model's text needs the system locale %s on the sidecar's machine: install it (Debian: apt-get install locales, "+
			"then `localedef -i en_US -f UTF-8 %s`), or train with lowercase=False.", name, name)
	case strings.Contains(text, "bad_alloc"), strings.Contains(text, "Failed to allocate memory"), strings.Contains(text, "bad allocation"):
		e.Code = rowcast.CodeOutOfMemory
		e.Message = "the model asked for more memory than there is"
		return e
	}
	return e
}

// loadError turns what ONNX Runtime says about a model that it does not load into the reason, where the reason is one that people meet.
func (r *Runtime) loadError(err error) *rowcast.Error {
	e := runtimeError(rowcast.CodeArtifactRefused, "load the model", err)
	text := e.Detail
	switch {
	case e.Hint != "" || e.Code != rowcast.CodeArtifactRefused:
	case strings.Contains(text, "not acyclic"):
		e.Message = "the model's graph has a cycle"
	case unknownOperator.MatchString(text):
		e.Message = "the model uses the operator " + unknownOperator.FindStringSubmatch(text)[1] + ", which ONNX Runtime " + r.version + " does not know"
		e.Hint = "Operators of other libraries (custom operators) can't be loaded."
	case unknownOpset.MatchString(text):
		m := unknownOpset.FindStringSubmatch(text)
		e.Message = "the model needs version " + m[1] + " of the ONNX operators, which ONNX Runtime " + r.version + " does not know"
		e.Hint = "Export it again with target_opset=21 or lower."
	case strings.Contains(text, "Unsupported model IR version"):
		e.Message = "the model's ONNX IR version is newer than ONNX Runtime " + r.version + " knows"
	case strings.Contains(text, "Protobuf parsing failed"):
		e.Message = "the file is damaged: ONNX Runtime can't parse it"
	}
	return e
}

var (
	unknownOperator = regexp.MustCompile(`(\S+?)\((?:-?\d+)\) is not a registered function/op`)
	unknownOpset    = regexp.MustCompile(`[Oo]pset (\d+) is under development`)
)

// canceled is the error of a run that its context ended.
func canceled(ctx context.Context) error {
	cause := context.Cause(ctx)
	var known *rowcast.Error
	if errors.As(cause, &known) {
		return cause
	}
	if errors.Is(cause, context.DeadlineExceeded) {
		return rowcast.Errorf(rowcast.CodeDeadline, "the run was stopped at its deadline").WithCause(cause)
	}
	return rowcast.Errorf(rowcast.CodeCanceled, "the run was stopped").WithCause(cause)
}
