package cli

import (
	"context"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/rowcast/rowcast/internal/jobclient"
)

// scheduled is what add and remove print with --json.
type scheduled struct {
	Name string `json:"name"`
	ID   int64  `json:"id,omitempty"`
}

func (a *app) scheduleCommand() *cobra.Command {
	c := group("schedule", "List, add and remove scoring jobs that come again and again")
	c.Long = "Lists, adds and removes scoring jobs that come again and again. The sidecar starts them; ml.schedules has the same rows."
	c.Example = `  rowcast schedule add nightly "0 3 * * *" churn --source customers --target churn_scores --key id
  rowcast schedule list
  rowcast schedule remove nightly`
	c.AddCommand(a.scheduleList(), a.scheduleAdd(), a.scheduleRemove())
	c.PersistentFlags().Bool("json", false, "print JSON")
	return c
}

func (a *app) scheduleList() *cobra.Command {
	return a.jobCommandOf("list", "List schedules", "rowcast schedule list --json", cobra.NoArgs,
		func(ctx context.Context, cmd *cobra.Command, jobs *jobclient.Client, _ []string) error {
			list, err := jobs.Schedules(ctx)
			if err != nil {
				return err
			}
			if asJSON, _ := cmd.Flags().GetBool("json"); asJSON {
				return a.report(cmd, list, "")
			}
			if len(list) == 0 {
				printf(a.out, "No schedules. Add one: rowcast schedule add NAME CRON MODEL --source TABLE --target TABLE --key COLUMN\n")
				return nil
			}
			t := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			printf(t, "NAME\tCRON\tZONE\tMODEL\tSOURCE\tTARGET\tMODE\tNEXT\tLAST JOB\tERROR\n")
			for _, s := range list {
				next := "-"
				if s.NextAt != nil {
					next = s.NextAt.Local().Format(time.DateTime)
				}
				printf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Name, s.Cron, s.Timezone, s.Model, short(s.Source), s.Target, s.Mode, next,
					optional(s.LastJob), dash(s.Error))
			}
			return t.Flush()
		})
}

func (a *app) scheduleAdd() *cobra.Command {
	var f scoreFlags
	c := a.jobCommandOf("add NAME CRON MODEL --source TABLE-OR-QUERY --target TABLE --key COLUMN", "Score again and again, at the times of a cron expression", "",
		cobra.ExactArgs(3),
		func(ctx context.Context, cmd *cobra.Command, jobs *jobclient.Client, args []string) error {
			r, err := f.request(args[2], jobclient.ModeAppend)
			if err != nil {
				return err
			}
			// What SELECT ml.schedule_score(…) does where nothing else is said.
			if !f.replace && !f.appendRows && f.since == "" {
				r.Options.NewRows = true
			}
			id, err := jobs.AddSchedule(ctx, args[0], args[1], r)
			if err != nil {
				return err
			}
			return a.report(cmd, scheduled{args[0], id}, "%s: %s into %s at %s\n", args[0], r.Model, r.Target, args[1])
		})
	c.Long = `Starts a scoring job at the times of a cron expression: minute, hour, day of the month, month, day of the week, in the session's time zone;
or @hourly, @daily, @weekly, @monthly, @yearly. Each job uses the version that MODEL means when it starts. Without --replace, --append or --since it
scores only rows whose key that version has not scored yet.`
	c.Example = `  rowcast schedule add nightly "0 3 * * *" churn --source customers --target churn_scores --key id
  rowcast schedule add hourly "15 * * * *" churn --source events --target event_scores --key id --since created_at
  rowcast schedule add weekly "0 4 * * 0" churn@champion --source customers --target churn_scores --key id --replace`
	f.add(c)
	return c
}

func (a *app) scheduleRemove() *cobra.Command {
	return a.jobCommandOf("remove NAME", "Remove a schedule; jobs that it started go on", "rowcast schedule remove nightly", cobra.ExactArgs(1),
		func(ctx context.Context, cmd *cobra.Command, jobs *jobclient.Client, args []string) error {
			if err := jobs.RemoveSchedule(ctx, args[0]); err != nil {
				return err
			}
			return a.report(cmd, scheduled{Name: args[0]}, "Schedule %s is gone.\n", args[0])
		})
}
