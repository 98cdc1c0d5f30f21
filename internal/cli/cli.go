// Package cli is the command line: one file for each subcommand. Commands parse, call one function of a lower package and print; they hold no logic
// that a test would need a terminal for.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"github.com/rowcast/rowcast/internal/postgres"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// Exit statuses.
const (
	exitFailure = 1
	exitUsage   = 2
)

// usageFails annotates a command whose exit status 2 means something else: not understood is 1 there.
const usageFails = "usage-fails"

// exitStatus ends the program with a status and prints nothing more.
type exitStatus int

// Error is never shown.
func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// usageError is a command line that makes no sense.
type usageError struct{ cause error }

// Error is the cause's.
func (e usageError) Error() string { return e.cause.Error() }

// Unwrap returns the cause.
func (e usageError) Unwrap() error { return e.cause }

// app is what the commands share.
type app struct {
	in          io.Reader
	out, errOut io.Writer
	databaseURL string
	version     string
	parsed      bool // flags and arguments were understood: what fails from here on is no usage error
}

// Main runs the command line of the given version and returns the exit status: 0 done, 1 failed, 2 not understood.
func Main(version string, args []string, in io.Reader, out, errOut io.Writer) int {
	if status, done := hidden(args, in, out); done {
		return status
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := &app{in: in, out: out, errOut: errOut, version: version}
	root := a.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	var status exitStatus
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	}
	printError(errOut, err)
	var usage usageError
	if !a.parsed || errors.As(err, &usage) { // not parsed: one of cobra's own, an unknown command or flag, or a wrong number of arguments
		printf(errOut, "   usage: %s\n    help: %s --help\n", cmd.UseLine(), cmd.CommandPath())
		if _, taken := cmd.Annotations[usageFails]; taken {
			return exitFailure
		}
		return exitUsage
	}
	return exitFailure
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "rowcast",
		Short: "Models are rows, predictions are queries",
		Long: `Rowcast turns a stock PostgreSQL into a model-serving platform: models are rows, predictions are queries.

  SELECT predict('churn', c) FROM customers c;

The database is DATABASE_URL (or --database-url, or the PG* variables). No database at hand? rowcast dev brings its own.`,
		Example: `  rowcast dev                                    a private PostgreSQL with everything ready
  rowcast migrate up                             install Rowcast into DATABASE_URL
  rowcast serve                                  run the sidecar
  rowcast model register churn churn.onnx        a file becomes a version
  rowcast model promote churn 2                  version 2 becomes the champion
  rowcast score churn --source customers --target churn_scores --key id`,
		Version:       a.version,
		SilenceErrors: true,
		SilenceUsage:  true,

		PersistentPreRun: func(*cobra.Command, []string) { a.parsed = true },
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.errOut)
	root.CompletionOptions.HiddenDefaultCmd = true
	root.PersistentFlags().StringVar(&a.databaseURL, "database-url", "", "database (default $DATABASE_URL, else the PG* variables)")
	root.AddCommand(a.devCommand(), a.serveCommand(), a.migrateCommand(), a.modelCommand(), a.scoreCommand(), a.jobCommand(), a.scheduleCommand(),
		a.reportCommand(), a.gatewayCommand())
	return root
}

// group makes a command that only holds others.
func group(use, short string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath())}
			}
			return cmd.Help()
		},
	}
}

func (a *app) url() string {
	if a.databaseURL != "" {
		return a.databaseURL
	}
	return os.Getenv("DATABASE_URL")
}

// connect opens the database for one command, which tells what functions in the database warn of to warning, where it is not nil. The caller closes the pool.
func (a *app) connect(ctx context.Context, warning func(message string)) (*pgxpool.Pool, error) {
	return postgres.Open(ctx, a.url(), postgres.OpenOptions{ApplicationName: "rowcast", MaxConns: 2, Warning: warning})
}

// warning passes on what a function in the database warns of.
func (a *app) warning(message string) { printf(a.errOut, "warning: %s\n", message) }

// printError writes an error as psql would: what was wrong, then detail and hint.
func printError(w io.Writer, err error) {
	var e *rowcast.Error
	if !errors.As(err, &e) {
		_, _ = fmt.Fprintf(w, "rowcast: %v\n", err)
		return
	}
	_, _ = fmt.Fprintf(w, "rowcast: %v\n", err)
	for _, part := range []struct{ name, text string }{{"detail", e.Detail}, {"hint", e.Hint}} {
		if part.text != "" {
			_, _ = fmt.Fprintf(w, "%8s: %s\n", part.name, strings.ReplaceAll(part.text, "\n", "\n          "))
		}
	}
}

func printf(w io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }
