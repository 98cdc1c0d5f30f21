package score

import (
	"context"
	"errors"
	"time"

	"github.com/adhocore/gronx"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/rowcast/rowcast/db"
)

// startDue works out the next time of new schedules and starts the jobs of those that are due. The row's lock makes one sidecar do it. Times that
// passed while no sidecar ran are made up for once.
func (s *Service) startDue(ctx context.Context) error {
	err := pgx.BeginFunc(ctx, s.o.Pool, func(tx pgx.Tx) error {
		q := s.q.WithTx(tx)
		fresh, err := q.SchedulesUnplanned(ctx)
		if err != nil {
			return err
		}
		for _, f := range fresh {
			if next, err := after(f.Cron, f.Wall.Time); err != nil {
				if err := q.RefuseSchedule(ctx, db.RefuseScheduleParams{ID: f.ID, Error: err.Error()}); err != nil {
					return err
				}
			} else if err := q.PlanSchedule(ctx, db.PlanScheduleParams{ID: f.ID, Wall: wall(next)}); err != nil {
				return err
			}
		}
		return nil
	})
	for err == nil {
		err = pgx.BeginFunc(ctx, s.o.Pool, func(tx pgx.Tx) error {
			q := s.q.WithTx(tx)
			due, err := q.ScheduleDue(ctx)
			if err != nil {
				return err
			}
			next, err := after(due.Cron, due.Wall.Time)
			if err != nil {
				return q.RefuseSchedule(ctx, db.RefuseScheduleParams{ID: due.ID, Error: err.Error()})
			}
			job, err := q.StartSchedule(ctx, db.StartScheduleParams{ID: due.ID, Wall: wall(next), Timezone: due.Timezone})
			if err == nil {
				s.o.Logger.Info("schedule was due", "schedule", due.ID, "job", job)
			}
			return err
		})
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	return err
}

// after is the next time of a cron expression, in wall time: PostgreSQL knows the time zones.
func after(cron string, now time.Time) (time.Time, error) {
	return gronx.NextTickAfter(cron, now, false)
}

func wall(t time.Time) pgtype.Timestamp { return pgtype.Timestamp{Time: t, Valid: true} }
