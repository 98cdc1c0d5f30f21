package onnx

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rowcast/rowcast/internal/rowcast"
	"github.com/stretchr/testify/require"
)

// opened is the one runtime of the test process.
var opened = sync.OnceValues(func() (*Runtime, error) { return Open(Config{}) })

func openRuntime(t testing.TB) *Runtime {
	t.Helper()
	r, err := opened()
	require.NoError(t, err)
	return r
}

func readModel(t testing.TB, path string) []byte {
	t.Helper()
	model, err := os.ReadFile(path)
	require.NoError(t, err)
	return model
}

func load(t testing.TB, name string, known ...rowcast.Port) *Session {
	t.Helper()
	s, err := openRuntime(t).NewSession(readModel(t, filepath.Join("testdata", name+".onnx")), known...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// sharedModels is the folder of real models beside the repository, or empty.
func sharedModels() string {
	for _, dir := range []string{os.Getenv("ROWCAST_SHARED_MODELS"), "../../../shared/models"} {
		if info, err := os.Stat(dir); dir != "" && err == nil && info.IsDir() {
			return dir
		}
	}
	return ""
}

func TestOpenTellsItsVersionAndRefusesASecondOpen(t *testing.T) {
	r := openRuntime(t)
	require.Equal(t, LibraryVersion, r.Version())
	_, err := Open(Config{})
	require.ErrorContains(t, err, "already open")
}

func TestWrongReleasesAreRefused(t *testing.T) {
	for _, version := range []string{"1.26.0", "1.27.1", "1.26"} {
		require.ErrorContains(t, refuseVersion(version), version)
	}
	for _, version := range []string{"1.32.0", "1.25.2", "1.28.0", "1.260.0"} {
		require.NoError(t, refuseVersion(version))
	}
}

func TestFindLibraryNamesTheMissingFile(t *testing.T) {
	t.Setenv(LibraryVariable, "/nowhere/libonnxruntime.so")
	_, err := FindLibrary()
	require.Equal(t, rowcast.CodeInvalidArgument, rowcast.CodeOf(err))
	require.ErrorContains(t, err, "/nowhere")
}

func TestZipMapBecomesATensor(t *testing.T) {
	s := load(t, "zipmap_text")
	require.False(t, s.Outputs()[1].Maps)
	b, err := s.Acquire(2)
	require.NoError(t, err)
	defer s.Release(b)
	copy(b.Inputs()[0].Data.([]float32), []float32{1, 2, 3, 4})
	for range 3 {
		require.NoError(t, b.Run(context.Background()))
		require.Len(t, b.Outputs()[0].Data, 2)
		require.Equal(t, []int64{2, 3}, b.Outputs()[1].Shape)
	}
	model := readModel(t, "testdata/zipmap_text.onnx")
	g, err := Inspect(model)
	require.NoError(t, err)
	g.nodes = nil // so that the rewriting does not know the ZipMap
	kept, err := openRuntime(t).newSession(model, g, nil)
	require.NoError(t, err)
	defer func() { require.NoError(t, kept.Close()) }()
	require.True(t, kept.Outputs()[1].Maps)
	out, err := kept.Run(context.Background(), []Tensor{{Name: "X", DType: rowcast.Float32, Shape: []int64{2, 2}, Data: []float32{1, 2, 3, 4}}})
	require.NoError(t, err)
	keys := out[1].MapKeys.([]string)
	require.Len(t, keys, 3)
	// The map sorts its keys; the numbers are those of the tensor.
	labels := []string{"été 'x' \"y\"", "日本語, \\ {brace}", strings.Repeat("z", 100)}
	for row := range 2 {
		for i, key := range keys {
			for j, label := range labels {
				if label == key {
					require.Equal(t, b.Outputs()[1].Data.([]float32)[3*row+j], out[1].Data.([]float32)[3*row+i])
				}
			}
		}
	}
}

func TestHalfPrecisionCrossesExactly(t *testing.T) {
	s := load(t, "half")
	require.Equal(t, rowcast.Float16, s.Inputs()[0].DType)
	in := []Tensor{
		{Name: "x", DType: rowcast.Float16, Shape: []int64{2, 2}, Data: halves(rowcast.Float16, 0.5, -3, 2048, 1e-7)},
		{Name: "b", DType: rowcast.BFloat16, Shape: []int64{2}, Data: halves(rowcast.BFloat16, 1.5, 3e38)},
	}
	out, err := s.Run(context.Background(), in)
	require.NoError(t, err)
	require.Equal(t, halves(rowcast.Float16, 1, -6, 4096, 2.4e-7), out[0].Data)
	require.Equal(t, halves(rowcast.BFloat16, -1.5, -3e38), out[1].Data)
	b, err := s.Acquire(2)
	require.NoError(t, err)
	defer s.Release(b)
	for _, scale := range []float32{1, 2} {
		copy(b.Inputs()[0].Data.([]uint16), halves(rowcast.Float16, scale, 2*scale, 3*scale, 4*scale))
		require.NoError(t, b.Run(context.Background()))
		require.Equal(t, halves(rowcast.Float16, 2*scale, 4*scale, 6*scale, 8*scale), b.Outputs()[0].Data)
	}
}

func halves(dtype rowcast.DType, list ...float32) []uint16 {
	bits := make([]uint16, len(list))
	narrow(dtype, bits, list)
	return bits
}

func TestEveryHalfSurvivesItsRoundTrip(t *testing.T) {
	for _, dtype := range []rowcast.DType{rowcast.Float16, rowcast.BFloat16} {
		for bits := range 1 << 16 {
			f := HalfToFloat32(dtype, uint16(bits))
			if f != f {
				back := HalfToFloat32(dtype, HalfFromFloat32(dtype, f))
				require.True(t, math.IsNaN(float64(back)))
				continue
			}
			require.Equal(t, uint16(bits), HalfFromFloat32(dtype, f), "%v of %s", f, dtype)
		}
	}
	require.Equal(t, uint16(0x7c00), HalfFromFloat32(rowcast.Float16, 65520))
	require.Equal(t, uint16(0x7bff), HalfFromFloat32(rowcast.Float16, 65519))
}

func TestRankZeroAndUndeclaredRank(t *testing.T) {
	s := load(t, "scalars")
	inputs := func(list []float64, shape []int64) []Tensor {
		return []Tensor{
			{Name: "x", DType: rowcast.Float32, Shape: []int64{}, Data: []float32{1.5}},
			{Name: "word", DType: rowcast.String, Shape: []int64{}, Data: []string{"été"}},
			{Name: "h", DType: rowcast.Float16, Data: halves(rowcast.Float16, 0.25)},
			{Name: "list", DType: rowcast.Float64, Shape: shape, Data: list},
			{Name: "i", DType: rowcast.Int64, Data: []int64{math.MaxInt64}},
		}
	}
	out, err := s.Run(context.Background(), inputs([]float64{1, 2, 3, 4, 5, 6}, []int64{2, 3}))
	require.NoError(t, err)
	require.Equal(t, []Tensor{
		{Name: "twice", DType: rowcast.Float32, Shape: []int64{}, Data: []float32{3}},
		{Name: "same", DType: rowcast.String, Shape: []int64{}, Data: []string{"été"}},
		{Name: "htwice", DType: rowcast.Float16, Shape: []int64{}, Data: halves(rowcast.Float16, 0.5)},
		{Name: "total", DType: rowcast.Float64, Shape: []int64{}, Data: []float64{21}},
		{Name: "open", DType: rowcast.Float64, Shape: []int64{2, 3}, Data: []float64{1, 2, 3, 4, 5, 6}},
		{Name: "minus", DType: rowcast.Int64, Shape: []int64{}, Data: []int64{-math.MaxInt64}},
	}, out)
	out, err = s.Run(context.Background(), inputs([]float64{}, []int64{0, 3}))
	require.NoError(t, err)
	require.Equal(t, []int64{0, 3}, out[4].Shape)
	require.Empty(t, out[4].Data)
}

func TestRunRefusesWhatDoesNotFit(t *testing.T) {
	s := load(t, "several_values")
	run := func(tensors ...Tensor) error {
		_, err := s.Run(context.Background(), tensors)
		return err
	}
	good := Tensor{Name: "x", DType: rowcast.Float32, Shape: []int64{1, 2}, Data: []float32{1, 2}}
	require.NoError(t, run(good))
	require.Equal(t, rowcast.CodeMissingFeature, rowcast.CodeOf(run()))
	other := good
	other.Name = "z"
	require.Equal(t, rowcast.CodeUnknownFeature, rowcast.CodeOf(run(good, other)))
	require.Equal(t, rowcast.CodeFeatureType, rowcast.CodeOf(run(Tensor{Name: "x", DType: rowcast.Float64, Shape: []int64{1, 2}, Data: []float64{1, 2}})))
	require.ErrorContains(t, run(Tensor{Name: "x", DType: rowcast.Float32, Shape: []int64{1, 3}, Data: []float32{1, 2, 3}}), "takes 2 in dimension 2, not 3")
	require.ErrorContains(t, run(Tensor{Name: "x", DType: rowcast.Float32, Shape: []int64{2}, Data: []float32{1, 2}}), "takes 2 dimensions, not 1")
	require.ErrorContains(t, run(Tensor{Name: "x", DType: rowcast.Float32, Shape: []int64{2, 2}, Data: []float32{1, 2}}), "2 elements")
	require.ErrorContains(t, run(Tensor{Name: "x", DType: rowcast.Float32, Shape: []int64{math.MaxInt64, math.MaxInt64}, Data: []float32{1, 2}}), "2 elements")
}

func TestBindingsNeedAKnownShape(t *testing.T) {
	fixed := load(t, "fixed_batch")
	_, err := fixed.Acquire(1)
	require.ErrorContains(t, err, "takes 8 rows per run, not 1")
	b, err := fixed.Acquire(8)
	require.NoError(t, err)
	fixed.Release(b)

	open := load(t, "open_width")
	_, err = open.Acquire(1)
	require.ErrorContains(t, err, "leaves its dimension 2 open")
	told := load(t, "open_width", rowcast.Port{Name: "x", DType: rowcast.Float32, Shape: []int64{-1, 4}})
	b, err = told.Acquire(1)
	require.NoError(t, err)
	copy(b.Inputs()[0].Data.([]float32), []float32{1, 2, 3, 4})
	require.NoError(t, b.Run(context.Background()))
	require.Equal(t, []float32{10}, b.Outputs()[0].Data)
	told.Release(b)
}

func TestOutputsWhoseShapeDependsOnTheNumbers(t *testing.T) {
	s := load(t, "nonzero")
	b, err := s.Acquire(2)
	require.NoError(t, err)
	defer s.Release(b)
	for _, c := range []struct {
		in   []float32
		want []int64
	}{{[]float32{1, 0, 0, 1}, []int64{2, 2}}, {[]float32{1, 1, 0, 1}, []int64{2, 3}}, {[]float32{0, 0, 0, 0}, []int64{2, 0}}, {[]float32{1, 0, 0, 1}, []int64{2, 2}}} {
		copy(b.Inputs()[0].Data.([]float32), c.in)
		require.NoError(t, b.Run(context.Background()))
		require.Equal(t, c.want, b.Outputs()[0].Shape)
	}
}

func TestALabelOfAWrongDeclaredShape(t *testing.T) {
	s := load(t, "wrong_shape")
	for _, rows := range []int{1, 3, 3, 1} {
		b, err := s.Acquire(rows)
		require.NoError(t, err)
		for range 2 {
			require.NoError(t, b.Run(context.Background()))
			require.Len(t, b.Outputs()[0].Data, rows)
		}
		s.Release(b)
	}
}

func TestAContextStopsARunAndTheBindingGoesOn(t *testing.T) {
	s := load(t, "loop")
	b, err := s.Acquire(1)
	require.NoError(t, err)
	defer s.Release(b)
	x := b.Inputs()[0].Data.([]float32)
	x[0] = 1
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	err = b.Run(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, rowcast.CodeDeadline, rowcast.CodeOf(err))
	x[0] = -1 // no rounds
	require.NoError(t, b.Run(context.Background()))
	require.Equal(t, []float32{-1, 0}, b.Outputs()[0].Data)

	hungUp := rowcast.Errorf(rowcast.CodeCanceled, "the caller hung up")
	gone, hangUp := context.WithCancelCause(context.Background())
	time.AfterFunc(20*time.Millisecond, func() { hangUp(hungUp) })
	x[0] = 1
	require.ErrorIs(t, b.Run(gone), hungUp)
	require.ErrorIs(t, b.Run(gone), hungUp, "a context that has ended starts nothing")
}

func TestCloseWaitsForRunsAndRunsAfterItFail(t *testing.T) {
	s := load(t, "several_values")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				b, err := s.Acquire(1)
				if err != nil {
					return
				}
				if err := b.Run(context.Background()); err != nil {
					require.Equal(t, rowcast.CodeModelUnavailable, rowcast.CodeOf(err))
				}
				s.Release(b)
			}
		})
	}
	time.Sleep(time.Millisecond)
	require.NoError(t, s.Close())
	wg.Wait()
	require.NoError(t, s.Close())
}

