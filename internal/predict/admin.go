package predict

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"sort"
	"sync/atomic"
	"time"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// offer is a version that its transaction has registered and not yet committed: no other connection can see it, but the transaction itself may
// predict with it.
type offer struct {
	spec     *rowcast.Spec
	artifact []byte // nil once a session has it
	since    time.Time
	order    int64 // the engine's clock
}

// Bounds of what is kept of offers: a rolled back registration never says goodbye.
const (
	offerKept      = 10 * time.Minute
	maxOffers      = 64
	maxOfferedSize = 64 << 20 // bytes of artifacts, beyond the newest
)

// Offer hands in a version that was validated but is not yet committed. The artifact must have the spec's hash and must not change afterwards.
func (e *Engine) Offer(spec *rowcast.Spec, artifact []byte) {
	defer e.sweep()
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return
	}
	now := e.now()
	o := &offer{spec: spec, artifact: artifact, since: now, order: e.clock.Add(1)}
	if en := e.entries[spec.Key]; en != nil {
		switch {
		case en.model != nil:
			o.artifact = nil
		case en.err != nil:
			e.drop(en)
		}
	}
	e.offers[spec.Key] = o
	others := make([]string, 0, len(e.offers))
	for key := range e.offers {
		if key != spec.Key {
			others = append(others, key)
		}
	}
	sort.Slice(others, func(i, j int) bool { return e.offers[others[i]].order > e.offers[others[j]].order })
	size := 0
	for i, key := range others {
		old := e.offers[key]
		if i+1 >= maxOffers || size+len(old.artifact) > maxOfferedSize || now.Sub(old.since) > offerKept {
			delete(e.offers, key)
			continue
		}
		size += len(old.artifact)
	}
}

// Retain drops what is loaded for specs that known says no version has any more. What was offered stays until a version has it or its time is up.
func (e *Engine) Retain(known func(key string) bool) {
	defer e.sweep()
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.now()
	for key, o := range e.offers {
		if known(key) || now.Sub(o.since) > offerKept {
			delete(e.offers, key)
		}
	}
	for key, en := range e.entries {
		if _, offered := e.offers[key]; !offered && en.model != nil && !known(key) {
			e.logger.Info("model dropped", slog.String("spec", key))
			e.drop(en)
		}
	}
}

// Quarantine keeps an artifact from being loaded or run until Release. Calls that run it now are not stopped.
func (e *Engine) Quarantine(sha [sha256.Size]byte, reason string) {
	defer e.sweep()
	e.mu.Lock()
	defer e.mu.Unlock()
	e.quarantine[sha] = reason
	for _, en := range e.entries {
		if en.sha == sha && en.model != nil {
			e.drop(en)
		}
	}
	e.logger.Warn("artifact quarantined", slog.String("sha256", hex.EncodeToString(sha[:])), slog.String("reason", reason))
}

// Release ends the quarantine of an artifact.
func (e *Engine) Release(sha [sha256.Size]byte) {
	defer e.sweep()
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.quarantine, sha)
	for _, en := range e.entries {
		if en.sha == sha && en.err != nil {
			e.drop(en)
		}
	}
}

type counters struct {
	loads, failures, evictions atomic.Int64
}

// Stats is the state of the model cache.
type Stats struct {
	Loaded      int   // models
	Loading     int   // models
	Offered     int   // versions that are not yet committed
	Quarantined int   // artifacts
	Running     int   // calls that hold a model or wait for one
	Bytes       int64 // memory of loaded and loading models, by estimate
	Budget      int64 // bytes
	Loads       int64 // since the start, likewise the next two
	Failures    int64
	Evictions   int64
	Models      []LoadedModel // by key
}

// LoadedModel is one model in the cache.
type LoadedModel struct {
	Key     string
	SHA256  [sha256.Size]byte
	Bytes   int64 // by estimate
	Running int   // calls that hold it
}

// Stats returns a snapshot of the cache.
func (e *Engine) Stats() Stats {
	e.mu.RLock()
	defer e.mu.RUnlock()
	s := Stats{
		Offered: len(e.offers), Quarantined: len(e.quarantine), Running: int(e.running.Load()), Bytes: e.bytes, Budget: e.budget,
		Loads: e.counts.loads.Load(), Failures: e.counts.failures.Load(), Evictions: e.counts.evictions.Load(),
	}
	for key, en := range e.entries {
		switch {
		case en.model != nil:
			s.Loaded++
			s.Models = append(s.Models, LoadedModel{Key: key, SHA256: en.sha, Bytes: en.bytes, Running: int(en.refs.Load())})
		case en.err == nil:
			s.Loading++
		}
	}
	sort.Slice(s.Models, func(i, j int) bool { return s.Models[i].Key < s.Models[j].Key })
	return s
}

// Close refuses new calls, stops loads, waits for running calls until ctx ends and frees every model. A call that is still running when ctx ends
// frees its model when it returns. Close may be called twice.
func (e *Engine) Close(ctx context.Context) error {
	e.mu.Lock()
	if !e.closed {
		e.closed = true
		e.cancel()
		clear(e.offers)
		for _, en := range e.entries {
			e.drop(en)
		}
	}
	e.mu.Unlock()
	e.sweep()
	e.closing.Store(true)
	if e.running.Load() == 0 {
		e.signalIdle()
	}
	done := make(chan struct{})
	go func() {
		e.loads.Wait()
		<-e.idle
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return rowcast.Errorf(rowcast.CodeDeadline, "calls were still running when the engine was closed").WithCause(context.Cause(ctx))
	}
}

// signalIdle tells Close that no call is left. Calls after Close are refused, so that it happens once.
func (e *Engine) signalIdle() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.closed || e.running.Load() != 0 {
		return
	}
	select {
	case <-e.idle:
	default:
		close(e.idle)
	}
}
