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
	"strconv"
	"time"

	"github.com/rowcast/rowcast/internal/convert"
	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/rowcast"
	"github.com/rowcast/rowcast/internal/tensorjson"
	"golang.org/x/sys/unix"
)

// exampleTolerance is how far, relatively, a run may be from the example that came with the model: other machines round otherwise.
const exampleTolerance = 1e-4

// ValidateChild is the child's side of Validate: it reads a request and an artifact from stdin and writes one JSON object to stdout. It returns the exit
// status, 0 also for a refusal. It limits this process for good, so nothing but a process of its own may call it.
func ValidateChild(stdin io.Reader, stdout io.Writer) int {
	report, err := validateHere(stdin)
	answer := childAnswer{Report: report}
	if err != nil {
		var known *rowcast.Error
		if !errors.As(err, &known) {
			known = rowcast.Errorf(rowcast.CodeInternal, "the validation failed").WithCause(err)
		}
		answer = childAnswer{Error: &wireError{Code: known.Code, Message: known.Error(), Detail: known.Detail, Hint: known.Hint}}
	}
	if err := json.NewEncoder(stdout).Encode(answer); err != nil {
		return 1
	}
	if report != nil && report.Source != nil {
		if _, err := stdout.Write(report.Converted); err != nil {
			return 1
		}
	}
	return 0
}

func validateHere(stdin io.Reader) (*Report, error) {
	var length [8]byte
	if _, err := io.ReadFull(stdin, length[:]); err != nil {
		return nil, fmt.Errorf("no request: %w", err)
	}
	n := binary.BigEndian.Uint64(length[:])
	if n > 2*maxOptionsBytes {
		return nil, fmt.Errorf("a request of %d bytes", n)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(stdin, text); err != nil {
		return nil, fmt.Errorf("no request: %w", err)
	}
	var request childRequest
	if err := json.Unmarshal(text, &request); err != nil {
		return nil, fmt.Errorf("the request is no JSON: %w", err)
	}
	o, err := ParseJSON(request.Options)
	if err != nil {
		return nil, err
	}
	artifact, err := io.ReadAll(stdin)
	if err != nil {
		return nil, fmt.Errorf("no artifact: %w", err)
	}
	runtime, err := onnx.Open(onnx.Config{})
	if err != nil {
		return nil, err
	}
	// Limits come after the library is open, for they are the model's, not ONNX Runtime's own.
	if err := limitProcess(request); err != nil {
		return nil, err
	}
	imported, err := convert.From(artifact)
	if err != nil {
		return nil, err
	}
	g, err := onnx.Inspect(imported.ONNX)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), request.Wall)
	defer cancel()
	v := validation{ctx: ctx, graph: g, options: o.over(foundOptions(imported)), wall: request.Wall, warnings: imported.Warnings}
	report, err := v.run(runtime, imported.ONNX)
	if err != nil {
		return nil, err
	}
	report.Metadata, report.Tags = metadataOf(g, imported), storableTags(imported.Tags)
	if imported.Format != convert.FormatONNX {
		sha := sha256.Sum256(artifact)
		report.Source = &Source{Format: imported.Format, SHA256: hex.EncodeToString(sha[:]), Size: int64(len(artifact))}
		report.Converted = imported.ONNX
	}
	return report, nil
}

func limitProcess(r childRequest) error {
	limits := []struct {
		resource int
		value    uint64
	}{
		{unix.RLIMIT_CORE, 0}, {unix.RLIMIT_FSIZE, 0}, {unix.RLIMIT_NOFILE, 64}, {unix.RLIMIT_CPU, uint64(max(r.CPU, 1))},
		{unix.RLIMIT_AS, addressSpace() + uint64(max(r.Memory, 1<<26))},
	}
	for _, l := range limits {
		if err := unix.Setrlimit(l.resource, &unix.Rlimit{Cur: l.value, Max: l.value}); err != nil {
			return fmt.Errorf("can't limit the process: %w", err)
		}
	}
	return nil
}

// addressSpace is what this process has mapped already, in bytes.
func addressSpace() uint64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 4 << 30
	}
	pages, _, _ := bytes.Cut(text, []byte(" "))
	n, err := strconv.ParseUint(string(pages), 10, 64)
	if err != nil {
		return 4 << 30
	}
	return n * uint64(os.Getpagesize())
}

