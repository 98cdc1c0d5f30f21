package predict

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// house is an engine over a store with several specs of one small model.
type house struct {
	t      testing.TB
	store  *store
	engine *Engine
	specs  []*rowcast.Spec
	model  *folder
	now    atomic.Int64 // seconds
}

func newHouse(t testing.TB, specs int, o EngineOptions) *house {
	h := &house{t: t, store: newStore(), model: readFolder(t, own("tides"))}
	o.Now = func() time.Time { return time.Unix(h.now.Load(), 0) }
	for i := range specs {
		spec := h.spec(i)
		h.specs = append(h.specs, spec)
		h.store.add(spec, h.model.artifact)
	}
	h.engine = NewEngine(testRuntime, h.store, o)
	t.Cleanup(func() { _ = h.engine.Close(context.Background()) })
	return h
}

// spec makes the same model another spec by its target.
func (h *house) spec(i int) *rowcast.Spec {
	sig := h.model.sig
	sig.Target = fmt.Sprint(i)
	return newSpec(h.model.artifact, sig)
}

func (h *house) do(ctx context.Context, key string) error {
	out, err := h.engine.Do(ctx, &rowcast.Call{Verb: p, Spec: key, Model: "tides", Version: 1, Format: array, Payload: []byte(sent(1.7e9, 5.10126245))}, nil)
	if err == nil {
		near(h.t, "1.2753156134858727", string(out))
	}
	return err
}

func tidesCost(t testing.TB) int64 { return costOf(readFolder(t, own("tides")).artifact) }

func code(t testing.TB, err error) rowcast.Code {
	t.Helper()
	require.Error(t, err)
	return rowcast.CodeOf(err)
}

func TestAModelIsLoadedOnceHoweverManyAsk(t *testing.T) {
	h := newHouse(t, 1, EngineOptions{})
	h.store.gate = make(chan struct{})
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() { require.NoError(t, h.do(context.Background(), h.specs[0].Key)) })
	}
	require.Eventually(t, func() bool { return h.engine.Stats().Running == 50 }, 10*time.Second, time.Millisecond)
	require.False(t, h.engine.Loaded(h.specs[0].Key))
	// One who gives up does not stop the load for the others.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.Equal(t, rowcast.CodeCanceled, code(t, h.do(ctx, h.specs[0].Key)))
	late, cancelLate := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancelLate()
	require.Equal(t, rowcast.CodeDeadline, code(t, h.do(late, h.specs[0].Key)))
	close(h.store.gate)
	wg.Wait()
	require.Equal(t, 1, h.store.fetches)
	stats := h.engine.Stats()
	require.Equal(t, int64(1), stats.Loads)
	require.Equal(t, 1, stats.Loaded)
	require.Zero(t, stats.Running)
	require.True(t, h.engine.Loaded(h.specs[0].Key))
}

func TestTheLeastRecentlyUsedLeavesFirst(t *testing.T) {
	h := newHouse(t, 3, EngineOptions{MemoryBudget: 2*tidesCost(t) + 100})
	for _, i := range []int{0, 1, 0, 2} {
		require.NoError(t, h.do(context.Background(), h.specs[i].Key))
	}
	require.True(t, h.engine.Loaded(h.specs[0].Key))
	require.False(t, h.engine.Loaded(h.specs[1].Key))
	require.True(t, h.engine.Loaded(h.specs[2].Key))
	stats := h.engine.Stats()
	require.Equal(t, int64(1), stats.Evictions)
	require.LessOrEqual(t, stats.Bytes, stats.Budget)
	require.Len(t, stats.Models, 2)

	small := newHouse(t, 1, EngineOptions{MemoryBudget: 1000})
	err := small.do(context.Background(), small.specs[0].Key)
	require.Equal(t, rowcast.CodeOutOfMemory, code(t, err))
	require.ErrorContains(t, err, "budget")
}

