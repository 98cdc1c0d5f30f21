package cli

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/rowcast/rowcast/internal/report"
	"github.com/rowcast/rowcast/internal/rowcast"
)

func (a *app) reportCommand() *cobra.Command {
	var (
		out    string
		days   int
		asJSON bool
	)
	c := &cobra.Command{
		Use:   "report MODEL",
		Short: "Write an HTML page about what a model predicted",
		Long: `Writes one self-contained HTML page about the logged predictions of a model: how many a day and version, their distribution by version and day,
latency, and the last scoring jobs. It shows the predictions that your role may see in ml.predictions.`,
		Example: "  rowcast report churn\n  rowcast report churn --days 7 -o week.html\n  rowcast report churn --json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if days < 1 || days > 36500 {
				return usageError{rowcast.Errorf(rowcast.CodeInvalidArgument, "--days is %d", days).WithHint("Use 1 to 36500.")}
			}
			pool, err := a.connect(cmd.Context(), a.warning)
			if err != nil {
				return err
			}
			defer pool.Close()
			now := time.Now().UTC()
			since := now.Truncate(24*time.Hour).AddDate(0, 0, 1-days)
			data, err := report.Collect(cmd.Context(), pool, args[0], since, now)
			if err != nil {
				return err
			}
			if asJSON {
				e := json.NewEncoder(a.out)
				e.SetEscapeHTML(false)
				e.SetIndent("", "  ")
				return e.Encode(data)
			}
			if out == "-" {
				return report.Write(a.out, data)
			}
			if out == "" {
				out = args[0] + ".html"
			}
			if err := writeFile(out, func(w io.Writer) error { return report.Write(w, data) }); err != nil {
				return err
			}
			printf(a.out, "%s: %d predictions since %s.\n", out, data.Totals.Predictions, since.Format(time.DateOnly))
			return nil
		},
	}
	c.Flags().StringVarP(&out, "output", "o", "", "file to write (default MODEL.html; - for standard output)")
	c.Flags().IntVar(&days, "days", 30, "days to show, today included")
	c.Flags().BoolVar(&asJSON, "json", false, "print the data as JSON instead")
	return c
}

// writeFile writes a file as a whole or, where that fails, not at all.
func writeFile(path string, write func(w io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return rowcast.Errorf(rowcast.CodeInvalidArgument, "cannot write %s", path).WithCause(err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
			err = rowcast.Errorf(rowcast.CodeInvalidArgument, "cannot write %s", path).WithCause(err)
		}
	}()
	w := bufio.NewWriter(f)
	if err := write(w); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