func TestConcurrentBindingsDoNotMix(t *testing.T) {
	s := load(t, "several_values")
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 300 {
				ctx, cancel := context.WithCancel(context.Background())
				rows := 1 + (g+i)%3
				b, err := s.Acquire(rows)
				require.NoError(t, err)
				x := b.Inputs()[0].Data.([]float32)
				for r := range rows {
					x[2*r], x[2*r+1] = float32(g), float32(i)
				}
				require.NoError(t, b.Run(ctx))
				y := b.Outputs()[0].Data.([]float32)
				require.Len(t, y, 3*rows)
				require.Equal(t, float32(3*i), y[0])
				require.Equal(t, float32(g+4*i), y[1])
				s.Release(b)
				cancel()
			}
		})
	}
	wg.Wait()
}

func TestAMissingLocaleIsNamedWithAHint(t *testing.T) {
	_, err := openRuntime(t).NewSession(readModel(t, "testdata/locale.onnx"))
	var e *rowcast.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, rowcast.CodeArtifactRefused, e.Code)
	require.Contains(t, e.Hint, "xx_XX.UTF-8")
}

func TestMemoryComesBackAfterClose(t *testing.T) {
	if testing.Short() {
		t.Skip("100 loads")
	}
	path := "testdata/zipmap_text.onnx"
	if dir := sharedModels(); dir != "" {
		path = filepath.Join(dir, "pump", "model.onnx")
	}
	model := readModel(t, path)
	r := openRuntime(t)
	cycle := func() {
		s, err := r.NewSession(model)
		require.NoError(t, err)
		b, err := s.Acquire(1000)
		require.NoError(t, err)
		require.NoError(t, b.Run(context.Background()))
		s.Release(b)
		require.NoError(t, s.Close())
	}
	for range 5 {
		cycle()
	}
	before := resident(t)
	for range 100 {
		cycle()
	}
	grown := resident(t) - before
	t.Logf("100 loads and closes: %+.1f MB", float64(grown)/1e6)
	require.Less(t, grown, int64(50e6))
}

