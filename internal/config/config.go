// Package config is the sidecar's settings: defaults, where they are read from, and what makes sense.
//
// A setting comes from the flag, else the environment variable ROWCAST_NAME, else the YAML file (ROWCAST_CONFIG or --config), else Default. The
// database is the exception: DATABASE_URL names it, as everywhere in Rowcast.
package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/pflag"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// Config is what `rowcast serve` runs with. The tag is the name in the file; the flag has - for _, the variable ROWCAST_ and upper case.
type Config struct {
	DatabaseURL string `yaml:"database_url" help:"database to serve, as postgres://user@host/db or host=… dbname=… (also DATABASE_URL)"`

	Listen []string `yaml:"listen" help:"gateway addresses, host:port or unix:/dir/.s.PGSQL.PORT, separated by commas (default: what the database's foreign server names, and a unix socket in socket_dir)"`
	// SocketDir is where the gateway's unix socket goes besides the address that the foreign server names; empty: none.
	SocketDir string `yaml:"socket_dir" help:"folder for the gateway's unix socket; - for none"`
	HTTP      string `yaml:"http" help:"address of /healthz, /readyz and /metrics; - for none"`
	TLSCert   string `yaml:"tls_cert" help:"PEM certificate for the gateway; other hosts must use TLS when it is set"`
	TLSKey    string `yaml:"tls_key" help:"PEM key of tls_cert"`

	MemoryBudget   Bytes         `yaml:"memory_budget" help:"memory for loaded models; the least recently used are dropped beyond it"`
	Concurrency    int           `yaml:"concurrency" help:"calls that run at a time"`
	Queue          int           `yaml:"queue" help:"calls that may wait for those; beyond it a call is told that the sidecar is busy"`
	MaxConnections int           `yaml:"max_connections" help:"gateway connections, one for each backend that predicts"`
	MaxMessage     Bytes         `yaml:"max_message" help:"largest call after authentication"`
	Deadline       time.Duration `yaml:"deadline" help:"longest time a call may take; SET rowcast.timeout changes it for a session"`
	Poll           time.Duration `yaml:"poll" help:"how often the registry is looked at, besides NOTIFY"`
	RecordQueue    int           `yaml:"record_queue" help:"logged predictions that may wait to be written; beyond it calls wait, and a crash loses at most these"`
	RecordInterval time.Duration `yaml:"record_interval" help:"how often logged predictions are written"`
	StopTimeout    time.Duration `yaml:"stop_timeout" help:"how long running calls may finish after the first stop signal"`

	ScoreWorkers int `yaml:"score_workers" help:"parts of scoring jobs that run at a time; 0: this sidecar takes no part in them"`

	ValidateMemory Bytes         `yaml:"validate_memory" help:"memory that a new model may use while it is validated"`
	ValidateTime   time.Duration `yaml:"validate_time" help:"time that a new model may take while it is validated"`

	ONNXRuntime string `yaml:"onnxruntime" help:"path of libonnxruntime.so (default: beside the program, then the system's)"`
	Threads     int    `yaml:"threads" help:"ONNX Runtime threads of one call"`
	LogLevel    string `yaml:"log_level" help:"debug, info, warn or error"`
	LogFormat   string `yaml:"log_format" help:"text or json"`
}

// Default returns the settings that hold where nothing else is said.
func Default() Config {
	return Config{
		SocketDir:      os.TempDir(),
		HTTP:           "127.0.0.1:7433",
		MemoryBudget:   2 << 30,
		Concurrency:    max(4, 2*runtime.GOMAXPROCS(0)),
		Queue:          256,
		MaxConnections: 500,
		MaxMessage:     64 << 20,
		Deadline:       30 * time.Second,
		Poll:           10 * time.Second,
		RecordQueue:    10000,
		RecordInterval: 50 * time.Millisecond,
		StopTimeout:    20 * time.Second,
		ScoreWorkers:   runtime.GOMAXPROCS(0) + 1,
		ValidateMemory: 2 << 30,
		ValidateTime:   20 * time.Second,
		Threads:        1,
		LogLevel:       "info",
		LogFormat:      "text",
	}
}

