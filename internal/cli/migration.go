package cli

import (
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/rowcast/rowcast/internal/modelmigrate"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// exitChanges is plan's status when something would change.
const exitChanges = 2

func (a *app) migrationCommand() *cobra.Command {
	c := group("migration", "Ship models like schema changes: numbered SQL files in a folder of your repository")
	c.Long = `Ships models like schema changes. A folder of your repository (--dir, models at first) holds pairs of SQL files, 000001_churn.up.sql and .down.sql,
that call the functions of schema ml, and under artifacts/ the model files that they name by SHA-256. up uploads those and runs the SQL, each file in
one transaction; down takes it back, bit for bit. The folder also runs with golang-migrate's program:

  rowcast model upload models/artifacts/*
  migrate -path models -database 'pgx5://…/shop?x-migrations-table="ml"."model_migrations"&x-migrations-table-quoted=true' up`
	c.Example = `  rowcast model migration new churn --file churn.onnx
  rowcast model migration plan
  rowcast model migration up
  rowcast model migration down 1`
	c.PersistentFlags().String("dir", modelmigrate.DefaultDir, "folder of the migrations")
	c.PersistentFlags().String("table", modelmigrate.DefaultTable, "version table; a second repository for the same database has one of its own")
	c.AddCommand(a.migrationNew(), a.migrationUp(), a.migrationDown(), a.migrationGoto(), a.migrationForce(), a.migrationVersion(), a.migrationStatus(),
		a.migrationPlan())
	return c
}

// runner makes a Runner that prints its progress, unless JSON is asked for.
func (a *app) runner(cmd *cobra.Command) (*modelmigrate.Runner, error) {
	o := modelmigrate.Options{Warning: a.warning}
	o.Dir, _ = cmd.Flags().GetString("dir")
	o.Table, _ = cmd.Flags().GetString("table")
	if asJSON, _ := cmd.Flags().GetBool("json"); !asJSON {
		o.Applied = func(s modelmigrate.Step) {
			direction := "u"
			if !s.Up {
				direction = "d"
			}
			printf(a.out, "%d/%s %s (%s)\n", s.Version, direction, s.Name, s.Took.Round(100*time.Microsecond))
		}
		o.Uploading = func(path string, bytes int64) func(done, total int64) {
			printf(a.out, "uploading %s (%s)\n", path, size(bytes))
			return a.progress("uploading")
		}
	}
	return modelmigrate.New(a.url(), o)
}

// migration makes a command that runs one of the Runner's methods and tells what it did.
func (a *app) migration(use, short, example string, args cobra.PositionalArgs,
	run func(cmd *cobra.Command, r *modelmigrate.Runner, args []string) (modelmigrate.Report, error),
) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: args, Example: "  " + example,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := a.runner(cmd)
			if err != nil {
				return err
			}
			report, err := run(cmd, r, args)
			if err != nil {
				return err
			}
			if asJSON, _ := cmd.Flags().GetBool("json"); asJSON {
				return a.report(cmd, report, "")
			}
			if report.From == report.To {
				printf(a.out, "models at version %d already\n", report.To)
			} else {
				printf(a.out, "models from version %d to %d\n", report.From, report.To)
			}
			for _, note := range report.Notes {
				printf(a.out, "%s\n", note)
			}
			return nil
		},
	}
}

func (a *app) migrationUp() *cobra.Command {
	return a.migration("up [N]", "Run the next N migrations, or all: uploads their artifacts first", "rowcast model migration up", cobra.MaximumNArgs(1),
		func(cmd *cobra.Command, r *modelmigrate.Runner, args []string) (modelmigrate.Report, error) {
			n, err := steps(args, -1)
			if err != nil {
				return modelmigrate.Report{}, err
			}
			return r.Up(cmd.Context(), n)
		})
}

func (a *app) migrationDown() *cobra.Command {
	return a.migration("down [N|all]", "Take back the last migration, the last N, or all", "rowcast model migration down 2", cobra.MaximumNArgs(1),
		func(cmd *cobra.Command, r *modelmigrate.Runner, args []string) (modelmigrate.Report, error) {
			if len(args) == 1 && args[0] == "all" {
				return r.Down(cmd.Context(), -1)
			}
			n, err := steps(args, 1)
			if err != nil {
				return modelmigrate.Report{}, err
			}
			return r.Down(cmd.Context(), n)
		})
}