func resident(t *testing.T) int64 {
	runtime.GC()
	raw, err := os.ReadFile("/proc/self/statm")
	require.NoError(t, err)
	fields := 0
	var pages int64
	for _, c := range raw {
		if c == ' ' {
			fields++
			continue
		}
		if fields == 1 {
			pages = pages*10 + int64(c-'0')
		}
	}
	return pages * int64(os.Getpagesize())
}

func BenchmarkOneRow(b *testing.B) {
	for _, name := range []string{"selftest", "logistic_10", "iris", "trees_100x6", "iris_v2"} {
		path := "selftest.onnx"
		if name != "selftest" {
			path = filepath.Join(sharedModels(), name, "model.onnx")
			if sharedModels() == "" {
				continue
			}
		}
		s, err := openRuntime(b).NewSession(readModel(b, path))
		require.NoError(b, err)
		for _, watched := range []bool{false, true} {
			ctx, cancel := context.Background(), func() {}
			suffix := ""
			if watched {
				ctx, cancel = context.WithCancel(ctx)
				suffix = "/watched"
			}
			b.Run(name+suffix, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					binding, err := s.Acquire(1)
					if err != nil {
						b.Fatal(err)
					}
					if err := binding.Run(ctx); err != nil {
						b.Fatal(err)
					}
					s.Release(binding)
				}
			})
			cancel()
		}
		require.NoError(b, s.Close())
	}
}