func TestAModelInUseIsNotClosed(t *testing.T) {
	h := newHouse(t, 2, EngineOptions{MemoryBudget: tidesCost(t) + 100})
	en, err := h.engine.acquire(context.Background(), h.specs[0].Key)
	require.NoError(t, err)
	require.NoError(t, h.do(context.Background(), h.specs[1].Key)) // overdraws the budget
	h.engine.Retain(func(string) bool { return false })
	require.Zero(t, h.engine.Stats().Loaded)
	require.Zero(t, h.engine.Stats().Bytes)
	out, err := en.model.predict(context.Background(), &rowcast.Call{Verb: p, Format: array, Payload: []byte(sent(1.7e9, 5.10126245))}, &scratch{}, nil)
	require.NoError(t, err)
	near(t, "1.2753156134858727", string(out))
	h.engine.release(en)
	_, err = en.model.session.Acquire(1)
	if err == nil { // the session hands out bindings, but runs no more
		_, err = en.model.infer(context.Background(), []byte(`{"X":[[1,2]]}`), nil)
	}
	require.Error(t, err)
}

func TestAFailedLoadIsRememberedForASecond(t *testing.T) {
	h := newHouse(t, 1, EngineOptions{})
	h.store.fail = rowcast.Errorf(rowcast.CodeArtifactCorrupt, "the stored artifact does not have its hash")
	for range 5 {
		require.Equal(t, rowcast.CodeArtifactCorrupt, code(t, h.do(context.Background(), h.specs[0].Key)))
	}
	require.Equal(t, 1, h.store.fetches)
	h.store.fail = nil
	h.now.Add(1)
	require.NoError(t, h.do(context.Background(), h.specs[0].Key))

	h = newHouse(t, 1, EngineOptions{})
	h.store.wrong = rowcast.Errorf(rowcast.CodeArtifactCorrupt, "the stored bytes do not have that hash")
	require.Equal(t, rowcast.CodeArtifactCorrupt, code(t, h.do(context.Background(), h.specs[0].Key)))
	require.False(t, h.engine.Loaded(h.specs[0].Key), "bytes that are not the artifact's were loaded and must not serve")

	// What says nothing about the model is tried again at once.
	h = newHouse(t, 1, EngineOptions{})
	h.store.fail = rowcast.Errorf(rowcast.CodeUnavailable, "the database is away")
	require.Equal(t, rowcast.CodeUnavailable, code(t, h.do(context.Background(), h.specs[0].Key)))
	h.store.fail = errors.New("disk on fire")
	require.Equal(t, rowcast.CodeInternal, code(t, h.do(context.Background(), h.specs[0].Key)))
	require.Equal(t, 2, h.store.fetches)
}

func TestOffersServeTheTransactionThatRegisters(t *testing.T) {
	h := newHouse(t, 0, EngineOptions{})
	spec := h.spec(7)
	err := h.do(context.Background(), spec.Key)
	require.Equal(t, rowcast.CodeModelUnavailable, code(t, err))
	require.ErrorContains(t, err, `model "tides" version 1: the sidecar does not see this version yet`)
	h.engine.Offer(spec, h.model.artifact)
	require.NoError(t, h.do(context.Background(), spec.Key))
	h.engine.Retain(func(string) bool { return false }) // not committed yet
	require.NoError(t, h.do(context.Background(), spec.Key))
	require.Equal(t, 1, h.engine.Stats().Offered)

	h.engine.Retain(func(key string) bool { return key == spec.Key }) // committed
	require.Zero(t, h.engine.Stats().Offered)
	require.True(t, h.engine.Loaded(spec.Key))
	h.engine.Retain(func(string) bool { return false }) // dropped
	require.False(t, h.engine.Loaded(spec.Key))
	require.Equal(t, rowcast.CodeModelUnavailable, code(t, h.do(context.Background(), spec.Key)))

	// A registration that was rolled back is forgotten.
	h.engine.Offer(h.spec(8), h.model.artifact)
	h.now.Add(int64(offerKept/time.Second) + 1)
	h.engine.Retain(func(string) bool { return false })
	require.Zero(t, h.engine.Stats().Offered)
	for i := range 2 * maxOffers {
		h.engine.Offer(h.spec(i), h.model.artifact)
	}
	require.Equal(t, maxOffers, h.engine.Stats().Offered)
	h = newHouse(t, 0, EngineOptions{})
	for i := range 5 {
		h.engine.Offer(h.spec(1000+i), make([]byte, maxOfferedSize*3/4))
	}
	require.Equal(t, 2, h.engine.Stats().Offered)
}

