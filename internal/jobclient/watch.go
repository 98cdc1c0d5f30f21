package jobclient

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowcast/rowcast/db"
	"github.com/rowcast/rowcast/internal/postgres"
	"github.com/rowcast/rowcast/internal/rowcast"
)

const (
	channel    = "rowcast"
	pollEvery  = 500 * time.Millisecond
	answerIn   = 10 * time.Second // a server that takes longer is as good as gone
	goodbyeIn  = time.Second
	retryFirst = 200 * time.Millisecond
	retryMost  = 5 * time.Second
)

// Update is what Watch saw.
type Update struct {
	Job     *Job  // as last read; nil before that
	Sidecar bool  // whether a sidecar is connected to the database
	Lost    error // why PostgreSQL cannot be asked at the moment; nil where Job is current
}

// Watch reads a job every half second, and at once when a notification speaks of it, and tells each update until the job has ended, whose last state it
// returns. A PostgreSQL that goes away is waited for, with growing pauses. Errors are those of a job that cannot be seen, and of ctx.
func (c *Client) Watch(ctx context.Context, id int64, tell func(Update)) (*Job, error) {
	last := Update{Sidecar: true}
	for pause := retryFirst; ; pause = min(2*pause, retryMost) {
		job, err := c.watchOnce(ctx, id, func(u Update) {
			last, pause = u, retryFirst/2
			tell(u)
		})
		switch {
		case err == nil:
			return job, nil
		case ctx.Err() != nil:
			return nil, postgres.Error(ctx.Err())
		case !passing(err):
			return nil, err
		}
		last.Lost = err
		tell(last)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, postgres.Error(ctx.Err())
		}
	}
}

// passing reports whether waiting can help.
func passing(err error) bool {
	switch rowcast.CodeOf(err) {
	case rowcast.CodeUnavailable, rowcast.CodeDeadline:
		return true
	}
	return false
}

// watchOnce watches on one connection for as long as that works.
func (c *Client) watchOnce(ctx context.Context, id int64, tell func(Update)) (*Job, error) {
	conn, err := c.listen(ctx)
	if err != nil {
		return nil, err
	}
	defer closeSoon(ctx, conn)
	q := db.New(conn)
	for {
		u, err := look(ctx, q, id)
		if err != nil {
			return nil, err
		}
		tell(u)
		if u.Job.Ended() {
			return u.Job, nil
		}
		if err := await(ctx, conn, id); err != nil {
			return nil, err
		}
	}
}

// listen takes a connection out of the pool, since one that listens must not be given to anybody else.
func (c *Client) listen(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, answerIn)
	defer cancel()
	pooled, err := c.pool.Acquire(ctx)
	if err != nil {
		return nil, postgres.Error(err)
	}
	conn := pooled.Hijack()
	if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{channel}.Sanitize()); err != nil {
		// A standby cannot listen: there the poll is enough.
		if err := postgres.Error(err); conn.IsClosed() || passing(err) {
			closeSoon(ctx, conn)
			return nil, err
		}
	}
	return conn, nil
}

// closeSoon says goodbye, which a server that hangs may not hear.
func closeSoon(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbyeIn)
	defer cancel()
	_ = conn.Close(ctx)
}

func look(ctx context.Context, q *db.Queries, id int64) (Update, error) {
	ctx, cancel := context.WithTimeout(ctx, answerIn)
	defer cancel()
	j, err := job(ctx, q, id)
	if err != nil {
		return Update{}, err
	}
	runs, err := q.SidecarRuns(ctx)
	return Update{Job: j, Sidecar: runs}, postgres.Error(err)
}

// await returns when a notification speaks of the job, and after pollEvery at the latest.
func await(ctx context.Context, conn *pgx.Conn, id int64) error {
	poll, cancel := context.WithTimeout(ctx, pollEvery)
	defer cancel()
	for {
		n, err := conn.WaitForNotification(poll)
		switch {
		case err == nil && n.Payload == "job "+strconv.FormatInt(id, 10):
			return nil
		case err == nil:
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, context.DeadlineExceeded) && !conn.IsClosed():
			return nil
		default:
			return postgres.Error(err)
		}
	}
}
