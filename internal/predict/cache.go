package predict

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// entry is a model in the cache: loading until ready is closed, then loaded or failed.
type entry struct {
	key   string
	sha   [sha256.Size]byte
	bytes int64         // by estimate; 0 until the size is known
	ready chan struct{} // closed once model or err is set
	model *model
	err   error
	until time.Time // a failure is answered again without a new attempt until then

	refs    atomic.Int64 // calls that hold the entry, waiting for it or running it
	used    atomic.Int64 // the engine's clock at the last use
	dropped atomic.Bool  // out of the map: the last to let go closes it
	close   sync.Once
}

// failureKept is how long a load that failed for good is not tried again: a hundred sessions that ask for a broken model cost one load a second.
const failureKept = time.Second

// loadTimeout bounds a load, replay of the example included.
const loadTimeout = 10 * time.Minute

// costOf estimates the memory in bytes that a model takes. Measured with ONNX Runtime 1.32: weights 1.2 times the file, trees 4.5 times, because
// they unfold, and each operator about 5 kB, which outweighs the file where a model is a great many small ones (2,710 operators in 0.8 MB took 15 MB).
func costOf(artifact []byte) int64 {
	size := int64(len(artifact))
	cost := size + size/4 + 1<<20
	if bytes.Contains(artifact, []byte("TreeEnsemble")) {
		cost += 4 * size
	}
	if size > 4<<20 {
		return cost // to count the operators of a large file takes longer than they matter
	}
	if g, err := onnx.Inspect(artifact); err == nil {
		for _, n := range g.Ops {
			cost += int64(n) * 5 << 10
		}
	}
	return cost
}

// acquire returns the entry of a loaded model, which stays open until release. It loads the model where nobody has, once for all who ask.
func (e *Engine) acquire(ctx context.Context, key string) (*entry, error) {
	e.mu.RLock()
	if en := e.entries[key]; en != nil && en.model != nil && !e.closed {
		e.hold(en)
		e.mu.RUnlock()
		return en, nil
	}
	e.mu.RUnlock()
	en, err := e.request(key)
	if err != nil {
		return nil, err
	}
	select {
	case <-en.ready:
	case <-ctx.Done():
		e.release(en)
		return nil, waitEnded(ctx)
	}
	if en.err != nil {
		e.release(en)
		return nil, en.err
	}
	return en, nil
}

// hold counts a call in. The caller holds e.mu, so that whoever drops the entry sees the count.
func (e *Engine) hold(en *entry) {
	en.refs.Add(1)
	en.used.Store(e.clock.Add(1))
	e.running.Add(1)
}

// request returns the entry of key, held, and starts a load where there is none.
func (e *Engine) request(key string) (*entry, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, rowcast.Errorf(rowcast.CodeUnavailable, "the sidecar is stopping")
	}
	en := e.entries[key]
	if en != nil && en.err != nil {
		if e.now().Before(en.until) {
			return nil, en.err
		}
		e.drop(en)
		en = nil
	}
	if en == nil {
		en = &entry{key: strings.Clone(key), ready: make(chan struct{})}
		e.entries[en.key] = en
		e.loads.Add(1)
		go e.load(en)
	}
	e.hold(en)
	return en, nil
}

func waitEnded(ctx context.Context) error {
	cause := context.Cause(ctx)
	var known *rowcast.Error
	switch {
	case errors.As(cause, &known):
		return known
	case errors.Is(cause, context.DeadlineExceeded):
		return rowcast.Errorf(rowcast.CodeDeadline, "it was still loading at the deadline").
			WithHint("The load goes on; call again.").WithCause(cause)
	}
	return rowcast.Errorf(rowcast.CodeCanceled, "the call was cancelled while it was loading").WithCause(cause)
}

// release lets go of an entry.
func (e *Engine) release(en *entry) {
	if en.refs.Add(-1) == 0 && en.dropped.Load() {
		e.shut(en)
	}
	if e.running.Add(-1) == 0 && e.closing.Load() {
		e.signalIdle()
	}
}

