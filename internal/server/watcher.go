package server

import (
	"context"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	channel        = "rowcast"
	listenRetry    = time.Second
	staleUploadsIn = time.Hour
)

// watch keeps the engine in step with the registry. A notification is only a hint: the poll finds whatever it missed, and works on a standby, which
// cannot LISTEN. The poll also shows the SQL functions, which look at pg_stat_activity, that the sidecar is alive.
func (w *Worker) watch(ctx context.Context) {
	hints := make(chan struct{}, 1)
	w.tasks.Go(func() { w.listen(ctx, hints) })
	tick := time.NewTicker(w.o.Config.Poll)
	defer tick.Stop()
	cleaned := time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-hints:
		case <-tick.C:
		}
		if err := w.refresh(ctx); err != nil && ctx.Err() == nil {
			w.o.Logger.Warn("registry could not be read; going on with what is loaded", "error", err)
		}
		if time.Since(cleaned) > staleUploadsIn {
			cleaned = time.Now()
			if n, err := w.store.DropStaleUploads(ctx); err == nil && n > 0 {
				w.o.Logger.Info("uploads that were never registered deleted", "artifacts", n)
			}
		}
	}
}

// listen turns notifications into hints, on a connection of its own, until ctx ends.
func (w *Worker) listen(ctx context.Context, hints chan<- struct{}) {
	for ctx.Err() == nil {
		err := w.listenOnce(ctx, hints)
		if ctx.Err() != nil {
			return
		}
		w.o.Logger.Debug("not listening", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(listenRetry):
		}
	}
}

func (w *Worker) listenOnce(ctx context.Context, hints chan<- struct{}) error {
	conn, err := w.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	// Taken out of the pool: a connection that listens must not be given to anybody else.
	c := conn.Hijack()
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	if _, err := c.Exec(ctx, "LISTEN "+pgx.Identifier{channel}.Sanitize()); err != nil {
		return err
	}
	for {
		// A self-probe finds a connection that died without a word.
		probe, cancel := context.WithTimeout(ctx, w.o.Config.Poll)
		note, err := c.WaitForNotification(probe)
		cancel()
		switch {
		case err == nil && strings.HasPrefix(note.Payload, "job "):
			w.score.Hint()
		case err == nil:
			select {
			case hints <- struct{}{}:
			default:
			}
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, context.DeadlineExceeded):
			if err := c.Ping(ctx); err != nil {
				return err
			}
		default:
			return err
		}
	}
}

// refresh brings credentials, quarantine and loaded models in step with the committed registry. New champions are loaded before anything is dropped.
func (w *Worker) refresh(ctx context.Context) error {
	credentials, err := w.credentials(ctx)
	if err != nil {
		return err
	}
	if err := w.gateway.SetCredentials(credentials); err != nil {
		return err
	}
	quarantined, err := w.store.Quarantined(ctx)
	if err != nil {
		return err
	}
	for sha, reason := range quarantined {
		if _, known := w.quarantined[sha]; !known {
			w.engine.Quarantine(sha, reason)
		}
	}
	for sha := range w.quarantined {
		if _, still := quarantined[sha]; !still {
			w.engine.Release(sha)
		}
	}
	w.quarantined = quarantined
	champions, err := w.store.Champions(ctx)
	if err != nil {
		return err
	}
	// Only new champions: to load again what the memory budget has driven out would drive out others, over and over.
	warmed := make(map[string]string, len(champions))
	for _, key := range champions {
		if outcome, known := w.warmed[key]; known && outcome == "" {
			warmed[key] = ""
			continue
		}
		if err := w.engine.Warm(ctx, key); err != nil && ctx.Err() == nil {
			if warmed[key] = err.Error(); warmed[key] != w.warmed[key] {
				w.o.Logger.Error("champion could not be loaded", "spec", key, "error", err)
			}
			continue
		}
		warmed[key] = ""
	}
	w.warmed = warmed
	keys, err := w.store.Keys(ctx)
	if err != nil {
		return err
	}
	known := make(map[string]struct{}, len(keys))
	for _, k := range keys {
		known[k] = struct{}{}
	}
	w.engine.Retain(func(key string) bool { _, ok := known[key]; return ok })
	return nil
}

// record quarantines what killed earlier workers.
func (w *Worker) record(ctx context.Context) {
	stored := true
	for _, s := range w.o.Verdicts.Quarantine {
		stored = w.quarantine(ctx, s.SHA256, s.Reason) && stored
	}
	if stored {
		w.o.Crumbs.MarkRecorded()
	}
}

// quarantine keeps an artifact from being loaded, here at once and, where the database can be written to, everywhere and for good.
func (w *Worker) quarantine(ctx context.Context, sha [32]byte, reason string) (stored bool) {
	w.engine.Quarantine(sha, reason)
	err := w.store.Quarantine(ctx, sha, reason)
	if err != nil {
		w.o.Logger.Error("quarantine could not be stored and ends with this sidecar", "artifact", hex.EncodeToString(sha[:]), "error", err)
	}
	return err == nil
}

// stalled is told by the gateway that a call of the spec has ignored its cancellation.
func (w *Worker) stalled(spec string) {
	w.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		s, err := w.store.Spec(ctx, spec)
		if err != nil {
			w.o.Logger.Error("stalled model could not be looked up", "spec", spec, "error", err)
			return
		}
		w.quarantine(ctx, s.SHA256, "a call did not end when it was cancelled")
	})
}
