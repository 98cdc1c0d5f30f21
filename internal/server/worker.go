package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/rowcast/rowcast/internal/config"
	"github.com/rowcast/rowcast/internal/gateway"
	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/postgres"
	"github.com/rowcast/rowcast/internal/predict"
	"github.com/rowcast/rowcast/internal/record"
	"github.com/rowcast/rowcast/internal/registry"
	"github.com/rowcast/rowcast/internal/score"
)

// How the sidecar's sessions show in pg_stat_activity. The SQL functions look for them, to say that no sidecar runs or that it hangs.
const (
	supervisorName = "rowcast serve"
	workerName     = "rowcast worker"
)

// WorkerOptions are what a worker is built from. Listeners are closed by Stop.
type WorkerOptions struct {
	Config    config.Config
	Listeners []net.Listener
	HTTP      net.Listener  // nil: no HTTP
	Crumbs    *Crumbs       // nil: nobody looks after crashes
	Verdicts  Verdicts      // what earlier workers died of
	Runtime   *onnx.Runtime // nil: opened from Config; ONNX Runtime can be opened only once in a process
	Logger    *slog.Logger
	Ready     func() // called once when the champions are loaded and the gateway answers; nil: nobody waits
}

// Worker serves predictions for one database.
type Worker struct {
	o        WorkerOptions
	pool     *pgxpool.Pool
	store    *registry.Store
	runtime  *onnx.Runtime
	engine   *predict.Engine
	gateway  *gateway.Gateway
	recorder *record.Recorder
	score    *score.Service
	http     *http.Server

	ready       atomic.Bool
	quarantined map[[32]byte]string // as the database last said; the watcher's
	warmed      map[string]string   // champions by key, with the error of those that could not be loaded; the watcher's
	cancel      context.CancelFunc
	tasks       sync.WaitGroup
	stopOnce    sync.Once
	stopErr     error
}