// steps reads the optional argument N.
func steps(args []string, otherwise int) (int, error) {
	if len(args) == 0 {
		return otherwise, nil
	}
	return number("N", args[0], 1)
}

func (a *app) migrationGoto() *cobra.Command {
	return a.migration("goto V", "Migrate to version V, up or down; 0 takes all back", "rowcast model migration goto 3", cobra.ExactArgs(1),
		func(cmd *cobra.Command, r *modelmigrate.Runner, args []string) (modelmigrate.Report, error) {
			v, err := number("V", args[0], 0)
			if err != nil {
				return modelmigrate.Report{}, err
			}
			return r.Goto(cmd.Context(), v)
		})
}

func (a *app) migrationForce() *cobra.Command {
	return a.migration("force V", "Declare the models to be at version V without running anything, and the files up to there to be those that ran",
		"rowcast model migration force 3", cobra.ExactArgs(1),
		func(cmd *cobra.Command, r *modelmigrate.Runner, args []string) (modelmigrate.Report, error) {
			v, err := number("V", args[0], 0)
			if err != nil {
				return modelmigrate.Report{}, err
			}
			return r.Force(cmd.Context(), v)
		})
}

func (a *app) migrationVersion() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version of the models", Args: cobra.NoArgs, Example: "  rowcast model migration version",
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := a.runner(cmd)
			if err != nil {
				return err
			}
			version, dirty, err := r.Version(cmd.Context())
			if err != nil {
				return err
			}
			note := ""
			if dirty {
				note = " (dirty: see rowcast model migration status)"
			}
			return a.report(cmd, map[string]any{"version": version, "dirty": dirty}, "%d%s\n", version, note)
		},
	}
}

func (a *app) migrationStatus() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show which migrations ran, which are pending and whether their artifacts are at hand", Args: cobra.NoArgs,
		Example: "  rowcast model migration status --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := a.runner(cmd)
			if err != nil {
				return err
			}
			s, err := r.Status(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON, _ := cmd.Flags().GetBool("json"); asJSON {
				return a.report(cmd, s, "")
			}
			return a.printStatus(s)
		},
	}
}

func (a *app) printStatus(s *modelmigrate.Status) error {
	if len(s.Migrations) == 0 {
		printf(a.out, "No migrations yet. Write one: rowcast model migration new NAME --file MODEL.onnx\n")
		return nil
	}
	t := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	printf(t, "MIGRATION\tSTATE\tAPPLIED\tBY\tARTIFACTS\n")
	for _, m := range s.Migrations {
		at := "-"
		if m.AppliedAt != nil {
			at = m.AppliedAt.Local().Format("2006-01-02 15:04:05")
		}
		var artifacts []string
		for _, f := range m.Artifacts {
			artifacts = append(artifacts, f.SHA256[:12]+" "+place(f))
		}
		printf(t, "%s\t%s\t%s\t%s\t%s\n", m.Name, m.State, at, dash(m.AppliedBy), dash(strings.Join(artifacts, ", ")))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	printf(a.out, "\nmodels at version %d of %d\n", s.Version, s.Latest)
	for _, m := range s.Migrations {
		switch m.State {
		case modelmigrate.StateEdited:
			printf(a.out, "%s: the file was edited after it ran; up refuses to go on\n", m.Name)
		case modelmigrate.StateNoRecord:
			printf(a.out, "%s: it is below version %d, but nothing shows that it ran; give it a higher number where it came late\n", m.Name, s.Version)
		}
	}
	if s.Advice != "" {
		printf(a.out, "%s\n", s.Advice)
	}
	return nil
}

// place says where an artifact is.
func place(f modelmigrate.ArtifactStatus) string {
	switch {
	case f.Uploaded:
		return "uploaded"
	case f.File != "":
		return "in " + filepath.Base(f.File)
	case f.Pointer != "":
		return "only as the git-lfs pointer " + filepath.Base(f.Pointer)
	}
	return "missing"
}

func (a *app) migrationPlan() *cobra.Command {
	return &cobra.Command{
		Use: "plan [N]", Short: "Show what up would change in this database; exit status 2 when something, 0 when nothing, 1 on an error",
		Long: `Shows what up would change in this database: runs the pending files in one transaction, as up would, reads what they did and rolls back. A version
that takes or gives something else than the champion is compared with it feature by feature. Artifacts that are missing are uploaded for that.

The exit status is 2 when something would change, 0 when nothing would, and 1 on an error, so that CI can ask.`,
		Example: "  rowcast model migration plan; test $? -ne 1", Args: cobra.MaximumNArgs(1),
		Annotations: map[string]string{usageFails: ""},
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := steps(args, -1)
			if err != nil {
				return err
			}
			r, err := a.runner(cmd)
			if err != nil {
				return err
			}
			p, err := r.Plan(cmd.Context(), n)
			if err != nil {
				return err
			}
			if asJSON, _ := cmd.Flags().GetBool("json"); asJSON {
				err = a.report(cmd, p, "")
			} else {
				a.printPlan(p)
			}
			if err == nil && p.Changes() {
				return exitStatus(exitChanges)
			}
			return err
		},
	}
}

