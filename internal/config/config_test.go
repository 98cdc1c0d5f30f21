package config

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/rowcast"
)

func load(t *testing.T, env map[string]string, args ...string) (Config, error) {
	t.Helper()
	fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	Flags(fs, Default())
	require.NoError(t, fs.Parse(args))
	return Load(fs, func(k string) string { return env[k] })
}

func TestFlagsWinOverEnvironmentOverFileOverDefault(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rowcast.yaml")
	require.NoError(t, os.WriteFile(file, []byte("deadline: 1s\nqueue: 1\nconcurrency: 1\nmemory_budget: 64MB\n"), 0o600))
	env := map[string]string{"ROWCAST_CONFIG": file, "ROWCAST_QUEUE": "2", "ROWCAST_CONCURRENCY": "2", "DATABASE_URL": "postgres:///x"}
	c, err := load(t, env, "--concurrency", "3", "--listen", "127.0.0.1:1,unix:/tmp/.s.PGSQL.1", "--http", "-")
	require.NoError(t, err)
	require.Equal(t, time.Second, c.Deadline)
	require.Equal(t, Bytes(64<<20), c.MemoryBudget)
	require.Equal(t, 2, c.Queue)
	require.Equal(t, 3, c.Concurrency)
	require.Equal(t, "postgres:///x", c.DatabaseURL)
	require.Equal(t, []string{"127.0.0.1:1", "unix:/tmp/.s.PGSQL.1"}, c.Listen)
	require.Empty(t, c.HTTP)
	require.Equal(t, Default().MaxConnections, c.MaxConnections)
}

func TestBadSettingsNameTheFieldTheValueAndTheFix(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		env  map[string]string
		want string
	}{
		"no duration":   {args: []string{"--deadline", "soon"}, want: `--deadline: "soon" is no duration`},
		"no size":       {env: map[string]string{"ROWCAST_MAX_MESSAGE": "a lot"}, want: `ROWCAST_MAX_MESSAGE: "a lot" is no size`},
		"too small":     {args: []string{"--memory-budget", "1MB"}, want: "memory_budget is 1MB"},
		"half of TLS":   {args: []string{"--tls-cert", "x.pem"}, want: `tls_cert is "x.pem"`},
		"relative sock": {args: []string{"--listen", "unix:x"}, want: `listen is "unix:x"`},
		"log level":     {args: []string{"--log-level", "loud"}, want: `log_level is "loud"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, tc.env, tc.args...)
			var e *rowcast.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, tc.want, e.Message)
			require.NotEmpty(t, e.Hint)
		})
	}
}

func TestAnUnknownKeyInTheFileIsAnError(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rowcast.yaml")
	require.NoError(t, os.WriteFile(file, []byte("dedline: 1s\n"), 0o600))
	_, err := load(t, map[string]string{"ROWCAST_CONFIG": file})
	require.ErrorContains(t, err, "is not a valid configuration")
}
