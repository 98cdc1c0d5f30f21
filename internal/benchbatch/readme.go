package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/rowcast/rowcast/internal/measure"
)

// The table stands between these lines.
const (
	readmeBegin = "<!-- BENCH BATCH BEGIN: from `make bench-batch` -->"
	readmeEnd   = "<!-- BENCH BATCH END -->"
)

// writeReadme replaces what stands between the marks.
func writeReadme(path string, r *measure.Report) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, found := strings.Cut(string(text), readmeBegin)
	_, after, ended := strings.Cut(rest, readmeEnd)
	if !found || !ended {
		return fmt.Errorf("%s has no lines %q and %q", path, readmeBegin, readmeEnd)
	}
	return os.WriteFile(path, []byte(before+readmeBegin+"\n\n"+markdown(r)+"\n"+readmeEnd+after), 0o644) //nolint:gosec // documentation for everybody
}

// markdown is the report as a table; what has no bound and no ratio, such as the plots, is left out.
func markdown(r *measure.Report) string {
	var t strings.Builder
	t.WriteString("| what | wanted | measured | ratio | |\n|---|---|---|---|---|\n")
	for _, x := range r.Results {
		ratio, verdict := "", ""
		if x.Ratio != 0 {
			ratio = fmt.Sprintf("%.2f", x.Ratio)
		}
		switch {
		case x.Error != "":
			x.Measured, verdict = x.Error, "not measured"
		case x.Pass != nil && *x.Pass:
			verdict = "met"
		case x.Pass != nil:
			verdict = "missed"
		case ratio == "" && !strings.HasPrefix(x.Measured, "skipped"):
			continue
		}
		fmt.Fprintf(&t, "| %s | %s | %s | %s | %s |\n", x.What, x.Wanted, strings.ReplaceAll(x.Measured, "|", "\\|"), ratio, verdict)
	}
	m := r.Machine
	fmt.Fprintf(&t, "\nMachine: %s, %d cores, %.0f GB, Linux %s; PostgreSQL %s, ONNX Runtime %s, %s; load average %s before and %s after.\n",
		m.CPU, m.Cores, m.MemoryGB, m.Kernel, m.PostgreSQL, m.ONNXRuntime, m.Go, m.LoadBefore, m.LoadAfter)
	return t.String()
}
