package jobclient

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rowcast/rowcast/db"
	"github.com/rowcast/rowcast/internal/postgres"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// Client calls the functions for scoring jobs with the rights of the pool's role.
type Client struct {
	pool *pgxpool.Pool
	q    *db.Queries
}

// New makes a Client on pool, of which it needs two connections at a time.
func New(pool *pgxpool.Pool) *Client { return &Client{pool: pool, q: db.New(pool)} }

// Modes say what becomes of the rows that the target has.
const (
	ModeCreate  = "create"  // the target must not exist
	ModeReplace = "replace" // all rows are replaced, in one moment for readers
	ModeAppend  = "append"  // rows are added
)

// What a row that the model cannot take does to its job.
const (
	OnErrorStop = "stop" // the job fails
	OnErrorSkip = "skip" // the row goes to the error table
)

// Request is what ml.score() and ml.schedule_score() take.
type Request struct {
	Model   string // 'churn', 'churn@3' or 'churn@challenger'
	Source  string // a table, or a query
	Target  string // a table
	Key     string // column of the source
	Mode    string // ModeCreate, ModeReplace or ModeAppend
	OnError string // OnErrorStop or OnErrorSkip
	Options Options
}

// Options are the less usual settings of a job. The zero value is good.
type Options struct {
	ChunkRows     int64  `json:"chunk_rows,omitempty"`    // rows of one transaction; 0: the sidecar's choice
	Unlogged      bool   `json:"unlogged,omitempty"`      // the target is created UNLOGGED
	Probabilities bool   `json:"probabilities,omitempty"` // the target has the probability of each label
	NewRows       bool   `json:"new_rows,omitempty"`      // only rows whose key this version has not scored yet
	Since         string `json:"since,omitempty"`         // timestamp column: only rows newer than the newest that was scored
	ErrorTable    string `json:"error_table,omitempty"`   // where bad rows go
}

// Job is a row of ml.jobs.
type Job struct {
	ID            int64      `json:"id"`
	Model         string     `json:"model"`
	Version       int        `json:"version"`
	Source        string     `json:"source"`
	Target        string     `json:"target"`
	Key           string     `json:"key"`
	Mode          string     `json:"mode"`
	OnError       string     `json:"on_error"`
	State         string     `json:"state"`      // queued, running, paused, done, failed, canceled
	RowsTotal     *int64     `json:"rows_total"` // nil until they are counted
	RowsDone      int64      `json:"rows_done"`
	RowsSkipped   int64      `json:"rows_skipped"`
	RowsPerSecond float64    `json:"rows_per_second"`
	SecondsLeft   *float64   `json:"seconds_left"` // nil where nobody can tell
	Error         string     `json:"error,omitempty"`
	SQLState      string     `json:"sqlstate,omitempty"`
	Detail        string     `json:"detail,omitempty"`
	Hint          string     `json:"hint,omitempty"`
	StartedBy     string     `json:"started_by"`
	CreatedAt     time.Time  `json:"created_at"`
	StartedAt     *time.Time `json:"started_at"`
	FinishedAt    *time.Time `json:"finished_at"`
	Schedule      string     `json:"schedule,omitempty"` // name of the schedule that started it
	RetryAt       *time.Time `json:"retry_at,omitempty"` // when it tries again after Error, which may pass by itself
	Phase         string     `json:"phase,omitempty"`    // plan, score or publish: what is under way
}

// States of a job.
const (
	StateQueued   = "queued"
	StateRunning  = "running"
	StatePaused   = "paused"
	StateDone     = "done"
	StateFailed   = "failed"
	StateCanceled = "canceled"
)

// States are all of them, in the order of a job's life.
func States() []string {
	return []string{StateQueued, StateRunning, StatePaused, StateDone, StateFailed, StateCanceled}
}

// Ended reports whether the job does nothing more by itself.
func (j *Job) Ended() bool {
	return j.State == StateDone || j.State == StateFailed || j.State == StateCanceled
}

// Took is how long the job has run, or ran; 0 before it began.
func (j *Job) Took() time.Duration {
	switch {
	case j.StartedAt == nil:
		return 0
	case j.FinishedAt == nil:
		return time.Since(*j.StartedAt)
	}
	return j.FinishedAt.Sub(*j.StartedAt)
}

// Score starts a job and returns its id.
func (c *Client) Score(ctx context.Context, r Request) (int64, error) {
	options, err := r.Options.json()
	if err != nil {
		return 0, err
	}
	id, err := c.q.StartScoring(ctx, db.StartScoringParams{
		Model: r.Model, Source: r.Source, Target: r.Target, Key: r.Key, Mode: r.Mode, OnError: r.OnError, Options: options,
	})
	return id, postgres.Error(err)
}

func (o Options) json() (json.RawMessage, error) {
	text, err := json.Marshal(o)
	if err != nil {
		return nil, rowcast.Errorf(rowcast.CodeInternal, "the options cannot be written as JSON").WithCause(err)
	}
	return text, nil
}

// Filter narrows a list of jobs; the zero value takes all.
type Filter struct {
	Model, State string
	Most         int // the newest so many; 0: all
}

// Jobs lists jobs that the role may see, the newest first.
func (c *Client) Jobs(ctx context.Context, f Filter) ([]Job, error) {
	var p db.ScoringJobsParams
	if f.Model != "" {
		p.Model = &f.Model
	}
	if f.State != "" {
		p.State = &f.State
	}
	if f.Most > 0 {
		most := int32(f.Most)
		p.Most = &most
	}
	return jobs(c.q.ScoringJobs(ctx, p))
}

