package score

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rowcast/rowcast/db"
	"github.com/rowcast/rowcast/internal/predict"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// Engine makes the frames that rows are run in.
type Engine interface {
	NewFrame(ctx context.Context, spec, model string, version int, columns []predict.Column, capacity int) (*predict.Frame, error)
}

// Options are what a Service works with.
type Options struct {
	Pool     *pgxpool.Pool // of the schema's owner or a superuser; connections of its own are opened like its
	Engine   Engine
	SQLState func(rowcast.Code) string // for errors that are no PostgreSQL's
	Sidecar  string                    // who this is, for people who look at the ledger
	Workers  int                       // chunks at a time; 0 pauses: jobs wait
	Lease    time.Duration             // how long a claim holds without a renewal; 0: 10 s
	Poll     time.Duration             // how often the tables are looked at besides hints; 0: 1 s
	Logger   *slog.Logger
	Metrics  *Metrics
}

// Service works on the scoring jobs of one database. Stop it with Stop.
type Service struct {
	o Options
	q *db.Queries

	mu   sync.Mutex
	held map[claimKey]*claim
	owed []*claim // to be given back when PostgreSQL answers again

	wake   chan struct{} // one for each worker
	hints  chan struct{}
	cancel context.CancelCauseFunc
	tasks  sync.WaitGroup
}

