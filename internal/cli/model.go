package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/rowcast/rowcast/db"
	"github.com/rowcast/rowcast/internal/registry"
	"github.com/rowcast/rowcast/internal/rowcast"
)

func (a *app) modelCommand() *cobra.Command {
	c := group("model", "Register, show and change models")
	c.Long = "Registers, shows and changes models. Each command calls the SQL function of the same name in schema ml, with your role's rights."
	c.Example = `  rowcast model register churn churn.onnx
  rowcast model list
  rowcast model promote churn 2`
	c.AddCommand(
		a.registerCommand(), a.uploadCommand(), a.downloadCommand(), a.migrationCommand(),
		a.modelList(), a.modelShow(), a.modelAlias(), a.modelPromote(), a.modelRollback(), a.modelDrop(), a.modelRelease(),
		a.modelRight("grant", "Let a role, or PUBLIC, use a model", (*registry.Catalog).Grant, "%s may use %s now.\n"),
		a.modelRight("revoke", "Take back what grant gave", (*registry.Catalog).Revoke, "%s may no longer use %s by a grant of its own.\n"),
	)
	c.PersistentFlags().Bool("json", false, "print JSON")
	return c
}

// catalogCommand makes a command that works on the catalog.
func (a *app) catalogCommand(use, short, example string, args cobra.PositionalArgs,
	run func(ctx context.Context, cmd *cobra.Command, c *registry.Catalog, args []string) error,
) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Example: "  " + example, Args: args,
		RunE: func(cmd *cobra.Command, args []string) error {
			pool, err := a.connect(cmd.Context(), a.warning)
			if err != nil {
				return err
			}
			defer pool.Close()
			return run(cmd.Context(), cmd, registry.NewCatalog(pool), args)
		},
	}
}