func TestQuarantine(t *testing.T) {
	h := newHouse(t, 1, EngineOptions{})
	spec := h.specs[0]
	require.NoError(t, h.do(context.Background(), spec.Key))
	h.engine.Quarantine(spec.SHA256, "it was running when the sidecar crashed twice")
	err := h.do(context.Background(), spec.Key)
	require.Equal(t, rowcast.CodeModelUnavailable, code(t, err))
	require.ErrorContains(t, err, "quarantined: it was running when the sidecar crashed twice")
	require.Equal(t, rowcast.CodeModelUnavailable, code(t, h.engine.Warm(context.Background(), spec.Key)))
	require.Equal(t, 1, h.engine.Stats().Quarantined)
	h.engine.Release(spec.SHA256)
	require.NoError(t, h.do(context.Background(), spec.Key))

	// An artifact that is quarantined while it loads does not run either.
	h = newHouse(t, 1, EngineOptions{})
	h.store.gate = make(chan struct{})
	done := make(chan error)
	go func() { done <- h.engine.Warm(context.Background(), h.specs[0].Key) }()
	require.Eventually(t, func() bool { return h.engine.Stats().Bytes > 0 }, 10*time.Second, time.Millisecond)
	h.engine.Quarantine(h.specs[0].SHA256, "stalled")
	close(h.store.gate)
	require.Equal(t, rowcast.CodeModelUnavailable, code(t, <-done))
}

type trackerFunc struct {
	entered, left atomic.Int64
	sha           [sha256.Size]byte
}

func (f *trackerFunc) Enter(sha [sha256.Size]byte) int {
	if sha == f.sha {
		f.entered.Add(1)
	}
	return 5
}

func (f *trackerFunc) Leave(slot int) {
	if slot == 5 {
		f.left.Add(1)
	}
}

func TestTheTrackerKnowsEveryLoadAndRun(t *testing.T) {
	tracker := &trackerFunc{}
	h := newHouse(t, 1, EngineOptions{Tracker: tracker})
	tracker.sha = h.specs[0].SHA256
	require.NoError(t, h.do(context.Background(), h.specs[0].Key))
	require.NoError(t, h.do(context.Background(), h.specs[0].Key))
	require.Equal(t, int64(3), tracker.entered.Load())
	require.Equal(t, int64(3), tracker.left.Load())
}

