package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// The grades of the script.
const (
	gradeExpert = "expert"
	gradeCopy   = "copy"
	gradePandas = "pandas"
)

var gradeNames = map[string]string{ //nolint:gochecknoglobals // a constant, were there such maps
	gradeExpert: "binary COPY decoded by numpy",
	gradeCopy:   "binary COPY row by row",
	gradePandas: "pandas and SQLAlchemy",
}

const (
	pandasRows   = 100_000 // it is told for comparison only, and takes long
	pandasSource = schema + ".source_pandas"
)

// python runs the script.
type python struct {
	interpreter string
	script      string
}

// findPython fetches what the script needs; the error says why there is no Python side.
func findPython(ctx context.Context, b *bench) (*python, error) {
	script, err := filepath.Abs(b.script)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(script); err != nil {
		return nil, fmt.Errorf("%s is not there", b.script)
	}
	fetch := filepath.Join("build", "fetch-bench-python.sh")
	if _, err := os.Stat(fetch); err != nil {
		return nil, errors.New("run it from the repository's root")
	}
	cmd := exec.CommandContext(ctx, fetch)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		lines := strings.Split(strings.TrimSpace(said.String()), "\n")
		return nil, fmt.Errorf("%s: %s", fetch, lines[len(lines)-1])
	}
	for line := range strings.Lines(said.String()) {
		b.Say("%s", strings.TrimPrefix(strings.TrimSpace(line), "rowcast: "))
	}
	return &python{interpreter: strings.TrimSpace(string(out)), script: script}, nil
}

// run runs a grade of the script in a process of its own and returns the seconds that it says it took, which are without its start and the loading of
// the model.
func (p *python) run(ctx context.Context, b *bench, model, grade string) (float64, error) {
	file := filepath.Join(b.Dir, model+".onnx")
	if err := os.WriteFile(file, b.models[model], 0o600); err != nil {
		return 0, err
	}
	from := source
	if grade == gradePandas {
		from = pandasSource
		if err := b.Exec(ctx, "DROP TABLE IF EXISTS "+from, fmt.Sprintf("CREATE TABLE %s AS SELECT * FROM %s LIMIT %d", from, source, pandasRows)); err != nil {
			return 0, err
		}
	}
	if err := b.Exec(ctx, "DROP TABLE IF EXISTS "+schema+"."+byPython, "CREATE TABLE "+schema+"."+byPython+" (id bigint, prediction double precision)",
		"CHECKPOINT"); err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, p.interpreter, p.script, file, strings.TrimPrefix(from, schema+"."), byPython, "--grade", grade)
	_, rest, _ := strings.Cut(b.URL, "://")
	cmd.Env = append(os.Environ(), "DATABASE_URL=postgresql://"+rest, "PGOPTIONS=-c search_path="+schema)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%s --grade %s: %w: %s", p.script, grade, err, lastLine(string(out)))
	}
	m := regexp.MustCompile(`: (\d+) rows in ([0-9.]+) s`).FindStringSubmatch(string(out))
	if m == nil {
		return 0, fmt.Errorf("%s printed no time: %s", p.script, out)
	}
	if rows, _ := strconv.Atoi(m[1]); rows != b.rows && grade != gradePandas {
		return 0, fmt.Errorf("%s scored %d rows instead of %d", p.script, rows, b.rows)
	}
	return strconv.ParseFloat(m[2], 64)
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}
