package cli

import (
	"context"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/rowcast/rowcast/internal/jobclient"
	"github.com/rowcast/rowcast/internal/rowcast"
)

const jobsShown = 20

func (a *app) jobCommand() *cobra.Command {
	c := group("job", "Show, watch and steer scoring jobs")
	c.Long = "Shows, watches and steers scoring jobs, which rowcast score, SELECT ml.score(…) and schedules start. ml.jobs has the same rows."
	c.Example = `  rowcast job list
  rowcast job watch 12
  rowcast job cancel 12`
	c.AddCommand(a.jobList(), a.jobShow(), a.jobWatch(),
		a.jobChange("pause", "Stop a job until resume; what is committed stays, what is under way is done again", (*jobclient.Client).Pause),
		a.jobChange("resume", "Let a paused job go on", (*jobclient.Client).Resume),
		a.jobChange("cancel", "End a job; its target is as it was before", (*jobclient.Client).Cancel),
		a.jobChange("retry", "Let a failed job go on where it stopped; a canceled one begins anew", (*jobclient.Client).Retry),
	)
	c.PersistentFlags().Bool("json", false, "print JSON")
	return c
}

func (a *app) jobList() *cobra.Command {
	var f jobclient.Filter
	var all bool
	c := a.jobCommandOf("list", "List jobs, the newest first", "rowcast job list --state running", cobra.NoArgs,
		func(ctx context.Context, cmd *cobra.Command, jobs *jobclient.Client, _ []string) error {
			if f.State != "" && !slices.Contains(jobclient.States(), f.State) {
				return usageError{rowcast.Errorf(rowcast.CodeInvalidArgument, "--state %q is none of a job", f.State).
					WithHint("The states are %s.", strings.Join(jobclient.States(), ", "))}
			}
			if !all {
				f.Most = jobsShown
			}
			list, err := jobs.Jobs(ctx, f)
			if err != nil {
				return err
			}
			if asJSON, _ := cmd.Flags().GetBool("json"); asJSON {
				return a.report(cmd, list, "")
			}
			if len(list) == 0 {
				printf(a.out, "No jobs. Start one: rowcast score MODEL --source TABLE --target TABLE --key COLUMN\n")
				return nil
			}
			t := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			printf(t, "JOB\tSTATE\tMODEL\tROWS\tROWS/S\tLEFT\tTARGET\tSTARTED BY\tCREATED\n")
			for i := range list {
				j := &list[i]
				rate := ""
				if j.RowsPerSecond > 0 {
					rate = count(int64(j.RowsPerSecond))
				}
				printf(t, "%d\t%s\t%s@%d\t%s\t%s\t%s\t%s\t%s\t%s\n", j.ID, j.State, j.Model, j.Version, rowsOf(j), dash(rate), dash(timeLeft(j)), j.Target,
					dash(j.StartedBy), j.CreatedAt.Local().Format(time.DateTime))
			}
			return t.Flush()
		})
	c.Flags().StringVar(&f.State, "state", "", "only jobs in this state: queued, running, paused, done, failed or canceled")
	c.Flags().StringVar(&f.Model, "model", "", "only jobs of this model")
	c.Flags().BoolVar(&all, "all", false, "not only the newest 20")
	return c
}

// jobID parses the argument of a command on one job.
func jobID(arg string) (int64, error) {
	id, err := number("ID", arg, 1)
	return int64(id), err
}

func (a *app) jobShow() *cobra.Command {
	return a.jobCommandOf("show ID", "Show a job: what it does, how far it is, why it failed", "rowcast job show 12", cobra.ExactArgs(1),
		func(ctx context.Context, cmd *cobra.Command, jobs *jobclient.Client, args []string) error {
			id, err := jobID(args[0])
			if err != nil {
				return err
			}
			j, err := jobs.Job(ctx, id)
			if err != nil {
				return err
			}
			if asJSON, _ := cmd.Flags().GetBool("json"); asJSON {
				return a.report(cmd, j, "")
			}
			return a.showJob(j)
		})
}

func (a *app) showJob(j *jobclient.Job) error {
	t := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	field := func(name, value string) {
		if value != "" {
			printf(t, "%s\t%s\n", name, value)
		}
	}
	printf(t, "Job\t%d\n", j.ID)
	field("State", j.State)
	if j.State == jobclient.StateRunning {
		field("Phase", j.Phase)
	}
	printf(t, "Model\t%s version %d\n", j.Model, j.Version)
	field("Source", j.Source)
	printf(t, "Target\t%s (%s)\n", j.Target, j.Mode)
	field("Key", j.Key)
	field("Bad rows", j.OnError)
	field("Rows", rowsOf(j))
	if j.RowsSkipped > 0 {
		field("Skipped", count(j.RowsSkipped)+" rows")
	}
	if j.RowsPerSecond > 0 {
		field("Rate", count(int64(j.RowsPerSecond))+" rows/s")
	}
	field("Time left", timeLeft(j))
	field("Error", j.Error)
	if j.RetryAt != nil {
		field("Next try", j.RetryAt.Local().Format(time.DateTime))
	}
	field("SQLSTATE", j.SQLState)
	field("Detail", j.Detail)
	field("Hint", j.Hint)
	field("Schedule", j.Schedule)
	field("Started by", j.StartedBy)
	for _, at := range []struct {
		name string
		time *time.Time
	}{{"Created", &j.CreatedAt}, {"Started", j.StartedAt}, {"Finished", j.FinishedAt}} {
		if at.time != nil {
			field(at.name, at.time.Local().Format(time.DateTime))
		}
	}
	return t.Flush()
}

func (a *app) jobWatch() *cobra.Command {
	c := a.jobCommandOf("watch ID", "Wait for a job and show its progress, as rowcast score does", "rowcast job watch 12", cobra.ExactArgs(1),
		func(ctx context.Context, cmd *cobra.Command, jobs *jobclient.Client, args []string) error {
			id, err := jobID(args[0])
			if err != nil {
				return err
			}
			signals := make(chan os.Signal, 8)
			signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
			defer signal.Stop(signals)
			return a.await(ctx, cmd, jobs, id, signals)
		})
	c.Long = `Waits for a job and shows its progress, as rowcast score does. On a terminal ctrl-C asks whether to cancel the job, to detach from it, or to go on.

Exit status: 0 done, 1 failed or canceled, 3 detached before the job had ended.`
	return c
}

func (a *app) jobChange(verb, short string, change func(*jobclient.Client, context.Context, int64) error) *cobra.Command {
	return a.jobCommandOf(verb+" ID", short, "rowcast job "+verb+" 12", cobra.ExactArgs(1),
		func(ctx context.Context, cmd *cobra.Command, jobs *jobclient.Client, args []string) error {
			id, err := jobID(args[0])
			if err != nil {
				return err
			}
			if err := change(jobs, ctx, id); err != nil {
				return err
			}
			j, err := jobs.Job(ctx, id)
			if err != nil {
				return err
			}
			return a.report(cmd, j, "Job %d is %s: %s.\n", j.ID, j.State, rowsOf(j))
		})
}