// Flags adds a flag for every setting to fs, with the defaults of c.
func Flags(fs *pflag.FlagSet, c Config) {
	fs.String("config", "", "YAML file with settings (also ROWCAST_CONFIG)")
	each(&c, func(name, help string, field reflect.Value) {
		fs.String(flagName(name), text(field), help)
	})
}

// Load merges the file, the environment and the flags that were set, in rising precedence, over Default. getenv is os.Getenv.
func Load(fs *pflag.FlagSet, getenv func(string) string) (Config, error) {
	c := Default()
	file := getenv("ROWCAST_CONFIG")
	if f := fs.Lookup("config"); f != nil && f.Changed {
		file = f.Value.String()
	}
	if file != "" {
		data, err := os.ReadFile(file)
		if err != nil {
			return c, rowcast.Errorf(rowcast.CodeInvalidArgument, "cannot read the configuration file").WithCause(err)
		}
		if err := yaml.UnmarshalWithOptions(data, &c, yaml.Strict()); err != nil {
			return c, rowcast.Errorf(rowcast.CodeInvalidArgument, "%s is not a valid configuration", file).WithDetail("%s", yaml.FormatError(err, false, true))
		}
	}
	each(&c, func(_, _ string, field reflect.Value) {
		if s, ok := field.Addr().Interface().(*string); ok && *s == "-" {
			*s = ""
		}
	})
	var failed error
	each(&c, func(name, _ string, field reflect.Value) {
		value, from := getenv("ROWCAST_"+strings.ToUpper(name)), "ROWCAST_"+strings.ToUpper(name)
		if name == "database_url" {
			value, from = getenv("DATABASE_URL"), "DATABASE_URL"
		}
		if f := fs.Lookup(flagName(name)); f != nil && f.Changed {
			value, from = f.Value.String(), "--"+flagName(name)
		} else if value == "" {
			return
		}
		if err := set(field, value); err != nil && failed == nil {
			failed = rowcast.Errorf(rowcast.CodeInvalidArgument, "%s: %q is no %s", from, value, kind(field)).WithHint("%s", example(field))
		}
	})
	if failed != nil {
		return c, failed
	}
	return c, c.Validate()
}

// Validate names the first setting that makes no sense, its value and the fix.
func (c *Config) Validate() error {
	bad := func(name string, value any, fix string) error {
		return rowcast.Errorf(rowcast.CodeInvalidArgument, "%s is %v", name, value).WithHint("%s", fix)
	}
	switch {
	case c.MemoryBudget < 16<<20:
		return bad("memory_budget", c.MemoryBudget, "Give loaded models at least 16MB.")
	case c.Concurrency < 1:
		return bad("concurrency", c.Concurrency, "At least one call must be able to run.")
	case c.Queue < 0:
		return bad("queue", c.Queue, "Use 0 for no queue.")
	case c.MaxConnections < 1:
		return bad("max_connections", c.MaxConnections, "Each backend that predicts needs a connection.")
	case c.MaxMessage < 3<<20 || c.MaxMessage > 1<<30:
		return bad("max_message", c.MaxMessage, "Use 3MB to 1GB; an upload sends chunks of 2 MB.")
	case c.Deadline < time.Millisecond:
		return bad("deadline", c.Deadline, "Use a time such as 30s.")
	case c.Poll < time.Second || c.Poll > 30*time.Second:
		return bad("poll", c.Poll, "Use 1s to 30s: the SQL functions take a minute of silence for a hang.")
	case c.RecordQueue < 1:
		return bad("record_queue", c.RecordQueue, "At least one prediction must be able to wait.")
	case c.RecordInterval < time.Millisecond || c.RecordInterval > time.Minute:
		return bad("record_interval", c.RecordInterval, "Use 1ms to 1m.")
	case c.ScoreWorkers < 0 || c.ScoreWorkers > 1000:
		return bad("score_workers", c.ScoreWorkers, "Use 0 for none, or about one more than there are processors.")
	case c.ValidateTime < time.Second:
		return bad("validate_time", c.ValidateTime, "Use at least 1s.")
	case c.ValidateMemory < 256<<20:
		return bad("validate_memory", c.ValidateMemory, "ONNX Runtime alone needs 256MB.")
	case c.Threads < 1:
		return bad("threads", c.Threads, "Use 1, or more for models that are large and rarely called.")
	case (c.TLSCert == "") != (c.TLSKey == ""):
		return bad("tls_cert", strconv.Quote(c.TLSCert), "Set tls_cert and tls_key together.")
	case c.LogFormat != "text" && c.LogFormat != "json":
		return bad("log_format", strconv.Quote(c.LogFormat), "Use text or json.")
	}
	if _, err := c.Level(); err != nil {
		return bad("log_level", strconv.Quote(c.LogLevel), "Use debug, info, warn or error.")
	}
	for _, a := range c.Listen {
		if path, unix := strings.CutPrefix(a, "unix:"); unix && !filepath.IsAbs(path) {
			return bad("listen", strconv.Quote(a), "Write the socket's absolute path: unix:/run/rowcast/.s.PGSQL.7432.")
		} else if _, _, err := net.SplitHostPort(a); !unix && err != nil {
			return bad("listen", strconv.Quote(a), "Write host:port or unix:/dir/.s.PGSQL.PORT.")
		}
	}
	return nil
}

