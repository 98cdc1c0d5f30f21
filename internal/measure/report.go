package measure

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// Exit statuses.
const (
	ExitMissed = 1 // a bound was missed
	ExitBroken = 2 // something could not be measured
)

// Result is one comparison. Without Wanted it is information only.
type Result struct {
	What     string             `json:"what"`
	Measured string             `json:"measured"` // both sides, for people
	Ratio    float64            `json:"ratio,omitempty"`
	Wanted   string             `json:"wanted,omitempty"`
	Pass     *bool              `json:"pass,omitempty"`
	Numbers  map[string]float64 `json:"numbers,omitempty"` // units are in the names: _us, _ms, _tps, _mb
	Notes    []string           `json:"notes,omitempty"`
	Others   float64            `json:"others_cores,omitempty"` // processors that other programs kept busy while this was measured
	Error    string             `json:"error,omitempty"`        // why it could not be measured
}

// AtMost judges ratio by an upper bound.
func (r Result) AtMost(bound float64, unit string) Result {
	ok := r.Ratio <= bound
	r.Wanted, r.Pass = fmt.Sprintf("at most %g%s", bound, unit), &ok
	return r
}

// AtLeast judges ratio by a lower bound; aim, when not zero, is told too.
func (r Result) AtLeast(bound, aim float64) Result {
	ok := r.Ratio >= bound
	r.Wanted, r.Pass = fmt.Sprintf("at least %g", bound), &ok
	if aim > 0 {
		r.Wanted += fmt.Sprintf(", aim %g", aim)
	}
	return r
}

// Machine is where the numbers come from.
type Machine struct {
	CPU         string  `json:"cpu"`
	Cores       int     `json:"cores"`
	MemoryGB    float64 `json:"memory_gb"`
	Kernel      string  `json:"kernel"`
	PostgreSQL  string  `json:"postgresql"`
	ONNXRuntime string  `json:"onnxruntime"`
	Go          string  `json:"go"`
	LoadBefore  string  `json:"load_before"`
	LoadAfter   string  `json:"load_after"`
}

// Report is everything that one run found out.
type Report struct {
	Machine Machine  `json:"machine"`
	Results []Result `json:"results"`
}

// Status is the exit status: what could not be measured is worse than what was missed.
func (r *Report) Status() int {
	status := 0
	for _, x := range r.Results {
		switch {
		case x.Error != "":
			return ExitBroken
		case x.Pass != nil && !*x.Pass:
			status = ExitMissed
		}
	}
	return status
}

// Write prints the report as a table, or as JSON.
func (r *Report) Write(w io.Writer, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(r)
	}
	m := r.Machine
	var text strings.Builder
	fmt.Fprintf(&text, "\n%s, %d cores, %.0f GB, Linux %s\nPostgreSQL %s, ONNX Runtime %s, %s; load average %s before, %s after\n\n",
		m.CPU, m.Cores, m.MemoryGB, m.Kernel, m.PostgreSQL, m.ONNXRuntime, m.Go, m.LoadBefore, m.LoadAfter)
	t := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "what\tmeasured\tratio\twanted\t")
	for _, x := range r.Results {
		ratio, verdict := "", ""
		switch {
		case x.Error != "":
			x.Measured, verdict = x.Error, "NOT MEASURED"
		case x.Pass != nil && *x.Pass:
			verdict = "pass"
		case x.Pass != nil:
			verdict = "FAIL"
		}
		if x.Error == "" {
			ratio = fmt.Sprintf("%.2f", x.Ratio)
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", x.What, x.Measured, ratio, x.Wanted, verdict)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, x := range r.Results {
		if x.Pass != nil && busy(x.Others) != "" {
			x.Notes = append(x.Notes, busy(x.Others))
		}
		for _, n := range x.Notes {
			fmt.Fprintf(&text, "\n%s: %s", x.What, n)
		}
	}
	_, err := fmt.Fprintln(w, text.String())
	return err
}

// Median returns the middle of samples, 0 where there are none.
func Median(samples []float64) float64 {
	s := slices.Sorted(slices.Values(samples))
	if len(s) == 0 {
		return 0
	}
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// MedianRatio is the median of a[i] / b[i]: what was measured in the same turn is compared.
func MedianRatio(a, b []float64) float64 {
	ratios := make([]float64, len(a))
	for i := range a {
		ratios[i] = a[i] / b[i]
	}
	return Median(ratios)
}

// Message shows an error with what its author added.
func Message(err error) string {
	var e *rowcast.Error
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg):
		return strings.TrimSpace(pg.Message + ". " + pg.Detail + " " + pg.Hint)
	case errors.As(err, &e):
		return strings.TrimSpace(err.Error() + ". " + e.Detail + " " + e.Hint)
	}
	return err.Error()
}
