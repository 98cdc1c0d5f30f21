package jobclient_test

import (
	"context"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/jobclient"
	"github.com/rowcast/rowcast/internal/postgres"
	"github.com/rowcast/rowcast/internal/postgres/pgtest"
	"github.com/rowcast/rowcast/internal/rowcast"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// addJob stores a job as ml.score() would for a model that needs no sidecar to be registered.
const addJob = `INSERT INTO ml_private.job (model, ref, version, spec, source, target, key, mode, on_error, options, search_path, started_by)
	VALUES ('churn', 'churn', 1, 'none', 'customers', 'scores', 'id', 'create', 'stop', '{}', 'public', current_user::regrole)`

// line is a way to a PostgreSQL server that can be cut and mended, as by a restart of the server or of a network.
type line struct {
	to, network, address string

	mu       sync.Mutex
	listener net.Listener
	open     []net.Conn
	tasks    sync.WaitGroup
}

// newLine makes a line to the database and returns the URL through it.
func newLine(t *testing.T, databaseURL string) (*line, string) {
	t.Helper()
	u, err := url.Parse(databaseURL)
	require.NoError(t, err)
	q := u.Query()
	l := &line{network: "tcp", to: u.Host, address: "127.0.0.1:0"}
	if host := q.Get("host"); strings.HasPrefix(host, "/") {
		l.network, l.to = "unix", host+"/.s.PGSQL."+q.Get("port")
	} else if host != "" {
		l.to = net.JoinHostPort(host, q.Get("port"))
	}
	l.mend(t)
	q.Del("host")
	q.Del("port")
	q.Set("sslmode", "disable")
	u.Host, u.RawQuery = l.address, q.Encode()
	t.Cleanup(func() {
		l.cut()
		l.tasks.Wait()
	})
	return l, u.String()
}

func (l *line) mend(t *testing.T) {
	t.Helper()
	listener, err := net.Listen("tcp", l.address)
	require.NoError(t, err)
	l.mu.Lock()
	l.listener, l.address = listener, listener.Addr().String()
	l.mu.Unlock()
	l.tasks.Go(func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial(l.network, l.to)
			if err != nil {
				_ = from.Close()
				continue
			}
			l.mu.Lock()
			l.open = append(l.open, from, to)
			l.mu.Unlock()
			for _, pair := range [][2]net.Conn{{from, to}, {to, from}} {
				l.tasks.Go(func() {
					_, _ = io.Copy(pair[0], pair[1])
					_ = pair[0].Close()
				})
			}
		}
	})
}

func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.listener.Close()
	for _, c := range l.open {
		_ = c.Close()
	}
	l.open = nil
}

// watching is a Watch under way.
type watching struct {
	updates chan jobclient.Update
	ended   chan error
	job     *jobclient.Job
}

func watch(ctx context.Context, t *testing.T, databaseURL string, id int64) *watching {
	t.Helper()
	pool, err := postgres.Open(ctx, databaseURL, postgres.OpenOptions{MaxConns: 2})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(ctx)
	w := &watching{updates: make(chan jobclient.Update), ended: make(chan error, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		j, err := jobclient.New(pool).Watch(ctx, id, func(u jobclient.Update) {
			select {
			case w.updates <- u:
			case <-ctx.Done():
			}
		})
		w.job = j
		w.ended <- err
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		pool.Close()
	})
	return w
}

// until takes updates until one is as wanted.
func (w *watching) until(t *testing.T, what string, wanted func(jobclient.Update) bool) jobclient.Update {
	t.Helper()
	timeout := time.After(time.Minute)
	for {
		select {
		case u := <-w.updates:
			if wanted(u) {
				return u
			}
		case err := <-w.ended:
			require.FailNow(t, "the watch has ended", "before %s: %v", what, err)
		case <-timeout:
			require.FailNow(t, "not seen: "+what)
		}
	}
}

// end takes what is left and returns how the watch ended.
func (w *watching) end(t *testing.T) (*jobclient.Job, error) {
	t.Helper()
	timeout := time.After(time.Minute)
	for {
		select {
		case <-w.updates:
		case err := <-w.ended:
			return w.job, err
		case <-timeout:
			require.FailNow(t, "the watch does not end")
		}
	}
}

func TestWatchFollowsAJobToItsEnd(t *testing.T) {
	db := pgtest.New(t)
	db.Exec(t, addJob)
	w := watch(t.Context(), t, db.URL, 1)
	u := w.until(t, "the job", func(jobclient.Update) bool { return true })
	require.Equal(t, jobclient.StateQueued, u.Job.State)
	require.False(t, u.Sidecar)
	require.NoError(t, u.Lost)
	require.Nil(t, u.Job.RowsTotal)
	db.Exec(t, "UPDATE ml_private.job SET state = 'running', phase = 'score', rows_total = 100, started_at = now(), scoring_since = now()")
	u = w.until(t, "the job running", func(u jobclient.Update) bool { return u.Job.State == jobclient.StateRunning })
	require.Equal(t, int64(100), *u.Job.RowsTotal)
	db.Exec(t, `UPDATE ml_private.job SET state = 'failed', phase = 'end', rows_done = 60, error = 'feature "age" is NULL', sqlstate = '22004', detail = 'd', hint = 'h',
		finished_at = now(); SELECT pg_notify('rowcast', 'job 1')`)
	j, err := w.end(t)
	require.NoError(t, err)
	require.True(t, j.Ended())
	require.Equal(t, []string{`feature "age" is NULL`, "22004", "d", "h"}, []string{j.Error, j.SQLState, j.Detail, j.Hint})
	require.Equal(t, int64(60), j.RowsDone)
}

// The server goes away twice, while the watch waits and before it has begun to watch again; the watch says so and goes on.
func TestWatchSurvivesALostServer(t *testing.T) {
	db := pgtest.New(t)
	db.Exec(t, addJob)
	l, through := newLine(t, db.URL)
	w := watch(t.Context(), t, through, 1)
	w.until(t, "the job", func(u jobclient.Update) bool { return u.Lost == nil })
	for range 2 {
		l.cut()
		u := w.until(t, "the loss", func(u jobclient.Update) bool { return u.Lost != nil })
		require.Equal(t, rowcast.CodeUnavailable, rowcast.CodeOf(u.Lost))
		require.Equal(t, int64(1), u.Job.ID, "what was seen last")
		w.until(t, "a second attempt", func(u jobclient.Update) bool { return u.Lost != nil })
		l.mend(t)
		w.until(t, "the return", func(u jobclient.Update) bool { return u.Lost == nil })
	}
	db.Exec(t, "UPDATE ml_private.job SET state = 'done', phase = 'end', finished_at = now()")
	j, err := w.end(t)
	require.NoError(t, err)
	require.Equal(t, jobclient.StateDone, j.State)
}

func TestWatchEndsWhereWaitingHelpsNobody(t *testing.T) {
	db := pgtest.New(t)
	db.Exec(t, addJob)
	_, err := watch(t.Context(), t, db.URL, 2).end(t)
	require.Equal(t, rowcast.CodeNotFound, rowcast.CodeOf(err))

	_, other := db.Role(t, "")
	_, err = watch(t.Context(), t, other, 1).end(t)
	require.Equal(t, rowcast.CodeNotFound, rowcast.CodeOf(err), "somebody else's job")

	ctx, cancel := context.WithCancel(t.Context())
	w := watch(ctx, t, db.URL, 1)
	w.until(t, "the job", func(jobclient.Update) bool { return true })
	cancel()
	_, err = w.end(t)
	require.Equal(t, rowcast.CodeCanceled, rowcast.CodeOf(err))
}
