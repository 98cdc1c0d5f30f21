package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"syscall"
	"time"

	ort "github.com/yalue/onnxruntime_go" //nolint:depguard // the baseline is the binding as anybody would use it

	"github.com/rowcast/rowcast/internal/measure"
	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/postgres"
)

// modelBatch is how many rows a run has where ONNX Runtime is measured alone: few enough that the tensor stays in the processor's cache.
const modelBatch = 4096

// used is what something took.
type used struct {
	wall      float64 // seconds
	processor float64 // seconds of all cores
}

// spend measures what do takes, in this process and in the database's session.
func (b *bench) spend(do func() error) (used, error) {
	backend := int(b.Conn.PgConn().PID())
	ours, theirs, began := ownTime(), backendTime(backend), time.Now()
	err := do()
	return used{wall: time.Since(began).Seconds(), processor: ownTime() - ours + backendTime(backend) - theirs}, err
}

// ownTime is the processor time of this process in seconds.
func ownTime() float64 {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return float64(r.Utime.Nano()+r.Stime.Nano()) / 1e9
}

// backendTime is the processor time of a session's process in seconds, in steps of 10 ms.
func backendTime(pid int) float64 {
	_, used := measure.ProcessStat(pid)
	return used
}

// copyOut reads a table in binary and throws it away.
func (b *bench) copyOut(ctx context.Context, table string) (used, error) {
	return b.spend(func() error {
		_, err := b.Conn.PgConn().CopyTo(ctx, io.Discard, "COPY ("+query(table)+") TO STDOUT (FORMAT binary)")
		return postgres.Error(err)
	})
}

// copyIn writes what the last job wrote once more, into a table like its target.
func (b *bench) copyIn(ctx context.Context) (used, error) {
	var rows bytes.Buffer
	if _, err := b.Conn.PgConn().CopyTo(ctx, &rows, "COPY "+scores+" TO STDOUT (FORMAT binary)"); err != nil {
		return used{}, postgres.Error(err)
	}
	const copied = schema + ".copied"
	if err := b.Exec(ctx, "DROP TABLE IF EXISTS "+copied, "CREATE TABLE "+copied+" (LIKE "+scores+")", "CHECKPOINT"); err != nil {
		return used{}, err
	}
	return b.spend(func() error {
		_, err := b.Conn.PgConn().CopyFrom(ctx, &rows, "COPY "+copied+" FROM STDIN (FORMAT binary)")
		return postgres.Error(err)
	})
}

// matrix is the source's features as the models take them, row by row.
func (b *bench) matrix(ctx context.Context) ([]float32, error) {
	rows, err := b.Conn.Query(ctx, query(source))
	if err != nil {
		return nil, postgres.Error(err)
	}
	defer rows.Close()
	values := make([]float32, 0, b.rows*features)
	row := make([]float64, features)
	into := make([]any, features+1)
	for i := range row {
		into[i+1] = &row[i]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return nil, postgres.Error(err)
		}
		for _, x := range row {
			values = append(values, float32(x))
		}
	}
	return values, postgres.Error(rows.Err())
}

// runModel runs a model over the matrix through ONNX Runtime's Go binding, as its documentation shows it: a tensor over each batch, outputs that the
// runtime allocates.
func (b *bench) runModel(ctx context.Context, model string, matrix []float32, batch, threads int) (used, error) {
	g, err := onnx.Inspect(b.models[model])
	if err != nil {
		return used{}, err
	}
	options, err := ort.NewSessionOptions()
	if err != nil {
		return used{}, err
	}
	defer func() { _ = options.Destroy() }()
	if err := options.SetIntraOpNumThreads(threads); err != nil {
		return used{}, err
	}
	outputs := make([]string, len(g.Outputs))
	for i, o := range g.Outputs {
		outputs[i] = o.Name
	}
	session, err := ort.NewDynamicAdvancedSessionWithONNXData(b.models[model], []string{g.Inputs[0].Name}, outputs, options)
	if err != nil {
		return used{}, err
	}
	defer func() { _ = session.Destroy() }()
	return b.spend(func() error {
		for at := 0; at < len(matrix); at += batch * features {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := runBatch(session, matrix[at:min(at+batch*features, len(matrix))], len(outputs)); err != nil {
				return err
			}
		}
		return nil
	})
}

func runBatch(session *ort.DynamicAdvancedSession, rows []float32, outputs int) error {
	input, err := ort.NewTensor(ort.NewShape(int64(len(rows)/features), features), rows)
	if err != nil {
		return err
	}
	defer func() { _ = input.Destroy() }()
	values := make([]ort.Value, outputs)
	if err := session.Run([]ort.Value{input}, values); err != nil {
		return err
	}
	for _, v := range values {
		if err := v.Destroy(); err != nil {
			return err
		}
	}
	return nil
}

// resetPeak makes the kernel forget how much memory a process has used at most.
func resetPeak(pid int) error {
	return os.WriteFile("/proc/"+itoa(pid)+"/clear_refs", []byte("5"), 0o200)
}