// report prints v as JSON where --json asks for it, else the text.
func (a *app) report(cmd *cobra.Command, v any, format string, args ...any) error {
	if asJSON, _ := cmd.Flags().GetBool("json"); asJSON {
		e := json.NewEncoder(a.out)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	printf(a.out, format, args...)
	return nil
}

// changed is what the changing commands print with --json.
type changed struct {
	Model   string `json:"model"`
	Version int    `json:"version,omitempty"`
	Alias   string `json:"alias,omitempty"`
	Role    string `json:"role,omitempty"`
}

func (a *app) modelList() *cobra.Command {
	return a.catalogCommand("list", "List the models that you may use", "rowcast model list --json", cobra.NoArgs,
		func(ctx context.Context, cmd *cobra.Command, c *registry.Catalog, _ []string) error {
			models, err := c.Models(ctx)
			if err != nil {
				return err
			}
			if asJSON, _ := cmd.Flags().GetBool("json"); asJSON {
				return a.report(cmd, models, "")
			}
			if len(models) == 0 {
				printf(a.out, "No models yet. Register one: rowcast model register NAME FILE\n")
				return nil
			}
			t := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
			printf(t, "MODEL\tTASK\tCHAMPION\tVERSIONS\tOWNER\tDESCRIPTION\n")
			for _, m := range models {
				printf(t, "%s\t%s\t%s\t%d\t%s\t%s\n", m.Model, dash(m.Task), optional(m.Champion), m.Versions, m.Owner, optional(m.Description))
			}
			return t.Flush()
		})
}

func optional[T any](p *T) string {
	if p == nil {
		return "-"
	}
	return fmt.Sprint(*p)
}

func (a *app) modelShow() *cobra.Command {
	return a.catalogCommand("show NAME[@VERSION|@ALIAS]", "Show a model: its features, versions, aliases and who may use it", "rowcast model show churn",
		cobra.ExactArgs(1),
		func(ctx context.Context, cmd *cobra.Command, c *registry.Catalog, args []string) error {
			name, _, one := strings.Cut(args[0], "@")
			m, err := c.Model(ctx, name)
			if err != nil {
				return err
			}
			_, v, err := c.Resolve(ctx, args[0])
			switch {
			case err == nil && one:
				m.Versions = []db.VersionsRow{v}
			case err == nil:
			case one || rowcast.CodeOf(err) != rowcast.CodeNotFound:
				return err
			case len(m.Versions) > 0:
				v = m.Versions[0] // no champion: the newest
			}
			if asJSON, _ := cmd.Flags().GetBool("json"); asJSON {
				return a.report(cmd, m, "")
			}
			return a.show(m, &v)
		})
}

// show prints a model and what one of its versions, the zero value where it has none, takes and gives.
func (a *app) show(m *registry.Model, v *db.VersionsRow) error {
	var s rowcast.Signature
	if v.Version > 0 {
		if err := json.Unmarshal(v.Signature, &s); err != nil {
			return rowcast.Errorf(rowcast.CodeArtifactCorrupt, "the signature of %s@%d cannot be read", v.Model, v.Version).WithCause(err)
		}
	}
	t := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	printf(t, "Model\t%s\n", m.Model)
	if m.Description != nil {
		printf(t, "\t%s\n", *m.Description)
	}
	printf(t, "Task\t%s\n", dash(v.Task))
	printf(t, "Owner\t%s\n", m.Owner)
	if len(m.Grants) > 0 {
		printf(t, "Granted to\t%s\n", strings.Join(m.Grants, ", "))
	}
	if s.Target != "" {
		printf(t, "Target\t%s\n", s.Target)
	}
	if v.SourceSha256 != "" {
		printf(t, "Made of\t%s, %s, SHA-256 %s\n", v.Format, size(v.SourceSize), v.SourceSha256)
	}
	for i, f := range s.Features {
		printf(t, "%s\t%s %s%s\n", heading("Features", i), f.Name, f.Type, feature(f))
	}
	if len(s.Features) == 0 {
		for i, in := range s.Inputs {
			printf(t, "%s\t%s %s %v\n", heading("Inputs", i), in.Name, in.DType, in.Shape)
		}
	}
	if len(v.Labels) > 0 {
		printf(t, "Labels\t%s\n", strings.Join(v.Labels, ", "))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(m.Versions) == 0 {
		printf(a.out, "\nNo versions. Register one: rowcast model register %s FILE\n", m.Model)
		return nil
	}
	printf(a.out, "\n")
	t = tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	printf(t, "VERSION\tALIASES\tFORMAT\tSIZE\tSHA-256\tREGISTERED\tBY\tSTATE\n")
	for _, v := range m.Versions {
		state := "ok"
		if v.QuarantinedAt != nil {
			state = "quarantined: " + optional(v.QuarantineReason)
		}
		printf(t, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", v.Version, dash(strings.Join(v.Aliases, ", ")), v.Format, size(v.Size), v.Sha256[:12],
			v.CreatedAt.Local().Format(time.DateTime), v.CreatedBy, state)
	}
	return t.Flush()
}

func heading(s string, i int) string {
	if i == 0 {
		return s
	}
	return ""
}

func feature(f rowcast.Feature) string {
	switch {
	case f.Missing:
		return ", may be missing"
	case f.Default != nil:
		return ", default " + string(f.Default)
	}
	return ""
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// size writes bytes with a binary unit and one digit after the point.
func size(n int64) string {
	units := []string{"bytes", "kB", "MB", "GB"}
	x, i := float64(n), 0
	for x >= 1024 && i < len(units)-1 {
		x, i = x/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d bytes", n)
	}
	return fmt.Sprintf("%.1f %s", x, units[i])
}

func (a *app) modelAlias() *cobra.Command {
	c := a.catalogCommand("alias NAME ALIAS [VERSION]", "Point an alias at a version; --drop takes it away", "rowcast model alias churn challenger 4",
		cobra.RangeArgs(2, 3),
		func(ctx context.Context, cmd *cobra.Command, c *registry.Catalog, args []string) error {
			if drop, _ := cmd.Flags().GetBool("drop"); drop {
				if err := c.DropAlias(ctx, args[0], args[1]); err != nil {
					return err
				}
				return a.report(cmd, changed{Model: args[0], Alias: args[1]}, "%s has no alias %s any more.\n", args[0], args[1])
			}
			if len(args) < 3 {
				return usageError{rowcast.Errorf(rowcast.CodeInvalidArgument, "which version should %s@%s be?", args[0], args[1]).
					WithHint("rowcast model alias %s %s VERSION, or --drop.", args[0], args[1])}
			}
			v, err := number("VERSION", args[2], 1)
			if err != nil {
				return err
			}
			if err := c.SetAlias(ctx, args[0], args[1], v); err != nil {
				return err
			}
			return a.report(cmd, changed{Model: args[0], Alias: args[1], Version: v}, "%s@%s is version %d now.\n", args[0], args[1], v)
		})
	c.Flags().Bool("drop", false, "take the alias away")
	return c
}

func (a *app) modelPromote() *cobra.Command {
	return a.catalogCommand("promote NAME VERSION", "Make a version the champion", "rowcast model promote churn 2", cobra.ExactArgs(2),
		func(ctx context.Context, cmd *cobra.Command, c *registry.Catalog, args []string) error {
			v, err := number("VERSION", args[1], 1)
			if err != nil {
				return err
			}
			if err := c.Promote(ctx, args[0], v); err != nil {
				return err
			}
			return a.report(cmd, changed{Model: args[0], Alias: registry.Champion, Version: v}, "predict('%s', …) uses version %d now.\n", args[0], v)
		})
}

func (a *app) modelRollback() *cobra.Command {
	c := a.catalogCommand("rollback NAME", "Take the champion (or --alias) back to the version before", "rowcast model rollback churn", cobra.ExactArgs(1),
		func(ctx context.Context, cmd *cobra.Command, c *registry.Catalog, args []string) error {
			alias, _ := cmd.Flags().GetString("alias")
			v, err := c.Rollback(ctx, args[0], alias)
			if err != nil {
				return err
			}
			return a.report(cmd, changed{Model: args[0], Alias: alias, Version: v}, "%s@%s is version %d again.\n", args[0], alias, v)
		})
	c.Flags().String("alias", registry.Champion, "the alias to take back")
	return c
}

// versioned splits NAME@VERSION; the version is 0 where none is given.
func versioned(ref string) (name string, version int, err error) {
	name, at, ok := strings.Cut(ref, "@")
	if !ok {
		return name, 0, nil
	}
	version, err = strconv.Atoi(at)
	if err != nil || version < 1 {
		return "", 0, usageError{rowcast.Errorf(rowcast.CodeInvalidArgument, "%q names no version", ref).WithHint("Write NAME@VERSION, for instance churn@3.")}
	}
	return name, version, nil
}

func (a *app) modelDrop() *cobra.Command {
	c := a.catalogCommand("drop NAME[@VERSION]", "Delete a version, or with --all a model with everything that belongs to it", "rowcast model drop churn@2",
		cobra.ExactArgs(1),
		func(ctx context.Context, cmd *cobra.Command, c *registry.Catalog, args []string) error {
			name, version, err := versioned(args[0])
			if err != nil {
				return err
			}
			if version > 0 {
				if err := c.DropVersion(ctx, name, version); err != nil {
					return err
				}
				return a.report(cmd, changed{Model: name, Version: version}, "Version %d of %s is gone.\n", version, name)
			}
			if all, _ := cmd.Flags().GetBool("all"); !all {
				return usageError{rowcast.Errorf(rowcast.CodeInvalidArgument, "drop all versions of %s?", name).
					WithHint("Name one (rowcast model drop %s@VERSION), or say --all.", name)}
			}
			if err := c.DropModel(ctx, name); err != nil {
				return err
			}
			return a.report(cmd, changed{Model: name}, "Model %s is gone.\n", name)
		})
	c.Flags().Bool("all", false, "delete the model with all versions, aliases and grants")
	return c
}

func (a *app) modelRelease() *cobra.Command {
	return a.catalogCommand("release NAME@VERSION", "Let the sidecar load a version again that killed or stalled it", "rowcast model release churn@4",
		cobra.ExactArgs(1),
		func(ctx context.Context, cmd *cobra.Command, c *registry.Catalog, args []string) error {
			name, version, err := versioned(args[0])
			if err != nil {
				return err
			}
			if version == 0 {
				return usageError{rowcast.Errorf(rowcast.CodeInvalidArgument, "which version of %s?", name).WithHint("Write %s@VERSION.", name)}
			}
			if err := c.ReleaseVersion(ctx, name, version); err != nil {
				return err
			}
			return a.report(cmd, changed{Model: name, Version: version}, "Version %d of %s may be loaded again.\n", version, name)
		})
}

func (a *app) modelRight(verb, short string, run func(*registry.Catalog, context.Context, string, string) error, done string) *cobra.Command {
	return a.catalogCommand(verb+" NAME ROLE", short, "rowcast model "+verb+" churn analyst", cobra.ExactArgs(2),
		func(ctx context.Context, cmd *cobra.Command, c *registry.Catalog, args []string) error {
			if err := run(c, ctx, args[0], args[1]); err != nil {
				return err
			}
			return a.report(cmd, changed{Model: args[0], Role: args[1]}, done, args[1], args[0])
		})
}
