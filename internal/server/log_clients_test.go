package server_test

import (
	"net"
	"net/url"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/postgres/pgtest"
)

// bi is a database with ten logged predictions and a role that may only read them.
func bi(t *testing.T) (readerURL *url.URL) {
	t.Helper()
	s, conn := penguins(t)
	reader, address := s.Role(t, "")
	exec(t, conn, "SELECT ml.set_log_policy('penguins', 'all', key => 'id'), ml.grant_predictions('penguins', '"+reader+"')")
	exec(t, conn, "SELECT predict_label('penguins', p) FROM penguins_data p ORDER BY id LIMIT 10")
	logged(t, conn, "penguins", 10)
	u, err := url.Parse(address)
	require.NoError(t, err)
	return u
}

// cacheFolder is a folder under .cache of the repository, for what the clients' package managers fetch.
func cacheFolder(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", ".cache", name))
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(path, 0o755))
	return path
}

// needs finds programs of other languages; where one is missing the test has nothing to show.
func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := osexec.LookPath(p); err != nil {
			t.Skipf("%s is not installed: this client is not tried here", p)
		}
	}
}

// lines checks what a client printed about the view and returns its rows.
func lines(t *testing.T, out string, types map[string]string) (rows [][]string) {
	t.Helper()
	var names []string
	for line := range strings.Lines(out) {
		fields := strings.Split(strings.TrimRight(line, "\n"), "\t")
		switch fields[0] {
		case "view":
			require.Equal(t, []string{"view", "ml_bi", "penguins"}, fields[:3])
			if len(fields) > 3 {
				require.Contains(t, fields[3], "Logged predictions of model penguins")
			}
		case "column":
			names = append(names, fields[1])
			require.Equal(t, types[fields[1]], fields[2], fields[1])
			require.NotEmpty(t, fields[len(fields)-1], "a comment on %s", fields[1])
			require.NotContains(t, []string{"null", "None"}, fields[len(fields)-1], fields[1])
		case "row":
			rows = append(rows, fields[1:])
		}
	}
	require.Equal(t, []string{"key", "island", "bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g", "sex", "year", "prediction", "label", "probability",
		"version", "predicted_at"}, names, out)
	require.Len(t, rows, 10)
	return rows
}

func TestJDBCReadsTheBIView(t *testing.T) {
	needs(t, "mvn", "java")
	u := bi(t)
	project := t.TempDir()
	require.NoError(t, os.CopyFS(project, os.DirFS("../../examples/bi/java")))
	cmd := osexec.Command("mvn", "-q", "-B", "-Dmaven.repo.local="+cacheFolder(t, "maven"), "compile", "exec:java", "-Dexec.args=penguins")
	cmd.Dir = project
	password, _ := u.User.Password()
	host := u.Host
	if cluster := pgtest.Cluster(t); cluster != nil { // the driver speaks TCP only
		host = net.JoinHostPort("127.0.0.1", strconv.Itoa(cluster.Port()))
	}
	cmd.Env = append(os.Environ(), "JDBC_URL=jdbc:postgresql://"+host+u.Path, "PGUSER="+u.User.Username(), "PGPASSWORD="+password)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	rows := lines(t, string(out), map[string]string{"key": "text", "island": "text", "bill_length_mm": "float4", "bill_depth_mm": "float4", "flipper_length_mm": "float4",
		"body_mass_g": "float4", "sex": "text", "year": "int8", "prediction": "float8", "label": "text", "probability": "float8", "version": "int4", "predicted_at": "timestamptz"})
	require.Equal(t, []string{"String:0", "String:Torgersen", "Float:39.1", "Float:18.7", "Float:181.0", "Float:3750.0", "String:male", "Long:2007", "null", "String:Adelie"}, rows[0][:10])
	require.Equal(t, "Integer:1", rows[0][11])
	require.True(t, strings.HasPrefix(rows[0][10], "Double:0.") || rows[0][10] == "Double:1.0", rows[0][10])
	require.True(t, strings.HasPrefix(rows[0][12], "Timestamp:20"), rows[0][12])
}

func TestPsycopgReadsTheBIView(t *testing.T) {
	needs(t, "python3")
	u := bi(t)
	packages := cacheFolder(t, "bi-python")
	install := osexec.Command("python3", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "--only-binary=:all:", "--target", packages,
		"--upgrade", "-r", "../../examples/bi/python/requirements.txt")
	if _, err := os.Stat(filepath.Join(packages, "psycopg_binary")); err != nil {
		if out, err := install.CombinedOutput(); err != nil {
			require.Contains(t, string(out), "No module named pip", "%s", out)
			t.Skip("Python has no pip: this client is not tried here")
		}
	}
	cmd := osexec.Command("python3", "../../examples/bi/python/bi.py", "penguins")
	cmd.Env = append(os.Environ(), "PYTHONPATH="+packages, "DATABASE_URL="+u.String())
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	rows := lines(t, string(out), map[string]string{"key": "text", "island": "text", "bill_length_mm": "real", "bill_depth_mm": "real", "flipper_length_mm": "real",
		"body_mass_g": "real", "sex": "text", "year": "bigint", "prediction": "double precision", "label": "text", "probability": "double precision", "version": "integer",
		"predicted_at": "timestamp with time zone"})
	require.Equal(t, []string{"str:0", "str:Torgersen"}, rows[0][:2])
	require.True(t, strings.HasPrefix(rows[0][2], "float:39.09999"), rows[0][2])
	require.Equal(t, []string{"str:male", "int:2007", "None", "str:Adelie"}, []string{rows[0][6], rows[0][7], strings.Replace(rows[0][8], "null", "None", 1), rows[0][9]})
	require.Equal(t, "int:1", rows[0][11])
	require.True(t, strings.HasPrefix(rows[0][12], "datetime:20"), rows[0][12])
}