// validation is one artifact on trial.
type validation struct {
	ctx      context.Context
	wall     time.Duration
	graph    *onnx.Graph
	options  Options
	sig      rowcast.Signature
	warnings []string
}

func (v *validation) warn(format string, args ...any) {
	v.warnings = append(v.warnings, fmt.Sprintf(format, args...))
}

func (v *validation) run(r *onnx.Runtime, artifact []byte) (*Report, error) {
	var err error
	if v.sig, err = Infer(v.graph, v.options); err != nil {
		return nil, err
	}
	start := time.Now()
	session, err := r.NewSession(artifact, v.sig.Inputs...)
	if err != nil {
		return nil, err
	}
	loaded := time.Since(start)
	example, ran, err := v.try(session)
	if err != nil {
		return nil, err
	}
	if v.sig.Layout == rowcast.LayoutTensors && len(v.graph.Inputs) == 1 {
		v.warn("the graph leaves the number of features open: name them under features to use predict")
	}
	sha := sha256.Sum256(artifact)
	return &Report{
		Signature: v.sig, Key: SpecKey(sha, v.sig), Example: example, SHA256: hex.EncodeToString(sha[:]), Size: int64(len(artifact)),
		Producer: v.graph.Producer, ProducerVersion: v.graph.ProducerVersion, Opsets: v.graph.Opsets, Warnings: v.warnings,
		LoadMS: milliseconds(loaded), RunMS: milliseconds(ran),
	}, nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// try runs the example, alone and among other rows, and corrects the signature by what comes out.
func (v *validation) try(session *onnx.Session) (example json.RawMessage, ran time.Duration, err error) {
	t, err := newTrial(&v.sig, session.Outputs(), v.options.Example)
	if err != nil {
		return nil, 0, err
	}
	start := time.Now()
	outputs, err := session.Run(v.ctx, t.inputs)
	ran = time.Since(start)
	if err != nil {
		return nil, ran, v.failed(t, err)
	}
	if t.outputs != nil {
		if difference := firstDifference(outputs, t.outputs, exampleTolerance); difference != "" {
			return nil, ran, refusedFor("it does not give what its example says").WithDetail("%s.", difference)
		}
	}
	rows := 0
	if v.sig.Layout != rowcast.LayoutTensors {
		rows = max(1, v.sig.Batch)
		if given := t.inputs[0].Shape; t.given && len(given) > 0 {
			rows = int(given[0])
		}
	}
	if err := v.correct(outputs, rows); err != nil {
		return nil, ran, err
	}
	if err := v.tryTogether(session, t, outputs, rows); err != nil {
		return nil, ran, err
	}
	text := append([]byte(`{"inputs":`), tensorjson.Append(nil, t.inputs)...)
	text = append(append(text, `,"outputs":`...), tensorjson.Append(nil, outputs)...)
	return append(text, '}'), ran, nil
}

// failed judges a run that ended with an error. A row that was made up may be one that the model rightly refuses, an unknown category for instance; what no
// row excuses is time and memory.
func (v *validation) failed(t *trial, err error) error {
	switch code := rowcast.CodeOf(err); {
	case code == rowcast.CodeDeadline:
		return refusedFor("it did not finish one run within %s", v.wall)
	case code == rowcast.CodeOutOfMemory:
		return refusedFor("it asked for more memory than it may have").WithDetail("%s", detailOf(err))
	case !t.given && v.choosy():
		v.warn("a made-up row is none that the model takes, so nothing is replayed when it is loaded: give an example (%s)", detailOf(err))
		return nil
	default:
		e := refusedFor("it fails on its example").WithDetail("%s", detailOf(err))
		if !t.given {
			return e.WithHint("Give a row that it takes: options {\"example\": [1, 2, …]}, or example in model.yaml.")
		}
		return e
	}
}

func detailOf(err error) string {
	var e *rowcast.Error
	if errors.As(err, &e) && e.Detail != "" {
		return e.Detail
	}
	return err.Error()
}

// choosy models take text, integers or tensors of shapes that nobody declared: not every row will do.
func (v *validation) choosy() bool {
	if v.sig.Layout == rowcast.LayoutTensors {
		return true
	}
	for _, p := range v.sig.Inputs {
		if !isFloat(p.DType) {
			return true
		}
	}
	return false
}

// correct compares what came out with what the graph declared. An inferred task gives way; one that somebody asked for is refused.
func (v *validation) correct(outputs []onnx.Tensor, rows int) error {
	sig := &v.sig
	if rows == 0 || sig.Task == rowcast.TaskTensors {
		return nil
	}
	width := func(i int) int { // values per row, -1 where they don't divide
		if i < 0 {
			return 0
		}
		if n := int(onnx.Len(outputs[i].Shape)); n%rows == 0 {
			return n / rows
		}
		return -1
	}
	for _, i := range []int{sig.ValueOutput, sig.LabelOutput} {
		w := width(i)
		if i < 0 || w == 1 {
			continue
		}
		if v.options.Task != "" || sig.Task != rowcast.TaskRegression {
			return refusedFor("output %q gives %s per row, where one is needed for %s", outputs[i].Name, several(w), sig.Task).
				WithHint("Say task: tensors; predict_json and ml.infer carry all values.")
		}
		v.warn("output %q gives %s per row: predict refuses the model, predict_json and ml.infer carry all values", outputs[i].Name, several(w))
		sig.Task, sig.ValueOutput = rowcast.TaskTensors, -1
		return nil
	}
	if p := sig.ProbabilityOutput; p >= 0 {
		w := width(p)
		if w < 1 {
			return refusedFor("output %q gives no probabilities per row", outputs[p].Name)
		}
		if len(sig.Labels) == 0 && w > 1 && (sig.LabelOutput < 0 || outputs[sig.LabelOutput].DType != rowcast.String) {
			sig.Labels = countedLabels(w)
		}
		if err := checkLabelCount(sig, w); err != nil {
			return err
		}
	}
	return v.checkLabel(outputs)
}

func several(n int) string {
	if n < 0 {
		return "a number of values that is not the same"
	}
	return strconv.Itoa(n) + " values"
}

// checkLabel makes sure that the label of the example is one of the labels.
func (v *validation) checkLabel(outputs []onnx.Tensor) error {
	sig := &v.sig
	if sig.LabelOutput < 0 || len(sig.Labels) == 0 || sig.Task == rowcast.TaskClustering {
		return nil
	}
	output := &outputs[sig.LabelOutput]
	got := tensorjson.AppendElement(nil, output, 0)
	if texts, ok := output.Data.([]string); ok {
		got, _ = json.Marshal(texts[0]) // as labels are written; a string always marshals
	}
	if sig.TextLabels() && got[0] != '"' {
		if n, err := strconv.Atoi(string(got)); err == nil && n >= 0 && n < len(sig.Labels) {
			return nil // text that names the classes 0, 1, …
		}
	}
	for _, label := range sig.Labels {
		if bytes.Equal(label, got) {
			return nil
		}
	}
	return contradiction("the model gives the label %s, which is none of its labels", clip(string(got))).WithDetail("They are %s.", joined(sig.Labels))
}

// tryTogether runs the row among others: the number of rows must follow, and the first row's answer must not change, or callers may not share a batch.
func (v *validation) tryTogether(session *onnx.Session, t *trial, alone []onnx.Tensor, rows int) error {
	if rows != 1 || v.sig.Task == rowcast.TaskTensors && v.sig.Layout == rowcast.LayoutTensors {
		return nil
	}
	inputs := repeated(&v.sig, t.inputs)
	if inputs == nil {
		return nil
	}
	together, err := session.Run(v.ctx, inputs)
	if err != nil {
		if code := rowcast.CodeOf(err); code == rowcast.CodeDeadline || code == rowcast.CodeOutOfMemory {
			return v.failed(t, err)
		}
		v.warn("several rows in one run fail (%s): rows are run one by one", detailOf(err))
		v.sig.Batch = 1
		return nil
	}
	for i := range together {
		if onnx.Len(together[i].Shape) == 3*onnx.Len(alone[i].Shape) && len(together[i].Shape) > 0 && together[i].Shape[0] == 3 {
			continue
		}
		if v.sig.Task != rowcast.TaskTensors {
			v.warn("output %q does not have one entry per row: rows are run one by one", together[i].Name)
		}
		v.sig.Batch = 1
		return nil
	}
	for i := range together {
		first := together[i]
		first.Shape = append([]int64{1}, first.Shape[1:]...)
		if len(alone[i].Shape) > 0 && alone[i].Shape[0] == 1 && firstDifference([]onnx.Tensor{first}, alone[i:i+1], 1e-6) != "" {
			v.sig.BatchDependent = true
			v.warn("a row's answer depends on the rows that share its run: rows of different callers are never mixed")
			return nil
		}
	}
	return nil
}
