package gateway

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// The states of a flight. It leaves flightInline once, by a compare-and-swap that either the goroutine that runs it wins, or the watchdog.
const (
	flightInline   = int32(iota) // the goroutine that runs it also serves the connection
	flightDetached               // another goroutine serves the connection meanwhile
	flightLanded                 // finished inline
)

// flight is one call on its way through the engine. Its runner writes out and err; others may read them once done is closed.
type flight struct {
	verb      verb
	call      rowcast.Call
	artifact  []byte // what verbValidateUpload judges
	converted []byte // what it, or a stored artifact, was turned into
	sha256    [32]byte
	session   *session
	held      int64 // bytes of the message, accounted for until the engine no longer needs them

	log       *rowcast.LogRequest // nil: the prediction is not logged
	recording atomic.Bool         // it is made, and waits for the log to take it

	began    time.Time
	deadline time.Duration
	ctx      context.Context
	cancel   context.CancelCauseFunc
	alarm    *time.Timer // for deadlines too short for the watchdog

	state atomic.Int32
	asked atomic.Int64 // when the caller last asked for the result, in ns since began
	ended atomic.Int64 // when it was cancelled, in ns since began; 0: it was not

	done   chan struct{} // made by the watchdog before it detaches
	out    []byte
	err    error
	landed bool // guarded by Gateway.mu
	told   bool // Stalled was told; the watchdog's
}

// fly runs a call on this goroutine. It returns errHandedOver where the call took so long that another goroutine took over the connection.
func (s *session) fly(f *flight) error {
	f.session, f.held, s.held = s, s.held, 0
	f.began = time.Now()
	f.ctx, f.cancel = context.WithCancelCause(context.Background())
	if f.deadline < 4*detachAfter {
		f.alarm = time.AfterFunc(f.deadline, func() { f.stop(f.late()) })
	}
	g, dst := s.g, s.scratch[:0]
	s.flight.Store(f) // from here on the watchdog may take the session away
	g.wake()
	out, err := g.perform(f, dst)
	if !f.state.CompareAndSwap(flightInline, flightLanded) {
		f.out, f.err = out, err
		g.land(f)
		return errHandedOver
	}
	s.flight.Store(nil)
	if cap(out) <= largeMessage {
		s.scratch = out[:0]
	} else {
		s.scratch = nil
	}
	return s.answer(f.verb.row(), out, s.keepConverted(f, err))
}

// perform waits for a slot and runs the call.
func (g *Gateway) perform(f *flight, dst []byte) (out []byte, err error) {
	slots := &g.slots
	if f.verb == verbValidateUpload || f.verb == verbValidateStored {
		slots = &g.validations
	}
	if err = slots.acquire(f.ctx); err == nil {
		out, err = g.run(f, dst)
		slots.release()
	}
	if err == nil && f.log != nil {
		out, err = g.keep(f, dst, out)
	}
	if f.held > 0 {
		g.buffered.Add(-f.held)
	}
	if f.alarm != nil {
		f.alarm.Stop()
	}
	if err != nil {
		if f.ctx.Err() != nil {
			err = context.Cause(f.ctx) // says who stopped it and why, whatever the engine made of that
		}
		out = dst
	}
	g.o.Metrics.finished(f.verb, time.Since(f.began), err)
	if err != nil && f.verb == verbBatch {
		return rowAnswer(out, err)
	}
	return out, err
}

// run calls the engine. A panic becomes an error: it is a bug, but one call's.
func (g *Gateway) run(f *flight, dst []byte) (out []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			g.o.Metrics.Panics.Inc()
			g.o.Logger.Error("a call panicked", "verb", string(rune(f.verb)), "model", f.call.Model, "version", f.call.Version, "panic", fmt.Sprint(r),
				"stack", string(debug.Stack()))
			out, err = nil, rowcast.Errorf(rowcast.CodeInternal, "the sidecar failed on %s", f.subject()).
				WithHint("This is a bug. The sidecar's log has the details.")
		}
	}()
	switch f.verb {
	case verbValidateUpload:
		out, f.converted, err = g.o.Validator.ValidateUpload(f.ctx, f.artifact, f.call.Payload)
		return out, err
	case verbValidateStored:
		out, f.converted, err = g.o.Validator.ValidateStored(f.ctx, f.sha256, f.call.Payload)
		return out, err
	}
	return g.o.Engine.Do(f.ctx, &f.call, dst)
}

// stop cancels the call. The first cause counts.
func (f *flight) stop(cause error) {
	if f.ended.CompareAndSwap(0, max(1, int64(time.Since(f.began)))) {
		f.cancel(cause)
	}
}

