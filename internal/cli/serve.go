package cli

import (
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/rowcast/rowcast/internal/config"
	"github.com/rowcast/rowcast/internal/server"
)

func (a *app) serveCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run the sidecar, which runs the models of a database",
		Long: `Runs the sidecar of one database until a signal stops it. The first SIGTERM or ctrl-C lets running calls finish, the second kills.

Settings come from flags, else variables (ROWCAST_MEMORY_BUDGET for --memory-budget), else a YAML file (memory_budget: 4GB).`,
		Example: `  DATABASE_URL=postgres://localhost/shop rowcast serve
  rowcast serve --config /etc/rowcast.yaml --log-format json`,
		Args: cobra.NoArgs,
	}
	config.Flags(c.Flags(), config.Default())
	_ = c.Flags().MarkHidden("database-url") // the global flag says it
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := config.Load(cmd.Flags(), os.Getenv)
		if err != nil {
			return err
		}
		logger, err := newLogger(a.errOut, cfg)
		if err != nil {
			return err
		}
		status, err := server.Serve(cmd.Context(), cfg, logger)
		if err == nil && status != 0 {
			err = exitStatus(status)
		}
		return err
	}
	return c
}

func newLogger(w io.Writer, c config.Config) (*slog.Logger, error) {
	level, err := c.Level()
	if err != nil {
		return nil, err
	}
	o := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return slog.New(slog.NewTextHandler(w, o)), nil
}
