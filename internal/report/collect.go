package report

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rowcast/rowcast/db"
	"github.com/rowcast/rowcast/internal/postgres"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// bins is how many bars a histogram of values has.
const bins = 24

// Data is what a report shows. Days are UTC.
type Data struct {
	Model       string    `json:"model"`
	Description string    `json:"description,omitempty"`
	Task        string    `json:"task,omitempty"`
	Champion    int       `json:"champion,omitempty"`
	Policy      string    `json:"policy"` // log policy
	Since       time.Time `json:"since"`
	MadeAt      time.Time `json:"made_at"`

	Totals    db.ReportTotalsRow      `json:"totals"`
	Days      []db.ReportDaysRow      `json:"days"`
	Latency   []db.ReportLatencyRow   `json:"latency_ms"`
	Labels    []db.ReportLabelsRow    `json:"labels"`
	Values    []db.ReportValuesRow    `json:"values"`
	Histogram []db.ReportHistogramRow `json:"histogram"`
	Jobs      []Job                   `json:"jobs"`
}

// Job is a scoring job of the model.
type Job struct {
	ID            int64      `json:"id" db:"id"`
	Version       *int32     `json:"version" db:"version"`
	Source        string     `json:"source" db:"source"`
	Target        string     `json:"target" db:"target"`
	State         string     `json:"state" db:"state"`
	RowsDone      *int64     `json:"rows_done" db:"rows_done"`
	RowsPerSecond *float64   `json:"rows_per_second" db:"rows_per_second"`
	Error         *string    `json:"error,omitempty" db:"error"`
	StartedBy     string     `json:"started_by" db:"started_by"`
	CreatedAt     time.Time  `json:"created_at" db:"created_at"`
	FinishedAt    *time.Time `json:"finished_at,omitempty" db:"finished_at"`
}

// lastJobs is not sqlc's: a database whose schema is older than the scoring jobs has no such view.
const lastJobs = `SELECT id, version::integer, source::text, target::text, state::text, rows_done::bigint, rows_per_second::float8, error::text, started_by::text,
	created_at, finished_at FROM ml.jobs WHERE model = $1 ORDER BY created_at DESC, id DESC LIMIT 10`

// Collect reads what the role of the pool may see of a model's predictions since a time. CodeNotFound where it may see none of that model at all.
func Collect(ctx context.Context, pool *pgxpool.Pool, model string, since, now time.Time) (*Data, error) {
	d := &Data{Model: model, Since: since.UTC(), MadeAt: now.UTC()}
	// One snapshot for all, so that the charts agree.
	err := pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		return d.read(ctx, tx)
	})
	if err != nil {
		return nil, postgres.Error(err)
	}
	return d, nil
}

func (d *Data) read(ctx context.Context, tx pgx.Tx) (err error) {
	q := db.New(tx)
	if d.Totals, err = q.ReportTotals(ctx, db.ReportTotalsParams{Model: d.Model, Since: d.Since}); err != nil {
		return err
	}
	about, err := q.ReportModel(ctx, d.Model)
	switch {
	case err == nil:
		d.Policy, d.Description, d.Task, d.Champion = about.Policy, about.Description, about.Task, int(about.Champion)
	case rowcast.CodeOf(postgres.Error(err)) != rowcast.CodeNotFound:
		return err
	case d.Totals.Predictions == 0: // a reader of the log need not be one who may use the model
		return rowcast.Errorf(rowcast.CodeNotFound, "there is no model %q, or none that you may use", d.Model).
			WithHint("rowcast model list shows the models that you may use.")
	}
	if d.Days, err = q.ReportDays(ctx, db.ReportDaysParams{Model: d.Model, Since: d.Since}); err != nil {
		return err
	}
	if d.Latency, err = q.ReportLatency(ctx, db.ReportLatencyParams{Model: d.Model, Since: d.Since}); err != nil {
		return err
	}
	if d.Labels, err = q.ReportLabels(ctx, db.ReportLabelsParams{Model: d.Model, Since: d.Since}); err != nil {
		return err
	}
	if d.Values, err = q.ReportValues(ctx, db.ReportValuesParams{Model: d.Model, Since: d.Since}); err != nil {
		return err
	}
	if d.Histogram, err = q.ReportHistogram(ctx, db.ReportHistogramParams{Model: d.Model, Since: d.Since, Bins: bins}); err != nil {
		return err
	}
	return d.readJobs(ctx, tx)
}

func (d *Data) readJobs(ctx context.Context, tx pgx.Tx) error {
	var there bool
	if err := tx.QueryRow(ctx, "SELECT to_regclass('ml.jobs') IS NOT NULL").Scan(&there); err != nil || !there {
		return err
	}
	rows, err := tx.Query(ctx, lastJobs, d.Model)
	if err != nil {
		return err
	}
	d.Jobs, err = pgx.CollectRows(rows, pgx.RowToStructByName[Job])
	return err
}
