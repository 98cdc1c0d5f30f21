package cli

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/rowcast/rowcast/internal/jobclient"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// exitDetached says that the job goes on, or waits, without the command that was told to wait for it.
const exitDetached = 3

// leastChunk is the fewest rows that ml.score() takes for a chunk.
const leastChunk = 1000

func (a *app) scoreCommand() *cobra.Command {
	var f scoreFlags
	var detach bool
	c := a.jobCommandOf("score MODEL --source TABLE-OR-QUERY --target TABLE --key COLUMN", "Score a table or a query into a table, as a job of the database", "",
		cobra.ExactArgs(1),
		func(ctx context.Context, cmd *cobra.Command, jobs *jobclient.Client, args []string) error {
			r, err := f.request(args[0], jobclient.ModeCreate)
			if err != nil {
				return err
			}
			if detach {
				return a.scoreDetached(ctx, cmd, jobs, r)
			}
			// From before the start on: a ctrl-C that comes too late to prevent the job must not be lost.
			signals := make(chan os.Signal, 8)
			signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
			defer signal.Stop(signals)
			id, err := jobs.Score(ctx, r)
			if err != nil {
				return err
			}
			return a.await(ctx, cmd, jobs, id, signals)
		})
	c.Long = `Starts a scoring job and waits for it. The sidecar reads the source, predicts, and writes the target, with your rights and in many short transactions;
the job is a row of ml.jobs and goes on when this command ends. SELECT ml.score(…) starts the same job.

The target is created (it must not exist); --replace exchanges all of its rows in one moment, --append adds to them. The model's version is chosen once,
at the start. A row that the model cannot take ends the job, or with --on-error skip goes to an error table.

On a terminal a bar shows the progress, and ctrl-C asks whether to cancel the job, to detach from it, or to go on; a second ctrl-C cancels it. Elsewhere
there is a line every few seconds, and SIGINT and SIGTERM detach: the job goes on. A restart of PostgreSQL or of the sidecar is waited for.

Exit status: 0 done, 1 failed or canceled, 2 not understood, 3 detached before the job had ended.`
	c.Example = `  rowcast score churn --source customers --target churn_scores --key id
  rowcast score churn@3 --source "SELECT id, age, plan FROM customers WHERE active" --target churn_scores --key id --replace
  rowcast score churn --source customers --target churn_scores --key id --new-rows --on-error skip
  rowcast score churn --source customers --target churn_scores --key id --detach --json`
	f.add(c)
	c.Flags().BoolVar(&detach, "detach", false, "start the job and do not wait for it")
	c.Flags().Bool("json", false, "print the job as JSON when it has ended (with --detach, when it has begun)")
	return c
}

// jobCommandOf makes a command that works on jobs.
func (a *app) jobCommandOf(use, short, example string, args cobra.PositionalArgs,
	run func(ctx context.Context, cmd *cobra.Command, jobs *jobclient.Client, args []string) error,
) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Args: args,
		RunE: func(cmd *cobra.Command, args []string) error {
			pool, err := a.connect(cmd.Context(), nil) // that no sidecar runs is said here, also when it stops later
			if err != nil {
				return err
			}
			defer pool.Close()
			return run(cmd.Context(), cmd, jobclient.New(pool), args)
		},
	}
	if example != "" {
		c.Example = "  " + example
	}
	return c
}

// scoreFlags say what is scored, for score and for schedule add.
type scoreFlags struct {
	source, target, key     string
	replace, appendRows     bool
	onError                 string
	newRows                 bool
	since, errorTable       string
	probabilities, unlogged bool
	chunkRows               int64
}