// Start builds a worker and starts it. It returns when the champions are loaded (or failed to, which is logged) and the gateway answers.
func Start(ctx context.Context, o WorkerOptions) (_ *Worker, err error) {
	if o.Crumbs == nil {
		o.Crumbs = PrivateCrumbs()
	}
	w := &Worker{o: o, warmed: map[string]string{}}
	defer func() {
		if err != nil {
			_ = w.Stop(ctx)
		}
	}()
	c := &o.Config
	if w.pool, err = postgres.Open(ctx, c.DatabaseURL, postgres.OpenOptions{ApplicationName: workerName, MaxConns: int32(6 + c.ScoreWorkers)}); err != nil {
		return nil, err
	}
	w.store = registry.NewStore(w.pool)
	if w.runtime = o.Runtime; w.runtime == nil {
		library := c.ONNXRuntime
		if library == "" {
			if library, err = onnx.FindLibrary(); err != nil {
				return nil, err
			}
		}
		if err := os.Setenv(onnx.LibraryVariable, library); err != nil { // the validating child looks there
			return nil, err
		}
		if w.runtime, err = onnx.Open(onnx.Config{LibraryPath: library, Threads: c.Threads}); err != nil {
			return nil, err
		}
	}
	credentials, err := w.credentials(ctx)
	if err != nil {
		return nil, err
	}
	tls, err := c.TLS()
	if err != nil {
		return nil, err
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	w.engine = predict.NewEngine(w.runtime, w.store, predict.EngineOptions{MemoryBudget: int64(c.MemoryBudget), Tracker: o.Crumbs, Logger: o.Logger})
	registerEngineMetrics(metrics, w.engine)
	w.recorder = record.New(record.Options{
		Pool: w.pool, Rows: c.RecordQueue, Interval: c.RecordInterval, Logger: o.Logger, Metrics: record.NewMetrics(metrics),
	})
	w.gateway = gateway.New(gateway.Options{
		Listeners: o.Listeners, Engine: w.engine, Recorder: w.recorder,
		Validator:   &validator{store: w.store, engine: w.engine, limits: registry.Limits{Memory: int64(c.ValidateMemory), Wall: c.ValidateTime}},
		Credentials: credentials, Refresh: w.credentials, TLS: tls,
		MaxMessageBytes: int(c.MaxMessage), MaxConnections: c.MaxConnections, Concurrency: c.Concurrency, Queue: queue(c.Queue), Deadline: c.Deadline,
		Stalled: w.stalled, Logger: o.Logger, Metrics: gateway.NewMetrics(metrics),
	})
	w.score = score.New(score.Options{
		Pool: w.pool, Engine: w.engine, SQLState: gateway.SQLState, Sidecar: sidecarName(), Workers: c.ScoreWorkers, Logger: o.Logger,
		Metrics: score.NewMetrics(metrics),
	})
	var run context.Context
	run, w.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if o.HTTP != nil {
		w.serveHTTP(metrics)
	}
	w.record(ctx)
	if err := w.refresh(ctx); err != nil {
		return nil, err
	}
	w.recorder.Start(ctx)
	if err := w.gateway.Start(run); err != nil {
		return nil, err
	}
	w.tasks.Go(func() { w.watch(run) })
	w.score.Start(run)
	w.ready.Store(true)
	o.Crumbs.MarkReady()
	o.Logger.Info("ready", "onnxruntime", w.runtime.Version(), "gateway", addresses(o.Listeners))
	if o.Ready != nil {
		o.Ready()
	}
	return w, nil
}

// Stop ends the worker: no new calls, those that run may finish until ctx ends, then everything is closed. Calling it again waits and says the same.
func (w *Worker) Stop(ctx context.Context) error {
	w.stopOnce.Do(func() {
		w.ready.Store(false)
		var errs []error
		if w.score != nil {
			w.score.Stop() // before the gateway: a source may predict
		}
		if w.gateway != nil {
			errs = append(errs, w.gateway.Stop(ctx))
		}
		if w.recorder != nil { // after the last call
			errs = append(errs, w.flush(ctx))
		}
		if w.cancel != nil {
			w.cancel()
		}
		if w.http != nil {
			errs = append(errs, w.http.Close())
		}
		w.tasks.Wait()
		if w.engine != nil {
			errs = append(errs, w.engine.Close(ctx))
		}
		if w.o.Runtime == nil && w.runtime != nil {
			errs = append(errs, w.runtime.Close())
		}
		if w.pool != nil {
			w.pool.Close()
		}
		w.stopErr = errors.Join(errs...)
	})
	return w.stopErr
}

// flush writes what is left of the log of predictions. Calls that would not end must not cost it its time: it has a few seconds in any case.
func (w *Worker) flush(ctx context.Context) error {
	const least = 5 * time.Second
	if deadline, ok := ctx.Deadline(); ctx.Err() != nil || ok && time.Until(deadline) < least {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), least)
		defer cancel()
	}
	return w.recorder.Stop(ctx)
}

func (w *Worker) credentials(ctx context.Context) (gateway.Credentials, error) {
	password, key, err := w.store.Credentials(ctx)
	return gateway.Credentials{Password: password, Key: key}, err
}

func (w *Worker) serveHTTP(metrics *prometheus.Registry) {
	mux := http.NewServeMux()
	answer := func(rw http.ResponseWriter, ok bool, text string) {
		if !ok {
			rw.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = fmt.Fprintln(rw, text)
	}
	mux.HandleFunc("GET /healthz", func(rw http.ResponseWriter, _ *http.Request) { answer(rw, true, "ok") })
	mux.HandleFunc("GET /readyz", func(rw http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		switch {
		case !w.ready.Load():
			answer(rw, false, "not ready: loading champions")
		case w.pool.Ping(ctx) != nil:
			answer(rw, false, "not ready: PostgreSQL does not answer")
		default:
			answer(rw, true, "ready")
		}
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	w.http = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second}
	w.tasks.Go(func() {
		if err := w.http.Serve(w.o.HTTP); !errors.Is(err, http.ErrServerClosed) {
			w.o.Logger.Error("HTTP stopped", "error", err)
		}
	})
}

// queue translates the setting, where 0 is no queue, to the gateway's option, where 0 is the default.
func queue(n int) int {
	if n == 0 {
		return -1
	}
	return n
}

// sidecarName is how the ledger of scoring jobs names this process.
func sidecarName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s:%d", host, os.Getpid())
}

func addresses(listeners []net.Listener) []string {
	out := make([]string, len(listeners))
	for i, l := range listeners {
		out[i] = l.Addr().String()
	}
	return out
}
