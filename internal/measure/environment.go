package measure

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/postgres"
	"github.com/rowcast/rowcast/internal/registry"
)

//go:embed models
var models embed.FS

// Environment is what is measured: a session of the database, the sidecar's processes, and ONNX Runtime in this process.
type Environment struct {
	Name    string // of the program
	URL     string
	Pool    *pgxpool.Pool // for the catalog
	Conn    *pgx.Conn     // the one session that is measured
	Runtime *onnx.Runtime
	Worker  int    // process id of the sidecar's worker
	Root    int    // process id of the `rowcast dev` that started everything; 0: somebody else did
	Dir     string // for files; removed at the end

	log io.Writer
}

// Open finds the database of DATABASE_URL and its sidecar, which must run on this machine. how tells people how to run the program.
func Open(ctx context.Context, name, how string, log io.Writer) (_ *Environment, err error) {
	url := os.Getenv("DATABASE_URL")
	if url == "" {
		return nil, fmt.Errorf("DATABASE_URL is not set; run %s", how)
	}
	e := &Environment{Name: name, URL: url, log: log}
	defer func() {
		if err != nil {
			e.Close()
		}
	}()
	if e.Worker, err = findWorker(url); err != nil {
		return nil, fmt.Errorf("%w; run %s", err, how)
	}
	supervisor, _ := ProcessStat(e.Worker)
	if e.Root, _ = ProcessStat(supervisor); e.Root != 0 && !isAncestor(e.Root, os.Getpid()) {
		e.Root = 0
	}
	if e.Runtime, err = onnx.Open(onnx.Config{}); err != nil {
		return nil, err
	}
	if e.Dir, err = os.MkdirTemp("", "rowcast-bench-"); err != nil {
		return nil, err
	}
	if e.Pool, err = postgres.Open(ctx, url, postgres.OpenOptions{ApplicationName: "rowcast " + name, MaxConns: 2}); err != nil {
		return nil, err
	}
	if e.Conn, err = pgx.Connect(ctx, url); err != nil {
		return nil, postgres.Error(err)
	}
	return e, nil
}

// Close gives everything back.
func (e *Environment) Close() {
	if e.Conn != nil {
		_ = e.Conn.Close(context.Background())
	}
	if e.Pool != nil {
		e.Pool.Close()
	}
	if e.Runtime != nil {
		_ = e.Runtime.Close()
	}
	if e.Dir != "" {
		_ = os.RemoveAll(e.Dir)
	}
}

// Say tells what is under way.
func (e *Environment) Say(format string, args ...any) {
	_, _ = fmt.Fprintf(e.log, e.Name+": "+format+"\n", args...)
}

// Exec runs statements one after the other.
func (e *Environment) Exec(ctx context.Context, statements ...string) error {
	for _, sql := range statements {
		if _, err := e.Conn.Exec(ctx, sql); err != nil {
			return postgres.Error(err)
		}
	}
	return nil
}

// Clock runs one statement that gives one value and returns how long it took.
func (e *Environment) Clock(ctx context.Context, sql string, args ...any) (time.Duration, error) {
	var value any
	began := time.Now()
	// Planned anew, since a cached plan does not change with the settings.
	err := e.Conn.QueryRow(ctx, sql, append([]any{pgx.QueryExecModeExec}, args...)...).Scan(&value)
	return time.Since(began), postgres.Error(err)
}

// Model returns the file and the options of a model that is compiled in: logistic_10, a logistic regression over ten features that scikit-learn's
// converter wrote, or trees_100x6, 100 trees of depth 6 that XGBoost trained.
func Model(name string) (file []byte, o registry.Options, err error) {
	if file, err = models.ReadFile("models/" + name + "/model.onnx"); err != nil {
		return nil, o, err
	}
	text, err := models.ReadFile("models/" + name + "/model.yaml")
	if err != nil {
		return nil, o, err
	}
	o, err = registry.ParseYAML(text)
	return file, o, err
}

// Register stores a model as `rowcast model register` does and returns its version.
func (e *Environment) Register(ctx context.Context, name string, model []byte, o registry.Options) (int, error) {
	path := filepath.Join(e.Dir, name+".onnx")
	if err := os.WriteFile(path, model, 0o600); err != nil {
		return 0, err
	}
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	version, _, err := registry.NewCatalog(e.Pool).Register(ctx, name, file, o, nil)
	return version, errors.Join(err, file.Close())
}

// Part measures some of the promises.
type Part struct {
	Name    string
	Measure func(ctx context.Context) ([]Result, error)
}

// Measure runs parts and collects what they found out.
func (e *Environment) Measure(ctx context.Context, parts []Part) (*Report, error) {
	r := &Report{Machine: e.machine(ctx)}
	for _, p := range parts {
		e.Say("measuring: %s", p.Name)
		before := ReadProcessorTime(e.Root)
		results, err := p.Measure(ctx)
		others := ReadProcessorTime(e.Root).Others(before)
		for i := range results {
			results[i].Others = others
		}
		if err != nil {
			// What else can be measured is still worth knowing.
			results = append(results, Result{What: p.Name, Error: Message(err)})
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		r.Results = append(r.Results, results...)
	}
	r.Machine.LoadAfter = loadAverage()
	return r, nil
}

// findWorker returns the process that serves the database: the sidecar's worker with the same DATABASE_URL in its environment.
func findWorker(url string) (int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		environment, err := os.ReadFile("/proc/" + e.Name() + "/environ")
		if err != nil {
			continue // not ours, or gone
		}
		variables := bytes.Split(environment, []byte{0})
		if contains(variables, "ROWCAST_WORKER=1") && contains(variables, "DATABASE_URL="+url) {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("no sidecar of this machine serves DATABASE_URL=%s", url)
}

func contains(list [][]byte, text string) bool {
	for _, e := range list {
		if string(e) == text {
			return true
		}
	}
	return false
}

func (e *Environment) machine(ctx context.Context) Machine {
	m := Machine{
		CPU: ProcField("/proc/cpuinfo", "model name"), Cores: runtime.NumCPU(), ONNXRuntime: e.Runtime.Version(), Go: runtime.Version(),
		LoadBefore: loadAverage(),
	}
	kilobytes, _ := strconv.ParseFloat(strings.TrimSuffix(ProcField("/proc/meminfo", "MemTotal"), " kB"), 64)
	m.MemoryGB = kilobytes / (1 << 20)
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(release))
	}
	_ = e.Conn.QueryRow(ctx, "SHOW server_version").Scan(&m.PostgreSQL)
	return m
}

// ProcField returns what stands behind the first "name:" of a file such as /proc/meminfo, or "".
func ProcField(path, name string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// loadAverage is that of the last minute.
func loadAverage() string {
	data, _ := os.ReadFile("/proc/loadavg")
	minute, _, _ := strings.Cut(string(data), " ")
	return minute
}