func (f *scoreFlags) add(c *cobra.Command) {
	s := c.Flags()
	s.SortFlags = false
	s.StringVar(&f.source, "source", "", "table, or query in double quotes, that has the key and the features by name")
	s.StringVar(&f.target, "target", "", "table that takes the predictions")
	s.StringVar(&f.key, "key", "", "column of the source that identifies a row; it is copied to the target")
	s.BoolVar(&f.replace, "replace", false, "replace what the target has, in one moment for its readers")
	s.BoolVar(&f.appendRows, "append", false, "add to what the target has")
	s.StringVar(&f.onError, "on-error", jobclient.OnErrorStop, "what a row that the model cannot take does: stop the job, or skip (into an error table)")
	s.BoolVar(&f.newRows, "new-rows", false, "only rows whose key this version has not scored yet (adds to the target)")
	s.StringVar(&f.since, "since", "", "timestamp column of the source: only rows newer than what was scored before (takes the place of earlier results)")
	s.BoolVar(&f.probabilities, "probabilities", false, "store the probability of each label, too")
	s.BoolVar(&f.unlogged, "unlogged", false, "create the target unlogged: faster, and empty after a crash of PostgreSQL")
	s.StringVar(&f.errorTable, "error-table", "", "table that takes the rows that are skipped (default: TARGET_errors)")
	s.Int64Var(&f.chunkRows, "chunk-rows", 0, "rows of one transaction, at least 1000 (default: the sidecar's choice)")
}

// request checks the flags; mode is what neither --replace nor --append means.
func (f *scoreFlags) request(model, mode string) (jobclient.Request, error) {
	var r jobclient.Request
	for _, flag := range []struct{ name, value, example string }{
		{"source", f.source, "--source customers"}, {"target", f.target, "--target churn_scores"}, {"key", f.key, "--key id"},
	} {
		if flag.value == "" {
			return r, usageError{rowcast.Errorf(rowcast.CodeInvalidArgument, "--%s is missing", flag.name).WithHint("For instance: %s", flag.example)}
		}
	}
	adds := f.newRows || f.since != ""
	switch {
	case f.replace && f.appendRows:
		return r, usageError{errors.New("--replace and --append contradict each other")}
	case f.replace && adds:
		return r, usageError{rowcast.Errorf(rowcast.CodeInvalidArgument, "--replace contradicts --new-rows and --since").
			WithHint("These add to what the target has; --replace throws it away.")}
	case f.replace:
		mode = jobclient.ModeReplace
	case f.appendRows || adds:
		mode = jobclient.ModeAppend
	}
	if f.onError != jobclient.OnErrorStop && f.onError != jobclient.OnErrorSkip {
		return r, usageError{rowcast.Errorf(rowcast.CodeInvalidArgument, `--on-error must be stop or skip, not %q`, f.onError)}
	}
	if f.chunkRows != 0 && f.chunkRows < leastChunk {
		return r, usageError{rowcast.Errorf(rowcast.CodeInvalidArgument, "--chunk-rows must be at least %d, not %d", leastChunk, f.chunkRows)}
	}
	return jobclient.Request{
		Model: model, Source: f.source, Target: f.target, Key: f.key, Mode: mode, OnError: f.onError,
		Options: jobclient.Options{
			ChunkRows: f.chunkRows, Unlogged: f.unlogged, Probabilities: f.probabilities, NewRows: f.newRows, Since: f.since, ErrorTable: f.errorTable,
		},
	}, nil
}

// scoreDetached starts a job, and says at once if nobody is there to run it.
func (a *app) scoreDetached(ctx context.Context, cmd *cobra.Command, jobs *jobclient.Client, r jobclient.Request) error {
	id, err := jobs.Score(ctx, r)
	if err != nil {
		return err
	}
	j, err := jobs.Job(ctx, id)
	if err != nil {
		return err
	}
	runs, err := jobs.SidecarRuns(ctx)
	if err != nil {
		return err
	}
	if !runs {
		printf(a.errOut, "%s\n", noSidecar)
	}
	return a.report(cmd, j, "Job %d: %s\nWatch it with: rowcast job watch %d\n", j.ID, work(j), j.ID)
}
