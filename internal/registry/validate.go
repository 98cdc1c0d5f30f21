package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// ChildArgument is the hidden argument that makes the program run ValidateChild on its standard input and output.
const ChildArgument = "validate-artifact"

// Limits bound what a new artifact may do while it is tried. Zero fields take the defaults of DefaultLimits.
type Limits struct {
	Artifact int64         // bytes of the file
	Memory   int64         // bytes of address space beyond what the program itself and the file take
	CPU      time.Duration // processor time, rounded up to seconds
	Wall     time.Duration // time from start to report
}

// DefaultLimits are a file of 2 GB, which is as much as an ONNX file holds, 4 GiB of memory, and 60 seconds.
func DefaultLimits() Limits {
	return Limits{Artifact: 2 << 30, Memory: 4 << 30, CPU: 60 * time.Second, Wall: 60 * time.Second}
}

func (l Limits) withDefaults() Limits {
	d := DefaultLimits()
	if l.Artifact <= 0 {
		l.Artifact = d.Artifact
	}
	if l.Memory <= 0 {
		l.Memory = d.Memory
	}
	if l.CPU <= 0 {
		l.CPU = d.CPU
	}
	if l.Wall <= 0 {
		l.Wall = d.Wall
	}
	return l
}

// Report is what validation found out about an artifact.
type Report struct {
	Signature       rowcast.Signature `json:"signature"`
	Key             string            `json:"key"`               // of the Spec
	Example         json.RawMessage   `json:"example,omitempty"` // what was run, in the form of ml.infer; absent where no row is known that the model takes
	SHA256          string            `json:"sha256"`            // hexadecimal
	Size            int64             `json:"size"`              // bytes
	Source          *Source           `json:"source,omitempty"`  // nil for a file that was ONNX to begin with
	Metadata        map[string]string `json:"metadata,omitempty"`
	Tags            map[string]any    `json:"tags,omitempty"` // of the file, not of the options
	Producer        string            `json:"producer,omitempty"`
	ProducerVersion string            `json:"producer_version,omitempty"`
	Opsets          map[string]int64  `json:"opsets,omitempty"`
	Warnings        []string          `json:"warnings,omitempty"`
	LoadMS          float64           `json:"load_ms"`
	RunMS           float64           `json:"run_ms"` // one row

	Converted []byte `json:"-"` // the ONNX that the file was turned into; nil where Source is
}

// childRequest goes to the child before the artifact.
type childRequest struct {
	Options json.RawMessage `json:"options"`
	Memory  int64           `json:"memory"`
	CPU     int64           `json:"cpu_seconds"`
	Wall    time.Duration   `json:"wall"`
}

// childAnswer comes back: exactly one of the two, then the bytes of the ONNX file where the artifact was converted.
type childAnswer struct {
	Report *Report    `json:"report,omitempty"`
	Error  *wireError `json:"error,omitempty"`
}

type wireError struct {
	Code    rowcast.Code `json:"code"`
	Message string       `json:"message"`
	Detail  string       `json:"detail,omitempty"`
	Hint    string       `json:"hint,omitempty"`
}

const (
	maxChildAnswer = 256 << 20
	maxChildNoise  = 64 << 10
)

// Validate parses, loads and runs an artifact once in a child process, so that a file which crashes or hangs ONNX Runtime takes nothing with it. A file
// that is not ONNX is converted there first. The child is this program again with ChildArgument; it can't write files, and is killed with all it started when ctx ends, at the wall limit, or when this process
// dies. Errors: CodeArtifactRefused with the reason for a file, CodeInvalidArgument for options that contradict it, CodeTooLarge, CodeCanceled.
func Validate(ctx context.Context, artifact []byte, o Options, limits Limits) (*Report, error) {
	limits = limits.withDefaults()
	if int64(len(artifact)) > limits.Artifact {
		return nil, rowcast.Errorf(rowcast.CodeTooLarge, "the artifact is larger than %d bytes", limits.Artifact)
	}
	options, err := o.JSON()
	if err != nil {
		return nil, err
	}
	request, err := json.Marshal(childRequest{
		Options: options, Memory: limits.Memory + 3*int64(len(artifact)), CPU: int64((limits.CPU + time.Second - 1) / time.Second), Wall: limits.Wall,
	})
	if err != nil {
		return nil, rowcast.Errorf(rowcast.CodeInternal, "can't write the validation request").WithCause(err)
	}
	// The child stops the model at the wall limit by itself and says so; the kill is for what does not stop.
	killing, cancel := context.WithTimeout(ctx, limits.Wall+2*time.Second)
	defer cancel()
	var stdout, stderr bounded
	stdout.limit, stderr.limit = maxChildAnswer+int(limits.Artifact), maxChildNoise
	err = runChild(killing, io.MultiReader(lengthPrefixed(request), bytes.NewReader(artifact)), &stdout, &stderr)
	if ctx.Err() != nil {
		return nil, rowcast.Errorf(rowcast.CodeCanceled, "the validation was stopped").WithCause(context.Cause(ctx))
	}
	var answer childAnswer
	line, converted, _ := bytes.Cut(stdout.Bytes(), []byte("\n"))
	if len(line) <= maxChildAnswer && json.Unmarshal(line, &answer) == nil {
		switch {
		case answer.Error != nil:
			return nil, &rowcast.Error{Code: answer.Error.Code, Message: answer.Error.Message, Detail: answer.Error.Detail, Hint: answer.Error.Hint}
		case answer.Report != nil:
			if whole(answer.Report, artifact, converted) {
				return answer.Report, nil
			}
		}
	}
	return nil, childDeath(err, killing.Err() != nil, stderr.String(), limits)
}

