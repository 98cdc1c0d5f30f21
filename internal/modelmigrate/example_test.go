package modelmigrate_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/modelmigrate"
	"github.com/rowcast/rowcast/internal/postgres"
	"github.com/rowcast/rowcast/internal/postgres/pgtest"
)

// example is the repository of models that this one brings.
var example = filepath.Join("..", "..", "examples", "models-repo")

// copyOf makes a copy of the site's database with pg_dump and pg_restore, or where this machine has none of the server's version as a template. The
// copy gets a sidecar of its own.
func (s *site) copyOf(t *testing.T) *site {
	t.Helper()
	target := &site{Database: pgtest.NewEmpty(t)}
	server, err := postgres.FindServer(context.Background())
	require.NoError(t, err)
	bin := os.Getenv("ROWCAST_PG_BIN")
	if bin == "" {
		bin = server.BinDir
	}
	dump := filepath.Join(bin, "pg_dump")
	if _, err := os.Stat(dump); err == nil {
		file := filepath.Join(t.TempDir(), "shop.dump")
		out, err := exec.Command(dump, "--format=custom", "--file", file, s.URL).CombinedOutput()
		require.NoError(t, err, "%s", out)
		out, err = exec.Command(filepath.Join(bin, "pg_restore"), "--exit-on-error", "--dbname", target.URL, file).CombinedOutput()
		require.NoError(t, err, "%s", out)
	} else {
		t.Log("no pg_dump of this server's version here: the same through CREATE DATABASE ... TEMPLATE")
		s.stop()
		u, err := url.Parse(s.URL)
		require.NoError(t, err)
		u.Path = "/postgres"
		elsewhere := pgtest.Connect(t, u.String())
		sessions := fmt.Sprintf("FROM pg_stat_activity WHERE datname = '%s' AND backend_type = 'client backend'", s.Name)
		execute(t, elsewhere, "SELECT pg_terminate_backend(pid) "+sessions)
		require.Eventually(t, func() bool { return one[int](t, elsewhere, "SELECT count(*)::integer "+sessions) == 0 }, 10*time.Second, 10*time.Millisecond)
		execute(t, elsewhere, "DROP DATABASE "+target.Name)
		execute(t, elsewhere, fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s", target.Name, s.Name))
	}
	target.serve(t)
	return target
}

func TestTheExampleOnACopyOfADatabase(t *testing.T) {
	ctx := context.Background()
	dir := filepath.Join(example, "models")
	s := serve(t)
	conn := s.Conn(t)
	file, err := os.ReadFile(demo("diabetes"))
	require.NoError(t, err)
	execute(t, conn, "SELECT ml.register_model('diabetes', $1)", file)
	images := []map[string]string{image(t, conn, true)}
	for range 3 {
		s.up(t, dir, 1)
		images = append(images, image(t, conn, true))
	}

	c := s.copyOf(t)
	there := c.Conn(t)
	// The journal's transaction numbers are another cluster's: nothing is journaled into an old change.
	same(t, images[3], image(t, there, true), "the copy")
	execute(t, there, "SELECT ml.set_alias('diabetes', 'canary', 1), ml.drop_alias('diabetes', 'canary')")
	require.Equal(t, strings.Count(images[3]["change_row"], "\n"), strings.Count(image(t, there, true)["change_row"], "\n"))

	fresh := s.copyOf(t)
	conn = fresh.Conn(t)
	for _, to := range []int{2, 1, 0} {
		fresh.down(t, dir, 1)
		same(t, images[to], image(t, conn, true), "down to %d", to)
	}
	untimed := []map[string]string{image(t, conn, false)}
	for range 3 {
		fresh.up(t, dir, 1)
		untimed = append(untimed, image(t, conn, false))
	}
	for _, to := range []int{1, 3, 2, 0, 2, 3} {
		_, err := fresh.runner(t, dir).Goto(ctx, to)
		require.NoError(t, err)
		same(t, untimed[to], image(t, conn, false), "goto %d", to)
	}
	require.Equal(t, "setosa", one[string](t, conn, "SELECT predict_label('iris', '{5.1,3.5,1.4,0.2}')"))
	p, err := fresh.runner(t, dir).Plan(ctx, -1)
	require.NoError(t, err)
	require.False(t, p.Changes())
}

// The example's workflow is YAML, names no registry's host, and its README no command that does not exist.
func TestTheExampleIsWhole(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(example, ".github", "workflows", "models.yml"))
	require.NoError(t, err)
	var workflow struct {
		Jobs map[string]struct {
			Steps []struct{ Uses, Run string }
		}
	}
	require.NoError(t, yaml.Unmarshal(text, &workflow))
	require.Len(t, workflow.Jobs, 3)
	require.NotRegexp(t, `(?i)(docker\.io|ghcr|quay\.io|registry\.|pypi|npmjs|https?://)`, string(text))
	readme, err := os.ReadFile(filepath.Join(example, "README.md"))
	require.NoError(t, err)
	for _, source := range []string{string(text), string(readme)} {
		for _, m := range regexp.MustCompile(`rowcast model migration ([a-z]+)`).FindAllStringSubmatch(source, -1) {
			require.Contains(t, "new up down goto force version status plan", m[1])
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^\s+(\d{6}_\S+\.sql)`).FindAllStringSubmatch(string(readme), -1) {
		require.FileExists(t, filepath.Join(example, "models", m[1]))
	}
	_, err = modelmigrate.New("", modelmigrate.Options{Dir: filepath.Join(example, "models")})
	require.NoError(t, err)
}
