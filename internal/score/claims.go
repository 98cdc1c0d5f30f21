package score

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/rowcast/rowcast/db"
)

// whole is the number of a claim on a job rather than on one of its chunks.
const whole = -1

// claim is what this sidecar works on: a chunk, or a phase that one sidecar does alone.
type claim struct {
	job    int64
	number int32 // of the chunk, or whole
	epoch  int32
	phase  string
	seen   atomic.Int64 // rows read
	cancel context.CancelCauseFunc
}

type claimKey struct {
	job           int64
	number, epoch int32
}

// hold makes a claim whose lease is renewed until drop. Its context ends when the claim is lost or the job is halted.
func (s *Service) hold(ctx context.Context, c *claim) context.Context {
	ctx, c.cancel = context.WithCancelCause(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[claimKey{c.job, c.number, c.epoch}] = c
	return ctx
}

func (s *Service) drop(c *claim) {
	s.mu.Lock()
	delete(s.held, claimKey{c.job, c.number, c.epoch})
	s.mu.Unlock()
	c.cancel(nil)
}

// beat renews the leases of everything held. What the database does not confirm is given up at once: it was taken over, or the job was paused,
// canceled or failed.
func (s *Service) beat(ctx context.Context) error {
	s.mu.Lock()
	held := make(map[claimKey]*claim, len(s.held))
	for key, c := range s.held {
		held[key] = c
	}
	s.mu.Unlock()
	if len(held) == 0 {
		return nil
	}
	jobs := db.BeatJobsParams{Lease: s.o.Lease.Seconds()}
	chunks := db.BeatChunksParams{Lease: s.o.Lease.Seconds()}
	for key, c := range held {
		if key.number == whole {
			jobs.Jobs, jobs.Epochs = append(jobs.Jobs, key.job), append(jobs.Epochs, key.epoch)
			continue
		}
		chunks.Jobs, chunks.Numbers = append(chunks.Jobs, key.job), append(chunks.Numbers, key.number)
		chunks.Epochs, chunks.Seen = append(chunks.Epochs, key.epoch), append(chunks.Seen, c.seen.Load())
	}
	ctx, cancel := context.WithTimeout(ctx, s.o.Lease)
	defer cancel()
	if len(jobs.Jobs) > 0 {
		rows, err := s.q.BeatJobs(ctx, jobs)
		if err != nil {
			return err
		}
		for _, r := range rows {
			delete(held, claimKey{r.ID, whole, r.Epoch})
		}
	}
	if len(chunks.Jobs) > 0 {
		rows, err := s.q.BeatChunks(ctx, chunks)
		if err != nil {
			return err
		}
		for _, r := range rows {
			delete(held, claimKey{r.JobID, r.Number, r.Epoch})
		}
	}
	for _, c := range held { // a claim that was dropped meanwhile does not mind
		c.cancel(errLost)
	}
	return nil
}

// giveBack lets the next sidecar have a claim at once rather than when the lease ends. It does its best: the lease stands behind it.
func (s *Service) giveBack(ctx context.Context, c *claim) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	var err error
	if c.number == whole {
		err = s.q.ReleaseJob(ctx, db.ReleaseJobParams{ID: c.job, Epoch: c.epoch})
	} else {
		err = s.q.ReleaseChunk(ctx, db.ReleaseChunkParams{JobID: c.job, Number: c.number, Epoch: c.epoch})
	}
	if err != nil {
		s.o.Logger.Debug("claim could not be given back", "job", c.job, "chunk", c.number, "error", err)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.owed = append(s.owed, c)
	}
}

// payBack gives back what could not be given back while PostgreSQL did not answer.
func (s *Service) payBack(ctx context.Context) {
	s.mu.Lock()
	owed := s.owed
	s.owed = nil
	s.mu.Unlock()
	for _, c := range owed {
		s.giveBack(ctx, c)
	}
}
