package cli

import (
	"net"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rowcast/rowcast/internal/postgres"
	"github.com/rowcast/rowcast/internal/rowcast"
	"github.com/rowcast/rowcast/migrations"
)

func (a *app) migrateCommand() *cobra.Command {
	c := group("migrate", "Install, upgrade or remove Rowcast in a database")
	c.Long = `Installs Rowcast's schema and SQL functions, step by step. Needs a role that may create schemas in the database; what only a superuser can do
(the extension dblink, the role ml_admin) is asked for by name.`
	c.Example = `  DATABASE_URL=postgres://localhost/shop rowcast migrate up
  rowcast migrate up --gateway /run/rowcast:7432
  rowcast migrate down 1`
	var gateway string
	var keepSearchPath bool
	up := &cobra.Command{
		Use:   "up",
		Short: "Bring the schema and the SQL functions up to date",
		Long: `Brings the schema and the SQL functions up to date, tells the database where the sidecar listens, and puts schema ml on its search_path, so that
predict(…) needs no schema. Doing it again changes nothing.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o := postgres.MigratorOptions{SetSearchPath: !keepSearchPath}
			if gateway != "" {
				var err error
				if o.GatewayHost, o.GatewayPort, err = gatewayAddress(gateway); err != nil {
					return err
				}
			}
			return a.migrate(func(m *postgres.Migrator) (postgres.MigrationReport, error) { return m.Up(cmd.Context()) }, o)
		},
	}
	up.Flags().StringVar(&gateway, "gateway", "", "where the sidecar listens: host:port or /socket/folder:port (default: as it is, 127.0.0.1:7432 at first)")
	up.Flags().BoolVar(&keepSearchPath, "keep-search-path", false, "leave the database's search_path alone; call ml.predict(…) then")
	down := &cobra.Command{
		Use:     "down N|all",
		Short:   "Undo the last N steps; all of them remove Rowcast and every model",
		Example: "  rowcast migrate down all",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.migrate(func(m *postgres.Migrator) (postgres.MigrationReport, error) {
				if args[0] == "all" {
					return m.Goto(cmd.Context(), 0)
				}
				n, err := number("N", args[0], 1)
				if err != nil {
					return postgres.MigrationReport{}, err
				}
				return m.Down(cmd.Context(), n)
			}, postgres.MigratorOptions{SetSearchPath: true})
		},
	}
	goTo := &cobra.Command{
		Use:   "goto VERSION",
		Short: "Migrate to a version, up or down",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := number("VERSION", args[0], 1)
			if err != nil {
				return err
			}
			return a.migrate(func(m *postgres.Migrator) (postgres.MigrationReport, error) { return m.Goto(cmd.Context(), v) },
				postgres.MigratorOptions{SetSearchPath: true})
		},
	}
	force := &cobra.Command{
		Use:   "force VERSION",
		Short: "Declare the schema to be at a version without running anything (after a failed step was repaired by hand)",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := number("VERSION", args[0], 0)
			if err != nil {
				return err
			}
			return a.migrate(func(m *postgres.Migrator) (postgres.MigrationReport, error) { return m.Force(cmd.Context(), v) }, postgres.MigratorOptions{})
		},
	}
	version := &cobra.Command{
		Use:   "version",
		Short: "Show the version of the schema",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := a.migrator(postgres.MigratorOptions{})
			if err != nil {
				return err
			}
			v, err := m.Version(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON, _ := cmd.Flags().GetBool("json"); asJSON {
				return a.report(cmd, schemaVersion{v.Current, v.Latest, v.Dirty}, "")
			}
			printf(a.out, "version %d of %d\n", v.Current, v.Latest)
			return nil
		},
	}
	version.Flags().Bool("json", false, "print JSON")
	c.AddCommand(up, down, goTo, force, version)
	return c
}

// schemaVersion is what version prints with --json.
type schemaVersion struct {
	Version int  `json:"version"`
	Latest  int  `json:"latest"`
	Dirty   bool `json:"dirty"`
}

// number parses a whole number of at least least.
func number(what, s string, least int) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < least {
		return 0, usageError{rowcast.Errorf(rowcast.CodeInvalidArgument, "%s must be a whole number of at least %d, not %q", what, least, s)}
	}
	return n, nil
}

func (a *app) migrator(o postgres.MigratorOptions) (*postgres.Migrator, error) {
	o.Source = migrations.Files
	return postgres.NewMigrator(a.url(), o)
}

// migrate runs one of the Migrator's methods and tells what it did.
func (a *app) migrate(run func(*postgres.Migrator) (postgres.MigrationReport, error), o postgres.MigratorOptions) error {
	m, err := a.migrator(o)
	if err != nil {
		return err
	}
	report, err := run(m)
	for _, file := range report.Applied {
		printf(a.out, "%s\n", file)
	}
	if err != nil {
		return err
	}
	if report.From == report.To && len(report.Applied) == 0 {
		printf(a.out, "schema at version %d already\n", report.To)
	} else {
		printf(a.out, "schema from version %d to %d\n", report.From, report.To)
	}
	if report.Functions > 0 {
		printf(a.out, "SQL functions replaced\n")
	}
	for _, note := range report.Notes {
		printf(a.out, "%s\n", note)
	}
	return nil
}

// gatewayAddress splits host:port, where the host may be the folder of a unix socket.
func gatewayAddress(s string) (host string, port int, err error) {
	bad := usageError{rowcast.Errorf(rowcast.CodeInvalidArgument, "%q is no gateway address", s).WithHint("Write host:port, or /socket/folder:port.")}
	text := ""
	if strings.HasPrefix(s, "/") {
		at := strings.LastIndexByte(s, ':')
		if at < 0 {
			return "", 0, bad
		}
		host, text = s[:at], s[at+1:]
	} else if host, text, err = net.SplitHostPort(s); err != nil {
		return "", 0, bad
	}
	if port, err = strconv.Atoi(text); err != nil || port < 1 || port > 65535 {
		return "", 0, bad
	}
	return host, port, nil
}