// whole gives the report the bytes that it speaks of and the key that follows from them. They must have the hash that the child reports, or else it
// ended in the middle.
func whole(r *Report, artifact, converted []byte) bool {
	model := artifact
	if r.Source != nil {
		model, r.Converted = converted, converted
		given := sha256.Sum256(artifact)
		if r.Source.SHA256 != hex.EncodeToString(given[:]) || r.Source.Size != int64(len(artifact)) {
			return false
		}
	}
	sha := sha256.Sum256(model)
	r.Key = SpecKey(sha, r.Signature)
	return r.SHA256 == hex.EncodeToString(sha[:]) && r.Size == int64(len(model))
}

func lengthPrefixed(message []byte) io.Reader {
	return io.MultiReader(bytes.NewReader(binary.BigEndian.AppendUint64(nil, uint64(len(message)))), bytes.NewReader(message))
}

// runChild starts the child and waits for it. The thread that starts it stays alive until it ends, for Linux kills the child with the thread, not with the
// process, that asked for its death signal.
func runChild(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	environment, err := childEnvironment()
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		child := exec.CommandContext(ctx, exe, ChildArgument)
		child.Stdin, child.Stdout, child.Stderr = stdin, stdout, stderr
		child.Env = environment
		child.Dir = "/"
		child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
		child.Cancel = func() error { return syscall.Kill(-child.Process.Pid, syscall.SIGKILL) }
		child.WaitDelay = time.Second
		ended <- child.Run()
	}()
	return <-ended
}

// childEnvironment keeps passwords and settings of the sidecar away from the model, but lets it find ONNX Runtime and the system's locales. GORACE is for
// tests: a process with the race detector otherwise sleeps for a second before it ends.
func childEnvironment() ([]string, error) {
	library, err := onnx.FindLibrary()
	if err != nil {
		return nil, err
	}
	environment := []string{onnx.LibraryVariable + "=" + library, "ORT_DISABLE_TELEMETRY=1", "GOTRACEBACK=none", "MALLOC_ARENA_MAX=2", "GOMAXPROCS=2"}
	for _, name := range []string{"LOCPATH", "LD_LIBRARY_PATH", "GORACE"} {
		if v, ok := os.LookupEnv(name); ok {
			environment = append(environment, name+"="+v)
		}
	}
	return environment, nil
}

// signalName finds the signal in what Go's runtime writes when C++ crashes under it: it ends the process by itself, with status 2.
var signalName = regexp.MustCompile(`\b(SIG(?:SEGV|FPE|BUS|ILL|ABRT|SYS|TRAP|XCPU|XFSZ))\b`)

// childDeath says why a child gave no answer.
func childDeath(err error, late bool, noise string, limits Limits) error {
	var exit *exec.ExitError
	if late {
		return refusedFor("it did not finish loading and one run within %s", limits.Wall)
	}
	if !errors.As(err, &exit) {
		return rowcast.Errorf(rowcast.CodeInternal, "can't run the validating process").WithCause(err)
	}
	status, _ := exit.Sys().(syscall.WaitStatus)
	name := ""
	switch {
	case status.Signaled():
		name = signalText(status.Signal())
	default:
		name = signalName.FindString(noise)
	}
	memory := strings.Contains(noise, "out of memory") || strings.Contains(noise, "cannot allocate memory") || strings.Contains(noise, "bad_alloc") ||
		strings.Contains(noise, "errno=12") || strings.Contains(noise, "errno=11")
	switch {
	case memory:
		return refusedFor("it asked for more memory than the %d MiB it may have", limits.Memory>>20)
	case name == "SIGXCPU" || name == "SIGKILL":
		return refusedFor("it used more than %s of processor time", limits.CPU)
	case name != "":
		return refusedFor("it kills the process that loads or runs it (%s)", name)
	}
	return refusedFor("the process that loads or runs it ends with status %d", exit.ExitCode()).WithDetail("%s", clip(strings.TrimSpace(noise)))
}

func signalText(s syscall.Signal) string {
	switch s {
	case syscall.SIGXCPU:
		return "SIGXCPU"
	case syscall.SIGKILL:
		return "SIGKILL"
	case syscall.SIGSEGV:
		return "SIGSEGV"
	case syscall.SIGABRT:
		return "SIGABRT"
	case syscall.SIGFPE:
		return "SIGFPE"
	case syscall.SIGBUS:
		return "SIGBUS"
	case syscall.SIGILL:
		return "SIGILL"
	}
	return fmt.Sprintf("signal %d", int(s))
}

// refusedFor is the refusal of a model that misbehaves rather than one that is malformed.
func refusedFor(format string, args ...any) *rowcast.Error {
	return rowcast.Errorf(rowcast.CodeArtifactRefused, "the model is refused: "+format, args...)
}

// bounded keeps the first bytes written to it and swallows the rest.
type bounded struct {
	bytes.Buffer
	limit int
}

func (b *bounded) Write(p []byte) (int, error) {
	if room := b.limit - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