// Level is the log level.
func (c *Config) Level() (slog.Level, error) {
	var l slog.Level
	err := l.UnmarshalText([]byte(c.LogLevel))
	return l, err
}

// TLS loads the certificate; nil where none is set.
func (c *Config) TLS() (*tls.Config, error) {
	if c.TLSCert == "" {
		return nil, nil
	}
	cert, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
	if err != nil {
		return nil, rowcast.Errorf(rowcast.CodeInvalidArgument, "cannot load the certificate %s", c.TLSCert).WithCause(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}, nil
}

// Bytes is a size that may be written with a unit: 512MB, 2GB (binary multiples, as in postgresql.conf).
type Bytes int64

// String writes the size with the largest unit that divides it.
func (b Bytes) String() string {
	for i, unit := range []string{"GB", "MB", "kB"} {
		if m := Bytes(1) << (30 - 10*i); b >= m && b%m == 0 {
			return fmt.Sprintf("%d%s", b/m, unit)
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

var errSize = errors.New("not a size")

// UnmarshalText reads a size such as 64MB.
func (b *Bytes) UnmarshalText(t []byte) error {
	s, m := strings.TrimSpace(string(t)), int64(1)
	for i, unit := range []string{"GB", "MB", "kB"} {
		if n, ok := strings.CutSuffix(s, unit); ok {
			s, m = strings.TrimSpace(n), int64(1)<<(30-10*i)
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/m {
		return errSize
	}
	*b = Bytes(n * m)
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

func each(c *Config, f func(name, help string, field reflect.Value)) {
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		f(v.Type().Field(i).Tag.Get("yaml"), v.Type().Field(i).Tag.Get("help"), v.Field(i))
	}
}

func flagName(name string) string { return strings.ReplaceAll(name, "_", "-") }

func text(field reflect.Value) string {
	if list, ok := field.Interface().([]string); ok {
		return strings.Join(list, ",")
	}
	return fmt.Sprint(field.Interface())
}

func set(field reflect.Value, value string) error {
	switch p := field.Addr().Interface().(type) {
	case *string:
		*p = value
		if value == "-" {
			*p = ""
		}
	case *[]string:
		*p = strings.Split(value, ",")
	case *int:
		n, err := strconv.Atoi(value)
		*p = n
		return err
	case *time.Duration:
		d, err := time.ParseDuration(value)
		*p = d
		return err
	case *Bytes:
		return p.UnmarshalText([]byte(value))
	}
	return nil
}

func kind(field reflect.Value) string {
	switch field.Interface().(type) {
	case int:
		return "whole number"
	case time.Duration:
		return "duration"
	case Bytes:
		return "size"
	}
	return "text"
}

func example(field reflect.Value) string {
	switch field.Interface().(type) {
	case time.Duration:
		return "Write it with a unit: 500ms, 30s, 2m."
	case Bytes:
		return "Write it with a unit: 64MB, 2GB."
	}
	return "Write digits only."
}
