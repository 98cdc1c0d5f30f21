package record

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowcast/rowcast/db"
	"github.com/rowcast/rowcast/internal/postgres"
)

const (
	maintainEvery = time.Hour
	maintainAgain = time.Minute     // after a failure
	probeEvery    = 5 * time.Second // while the database only reads: it may be promoted
)

// maintain makes partitions ahead and drops what is kept no longer: now and every hour.
func (r *Recorder) maintain() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-r.stop:
			return
		case <-timer.C:
		}
		next := maintainEvery
		if r.probe(r.ctx) {
			next = probeEvery
		} else if row, err := db.New(r.o.Pool).KeepPartitions(r.ctx); err != nil {
			next = maintainAgain
			r.o.Logger.Warn("partitions of the log of predictions could not be looked after; trying again",
				"error", postgres.Error(err), "retry_in", next.String())
		} else if row.Made+row.Dropped > 0 || row.Deleted > 0 {
			r.o.Logger.Info("log of predictions looked after", "partitions_made", row.Made, "partitions_dropped", row.Dropped, "rows_deleted", row.Deleted)
		}
		timer.Reset(next)
	}
}

// probe finds out whether the database only reads, in which case Record refuses. Where it cannot be asked, nothing changes.
func (r *Recorder) probe(ctx context.Context) (readsOnly bool) {
	readsOnly, err := db.New(r.o.Pool).ReadsOnly(ctx)
	switch {
	case err != nil:
		return false
	case readsOnly:
		r.refuse(readOnly())
	default:
		r.refuse(nil)
	}
	return readsOnly
}

// readsOnlyError reports whether PostgreSQL said that it only reads.
func readsOnlyError(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "25006"
}
