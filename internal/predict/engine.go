package predict

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// Source is where specs and artifacts come from: the database.
type Source interface {
	// Spec returns the version's spec, or an error with CodeNotFound where no committed version has the key.
	Spec(ctx context.Context, key string) (*rowcast.Spec, error)
	// Artifact returns the bytes of an artifact, which the caller may keep. verify waits until they are known to have the hash, or says that they do not.
	Artifact(ctx context.Context, sha [sha256.Size]byte, size int64) (data []byte, verify func() error, err error)
}

// Tracker remembers outside the process which artifact is running, so that after a crash it is known which one to suspect.
type Tracker interface {
	Enter(sha [sha256.Size]byte) (slot int)
	Leave(slot int)
}

// EngineOptions are the bounds and helpers of an Engine.
type EngineOptions struct {
	MemoryBudget int64 // bytes that loaded models may take by estimate; 0 means 2 GiB
	Tracker      Tracker
	Logger       *slog.Logger
	Now          func() time.Time
}

// Engine answers calls. Its methods may be called from many goroutines. Stop it with Close.
type Engine struct {
	runtime *onnx.Runtime
	source  Source
	budget  int64
	tracker Tracker
	logger  *slog.Logger
	now     func() time.Time

	ctx    context.Context // ends when the engine closes; loads run under it, not under their first caller's
	cancel context.CancelFunc
	loads  sync.WaitGroup

	// mu guards the maps and the fields of entries; a call that finds its model loaded takes it for reading only.
	mu         sync.RWMutex
	entries    map[string]*entry
	offers     map[string]*offer
	quarantine map[[sha256.Size]byte]string
	bytes      int64 // of loaded and loading models, by estimate
	closed     bool
	garbage    []*entry      // dropped and unused; their sessions are closed outside the lock, since that takes a while
	idle       chan struct{} // closed by the last call that leaves after Close began

	clock   atomic.Int64 // ticks at each use of a model
	running atomic.Int64 // calls that hold a model
	closing atomic.Bool  // lets the last call know that Close waits for it
	scratch sync.Pool
	helpers chan struct{} // a token per core beyond one that batches may take
	counts  counters
}

// NewEngine returns an engine that loads what it is asked for from src and runs it on rt.
func NewEngine(rt *onnx.Runtime, src Source, o EngineOptions) *Engine {
	e := &Engine{
		runtime: rt, source: src, budget: o.MemoryBudget, tracker: o.Tracker, logger: o.Logger, now: o.Now,
		entries: map[string]*entry{}, offers: map[string]*offer{}, quarantine: map[[sha256.Size]byte]string{}, idle: make(chan struct{}),
		helpers: make(chan struct{}, max(runtime.GOMAXPROCS(0)-1, 0)),
	}
	if e.budget <= 0 {
		e.budget = 2 << 30
	}
	if e.tracker == nil {
		e.tracker = noTracker{}
	}
	if e.logger == nil {
		e.logger = slog.New(slog.DiscardHandler)
	}
	if e.now == nil {
		e.now = time.Now
	}
	e.scratch.New = func() any { return &scratch{} }
	e.ctx, e.cancel = context.WithCancel(context.Background())
	return e
}

type noTracker struct{}

func (noTracker) Enter([sha256.Size]byte) int { return 0 }
func (noTracker) Leave(int)                   {}

// Do answers a call and appends the answer's text to dst:
//
//	VerbPredict  a decimal number, or NaN, Infinity, -Infinity
//	VerbLabel    the label's text, of any length
//	VerbProba    an array literal such as {0.1,0.9}
//	VerbJSON     a JSON object
//	VerbInfer    a JSON object with one array per output
//	VerbBatch    see batch
//
// With an error dst comes back as it was. Every error is a *rowcast.Error whose message names the model.
func (e *Engine) Do(ctx context.Context, c *rowcast.Call, dst []byte) ([]byte, error) {
	en, err := e.acquire(ctx, c.Spec)
	if err != nil {
		return dst, withModel(c, err)
	}
	if c.Verb == rowcast.VerbBatch {
		answer, err := e.batch(ctx, en, c, dst)
		if err != nil {
			return dst, withModel(c, err)
		}
		return answer, nil
	}
	defer e.release(en)
	slot := e.tracker.Enter(en.sha)
	defer e.tracker.Leave(slot)
	if c.Observe != nil {
		c.Observe.SHA256 = en.sha
	}
	if c.Verb == rowcast.VerbInfer {
		answer, err := en.model.infer(ctx, c.Payload, dst)
		if err != nil {
			return dst, withModel(c, err)
		}
		if o := c.Observe; o != nil { // the payload is jsonb's text already
			o.Inputs, o.InputHash, o.Outputs = slices.Clone(c.Payload), sha256.Sum256(c.Payload), slices.Clone(answer[len(dst):])
		}
		return answer, nil
	}
	s := e.scratch.Get().(*scratch)
	s.prepare(len(en.model.plan.features))
	defer e.putScratch(s)
	answer, err := en.model.predict(ctx, c, s, dst)
	if err != nil {
		return dst, withModel(c, err)
	}
	return answer, nil
}

// keptScratch is how much of a large row's working memory is kept for the next one, in bytes or elements.
const keptScratch = 1 << 16

// prepare makes room for n features.
func (s *scratch) prepare(n int) {
	if cap(s.seen) < n {
		s.seen = make([]bool, n)
	}
}

// putScratch gives working memory back, without the references into the payload and without what an unusually large row left behind.
func (e *Engine) putScratch(s *scratch) {
	clear(s.literal.cells)
	s.scanner.Shrink(keptScratch)
	if cap(s.literal.cells)+cap(s.literal.buf) > keptScratch {
		s.literal = literal{}
	}
	e.scratch.Put(s)
}

// Warm loads a model so that its first call does not wait. Errors are those of a call.
func (e *Engine) Warm(ctx context.Context, key string) error {
	en, err := e.acquire(ctx, key)
	if err != nil {
		return err
	}
	e.release(en)
	return nil
}

// Loaded reports whether a call of this spec would find its model loaded.
func (e *Engine) Loaded(key string) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	en := e.entries[key]
	return en != nil && en.model != nil
}