// drop takes an entry out of the map. The caller holds e.mu for writing, and calls sweep when it does not any more.
func (e *Engine) drop(en *entry) {
	if e.entries[en.key] == en {
		delete(e.entries, en.key)
	}
	e.bytes -= en.bytes
	en.bytes = 0
	en.dropped.Store(true)
	if en.refs.Load() == 0 && en.model != nil {
		e.garbage = append(e.garbage, en)
	}
}

// sweep closes what drop has collected. The caller does not hold e.mu.
func (e *Engine) sweep() {
	e.mu.Lock()
	garbage := e.garbage
	e.garbage = nil
	e.mu.Unlock()
	for _, en := range garbage {
		e.shut(en)
	}
}

// shut closes the session of a dropped entry that nobody holds.
func (e *Engine) shut(en *entry) {
	select {
	case <-en.ready:
	default:
		return // still loading: load closes it
	}
	en.close.Do(func() {
		if en.model == nil {
			return
		}
		if err := en.model.session.Close(); err != nil {
			e.logger.Warn("model not freed", slog.String("spec", en.key), slog.Any("error", err))
		}
	})
}

// load fills an entry. It runs under the engine's context: a caller who gives up does not stop what others wait for.
func (e *Engine) load(en *entry) {
	defer e.loads.Done()
	ctx, cancel := context.WithTimeoutCause(e.ctx, loadTimeout,
		rowcast.Errorf(rowcast.CodeModelUnavailable, "it did not load within %s", loadTimeout))
	defer cancel()
	start := e.now()
	m, err := e.open(ctx, en)
	defer func() {
		if en.dropped.Load() && en.refs.Load() == 0 {
			e.shut(en)
		}
	}()
	e.mu.Lock()
	defer e.mu.Unlock()
	defer close(en.ready)
	if reason, ok := e.quarantine[en.sha]; ok && err == nil { // since the load began
		en.model, en.err = m, quarantined(en.sha, reason)
		e.drop(en)
		return
	}
	if err != nil {
		e.counts.failures.Add(1)
		en.err = err
		e.bytes -= en.bytes
		en.bytes = 0
		if !passing(err) {
			en.until = e.now().Add(failureKept)
			e.logger.Warn("model not loaded", slog.String("spec", en.key), slog.String("sha256", hex.EncodeToString(en.sha[:])), slog.Any("error", err))
		} else if !en.dropped.Load() {
			delete(e.entries, en.key)
			en.dropped.Store(true)
		}
		return
	}
	e.counts.loads.Add(1)
	en.model = m
	if o := e.offers[en.key]; o != nil {
		o.artifact = nil // the session has it; the spec stays to answer for the key until it is committed
	}
	e.logger.Info("model loaded", slog.String("spec", en.key), slog.String("sha256", hex.EncodeToString(en.sha[:])), slog.Int64("bytes", en.bytes),
		slog.Duration("took", e.now().Sub(start)))
}

// passing reports errors that say nothing about the model: the next call may do better.
func passing(err error) bool {
	switch rowcast.CodeOf(err) {
	case rowcast.CodeCanceled, rowcast.CodeDeadline, rowcast.CodeUnavailable, rowcast.CodeNotFound, rowcast.CodeBusy:
		return true
	}
	return false
}

// open finds the spec, makes room, fetches the artifact, loads it and replays its example.
func (e *Engine) open(ctx context.Context, en *entry) (*model, error) {
	spec, artifact, err := e.find(ctx, en.key)
	if err != nil {
		return nil, err
	}
	if err := e.reserve(en, spec, spec.Size); err != nil {
		return nil, err
	}
	verify := func() error { return nil } // what was offered is what the database validated
	if artifact == nil {
		if artifact, verify, err = e.source.Artifact(ctx, spec.SHA256, spec.Size); err != nil {
			return nil, asError(err)
		}
	}
	slot := e.tracker.Enter(spec.SHA256)
	defer e.tracker.Leave(slot)
	// The first prediction of a large model waits for this, so the hash is computed beside the load. What is not what it names is told before anything
	// that was made of it fails, and never runs.
	m, err := e.loadBytes(en, spec, artifact)
	if corrupt := verify(); corrupt != nil {
		if err == nil {
			_ = m.session.Close()
		}
		return nil, asError(corrupt)
	}
	if err != nil {
		return nil, err
	}
	if err := m.replay(ctx, spec.Example); err != nil {
		_ = m.session.Close()
		return nil, err
	}
	return m, nil
}