// New returns a Service that waits for Start.
func New(o Options) *Service {
	if o.Lease <= 0 {
		o.Lease = 10 * time.Second
	}
	if o.Poll <= 0 {
		o.Poll = time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	return &Service{o: o, q: db.New(o.Pool), held: map[claimKey]*claim{}, wake: make(chan struct{}, max(o.Workers, 1)), hints: make(chan struct{}, 1)}
}

// Start begins to work, in the background.
func (s *Service) Start(ctx context.Context) {
	ctx, s.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	s.tasks.Go(func() { s.tend(ctx) })
	for range s.o.Workers {
		s.tasks.Go(func() { s.work(ctx) })
	}
}

// Stop gives up what is under way, so that others can go on with it at once, and waits for that. It may be called more than once.
func (s *Service) Stop() {
	if s.cancel != nil {
		s.cancel(errStopped)
	}
	s.tasks.Wait()
}

// Hint says that the tables may have changed. It never blocks.
func (s *Service) Hint() {
	select {
	case s.hints <- struct{}{}:
	default:
	}
}

// tend renews leases, starts what is due and wakes the workers when there is something to do.
func (s *Service) tend(ctx context.Context) {
	tick := time.NewTicker(s.o.Poll)
	defer tick.Stop()
	for {
		if err := s.look(ctx); err != nil && ctx.Err() == nil {
			s.o.Logger.Debug("scoring jobs could not be looked at", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-s.hints:
		case <-tick.C:
		}
	}
}

func (s *Service) look(ctx context.Context) error {
	if err := s.beat(ctx); err != nil {
		return err
	}
	s.payBack(ctx)
	if err := s.startDue(ctx); err != nil {
		return err
	}
	if _, err := s.q.PublishComplete(ctx); err != nil {
		return err
	}
	if err := s.q.EndExpiredSessions(ctx); err != nil {
		return err
	}
	waits, err := s.q.WorkWaits(ctx)
	if err == nil && waits {
		s.wakeAll()
	}
	return err
}

func (s *Service) wakeAll() {
	for range s.o.Workers {
		select {
		case s.wake <- struct{}{}:
		default:
			return
		}
	}
}

// work claims and does one thing after another, and sleeps where there is nothing to claim.
func (s *Service) work(ctx context.Context) {
	r := &runner{service: s}
	defer r.close()
	for ctx.Err() == nil {
		did, err := s.next(ctx, r)
		if err != nil && ctx.Err() == nil {
			s.o.Logger.Debug("no scoring job could be claimed", "error", err)
		}
		if did && err == nil {
			continue
		}
		r.close()
		select {
		case <-ctx.Done():
		case <-s.wake:
		}
	}
}

// next does one claim. did is false where there was none.
func (s *Service) next(ctx context.Context, r *runner) (did bool, err error) {
	job, err := s.q.ClaimJob(ctx, db.ClaimJobParams{Sidecar: s.o.Sidecar, Lease: s.o.Lease.Seconds()})
	switch {
	case err == nil:
		r.close()
		c := &claim{job: job.ID, number: whole, epoch: job.Epoch, phase: job.Phase}
		s.do(ctx, c, func(ctx context.Context) error { return s.phase(ctx, c, &job) })
		return true, nil
	case !errors.Is(err, pgx.ErrNoRows):
		return false, err
	}
	chunk, err := s.q.ClaimChunk(ctx, db.ClaimChunkParams{Sidecar: s.o.Sidecar, Lease: s.o.Lease.Seconds()})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return false, nil
	case err != nil:
		return false, err
	}
	c := &claim{job: chunk.JobID, number: chunk.Number, epoch: chunk.Epoch, phase: phaseScore}
	s.do(ctx, c, func(ctx context.Context) error { return r.chunk(ctx, c, &chunk) })
	return true, nil
}

// The phases of a job.
const (
	phasePlan    = "plan"
	phaseScore   = "score"
	phasePublish = "publish"
	phaseClean   = "clean"
)

func (s *Service) phase(ctx context.Context, c *claim, job *db.MlPrivateJob) error {
	switch job.Phase {
	case phasePlan:
		return s.plan(ctx, c, job)
	case phasePublish:
		return s.publish(ctx, c, job)
	default:
		return s.clean(ctx, job)
	}
}

// do works on a claim under its lease and writes down how it went.
func (s *Service) do(ctx context.Context, c *claim, work func(context.Context) error) {
	held := s.hold(ctx, c)
	err := work(held)
	cause := context.Cause(held)
	s.drop(c)
	switch {
	case err == nil:
		if c.number != whole {
			if _, err := s.q.PublishComplete(ctx); err != nil {
				s.o.Logger.Debug("job could not be moved on", "job", c.job, "error", err)
			}
		}
		s.wakeAll()
		return
	case errors.Is(err, errLost) || errors.Is(err, errHalted) || errors.Is(cause, errLost):
		s.o.Logger.Info("scoring given up", "job", c.job, "chunk", c.number, "phase", c.phase)
		s.giveBack(ctx, c)
		return
	case ctx.Err() != nil:
		s.giveBack(ctx, c)
		return
	}
	s.report(ctx, c, err)
}

// report writes an error into the job's row: it waits and tries again, or has failed.
func (s *Service) report(ctx context.Context, c *claim, err error) {
	f := s.diagnose(err)
	s.giveBack(ctx, c)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	detail, hint := nullable(f.detail), nullable(f.hint)
	s.o.Metrics.failures.WithLabelValues(f.state).Inc()
	var stored error
	if f.passing || c.phase == phaseClean {
		_, stored = s.q.PostponeJob(ctx, db.PostponeJobParams{
			ID: c.job, Phase: c.phase, Longest: longestWait.Seconds(), Error: f.message, Sqlstate: f.state, Detail: detail, Hint: hint,
		})
		s.o.Logger.Warn("scoring job waits before it tries again", "job", c.job, "phase", c.phase, "sqlstate", f.state, "error", err)
	} else {
		_, stored = s.q.FailJob(ctx, db.FailJobParams{ID: c.job, Phase: c.phase, Error: f.message, Sqlstate: f.state, Detail: detail, Hint: hint})
		s.o.Logger.Warn("scoring job failed", "job", c.job, "phase", c.phase, "sqlstate", f.state, "error", err)
	}
	if stored != nil && !errors.Is(stored, pgx.ErrNoRows) {
		s.o.Logger.Warn("error of a scoring job could not be stored", "job", c.job, "error", stored)
	}
}

// longestWait is the longest time between two tries after errors that may pass by themselves.
const longestWait = 15 * time.Second

func nullable(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// sessionName begins the application_name of the sessions that work on jobs; the job's number follows. Whoever takes a claim over ends the sessions of the
// one before, which may have fallen silent with locks held.
const sessionName = "rowcast job "

// connect opens a session for work on a job. Settings are ours, whatever roles and databases set.
func (s *Service) connect(ctx context.Context, job int64) (*session, error) {
	config := s.o.Pool.Config().ConnConfig.Config.Copy()
	for name, value := range map[string]string{
		"application_name": fmt.Sprintf("%s%d/", sessionName, job), "search_path": "pg_catalog, pg_temp", "standard_conforming_strings": "on", "client_min_messages": "error",
		"datestyle": "ISO", "intervalstyle": "postgres", "extra_float_digits": "1", "bytea_output": "hex", "client_encoding": "UTF8",
		"statement_timeout": "0", "lock_timeout": "0", "idle_in_transaction_session_timeout": "0", "default_transaction_read_only": "off",
		"default_transaction_isolation": "read committed", "default_transaction_deferrable": "off", "jit": "off", "tcp_keepalives_idle": "10",
	} {
		config.RuntimeParams[name] = value
	}
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	return &session{conn: conn}, nil
}
