package record

import (
	"bytes"
	"context"
	"errors"
	"io"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowcast/rowcast/db"
	"github.com/rowcast/rowcast/internal/postgres"
	"github.com/rowcast/rowcast/internal/rowcast"
)

const (
	retryFirst  = 100 * time.Millisecond
	retryAtMost = 5 * time.Second
)

// write is the writer's life.
func (r *Recorder) write() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for stopping := false; !stopping; {
		select {
		case <-r.wake:
			timer.Reset(r.o.Interval)
			select {
			case <-timer.C:
			case <-r.full:
			case <-r.stop:
			}
		case <-r.full:
		case <-r.stop:
			stopping = true // what is waiting now is the last
		}
		b := r.take()
		if b.rows() > 0 {
			r.commit(b)
		}
		r.leave(b)
	}
}

// commit writes a batch, however long that takes, unless Stop gives up.
func (r *Recorder) commit(b *batch) {
	r.number++
	pause := retryFirst
	for {
		err := r.try(r.ctx, b)
		if err == nil {
			r.refuse(nil)
			r.o.Metrics.Written.Add(float64(b.rows()))
			return
		}
		var pg *pgconn.PgError
		known := errors.As(err, &pg)
		switch {
		case known && rowsFault(pg.Code) && b.rows() > 1:
			half := b.rows() / 2
			r.commit(b.slice(0, half))
			r.commit(b.slice(half, b.rows()))
			return
		case known && rowsFault(pg.Code):
			r.o.Metrics.Refused.Inc()
			r.o.Logger.Error("PostgreSQL refuses a logged prediction; it is lost", "error", postgres.Error(err), "detail", pg.Detail)
			return
		case readsOnlyError(err):
			r.refuse(readOnly())
		}
		if r.ctx.Err() != nil {
			r.lost += b.rows()
			r.o.Metrics.Lost.Add(float64(b.rows()))
			r.o.Logger.Error("logged predictions could not be written before the end and are lost", "rows", b.rows(), "error", err)
			return
		}
		r.o.Metrics.Failures.Inc()
		r.o.Logger.Warn("logged predictions could not be written; trying again", "rows", b.rows(), "error", postgres.Error(err), "retry_in", pause.String())
		select {
		case <-time.After(pause):
		case <-r.ctx.Done():
		}
		pause = min(2*pause, retryAtMost)
	}
}

// rowsFault reports whether an SQLSTATE blames what a row holds.
func rowsFault(state string) bool { return len(state) == 5 && (state[:2] == "22" || state[:2] == "23") }

func readOnly() error {
	return rowcast.Errorf(rowcast.CodeModelUnavailable, "predictions of this model are logged, and the sidecar's database only reads").
		WithDetail("The sidecar is connected to a standby, or to a database with default_transaction_read_only.").
		WithHint("Connect the sidecar to the primary (DATABASE_URL), or switch logging off there: SELECT ml.set_log_policy(MODEL, 'none');")
}

// try writes a batch in one transaction, or finds that an earlier try did.
func (r *Recorder) try(ctx context.Context, b *batch) error {
	return pgx.BeginFunc(ctx, r.o.Pool, func(tx pgx.Tx) error {
		marked, err := db.New(tx).MarkBatch(ctx, db.MarkBatchParams{ID: r.id, Batch: r.number})
		if err != nil || marked == 0 {
			return err
		}
		rows := io.MultiReader(bytes.NewReader(copyHeader()), bytes.NewReader(b.data), bytes.NewReader(copyTrailer()))
		_, err = tx.Conn().PgConn().CopyFrom(ctx, rows, copyStatement)
		return err
	})
}