// loadBytes makes room for what the model takes beyond its bytes, and loads it.
func (e *Engine) loadBytes(en *entry, spec *rowcast.Spec, artifact []byte) (*model, error) {
	if err := e.reserve(en, spec, costOf(artifact)); err != nil {
		return nil, err
	}
	return loadModel(e.runtime, spec, artifact)
}

// asError makes sure that the cause of a failed load has a code.
func asError(err error) error {
	var known *rowcast.Error
	if errors.As(err, &known) {
		return err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return rowcast.Errorf(rowcast.CodeUnavailable, "the sidecar is stopping").WithCause(err)
	}
	return rowcast.Errorf(rowcast.CodeInternal, "it cannot be read").WithCause(err)
}

// find returns the spec of a key, and the artifact where it was offered.
func (e *Engine) find(ctx context.Context, key string) (*rowcast.Spec, []byte, error) {
	e.mu.RLock()
	o := e.offers[key]
	var artifact []byte
	if o != nil {
		artifact = o.artifact
	}
	e.mu.RUnlock()
	if artifact != nil {
		return o.spec, artifact, nil
	}
	spec, err := e.source.Spec(ctx, key)
	if rowcast.CodeOf(err) == rowcast.CodeNotFound && err != nil {
		return nil, nil, rowcast.Errorf(rowcast.CodeModelUnavailable, "the sidecar does not see this version yet").
			WithHint("Commit the transaction that registered it, then call again.").WithCause(err)
	}
	if err != nil {
		return nil, nil, asError(err)
	}
	return spec, nil, nil
}

// reserve takes a model's share of the budget, in place of what it has taken before, closing the least recently used models that nobody uses. Where all that is left is in use, the
// budget is overdrawn until they are done: calls are short, and to wait for them could wait for ourselves.
func (e *Engine) reserve(en *entry, spec *rowcast.Spec, cost int64) error {
	defer e.sweep()
	e.mu.Lock()
	defer e.mu.Unlock()
	en.sha = spec.SHA256
	if reason, ok := e.quarantine[spec.SHA256]; ok {
		return quarantined(spec.SHA256, reason)
	}
	if cost > e.budget {
		return rowcast.Errorf(rowcast.CodeOutOfMemory, "it needs about %d MiB of memory, more than the sidecar's budget of %d MiB", cost>>20, e.budget>>20).
			WithHint("Raise the sidecar's memory budget.")
	}
	e.bytes -= en.bytes
	en.bytes = 0
	e.evict(e.budget - cost)
	if !en.dropped.Load() {
		en.bytes = cost
		e.bytes += cost
	}
	return nil
}

// evict closes idle models, the least recently used first, until at most limit bytes are taken. The caller holds e.mu for writing.
func (e *Engine) evict(limit int64) {
	for e.bytes > limit {
		var oldest *entry
		for _, en := range e.entries {
			if en.model != nil && en.refs.Load() == 0 && (oldest == nil || en.used.Load() < oldest.used.Load()) {
				oldest = en
			}
		}
		if oldest == nil {
			return
		}
		e.counts.evictions.Add(1)
		e.logger.Info("model evicted", slog.String("spec", oldest.key), slog.Int64("bytes", oldest.bytes))
		e.drop(oldest)
	}
}

func quarantined(sha [sha256.Size]byte, reason string) error {
	return rowcast.Errorf(rowcast.CodeModelUnavailable, "it is quarantined: %s", reason).
		WithDetail("The artifact is sha256 %s.", hex.EncodeToString(sha[:])).
		WithHint("SELECT ml.release_version(model, version) lets it run again; or promote another version.")
}
