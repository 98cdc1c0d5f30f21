package gateway

import (
	"context"
	"time"
)

const (
	watchEvery  = 20 * time.Millisecond
	detachAfter = 75 * time.Millisecond  // plus watchEvery, at most: "not yet" is said within 100 ms
	waitAtMost  = 100 * time.Millisecond // that one W takes
	giveUpAfter = 2 * time.Second        // without a W
	stallAfter  = 5 * time.Second        // from cancellation
)

// watch looks after the calls: it detaches the long ones, ends those that are late or that nobody asks for, and reports the ones that do not
// end. It sleeps while nothing runs.
func (g *Gateway) watch() {
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	idle := 0
	for {
		select {
		case <-ticker.C:
		case <-g.stopWatch:
			return
		}
		if g.inspect(time.Now()) {
			idle = 0
			continue
		}
		if idle++; idle < 50 {
			continue
		}
		// Announce the sleep, look once more for a call that began before it could see that, and only then sleep.
		g.asleep.Store(true)
		if !g.inspect(time.Now()) {
			ticker.Stop()
			select {
			case <-g.wakeUp:
			case <-g.stopWatch:
				return
			}
			ticker.Reset(watchEvery)
		}
		g.asleep.Store(false)
		idle = 0
	}
}

// wake is called when a call begins.
func (g *Gateway) wake() {
	if g.asleep.Load() {
		select {
		case g.wakeUp <- struct{}{}:
		default:
		}
	}
}

// inspect looks at every call once and reports whether there was any.
func (g *Gateway) inspect(now time.Time) (busy bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.sessions {
		f := s.flight.Load()
		if f == nil {
			continue
		}
		busy = true
		age := now.Sub(f.began)
		if age >= f.deadline {
			f.stop(f.late())
		}
		if age >= detachAfter && f.state.Load() == flightInline {
			g.detach(f)
		} else if f.state.Load() == flightDetached && age-time.Duration(f.asked.Load()) > giveUpAfter {
			f.stop(f.canceled("nobody waited for it for %s", humanDuration(giveUpAfter)))
		}
		g.checkStall(f, age)
	}
	for f := range g.orphans {
		busy = true
		g.checkStall(f, now.Sub(f.began))
	}
	return busy
}

// detach lets another goroutine serve the connection of a call that runs inline. It loses to the call's end.
func (g *Gateway) detach(f *flight) {
	s := f.session
	f.done = make(chan struct{})
	f.asked.Store(int64(time.Since(f.began)))
	if !f.state.CompareAndSwap(flightInline, flightDetached) {
		return
	}
	// From here on the session is ours, and the runner touches nothing but f.
	s.scratch, s.pending, s.pendingRow = nil, f, f.verb.row()
	g.o.Metrics.Pending.Inc()
	g.goroutines.Go(func() {
		if err := s.sendPending(f.verb.row()); err != nil {
			s.close(err)
			return
		}
		s.serve()
	})
}

func (g *Gateway) checkStall(f *flight, age time.Duration) {
	ended := time.Duration(f.ended.Load())
	if f.told || ended == 0 || age-ended < stallAfter || f.landed {
		return
	}
	f.told = true
	g.o.Metrics.Stalled.Inc()
	g.o.Logger.Error("a call ignores its cancellation", "model", f.call.Model, "version", f.call.Version, "spec", f.call.Spec,
		"cause", context.Cause(f.ctx), "running_s", int(age.Seconds()))
	if g.o.Stalled != nil && f.call.Spec != "" {
		g.o.Stalled(f.call.Spec)
	}
}
