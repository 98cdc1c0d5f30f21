package cli_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// took matches how long a step took.
var took = regexp.MustCompile(`\(\d+(\.\d+)?(µs|ms|s)\)`)

// steady replaces what no test can foresee in the output of a migration.
func steady(s string) string { return timeless(took.ReplaceAllString(s, "(TIME)")) }

// A model that takes and gives something else than the champion.
func TestPlanTellsWhatAChangedSignatureChanges(t *testing.T) {
	db := served(t)
	dir := filepath.Join(t.TempDir(), "models")
	require.Equal(t, dir+"/000001_flower.up.sql\n"+dir+"/000001_flower.down.sql\n"+dir+"/artifacts/flower-7f4d3c0939cc.onnx\n",
		db.does(t, "model", "migration", "new", "flower", "--model", "flower", "--file", demo("iris", "model.onnx"), "--dir", dir))
	status, out, errOut := rowcast("model", "migration", "plan", "--dir", dir, "--database-url", db.URL)
	require.Equal(t, 2, status, errOut)
	require.Equal(t, `uploading `+dir+`/artifacts/flower-7f4d3c0939cc.onnx (7.9 kB)
000001_flower
  model flower added
  flower version 1 registered (SHA-256 7f4d3c0939cc9b514e8ba68ab17f88d99dbddd7176d8d967f6a79b529e06c2cc)
  flower@champion is version 1
models would go from version 0 to 1
`, out)
	require.Equal(t, "1/u flower (TIME)\nmodels from version 0 to 1\n", steady(db.does(t, "model", "migration", "up", "--dir", dir)))
	require.Equal(t, "nothing would change: models at version 1 already\n", db.does(t, "model", "migration", "plan", "--dir", dir))

	db.does(t, "model", "migration", "new", "flower_v2", "--file", demo("iris_v2", "model.onnx"), "--model", "flower", "--promote", "--alias", "latest",
		"--grant", "public", "--dir", dir, "--options", write(t, "two.yaml", `
features:
- {name: petal_length, type: double precision, default: 4.5}
- {name: sepal_length, type: real}
- {name: petal_width, type: real, missing: true}
- {name: colour, type: real, default: 1}
labels: [setosa, versicolor, other]
`))
	db.does(t, "model", "migration", "new", "flower_v3", "--file", demo("iris_v2", "model.onnx"), "--model", "flower", "--dir", dir, "--options",
		write(t, "three.yaml", "labels: [setosa, versicolor, other]\n"))
	rights := strings.Fields(db.does(t, "model", "migration", "new", "rights", "--dir", dir))[0]
	text, err := os.ReadFile(rights)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(rights, append(text, "SELECT ml.revoke_model('flower', 'public'), ml.drop_version('flower', 1), ml.drop_alias('flower', 'latest');\n"...), 0o644))
	status, out, errOut = rowcast("model", "migration", "plan", "--dir", dir, "--database-url", db.URL)
	require.Equal(t, 2, status, errOut)
	golden(t, "plan.txt", strings.ReplaceAll(out, dir, "models"))
	require.Equal(t, "1\n", db.does(t, "model", "migration", "version", "--dir", dir), "nothing ran")
	require.Equal(t, 1, one[int](t, db, "SELECT count(*)::integer FROM ml.versions"))
	require.Equal(t, int64(1), one[int64](t, db, "SELECT last_value FROM ml_private.version_id_seq"), "not even ids are used up")

	status, out, errOut = rowcast("model", "migration", "plan", "1", "--json", "--dir", dir, "--database-url", db.URL)
	require.Equal(t, 2, status, errOut)
	var plan struct {
		From, To   int
		Migrations []struct {
			Name    string
			Effects []struct {
				Kind, Action, Against string
				Differs               []struct{ What, Name, Change, From, To string }
			}
		}
	}
	require.NoError(t, json.Unmarshal([]byte(out), &plan))
	require.Equal(t, 2, plan.To)
	require.Len(t, plan.Migrations, 1)
	require.Equal(t, "flower@1", plan.Migrations[0].Effects[0].Against)
	require.Contains(t, out, `"change": "default"`)

	require.Contains(t, db.fails(t, 1, "model", "migration", "plan", "many", "--dir", dir), "N must be a whole number", "2 means that something would change")
	require.Contains(t, db.fails(t, 1, "model", "migration", "plan", "--nonsense"), "unknown flag")
	require.Contains(t, db.fails(t, 2, "model", "migration", "up", "0", "--dir", dir), "N must be a whole number of at least 1")
	require.Contains(t, db.fails(t, 1, "model", "migration", "goto", "9", "--dir", dir), "asked for version 9, but "+dir+" has no migration 9")
	require.Contains(t, db.fails(t, 2, "model", "migration", "new", "x", "--promote", "--dir", dir), "need a --file")
	require.Contains(t, db.fails(t, 1, "model", "migration", "new", "a b", "--dir", dir), "is no name for a migration")

	require.Equal(t, "2/u flower_v2 (TIME)\n3/u flower_v3 (TIME)\n4/u rights (TIME)\nmodels from version 1 to 4\n",
		steady(db.does(t, "model", "migration", "up", "--dir", dir)))
	golden(t, "status.txt", steady(db.does(t, "model", "migration", "status", "--dir", dir)))
	require.Equal(t, "4/d rights (TIME)\n3/d flower_v3 (TIME)\nmodels from version 4 to 2\n", steady(db.does(t, "model", "migration", "down", "2", "--dir", dir)))
	require.Contains(t, db.does(t, "model", "migration", "down", "all", "--json", "--dir", dir), `"from": 2`)
	require.Equal(t, "models from version 0 to 3\n000004_rights", db.does(t, "model", "migration", "force", "3", "--dir", dir)+"000004_rights")
	require.Contains(t, db.does(t, "model", "migration", "status", "--dir", dir), "nothing shows that it ran")
	require.JSONEq(t, `{"version": 3, "dirty": false}`, db.does(t, "model", "migration", "version", "--json", "--dir", dir))
}

// write writes a file that is gone after the test and returns its path.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// golden compares with a file of testdata; UPDATE_GOLDEN=1 writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "migration", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}
