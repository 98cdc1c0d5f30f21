package onnx

import (
	"os"
	"strings"
	"sync"

	"github.com/rowcast/rowcast/internal/rowcast"
	ort "github.com/yalue/onnxruntime_go"
)

// Config says how to open ONNX Runtime.
type Config struct {
	LibraryPath string // path of the shared library; empty: FindLibrary
	// Threads that one run may use inside an operator; 0 means 1, since callers run in parallel themselves. With more than one, a forest adds its trees in
	// an order that depends on the number of rows, so that a row alone and in a batch differ in the last digits.
	Threads int
}

// Runtime is ONNX Runtime, opened. A process holds at most one, because the library's environment is one per process.
type Runtime struct {
	version string
	threads int
	close   sync.Once
}

// Open loads the shared library, refuses versions known to predict wrongly, and runs a tiny binary forest whose answers are known: a version list
// can't know the next wrong release.
func Open(cfg Config) (*Runtime, error) {
	if ort.IsInitialized() {
		return nil, rowcast.Errorf(rowcast.CodeInternal, "ONNX Runtime is already open in this process")
	}
	path := cfg.LibraryPath
	if path == "" {
		found, err := FindLibrary()
		if err != nil {
			return nil, err
		}
		path = found
	}
	// Read by the library when it is loaded, hence before.
	if err := os.Setenv("ORT_DISABLE_TELEMETRY", "1"); err != nil {
		return nil, rowcast.Errorf(rowcast.CodeInternal, "can't set ORT_DISABLE_TELEMETRY").WithCause(err)
	}
	ort.SetSharedLibraryPath(path)
	if err := ort.InitializeEnvironment(ort.WithLogLevelFatal()); err != nil {
		return nil, rowcast.Errorf(rowcast.CodeInternal, "can't open ONNX Runtime at %s", path).WithCause(err).
			WithHint("Rowcast needs ONNX Runtime %s: %s", LibraryVersion, fetchHint)
	}
	r := &Runtime{version: ort.GetVersion(), threads: max(cfg.Threads, 1)}
	if err := refuseVersion(r.version); err != nil {
		return nil, r.abandon(err)
	}
	if err := r.selfTest(); err != nil {
		return nil, r.abandon(err)
	}
	return r, nil
}

// refuseVersion knows the releases whose binary forests are wrong, silently (microsoft/onnxruntime#28557).
func refuseVersion(version string) error {
	for _, bad := range []string{"1.26.", "1.27."} {
		if strings.HasPrefix(version+".", bad) {
			return rowcast.Errorf(rowcast.CodeInternal, "ONNX Runtime %s predicts binary random forests wrongly", version).
				WithDetail("microsoft/onnxruntime#28557").WithHint("Use ONNX Runtime %s: %s", LibraryVersion, fetchHint)
		}
	}
	return nil
}

func (r *Runtime) abandon(err error) error {
	_ = r.Close()
	return err
}

// Version is the version of the opened library, such as "1.32.0".
func (r *Runtime) Version() string { return r.version }

// Close unloads ONNX Runtime. Sessions must be closed before; a second call does nothing.
func (r *Runtime) Close() error {
	var err error
	r.close.Do(func() { err = ort.DestroyEnvironment() })
	if err != nil {
		return rowcast.Errorf(rowcast.CodeInternal, "can't close ONNX Runtime").WithCause(err)
	}
	return nil
}
