package score

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/rowcast/rowcast/db"
	"github.com/rowcast/rowcast/internal/predict"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// batchRows is how many rows are run together: enough that a run's fixed cost does not count, few enough for the processor's caches.
const batchRows = 4096

// Rows can be of any size: a batch of this many bytes is run before it is full.
const batchBytes = 32 << 20

// badBytes is what the bad rows of one chunk may take in memory.
const badBytes = 256 << 20

// runner scores chunks of one job after another and keeps what they share: the connections, the frame, the buffers. One goroutine uses it.
type runner struct {
	service *Service

	job          int64 // 0: none
	plan         *plan
	version      int32
	skip         bool
	frame        *predict.Frame
	read, write  *session
	keys, raw    []byte
	keyEnds      []int // of each row of the frame, in keys; negative for a row that is none
	rawEnds      []int
	values       [][]byte
	out, badRows encoder
	rows, bad    int64
	bytes        int // of the rows in the frame
}

// open makes the runner ready for a job.
func (r *runner) open(ctx context.Context, id int64) error {
	if r.job == id {
		return nil
	}
	r.close()
	s := r.service
	job, err := s.q.JobByID(ctx, id)
	if err != nil {
		return err
	}
	r.plan = &plan{}
	if err := json.Unmarshal(job.Plan, r.plan); err != nil {
		return err
	}
	r.version, r.skip = job.Version, job.OnError == "skip"
	if r.frame, err = s.o.Engine.NewFrame(ctx, job.Spec, job.Model, int(job.Version), r.plan.columns(), batchRows); err != nil {
		return err
	}
	if r.plan.Probabilities {
		if err := r.frame.WantProbabilities(); err != nil {
			return err
		}
	}
	if r.read, err = s.connect(ctx, id); err != nil {
		return err
	}
	if r.write, err = s.connect(ctx, id); err != nil {
		return err
	}
	r.job = id
	return nil
}

// close lets go of the job.
func (r *runner) close() {
	if r.frame != nil {
		r.frame.Close()
	}
	r.read.close()
	r.write.close()
	r.frame, r.read, r.write, r.job = nil, nil, nil, 0
}

// chunk scores one range and commits its results together with its entry in the ledger.
func (r *runner) chunk(ctx context.Context, c *claim, chunk *db.ClaimChunkRow) (err error) {
	defer func() {
		if err != nil {
			r.close() // whatever state the connections are in
		}
	}()
	if err := r.open(ctx, chunk.JobID); err != nil {
		return err
	}
	started := time.Now()
	r.rows, r.bad = 0, 0
	r.frame.Reset()
	r.bytes = 0
	r.out.buf, r.badRows.buf, r.keys, r.raw, r.keyEnds, r.rawEnds = r.out.buf[:0], r.badRows.buf[:0], r.keys[:0], r.raw[:0], r.keyEnds[:0], r.rawEnds[:0]
	if err := r.write.exec(ctx, fmt.Sprintf("BEGIN; SET LOCAL application_name = '%s%d/%d/%d'", sessionName, c.job, c.number, c.epoch)); err != nil {
		return err
	}
	if err := r.pipe(ctx, c, chunk); err != nil {
		return err
	}
	if r.bad > 0 {
		if err := r.storeBadRows(ctx); err != nil {
			return err
		}
	}
	if r.plan.Staged != "" && r.rows+r.bad == 0 && *chunk.Lo != *chunk.Hi {
		return r.sourceLost(ctx, chunk.JobID)
	}
	// The fence: a claim that is somebody else's by now finds no row, and the results go with the transaction.
	n, err := r.write.affected(ctx, fmt.Sprintf(`UPDATE ml_private.job_chunk AS c
		SET state = 'done', rows = %d, skipped = %d, seen = 0, finished_at = clock_timestamp(), lease_until = NULL
		FROM ml_private.job AS j
		WHERE c.job_id = %d AND c.number = %d AND c.epoch = %d AND c.state = 'running' AND j.id = c.job_id AND j.state IN ('running', 'paused') AND j.phase = 'score'`,
		r.rows, r.bad, chunk.JobID, chunk.Number, chunk.Epoch))
	if err != nil {
		return err
	}
	if n != 1 {
		return errLost
	}
	if err := r.write.exec(ctx, "COMMIT"); err != nil {
		return err
	}
	m := r.service.o.Metrics
	m.rows.Add(float64(r.rows))
	m.skipped.Add(float64(r.bad))
	m.chunks.Inc()
	r.service.o.Logger.Debug("chunk scored", "job", chunk.JobID, "chunk", chunk.Number, "rows", r.rows, "skipped", r.bad, "took", time.Since(started))
	return r.service.q.ProgressMade(ctx, chunk.JobID)
}