func (f *flight) subject() string {
	if f.call.Model == "" {
		return "validating the artifact"
	}
	return fmt.Sprintf("model \"%s@%d\"", f.call.Model, f.call.Version)
}

func (f *flight) late() *rowcast.Error {
	e := rowcast.Errorf(rowcast.CodeDeadline, "%s: the call took longer than its deadline of %s", f.subject(), humanDuration(f.deadline)).
		WithCause(context.DeadlineExceeded)
	if f.recording.Load() {
		return e.WithDetail("The model has answered. The call waited for the log of predictions, which is full because the sidecar cannot write it fast enough.").
			WithHint("See the sidecar's log for what PostgreSQL says; the metrics rowcast_record_* show the queue.")
	}
	if f.call.Model == "" {
		return e.WithDetail("The artifact was not judged in time.")
	}
	return e.WithDetail("The call was stopped.").WithHint("Set rowcast.timeout to allow more, for instance SET rowcast.timeout = '%s'.",
		humanDuration(2*f.deadline))
}

func (f *flight) canceled(format string, args ...any) *rowcast.Error {
	return rowcast.Errorf(rowcast.CodeCanceled, "%s: the call was canceled: %s", f.subject(), fmt.Sprintf(format, args...)).
		WithCause(context.Canceled).WithDetail("The call was stopped.")
}

// humanDuration writes d as PostgreSQL would, so that it can be pasted into a setting.
func humanDuration(d time.Duration) string {
	switch {
	case d >= time.Hour && d%time.Hour == 0:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d >= time.Minute && d%time.Minute == 0:
		return fmt.Sprintf("%dmin", d/time.Minute)
	case d >= time.Second && d%time.Second == 0:
		return fmt.Sprintf("%ds", d/time.Second)
	case d%time.Millisecond == 0:
		return fmt.Sprintf("%dms", d/time.Millisecond)
	}
	return fmt.Sprintf("%dus", d/time.Microsecond)
}

// land ends a detached flight.
func (g *Gateway) land(f *flight) {
	g.mu.Lock()
	f.landed = true
	delete(g.orphans, f)
	g.mu.Unlock()
	close(f.done)
}

// abandon stops the pending call of a connection that no longer wants it. Its runner is looked after until it returns.
func (s *session) abandon(reason string) {
	f := s.pending
	if f == nil {
		return
	}
	f.stop(f.canceled("%s", reason))
	s.pending = nil
	s.flight.Store(nil)
	s.g.mu.Lock()
	if !f.landed {
		s.g.orphans[f] = struct{}{}
	}
	s.g.mu.Unlock()
}

// wait answers W: the pending call's result where it comes soon enough, else "not yet".
func (s *session) wait() error {
	f := s.pending
	if f == nil {
		return s.answer(s.pendingRow, nil, rowcast.Errorf(rowcast.CodeProtocol, "no call is pending on this connection"))
	}
	f.asked.Store(int64(time.Since(f.began)))
	timer := time.NewTimer(waitAtMost)
	defer timer.Stop()
	select {
	case <-f.done:
	default:
		select {
		case <-f.done:
		case <-f.ctx.Done(): // the engine may take its time to notice; the caller need not
			cause := context.Cause(f.ctx)
			s.abandon("")
			return s.answer(f.verb.row(), nil, cause)
		case <-timer.C:
			f.asked.Store(int64(time.Since(f.began)))
			return s.sendPending(f.verb.row())
		}
	}
	s.pending = nil
	s.flight.Store(nil)
	return s.answer(f.verb.row(), f.out, s.keepConverted(f, f.err))
}

// slots bound how many calls run and how many wait for that.
type slots struct {
	free    chan struct{}
	waiting atomic.Int64
	queue   int64
}

func (s *slots) acquire(ctx context.Context) error {
	select {
	case s.free <- struct{}{}:
		return nil
	default:
	}
	defer s.waiting.Add(-1)
	if s.waiting.Add(1) > s.queue {
		return rowcast.Errorf(rowcast.CodeBusy, "the sidecar is busy: %d calls run and %d wait, which is the limit", cap(s.free), s.queue).
			WithHint("Try again, or raise the sidecar's concurrency or queue.")
	}
	select {
	case s.free <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *slots) release() { <-s.free }

func (s *slots) load() (running, queued int) { return len(s.free), int(s.waiting.Load()) }

var errHandedOver = errors.New("another goroutine serves the connection")