// Job returns one job; CodeNotFound where there is none that the role may see.
func (c *Client) Job(ctx context.Context, id int64) (*Job, error) { return job(ctx, c.q, id) }

func job(ctx context.Context, q *db.Queries, id int64) (*Job, error) {
	list, err := jobs(q.ScoringJobs(ctx, db.ScoringJobsParams{ID: &id}))
	if err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, rowcast.Errorf(rowcast.CodeNotFound, "there is no job %d that you may see", id).WithHint("rowcast job list shows your jobs.")
	}
	return &list[0], nil
}

func jobs(rows []db.ScoringJobsRow, err error) ([]Job, error) {
	if err != nil {
		return nil, postgres.Error(err)
	}
	list := make([]Job, 0, len(rows))
	for _, r := range rows {
		j := Job{
			ID: r.ID, Model: r.Model, Version: int(r.Version), Source: r.Source, Target: r.Target, Key: r.Key, Mode: r.Mode, OnError: r.OnError, State: r.State,
			RowsDone: r.RowsDone, RowsSkipped: r.RowsSkipped, RowsPerSecond: r.RowsPerSecond, Error: r.Error, SQLState: r.Sqlstate, Detail: r.Detail, Hint: r.Hint,
			StartedBy: r.StartedBy, CreatedAt: r.CreatedAt, StartedAt: r.StartedAt, FinishedAt: r.FinishedAt, Schedule: r.Schedule,
			RetryAt: r.RetryAt, Phase: r.Phase,
		}
		if r.RowsTotal >= 0 {
			j.RowsTotal = &r.RowsTotal
		}
		if r.SecondsLeft >= 0 {
			j.SecondsLeft = &r.SecondsLeft
		}
		list = append(list, j)
	}
	return list, nil
}

// Pause stops a job until Resume. What is committed stays, what is under way is given up and done again.
func (c *Client) Pause(ctx context.Context, id int64) error {
	return postgres.Error(c.q.PauseScoring(ctx, id))
}

// Resume lets a paused job go on.
func (c *Client) Resume(ctx context.Context, id int64) error {
	return postgres.Error(c.q.ResumeScoring(ctx, id))
}

// Cancel ends a job.
func (c *Client) Cancel(ctx context.Context, id int64) error {
	return postgres.Error(c.q.CancelScoring(ctx, id))
}

// Retry lets a failed job go on where it stopped, and begins a canceled one anew.
func (c *Client) Retry(ctx context.Context, id int64) error {
	return postgres.Error(c.q.RetryScoring(ctx, id))
}

// Schedule is a row of ml.schedules.
type Schedule struct {
	ID        int64           `json:"id"`
	Name      string          `json:"name"`
	Cron      string          `json:"cron"`
	Timezone  string          `json:"timezone"` // of the cron expression
	Model     string          `json:"model"`    // as written; an alias is resolved at each start
	Source    string          `json:"source"`
	Target    string          `json:"target"`
	Key       string          `json:"key"`
	Mode      string          `json:"mode"`
	OnError   string          `json:"on_error"`
	Options   json.RawMessage `json:"options"`
	NextAt    *time.Time      `json:"next_at"` // nil where there is no next time, or no sidecar has worked it out yet
	LastAt    *time.Time      `json:"last_at"`
	LastJob   *int64          `json:"last_job"`
	Error     string          `json:"error,omitempty"` // why its last start failed
	SQLState  string          `json:"sqlstate,omitempty"`
	StartedBy string          `json:"started_by"`
}

// Schedules lists recurring jobs by name.
func (c *Client) Schedules(ctx context.Context) ([]Schedule, error) {
	rows, err := c.q.ScoringSchedules(ctx)
	if err != nil {
		return nil, postgres.Error(err)
	}
	list := make([]Schedule, 0, len(rows))
	for _, r := range rows {
		s := Schedule{
			ID: r.ID, Name: r.Name, Cron: r.Cron, Timezone: r.Timezone, Model: r.Model, Source: r.Source, Target: r.Target, Key: r.Key, Mode: r.Mode,
			OnError: r.OnError, Options: r.Options, NextAt: r.NextAt, LastAt: r.LastAt, Error: r.Error, SQLState: r.Sqlstate, StartedBy: r.StartedBy,
		}
		if r.LastJob > 0 {
			s.LastJob = &r.LastJob
		}
		list = append(list, s)
	}
	return list, nil
}

// AddSchedule makes a recurring job under a name and returns its id. cron is a cron expression of five fields.
func (c *Client) AddSchedule(ctx context.Context, name, cron string, r Request) (int64, error) {
	options, err := r.Options.json()
	if err != nil {
		return 0, err
	}
	id, err := c.q.ScheduleScoring(ctx, db.ScheduleScoringParams{
		Name: name, Cron: cron, Model: r.Model, Source: r.Source, Target: r.Target, Key: r.Key, Mode: r.Mode, OnError: r.OnError, Options: options,
	})
	return id, postgres.Error(err)
}

// RemoveSchedule ends a recurring job; jobs that it started go on.
func (c *Client) RemoveSchedule(ctx context.Context, name string) error {
	return postgres.Error(c.q.UnscheduleScoring(ctx, name))
}

// SidecarRuns reports whether a sidecar is connected to the database. On a standby nobody can tell: true.
func (c *Client) SidecarRuns(ctx context.Context) (bool, error) {
	runs, err := c.q.SidecarRuns(ctx)
	return runs, postgres.Error(err)
}