// sourceLost is called where blocks of the copied source are empty, which they were not when it was made.
func (r *runner) sourceLost(ctx context.Context, job int64) error {
	if err := r.write.exec(ctx, "ROLLBACK"); err != nil {
		return err
	}
	if err := r.service.planAgain(ctx, r.write, job); err != nil {
		return err
	}
	return errLost
}

// pipe reads the chunk's rows, runs them and writes the results into the open transaction.
func (r *runner) pipe(ctx context.Context, c *claim, chunk *db.ClaimChunkRow) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	source, sink := io.Pipe()
	written := make(chan error, 1)
	go func() {
		_, err := r.write.conn.CopyFrom(ctx, source, fmt.Sprintf("COPY %s (%s) FROM STDIN (FORMAT binary)", r.plan.Results, r.plan.resultColumns()))
		_ = source.CloseWithError(errors.Join(errWriter, err)) // the reader must not wait for a writer that is gone
		written <- err
	}()
	r.out.header()
	err := r.readRows(ctx, c, chunk, sink)
	if err == nil {
		err = r.flush(ctx, c, sink)
	}
	if err == nil {
		r.out.trailer()
		_, err = sink.Write(r.out.buf)
		r.out.buf = r.out.buf[:0]
	}
	if err != nil {
		cancel()
		_ = sink.CloseWithError(err)
		if failed := <-written; errors.Is(err, errWriter) && failed != nil {
			return failed
		}
		return err
	}
	_ = sink.Close()
	return <-written
}

var errWriter = errors.New("results could not be written")

// readRows lets COPY send the chunk's rows, and runs them batch by batch.
func (r *runner) readRows(ctx context.Context, c *claim, chunk *db.ClaimChunkRow, sink io.Writer) error {
	var failed error
	d := decoder{columns: len(r.plan.Columns) + 1, row: func(values [][]byte) error {
		if failed = r.take(ctx, values); failed == nil && (r.frame.Len() == batchRows || r.bytes >= batchBytes) {
			failed = r.flush(ctx, c, sink)
		}
		return failed
	}}
	copyOut := func(query string) error {
		_, err := r.read.conn.CopyTo(ctx, &d, "COPY ("+query+") TO STDOUT (FORMAT binary)")
		if failed != nil {
			return failed // rather than what became of the connection
		}
		return err
	}
	if r.plan.Staged != "" {
		if err := copyOut(r.plan.blockQuery(chunk)); err != nil {
			return err
		}
	} else {
		who := starter{role: r.plan.Role, path: r.plan.Path}
		if err := r.read.lend(ctx, who, r.plan.readReturns(), "RETURN QUERY EXECUTE "+literal(r.plan.keyQuery(chunk))+";", true); err != nil {
			return err
		}
		if err := copyOut("SELECT * FROM pg_temp.rowcast_borrowed()"); err != nil {
			return err
		}
		if err := r.read.exec(ctx, "ROLLBACK"); err != nil {
			return err
		}
	}
	if !d.ended {
		return garbled("it ends early")
	}
	return nil
}

// take puts one row into the frame. A bad one stops the job or goes to the bad rows.
func (r *runner) take(ctx context.Context, values [][]byte) error {
	key := values[0]
	var bad error
	if key == nil {
		bad = refuse("23502", "a row has no key: column %q is NULL", r.plan.Key.Name).advise("Choose another key, or let on_error skip such rows.")
	} else {
		bad = r.frame.Append(values[1:])
	}
	if bad != nil {
		if predictable(bad) {
			return r.reject(ctx, key, bad)
		}
		return bad
	}
	for _, v := range values {
		r.bytes += len(v)
	}
	r.keys = append(r.keys, key...)
	r.keyEnds = append(r.keyEnds, len(r.keys))
	if r.skip { // a run may still find the row bad, and then the others are run again
		for _, v := range values[1:] {
			if v == nil {
				r.rawEnds = append(r.rawEnds, -1)
				continue
			}
			r.raw = append(r.raw, v...)
			r.rawEnds = append(r.rawEnds, len(r.raw))
		}
	}
	return nil
}

// predictable reports whether an error is the row's fault rather than the model's or the sidecar's.
func predictable(err error) bool {
	var row *predict.RowError
	var own *problem
	if errors.As(err, &row) || errors.As(err, &own) {
		return true
	}
	switch rowcast.CodeOf(err) {
	case rowcast.CodeMissingFeature, rowcast.CodeNullFeature, rowcast.CodeFeatureType, rowcast.CodeFeatureRange, rowcast.CodeInvalidText, rowcast.CodeDimensions:
		return true
	}
	return false
}

