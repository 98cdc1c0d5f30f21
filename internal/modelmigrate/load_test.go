package modelmigrate_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// pgbench is any installed one: the protocol is the same for all servers.
func pgbench(t *testing.T) string {
	t.Helper()
	if path, err := exec.LookPath("pgbench"); err == nil {
		return path
	}
	list, err := filepath.Glob("/usr/lib/postgresql/*/bin/pgbench")
	require.NoError(t, err)
	if len(list) == 0 {
		t.Skip("there is no pgbench here")
	}
	return list[len(list)-1]
}

func TestPromotionsUnderPgbenchFailNoPrediction(t *testing.T) {
	bench := pgbench(t)
	s := serve(t)
	conn := s.Conn(t)
	dir := t.TempDir()
	add(t, dir, "iris", demo("iris"), "iris")
	add(t, dir, "iris_v2", demo("iris_v2"), "iris", promoted)
	s.up(t, dir, -1)
	execute(t, conn, "CREATE TABLE seen (used integer, champion integer)")
	script := filepath.Join(t.TempDir(), "predict.sql")
	// One statement has one snapshot: the version that answers must be the champion of that snapshot.
	require.NoError(t, os.WriteFile(script, []byte(`INSERT INTO seen
		SELECT (ml.predict_json('iris', ARRAY[6.3, 2.5, 4.9, 1.5]) ->> 'version')::integer, (SELECT champion FROM ml.models WHERE model = 'iris');
`), 0o644))

	ctx, cancel := context.WithCancel(context.Background())
	promotions := make(chan int)
	promoter := s.Conn(t)
	go func() {
		n := 0
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		defer func() { promotions <- n }()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if _, err := promoter.Exec(context.Background(), "SELECT ml.promote('iris', $1)", 1+n%2); err != nil {
					t.Errorf("promotion %d: %v", n, err)
					return
				}
				n++
			}
		}
	}()
	const clients = "4"
	out, err := exec.Command(bench, "--no-vacuum", "--client="+clients, "--jobs=2", "--time=4", "--max-tries=1", "--file="+script, s.URL).CombinedOutput()
	cancel()
	n := <-promotions
	require.NoError(t, err, "%s", out)
	require.Regexp(t, `number of failed transactions: 0 `, string(out))
	require.Greater(t, n, 10)
	require.Equal(t, 0, one[int](t, conn, "SELECT count(*)::integer FROM seen WHERE used <> champion OR used IS NULL"))
	require.Equal(t, 2, one[int](t, conn, "SELECT count(DISTINCT used)::integer FROM seen"), "both versions were seen")
	require.Greater(t, one[int](t, conn, "SELECT count(*)::integer FROM seen"), 100)
	t.Logf("%d promotions; pgbench: %s", n, regexp.MustCompile(`(?m)^(tps|number of transactions|latency average).*$`).FindAllString(string(out), -1))
}
