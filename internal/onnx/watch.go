package onnx

import (
	"sync"

	"github.com/rowcast/rowcast/internal/rowcast"
	ort "github.com/yalue/onnxruntime_go"
)

// watch holds the run options whose terminate flag stops a run. One watch serves one run at a time.
type watch struct {
	options   *ort.RunOptions
	terminate func() // made once: context.AfterFunc would otherwise cost a closure per run

	mu    sync.Mutex
	spent bool // a terminate that came late must not stop the next run, nor touch freed options
}

func newWatch() (*watch, error) {
	options, err := ort.NewRunOptions()
	if err != nil {
		return nil, rowcast.Errorf(rowcast.CodeInternal, "can't make ONNX Runtime's run options").WithCause(err)
	}
	w := &watch{options: options}
	w.terminate = func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if !w.spent {
			_ = w.options.Terminate()
		}
	}
	return w, nil
}

// spend makes a terminate that is still to come harmless. The watch can't be used for another run.
func (w *watch) spend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.spent = true
}

func (w *watch) destroy() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.spent = true
	_ = w.options.Destroy()
}
