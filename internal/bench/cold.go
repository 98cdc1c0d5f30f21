package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	ort "github.com/yalue/onnxruntime_go" //nolint:depguard // the baseline is the binding as anybody would use it

	"github.com/rowcast/rowcast/internal/measure"
	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/postgres"
	"github.com/rowcast/rowcast/internal/registry"
	"github.com/rowcast/rowcast/internal/rowcast"
)

const (
	coldModel  = "bench_cold"
	coldWidth  = 2048
	coldLayers = 6 // of 16 MiB each
	// How long after its commit a version is surely known to the sidecar, which then lets go of the bytes that validation left with it.
	afterCommit = 2 * time.Second
)

// measureCold compares the first prediction of a 100 MB model that the sidecar has not loaded with ONNX Runtime loading the same file.
//
// The sidecar warms champions only. So the model's first version, the champion, is a small one, and each measurement registers the large file
// once more as a version that nobody has asked for; its features have other names each time, since the sidecar would know the same file with the
// same signature. ONNX Runtime loads the file in a process of its own: a second load in the same process is faster, since the heap is there, and the
// sidecar has given its heap back to the system. The file and the database's pages have just been written, so both sides read from the page cache.
func (b *bench) measureCold(ctx context.Context) ([]measure.Result, error) {
	data := network(coldWidth, coldLayers, 1)
	file := filepath.Join(b.Dir, "cold.onnx")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		return nil, err
	}
	if _, err := b.Register(ctx, coldModel, network(8, 1, 1), registry.Options{}); err != nil {
		return nil, err
	}
	row := make([]float64, networkFeatures)
	var load, both, first []float64
	last := 0
	for i := range b.coldRuns {
		version, err := b.Register(ctx, coldModel, data, registry.Options{Features: featureNames(i)})
		if err != nil {
			return nil, err
		}
		if err := b.dropVersion(ctx, last); err != nil { // only now, or the stored file would go with it
			return nil, err
		}
		last = version
		select {
		case <-time.After(afterCommit):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		loaded, ran, err := loadElsewhere(ctx, file)
		if err != nil {
			return nil, err
		}
		load, both = append(load, millis(loaded)), append(both, millis(loaded+ran))
		d, err := b.Clock(ctx, "SELECT ml.predict($1, $2::double precision[])", fmt.Sprintf("%s@%d", coldModel, version), row)
		if err != nil {
			return nil, err
		}
		first = append(first, millis(d))
	}
	again, err := b.Clock(ctx, "SELECT ml.predict($1, $2::double precision[])", fmt.Sprintf("%s@%d", coldModel, last), row)
	if err != nil {
		return nil, err
	}
	if err := b.dropModel(ctx, coldModel); err != nil {
		return nil, err
	}
	ours, theirs := measure.Median(first), measure.Median(load)
	return []measure.Result{measure.Result{
		What:     fmt.Sprintf("first prediction of a cold model of %d MB against ONNX Runtime loading the file", len(data)/1_000_000),
		Measured: fmt.Sprintf("%.0f ms against %.0f ms", ours, theirs),
		Ratio:    measure.MedianRatio(first, load),
		Numbers:  map[string]float64{"first_ms": ours, "load_ms": theirs, "load_and_run_ms": measure.Median(both), "second_ms": millis(again)},
		Notes: []string{fmt.Sprintf("ONNX Runtime loading the file and running one row: %.0f ms, ratio %.2f; the second prediction takes %.1f ms",
			measure.Median(both), measure.MedianRatio(first, both), millis(again))},
	}.AtMost(1.5, "")}, nil
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func featureNames(run int) []rowcast.Feature {
	list := make([]rowcast.Feature, networkFeatures)
	for i := range list {
		list[i] = rowcast.Feature{Name: fmt.Sprintf("run%d_x%d", run, i), Type: rowcast.TypeReal}
	}
	return list
}

// loadElsewhere runs this program once more to load the file.
func loadElsewhere(ctx context.Context, file string) (loaded, ran time.Duration, err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, 0, err
	}
	out, err := exec.CommandContext(ctx, self, "-load", file).Output()
	if err != nil {
		return 0, 0, fmt.Errorf("loading %s: %w", file, err)
	}
	_, err = fmt.Sscan(string(out), (*int64)(&loaded), (*int64)(&ran))
	return loaded, ran, err
}

// printLoad loads a network with ONNX Runtime's defaults, runs one row, and prints how long each took in ns.
func printLoad(file string, w io.Writer) error {
	runtime, err := onnx.Open(onnx.Config{})
	if err != nil {
		return err
	}
	defer func() { _ = runtime.Close() }()
	began := time.Now()
	session, err := ort.NewDynamicAdvancedSession(file, []string{"x"}, []string{"y"}, nil)
	if err != nil {
		return err
	}
	defer func() { _ = session.Destroy() }()
	loaded := time.Since(began)
	began = time.Now()
	input, err := ort.NewTensor(ort.NewShape(1, networkFeatures), make([]float32, networkFeatures))
	if err != nil {
		return err
	}
	defer func() { _ = input.Destroy() }()
	outputs := []ort.Value{nil}
	if err := session.Run([]ort.Value{input}, outputs); err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, loaded.Nanoseconds(), time.Since(began).Nanoseconds())
	return errors.Join(err, outputs[0].Destroy())
}

func (b *bench) dropVersion(ctx context.Context, version int) error {
	if version == 0 {
		return nil
	}
	_, err := b.Conn.Exec(ctx, "SELECT ml.drop_version($1, $2)", coldModel, version)
	return postgres.Error(err)
}

func (b *bench) dropModel(ctx context.Context, name string) error {
	_, err := b.Conn.Exec(ctx, "SELECT ml.drop_model($1)", name)
	return postgres.Error(err)
}