func (a *app) printPlan(p *modelmigrate.Plan) {
	for _, note := range p.Notes {
		printf(a.out, "%s\n", note)
	}
	if !p.Changes() {
		printf(a.out, "nothing would change: models at version %d already\n", p.From)
		return
	}
	for _, m := range p.Migrations {
		printf(a.out, "%s\n", m.Name)
		for _, e := range m.Effects {
			printf(a.out, "  %s\n", &e)
			if len(e.Differs) > 0 {
				printf(a.out, "    differs from the champion, %s:\n", e.Against)
				for _, d := range e.Differs {
					printf(a.out, "      %s\n", d)
				}
			} else if e.Against != "" {
				printf(a.out, "    takes and gives the same as the champion, %s\n", e.Against)
			}
		}
		if len(m.Effects) == 0 {
			printf(a.out, "  no model would change\n")
		}
	}
	printf(a.out, "models would go from version %d to %d\n", p.From, p.To)
}

func (a *app) migrationNew() *cobra.Command {
	var f optionFlags
	var o modelmigrate.NewOptions
	c := &cobra.Command{
		Use: "new NAME [--file MODEL]", Short: "Write a new pair of files, and put the model file among the artifacts", Args: cobra.ExactArgs(1),
		Long: `Writes NNNNNN_NAME.up.sql, which registers a model file (or, without --file, does nothing yet: write what you like), and NNNNNN_NAME.down.sql, which
takes it back. Needs no database. MODEL is what rowcast model register takes: a file of ONNX, XGBoost or LightGBM, or an MLflow folder, which is packed
as a tar. What the file does not say comes from model.yaml beside it or in the folder, or from flags.

The model is --model, else the name in model.yaml, else NAME without its _v2.`,
		Example: `  rowcast model migration new churn --file churn.onnx
  rowcast model migration new churn_v2 --file churn2.ubj --promote
  rowcast model migration new churn_v3 --file mlruns/0/models/m-5f1c/artifacts
  rowcast model migration new churn_challenger --file churn3.onnx --model churn --alias challenger
  rowcast model migration new rights`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Name = args[0]
			o.Dir, _ = cmd.Flags().GetString("dir")
			if o.File == "" {
				if o.Promote || len(o.Aliases)+len(o.Grants) > 0 || o.Model != "" {
					return usageError{rowcast.Errorf(rowcast.CodeInvalidArgument, "--promote, --alias, --grant and --model need a --file to register").
						WithHint("Write ml.promote('churn', 2) into the file instead.")}
				}
			} else {
				m, err := openModel(o.File)
				if err != nil {
					return err
				}
				defer m.close()
				if err := m.converts(); err != nil {
					return err
				}
				if o.Options, _, err = f.options(m.beside); err != nil {
					return err
				}
				name := o.Options.Name // the migration's own name says more than a folder's
				o.Options = m.under(o.Options)
				o.File, o.Options.Name = m.file.Name(), name
			}
			created, err := modelmigrate.Create(cmd.Context(), o)
			if err != nil {
				return err
			}
			text := created.Up + "\n" + created.Down + "\n"
			if created.Artifact != "" {
				text += created.Artifact + "\n"
			}
			return a.report(cmd, created, "%s", text)
		},
	}
	s := c.Flags()
	s.StringVar(&o.File, "file", "", "model file, or MLflow folder, to register")
	s.StringVar(&o.Model, "model", "", "name of the model")
	s.BoolVar(&o.Promote, "promote", false, "make the version the champion")
	s.StringArrayVar(&o.Aliases, "alias", nil, "point this alias at the version; once for each")
	s.StringArrayVar(&o.Grants, "grant", nil, "let this role, or PUBLIC, use the model; once for each")
	f.add(c)
	return c
}