func TestTheExampleIsReplayedAtLoad(t *testing.T) {
	load := func(change func(map[string]any)) error {
		f, e := tensorsModel(t)
		if change != nil {
			var outputs map[string]any
			require.NoError(t, json.Unmarshal(e.Outputs, &outputs))
			change(outputs)
			raw, err := json.Marshal(map[string]any{"inputs": e.Inputs, "outputs": outputs})
			require.NoError(t, err)
			f.spec.Example = raw
		}
		return f.engine.Warm(context.Background(), f.spec.Key)
	}
	require.NoError(t, load(nil))
	delete1 := func(o map[string]any) { delete(o, "whole_plus_byte") } // JSON decoded through float64 would not be exact
	require.NoError(t, load(delete1))
	for name, value := range map[string]any{
		"cube_sum": []any{21.1, 0.25}, "not_flag": []any{true, true}, "same_word": []any{[]any{"ete"}, []any{""}},
		"half_twice": []any{[]any{1, 3}}, "whole_plus_byte": []any{9007199254740992, -5},
	} {
		err := load(func(o map[string]any) { o[name] = value })
		require.Equal(t, rowcast.CodeModelUnavailable, code(t, err), name)
		require.ErrorContains(t, err, name)
	}
	require.NoError(t, load(func(o map[string]any) { delete1(o); o["cube_sum"] = []any{21.001, 0.25} }))

	// Maps, written as maps or as rows.
	m := readFolder(t, own("iris"))
	for _, outputs := range []string{
		`{"output_label":["setosa"],"output_probability":[{"setosa":1,"versicolor":0,"virginica":0}]}`,
		`{"output_label":["setosa"],"output_probability":[[1,0,0]]}`,
	} {
		f := newFixture(t, "iris", m.artifact, m.sig)
		f.spec.Example = json.RawMessage(`{"inputs":{"X":[[5.1,3.5,1.4,0.2]]},"outputs":` + outputs + `}`)
		require.NoError(t, f.engine.Warm(context.Background(), f.spec.Key))
	}
	f := newFixture(t, "iris", m.artifact, m.sig)
	f.spec.Example = json.RawMessage(`{"inputs":{"X":[[5.1,3.5,1.4,0.2]]},"outputs":{"output_probability":[{"setosa":0.5,"versicolor":0.5,"virginica":0}]}}`)
	require.ErrorContains(t, f.engine.Warm(context.Background(), f.spec.Key), "output_probability")
}

func TestCloseWaitsForCalls(t *testing.T) {
	h := newHouse(t, 2, EngineOptions{})
	en, err := h.engine.acquire(context.Background(), h.specs[0].Key)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	require.Equal(t, rowcast.CodeDeadline, code(t, h.engine.Close(ctx)))
	require.Equal(t, rowcast.CodeUnavailable, code(t, h.do(context.Background(), h.specs[0].Key)))
	require.Equal(t, rowcast.CodeUnavailable, code(t, h.do(context.Background(), h.specs[1].Key)))
	h.engine.release(en)
	require.NoError(t, h.engine.Close(context.Background()))
	require.NoError(t, h.engine.Close(context.Background()))

	// A load that is under way is stopped.
	h = newHouse(t, 1, EngineOptions{})
	h.store.gate = make(chan struct{})
	done := make(chan error)
	go func() { done <- h.engine.Warm(context.Background(), h.specs[0].Key) }()
	require.Eventually(t, func() bool { return h.engine.Stats().Bytes > 0 }, 10*time.Second, time.Millisecond)
	require.NoError(t, h.engine.Close(context.Background()))
	require.Equal(t, rowcast.CodeUnavailable, code(t, <-done))
}

// Everything at once, for the race detector: calls, evictions, drops, quarantine, offers.
func TestTheCacheUnderLoad(t *testing.T) {
	h := newHouse(t, 6, EngineOptions{MemoryBudget: 3*tidesCost(t) + 100})
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for worker := range 8 {
		wg.Go(func() {
			for i := range 300 {
				err := h.do(context.Background(), h.specs[(worker+i*i)%len(h.specs)].Key)
				if err != nil {
					require.Equal(t, rowcast.CodeModelUnavailable, rowcast.CodeOf(err), "%v", err)
				}
			}
		})
	}
	var meddler sync.WaitGroup
	meddler.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			spec := h.specs[i%len(h.specs)]
			switch i % 4 {
			case 0:
				h.engine.Retain(func(key string) bool { return key != spec.Key })
			case 1:
				h.engine.Offer(spec, h.model.artifact)
			case 2:
				h.engine.Quarantine(spec.SHA256, "test")
				h.engine.Release(spec.SHA256)
			case 3:
				h.engine.Stats()
			}
			time.Sleep(100 * time.Microsecond)
		}
	})
	wg.Wait()
	close(stop)
	meddler.Wait()
	require.NoError(t, h.engine.Close(context.Background()))
	require.Zero(t, h.engine.Stats().Bytes)
	require.Zero(t, h.engine.Stats().Running)
}