// flush runs the frame and writes the results.
func (r *runner) flush(ctx context.Context, c *claim, sink io.Writer) error {
	if r.frame.Len() == 0 {
		return nil
	}
	n := r.frame.Len()
	results, err := r.frame.Run(ctx)
	var row *predict.RowError
	switch {
	case err == nil:
		r.encode(results, 0)
	case errors.As(err, &row) && !r.skip:
		return r.reject(ctx, r.keyAt(row.Row), err)
	case errors.As(err, &row):
		if err := r.oneByOne(ctx, n); err != nil {
			return err
		}
	default:
		return err
	}
	r.frame.Reset()
	r.bytes = 0
	r.keys, r.keyEnds, r.raw, r.rawEnds = r.keys[:0], r.keyEnds[:0], r.raw[:0], r.rawEnds[:0]
	c.seen.Add(int64(n))
	if _, err := sink.Write(r.out.buf); err != nil {
		return err
	}
	r.out.buf = r.out.buf[:0]
	return nil
}

// oneByOne runs the frame's rows each by itself, since one of them made their run fail.
func (r *runner) oneByOne(ctx context.Context, n int) error {
	width := len(r.plan.Columns)
	r.values = append(r.values[:0], make([][]byte, width)...)
	from := 0
	for i := range n {
		for j := range width {
			r.values[j] = nil
			if end := r.rawEnds[i*width+j]; end >= 0 {
				r.values[j] = r.raw[from:end:end]
				from = end
			}
		}
		r.frame.Reset()
		if err := r.frame.Append(r.values); err != nil {
			return err
		}
		results, err := r.frame.Run(ctx)
		switch {
		case err == nil:
			r.encode(results, i)
		case predictable(err):
			if err := r.reject(ctx, r.keyAt(i), err); err != nil {
				return err
			}
		default:
			return err
		}
	}
	return nil
}

func (r *runner) keyAt(i int) []byte {
	from := 0
	if i > 0 {
		from = r.keyEnds[i-1]
	}
	return r.keys[from:r.keyEnds[i]:r.keyEnds[i]]
}

// encode appends the results, which belong to the keys from a position on.
func (r *runner) encode(results *predict.Results, at int) {
	p, e, now := r.plan, &r.out, time.Now()
	columns := p.resultCount()
	for i := range results.Rows {
		e.row(columns)
		e.value(r.keyAt(at + i))
		if p.Prediction {
			e.float(results.Values[i])
		}
		if p.Label {
			e.text(results.Labels[i])
		}
		if p.Probabilities {
			e.floats(results.Probabilities[i*results.Width : (i+1)*results.Width])
		}
		e.int4(r.version)
		e.timestamp(now)
	}
	r.rows += int64(results.Rows)
}

// reject is what happens to a bad row: with on_error skip it is kept for the error table, else the job fails and its error names the key.
func (r *runner) reject(ctx context.Context, key []byte, err error) error {
	f := r.service.diagnose(err)
	if !r.skip {
		if key == nil {
			return err
		}
		return refuse(f.state, "row %s = %s: %s", r.plan.Key.Name, r.showKey(ctx, key), f.message).because("%s", f.detail).
			advise("%s", strings.TrimSpace(f.hint+" With on_error skip such rows go to an error table."))
	}
	if r.bad == 0 {
		r.badRows.header()
	}
	r.bad++
	e := &r.badRows
	e.row(4)
	e.value(key)
	reason := f.message
	if f.detail != "" {
		reason += " (" + strings.TrimSuffix(f.detail, ".") + ")"
	}
	e.text(reason)
	e.text(f.state)
	e.timestamp(time.Now())
	if len(e.buf) > badBytes {
		return refuse("54000", "a part of the source has so many bad rows that they take %d MB", badBytes>>20).
			because("The last of them: %s", reason).advise("Correct the source, or choose a smaller chunk_rows.")
	}
	return nil
}

// showKey is the key as text. Only PostgreSQL knows how its types are written. The type's own output, no cast to text: a cast may be code of the
// starter's, and this connection has our rights.
func (r *runner) showKey(ctx context.Context, key []byte) string {
	conn, err := r.service.o.Pool.Acquire(ctx)
	if err != nil {
		return "?"
	}
	defer conn.Release()
	result := conn.Conn().PgConn().ExecParams(ctx, "SELECT $1", [][]byte{key}, []uint32{r.plan.Key.OID}, []int16{1}, nil).Read()
	if result.Err != nil || len(result.Rows) != 1 {
		return "?"
	}
	return string(result.Rows[0][0])
}

func (r *runner) storeBadRows(ctx context.Context) error {
	r.badRows.trailer()
	_, err := r.write.conn.CopyFrom(ctx, strings.NewReader(string(r.badRows.buf)),
		fmt.Sprintf("COPY %s (key, reason, sqlstate, at) FROM STDIN (FORMAT binary)", r.plan.Errors))
	return err
}
