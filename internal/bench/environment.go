package main

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

// small is a logistic regression over ten features, written by scikit-learn's converter.
const small = "logistic_10"

//go:embed logistic_10
var models embed.FS

// bench is what all parts use: a session of the database, ONNX Runtime in this process, and the sidecar's process.
type bench struct {
	settings
	log     io.Writer
	pool    *pgxpool.Pool // for the catalog
	conn    *pgx.Conn     // the one session that is measured
	dblink  string        // quoted schema of the extension
	runtime *onnx.Runtime
	worker  int    // process id of the sidecar's worker
	root    int    // process id of the `rowcast dev` that started everything; 0: somebody else did
	dir     string // for files; removed at the end
}

func newBench(ctx context.Context, s settings, log io.Writer) (_ *bench, err error) {
	url := os.Getenv("DATABASE_URL")
	if url == "" {
		return nil, errors.New("DATABASE_URL is not set; run `make bench`, or: bin/rowcast dev -- go run ./internal/bench")
	}
	b := &bench{settings: s, log: log}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if b.worker, err = findWorker(url); err != nil {
		return nil, err
	}
	supervisor, _ := processStat(b.worker)
	if b.root, _ = processStat(supervisor); b.root != 0 && !isAncestor(b.root, os.Getpid()) {
		b.root = 0
	}
	if b.runtime, err = onnx.Open(onnx.Config{}); err != nil {
		return nil, err
	}
	if b.dir, err = os.MkdirTemp("", "rowcast-bench-"); err != nil {
		return nil, err
	}
	if b.pool, err = postgres.Open(ctx, url, postgres.OpenOptions{ApplicationName: "rowcast bench", MaxConns: 2}); err != nil {
		return nil, err
	}
	if b.conn, err = pgx.Connect(ctx, url); err != nil {
		return nil, postgres.Error(err)
	}
	err = b.conn.QueryRow(ctx, "SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE extname = 'dblink'").
		Scan(&b.dblink)
	if err != nil {
		return nil, postgres.Error(err)
	}
	return b, b.prepare(ctx)
}

// prepare registers the small model and makes the tables.
func (b *bench) prepare(ctx context.Context) error {
	text, err := models.ReadFile(small + "/model.yaml")
	if err != nil {
		return err
	}
	options, err := registry.ParseYAML(text)
	if err != nil {
		return err
	}
	if _, err := b.register(ctx, small, b.smallModel(), options); err != nil {
		return err
	}
	for _, sql := range []string{
		"DROP SCHEMA IF EXISTS bench CASCADE",
		"CREATE SCHEMA bench",
		"SELECT setseed(0.5)",
		fmt.Sprintf(`CREATE UNLOGGED TABLE bench.bulk AS
			SELECT ARRAY[random(), random(), random(), random(), random(), random(), random(), random(), random(), random()]::double precision[] AS features
			FROM generate_series(1, %d)`, b.bulkRows),
		// One row in each form; a table row of its own for the record form, whose columns are all features.
		fmt.Sprintf(`CREATE UNLOGGED TABLE bench.typed AS
			SELECT features[1]::real AS f0, features[2]::real AS f1, features[3]::real AS f2, features[4]::real AS f3, features[5]::real AS f4,
			       features[6]::real AS f5, features[7]::real AS f6, features[8]::real AS f7, features[9]::real AS f8, features[10]::real AS f9
			FROM bench.bulk LIMIT %d`, b.rows),
		`CREATE UNLOGGED TABLE bench.one AS
			SELECT ARRAY[f0, f1, f2, f3, f4, f5, f6, f7, f8, f9]::double precision[] AS features, to_jsonb(t) AS object,
			       ARRAY[f0, f1, f2, f3, f4, f5, f6, f7, f8, f9]::text AS literal
			FROM bench.typed t`,
		"VACUUM ANALYZE bench.bulk", "VACUUM ANALYZE bench.typed", "VACUUM ANALYZE bench.one",
	} {
		if _, err := b.conn.Exec(ctx, sql); err != nil {
			return postgres.Error(err)
		}
	}
	return nil
}

func (b *bench) smallModel() []byte {
	data, err := models.ReadFile(small + "/model.onnx")
	if err != nil {
		panic(err) // it is compiled in
	}
	return data
}

// register stores a model as `rowcast model register` does and returns its version.
func (b *bench) register(ctx context.Context, name string, model []byte, o registry.Options) (int, error) {
	path := filepath.Join(b.dir, name+".onnx")
	if err := os.WriteFile(path, model, 0o600); err != nil {
		return 0, err
	}
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	version, _, err := registry.NewCatalog(b.pool).Register(ctx, name, file, o, nil)
	return version, errors.Join(err, file.Close())
}

func (b *bench) say(format string, args ...any) {
	_, _ = fmt.Fprintf(b.log, "bench: "+format+"\n", args...)
}

func (b *bench) close() {
	if b.conn != nil {
		_ = b.conn.Close(context.Background())
	}
	if b.pool != nil {
		b.pool.Close()
	}
	if b.runtime != nil {
		_ = b.runtime.Close()
	}
	if b.dir != "" {
		_ = os.RemoveAll(b.dir)
	}
}

// clock runs one statement that gives one value and returns how long it took.
func (b *bench) clock(ctx context.Context, sql string, args ...any) (time.Duration, error) {
	var value any
	began := time.Now()
	// Planned anew, since a cached plan does not change with the settings.
	err := b.conn.QueryRow(ctx, sql, append([]any{pgx.QueryExecModeExec}, args...)...).Scan(&value)
	return time.Since(began), postgres.Error(err)
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
	return 0, fmt.Errorf("no sidecar of this machine serves DATABASE_URL=%s; run `make bench`", url)
}

func contains(list [][]byte, text string) bool {
	for _, e := range list {
		if string(e) == text {
			return true
		}
	}
	return false
}

func (b *bench) machine(ctx context.Context) Machine {
	m := Machine{
		CPU: procField("/proc/cpuinfo", "model name"), Cores: runtime.NumCPU(), ONNXRuntime: b.runtime.Version(), Go: runtime.Version(),
		LoadBefore: loadAverage(),
	}
	kilobytes, _ := strconv.ParseFloat(strings.TrimSuffix(procField("/proc/meminfo", "MemTotal"), " kB"), 64)
	m.MemoryGB = kilobytes / (1 << 20)
	if release, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(release))
	}
	_ = b.conn.QueryRow(ctx, "SHOW server_version").Scan(&m.PostgreSQL)
	return m
}

// procField returns what stands behind the first "name:" of a file such as /proc/meminfo, or "".
func procField(path, name string) string {
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
