package record

import (
	"context"
	"crypto/rand"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// Options configure a Recorder. Only Pool is needed; a zero value stands for the default beside it.
type Options struct {
	Pool     *pgxpool.Pool // of the schema's owner
	Rows     int           // that may wait to be committed; 10,000
	Bytes    int           // that those may have; 64 MiB
	Batch    int           // rows at which writing begins before the interval is over; 2,000
	Interval time.Duration // from a row's arrival to its being written; 50 ms
	Logger   *slog.Logger  // nil: discard
	Metrics  *Metrics      // nil: unregistered ones
}

func (o Options) withDefaults() Options {
	if o.Rows <= 0 {
		o.Rows = 10_000
	}
	if o.Bytes <= 0 {
		o.Bytes = 64 << 20
	}
	if o.Batch <= 0 {
		o.Batch = 2_000
	}
	o.Batch = min(o.Batch, o.Rows)
	if o.Interval <= 0 {
		o.Interval = 50 * time.Millisecond
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	return o
}

// batch is rows of binary COPY, one after the other, and where each ends.
type batch struct {
	data []byte
	ends []int
}

func (b *batch) rows() int { return len(b.ends) }

// slice is rows from up to to.
func (b *batch) slice(from, to int) *batch {
	start := 0
	if from > 0 {
		start = b.ends[from-1]
	}
	s := &batch{data: b.data[start:b.ends[to-1]], ends: make([]int, 0, to-from)}
	for _, end := range b.ends[from:to] {
		s.ends = append(s.ends, end-start)
	}
	return s
}

// Recorder is the queue and its writer. Start it, Stop it; Record may be called from many goroutines between.
type Recorder struct {
	o       Options
	id      pgtype.UUID // of this recorder in ml_private.recorder
	encoded sync.Pool

	mu      sync.Mutex
	waiting *batch        // not yet taken by the writer
	rows    int           // waiting or being written
	bytes   int           // of those
	room    chan struct{} // closed when rows leave
	refusal error         // set while the database takes no rows at all, for Record to return
	closed  bool

	number int64 // of the last transaction; the writer's
	spare  *batch
	state  atomic.Int32
	wake   chan struct{} // something is waiting
	full   chan struct{} // a batch is
	stop   chan struct{}
	ctx    context.Context // ends when Stop gives up
	cancel context.CancelFunc
	tasks  sync.WaitGroup
	lost   int // what Stop had to give up; the writer's
}

// New makes a Recorder.
func New(o Options) *Recorder {
	o = o.withDefaults()
	r := &Recorder{
		o: o, waiting: &batch{}, spare: &batch{}, room: make(chan struct{}), wake: make(chan struct{}, 1), full: make(chan struct{}, 1),
		stop: make(chan struct{}),
	}
	r.id.Valid = true
	_, _ = rand.Read(r.id.Bytes[:]) // never fails
	r.encoded.New = func() any { return new([]byte) }
	r.ctx, r.cancel = context.WithCancel(context.Background())
	o.Metrics.recorder.Store(r)
	return r
}

// Start begins to write, and to look after the partitions of the log.
func (r *Recorder) Start(ctx context.Context) {
	if r.state.CompareAndSwap(0, 1) {
		r.probe(ctx) // before the first prediction comes
		r.tasks.Go(r.write)
		r.tasks.Go(r.maintain)
	}
}

// Stop writes what is queued. It returns an error that says how many rows are lost where ctx ends before that is done. No Record may follow.
func (r *Recorder) Stop(ctx context.Context) error {
	if r.state.Swap(2) != 1 {
		r.tasks.Wait()
		return nil
	}
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	close(r.stop)
	give := context.AfterFunc(ctx, r.cancel)
	r.tasks.Wait()
	give()
	r.cancel()
	if r.lost > 0 {
		return rowcast.Errorf(rowcast.CodeUnavailable, "%d logged predictions could not be written and are lost", r.lost)
	}
	return nil
}

// Record queues a prediction. It waits while the queue is full. Errors: the cause of ctx, where that ends first; CodeModelUnavailable where the database
// is read-only, so that no log can be written.
func (r *Recorder) Record(ctx context.Context, p *rowcast.Prediction) error {
	row := r.encoded.Get().(*[]byte)
	defer r.encoded.Put(row)
	*row = appendRow((*row)[:0], p)
	waited := false
	for {
		room, err := r.enqueue(*row)
		if room == nil {
			return err
		}
		if !waited {
			waited = true
			r.o.Metrics.Waits.Inc()
		}
		select {
		case <-room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// enqueue queues a row, or returns what to wait for.
func (r *Recorder) enqueue(row []byte) (room <-chan struct{}, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.refusal != nil:
		return nil, r.refusal
	case r.closed:
		return nil, rowcast.Errorf(rowcast.CodeCanceled, "the sidecar is stopping: its log of predictions is closed")
	case r.rows > 0 && (r.rows >= r.o.Rows || r.bytes+len(row) > r.o.Bytes):
		return r.room, nil
	}
	r.waiting.data = append(r.waiting.data, row...)
	r.waiting.ends = append(r.waiting.ends, len(r.waiting.data))
	r.rows++
	r.bytes += len(row)
	if r.waiting.rows() == 1 {
		signal(r.wake)
	}
	if r.waiting.rows() >= r.o.Batch {
		signal(r.full)
	}
	return nil, nil
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// take gives the writer all that waits.
func (r *Recorder) take() *batch {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.waiting
	r.waiting = r.spare
	r.spare = nil
	return b
}

// keptBuffer is the capacity, in bytes, that a queue's buffer may keep when it is empty.
const keptBuffer = 1 << 20

// leave makes room for what b had: it is written, or lost.
func (r *Recorder) leave(b *batch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows -= b.rows()
	r.bytes -= len(b.data)
	close(r.room)
	r.room = make(chan struct{})
	if cap(b.data) > keptBuffer {
		b.data = nil
	}
	r.spare = &batch{data: b.data[:0], ends: b.ends[:0]}
}

func (r *Recorder) refuse(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refusal = err
	if err != nil { // who waits for room shall hear it
		close(r.room)
		r.room = make(chan struct{})
	}
}

func (r *Recorder) queued() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rows
}
