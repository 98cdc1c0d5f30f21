package cli_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/postgres/pgtest"
)

func shaOf(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// The life of a model, as a person at a terminal sees it.
func TestTheLifeOfAModelInText(t *testing.T) {
	db := served(t)
	require.Equal(t, "No models yet. Register one: rowcast model register NAME FILE\n", db.does(t, "model", "list"))
	require.Equal(t, `iris version 1 registered: classification, 4 features, 7.9 kB.
predict('iris', …) uses it now.
`, db.does(t, "model", "register", demo("iris", "model.onnx")))
	require.Equal(t, `iris version 2 registered: classification, 4 features, 651 bytes.
Make it the champion with: rowcast model promote iris 2
`, db.does(t, "model", "register", "iris", demo("iris_v2", "model.onnx")))
	db.does(t, "model", "register", demo("diabetes", "model.onnx"))
	require.Equal(t, `MODEL     TASK            CHAMPION  VERSIONS  OWNER     DESCRIPTION
diabetes  regression      1         1         postgres  Gradient boosting, 100 trees of depth 3.
iris      classification  1         2         postgres  Random forest; probabilities as a sequence of maps (ZipMap).
`, db.does(t, "model", "list"))

	require.Equal(t, "iris@challenger is version 2 now.\n", db.does(t, "model", "alias", "iris", "challenger", "2"))
	require.Equal(t, "predict('iris', …) uses version 2 now.\n", db.does(t, "model", "promote", "iris", "2"))
	require.Equal(t, "iris@champion is version 1 again.\n", db.does(t, "model", "rollback", "iris"))
	require.Equal(t, `rowcast: alias "champion" of model "iris" has no earlier version to go back to: SQLSTATE 55000
    hint: SELECT * FROM ml.alias_history WHERE model = 'iris'; shows what it was.
`, db.fails(t, 1, "model", "rollback", "iris"))
	require.Equal(t, "public may use iris now.\n", db.does(t, "model", "grant", "iris", "public"))

	first, second := shaOf(t, demo("iris", "model.onnx")), shaOf(t, demo("iris_v2", "model.onnx"))
	require.Equal(t, fmt.Sprintf(`Model       iris
            Random forest; probabilities as a sequence of maps (ZipMap).
Task        classification
Owner       postgres
Granted to  PUBLIC
Target      species
Features    sepal_length real
            sepal_width real
            petal_length real
            petal_width real
Labels      setosa, versicolor, virginica

VERSION  ALIASES     FORMAT  SIZE       SHA-256       REGISTERED           BY        STATE
2        challenger  onnx    651 bytes  %s  TIME  postgres  ok
1        champion    onnx    7.9 kB     %s  TIME  postgres  ok
`, second[:12], first[:12]), timeless(db.does(t, "model", "show", "iris")))
	require.Contains(t, db.does(t, "model", "show", "iris@challenger"), second[:12])
	require.NotContains(t, db.does(t, "model", "show", "iris@2"), first[:12])

	t.Chdir(t.TempDir())
	require.Equal(t, fmt.Sprintf("iris version 1 written to iris-1.onnx (SHA-256 %s).\n", first), db.does(t, "model", "download", "iris"))
	require.Equal(t, first, shaOf(t, "iris-1.onnx"))
	db.does(t, "model", "download", "iris@challenger", "other.onnx")
	require.Equal(t, second, shaOf(t, "other.onnx"))

	require.Equal(t, "iris has no alias challenger any more.\n", db.does(t, "model", "alias", "iris", "challenger", "--drop"))
	require.Equal(t, "public may no longer use iris by a grant of its own.\n", db.does(t, "model", "revoke", "iris", "public"))
	require.Equal(t, `rowcast: model "iris" was not granted to "public": SQLSTATE 42704
    hint: SELECT grantee FROM ml.grants WHERE model = 'iris'; lists the grants.
`, db.fails(t, 1, "model", "revoke", "iris", "public"))
	require.Equal(t, `rowcast: version 1 of model "iris" is in use by alias "champion": SQLSTATE 2BP01
    hint: Point the alias elsewhere first (ml.promote, ml.set_alias), or drop the whole model (ml.drop_model).
`, db.fails(t, 1, "model", "drop", "iris@1"))
	require.Equal(t, "Version 2 of iris is gone.\n", db.does(t, "model", "drop", "iris@2"))
	require.Equal(t, "Version 1 of iris may be loaded again.\n", db.does(t, "model", "release", "iris@1"))
	require.Contains(t, db.fails(t, 2, "model", "drop", "iris"), "drop all versions of iris?")
	require.Equal(t, "Model iris is gone.\n", db.does(t, "model", "drop", "iris", "--all"))
	require.Contains(t, db.fails(t, 1, "model", "show", "iris"), `model "iris" does not exist`)
	require.Contains(t, db.fails(t, 1, "model", "show", "diabetis"), `Did you mean "diabetes"?`)
	require.Contains(t, db.fails(t, 1, "model", "show", "diabetes@7"), "It has version 1.")
}

// The same for a program.
func TestTheLifeOfAModelInJSON(t *testing.T) {
	db := served(t)
	first, second := shaOf(t, demo("iris", "model.onnx")), shaOf(t, demo("iris_v2", "model.onnx"))
	says := func(want string, args ...string) {
		t.Helper()
		require.JSONEq(t, want, timeless(db.does(t, append(args, "--json")...)), "%v", args)
	}
	says(`[]`, "model", "list")
	says(fmt.Sprintf(`{"model": "iris", "version": 1, "sha256": %q, "aliases": ["champion"]}`, first), "model", "register", demo("iris", "model.onnx"))
	says(fmt.Sprintf(`{"model": "iris", "version": 2, "sha256": %q, "aliases": []}`, second), "model", "register", "iris", demo("iris_v2", "model.onnx"))
	says(`[{"model": "iris", "description": "Random forest; probabilities as a sequence of maps (ZipMap).", "task": "classification", "champion": 1,
		"versions": 2, "owner": "postgres", "created_at": "TIME"}]`, "model", "list")
	says(`{"model": "iris", "alias": "challenger", "version": 2}`, "model", "alias", "iris", "challenger", "2")
	says(`{"model": "iris", "alias": "champion", "version": 2}`, "model", "promote", "iris", "2")
	says(`{"model": "iris", "alias": "champion", "version": 1}`, "model", "rollback", "iris")
	says(`{"model": "iris", "alias": "challenger"}`, "model", "alias", "iris", "challenger", "--drop")
	says(`{"model": "iris", "role": "public"}`, "model", "grant", "iris", "public")

	var shown struct {
		Model    string
		Grants   []string
		Versions []struct {
			Version   int
			SHA256    string
			Aliases   []string
			Features  []string
			Labels    []string
			Signature struct{ Task string }
		}
		History []map[string]any `json:"alias_history"`
	}
	require.NoError(t, json.Unmarshal([]byte(db.does(t, "model", "show", "iris", "--json")), &shown))
	require.Equal(t, "iris", shown.Model)
	require.Equal(t, []string{"PUBLIC"}, shown.Grants)
	require.Len(t, shown.Versions, 2)
	require.Equal(t, second, shown.Versions[0].SHA256, "the newest first")
	require.Equal(t, []string{"champion"}, shown.Versions[1].Aliases)
	require.Equal(t, []string{"sepal_length", "sepal_width", "petal_length", "petal_width"}, shown.Versions[0].Features)
	require.Equal(t, "classification", shown.Versions[0].Signature.Task)
	var actions []any
	for _, h := range shown.History {
		actions = append(actions, h["action"])
	}
	require.Equal(t, []any{"set", "set", "set", "rollback", "drop"}, actions)

	says(`{"model": "iris", "role": "public"}`, "model", "revoke", "iris", "public")
	file := filepath.Join(t.TempDir(), "iris.onnx")
	says(fmt.Sprintf(`{"model": "iris", "version": 2, "sha256": %q, "file": %q}`, second, file), "model", "download", "iris@2", file)
	says(`{"model": "iris", "version": 2}`, "model", "release", "iris@2")
	says(`{"model": "iris", "version": 2}`, "model", "drop", "iris@2")
	says(`{"model": "iris"}`, "model", "drop", "iris", "--all")
	says(fmt.Sprintf(`[{"file": %q, "sha256": %q, "sent": true}]`, demo("iris", "model.onnx"), first), "model", "upload", demo("iris", "model.onnx"))
	says(fmt.Sprintf(`{"version": %[1]s, "latest": %[1]s, "dirty": false}`, latest(t)), "migrate", "version")
}

func TestAModelWithoutVersionsIsShown(t *testing.T) {
	db := served(t)
	db.does(t, "model", "register", demo("iris", "model.onnx"))
	db.does(t, "model", "alias", "iris", "champion", "--drop")
	require.Contains(t, db.does(t, "model", "show", "iris"), "VERSION  ALIASES")
	db.does(t, "model", "drop", "iris@1")
	require.Equal(t, `Model  iris
       Random forest; probabilities as a sequence of maps (ZipMap).
Task   -
Owner  postgres

No versions. Register one: rowcast model register iris FILE
`, db.does(t, "model", "show", "iris"))
	require.Contains(t, db.does(t, "model", "show", "iris", "--json"), `"versions": []`)
	require.Contains(t, db.fails(t, 1, "model", "show", "iris@1"), `model "iris" has no version 1`)
	require.Contains(t, db.does(t, "model", "list"), "iris   -     -         0")
	require.Contains(t, db.does(t, "model", "register", demo("iris", "model.onnx")), "iris version 2 registered")
}

func TestRegisterReadsModelYAMLAndFlagsWin(t *testing.T) {
	db := served(t)
	folder := t.TempDir()
	model := filepath.Join(folder, "plants.onnx")
	content, err := os.ReadFile(demo("iris_v2", "model.onnx"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(model, content, 0o600))

	// Nothing says its name.
	e := db.fails(t, 2, "model", "register", model)
	require.Contains(t, e, "what is the model's name?")
	require.Contains(t, e, "name: NAME in "+filepath.Join(folder, "model.yaml"))
	require.Contains(t, e, "usage: rowcast model register [NAME] FILE")

	// A name alone: the rest comes from the graph.
	require.Contains(t, db.does(t, "model", "register", "bare", model), "bare version 1 registered: classification, 4 features")
	require.Equal(t, []string{"f0", "f1", "f2", "f3"}, one[[]string](t, db, "SELECT features FROM ml.versions WHERE model = 'bare'"))

	// model.yaml beside the file.
	yaml := filepath.Join(folder, "model.yaml")
	require.NoError(t, os.WriteFile(yaml, []byte(`
name: plants
description: from the file
features: [{name: a, type: real}, {name: b, type: real, default: 3.5}, {name: c, type: real}, {name: d, type: real}]
target: kind
trained_with: a test
parameters: {depth: 3}
tags: {team: botany}
`), 0o600))
	require.Contains(t, db.does(t, "model", "register", model), "plants version 1 registered")
	require.Contains(t, db.does(t, "model", "show", "plants"), "b real, default 3.5")
	require.JSONEq(t, `{"depth": 3, "trained_with": "a test"}`, one[string](t, db, "SELECT parameters::text FROM ml.versions WHERE model = 'plants'"))

	// The name on the command line and the flags win; what they do not say stays.
	example := filepath.Join(folder, "example.json")
	require.NoError(t, os.WriteFile(example, []byte(`[5.1, 3.5, 1.4, 0.2]`), 0o600))
	require.Contains(t, db.does(t, "model", "register", "flowers", model, "--description", "from the flags",
		"--feature", "length:double precision?", "--feature", "width:=0.5", "--feature", "height:real=1", "--feature", "depth", "--target", "species",
		"--label", "setosa", "--label", "versicolor", "--label", "virginica", "--parameter", "depth=4", "--parameter", "note=deep", "--tag", "reviewed=true", "--example", example),
		"flowers version 1 registered")
	signature := one[map[string]any](t, db, "SELECT signature FROM ml.versions WHERE model = 'flowers'")
	require.Equal(t, "species", signature["target"])
	require.Equal(t, []any{"setosa", "versicolor", "virginica"}, signature["labels"])
	require.Equal(t, []string{"length", "width", "height", "depth"}, one[[]string](t, db, "SELECT features FROM ml.versions WHERE model = 'flowers'"))
	features := signature["features"].([]any)
	require.Equal(t, true, features[0].(map[string]any)["missing"])
	require.EqualValues(t, 0.5, features[1].(map[string]any)["default"])
	require.EqualValues(t, 1, features[2].(map[string]any)["default"])
	require.Equal(t, "from the flags", one[string](t, db, "SELECT description FROM ml.versions WHERE model = 'flowers'"))
	require.JSONEq(t, `{"depth": 4, "note": "deep", "trained_with": "a test"}`, one[string](t, db, "SELECT parameters::text FROM ml.versions WHERE model = 'flowers'"))
	require.JSONEq(t, `{"team": "botany", "reviewed": true}`, one[string](t, db, "SELECT tags::text FROM ml.versions WHERE model = 'flowers'"))

	// Another file for the options.
	other := filepath.Join(folder, "other.yaml")
	require.NoError(t, os.WriteFile(other, []byte("name: elsewhere\n"), 0o600))
	require.Contains(t, db.does(t, "model", "register", model, "--options", other), "elsewhere version 1 registered")

	for name, tc := range map[string]struct {
		status int
		args   []string
		says   []string
	}{
		"no such options":   {1, []string{"--options", filepath.Join(folder, "none.yaml")}, []string{"cannot read the options", "none.yaml"}},
		"no such example":   {1, []string{"--example", filepath.Join(folder, "none.json")}, []string{"cannot read the example", "none.json"}},
		"example no JSON":   {1, []string{"--example", model}, []string{"is no JSON"}},
		"tag without value": {2, []string{"--tag", "reviewed"}, []string{`--tag "reviewed" has no value`, "NAME=VALUE"}},
		"too few features":  {1, []string{"--feature", "a", "--feature", "b"}, []string{"2", "4"}},
		"unknown type":      {1, []string{"--feature", "a:colour", "--feature", "b", "--feature", "c", "--feature", "d"}, []string{"colour"}},
		"other labels":      {1, []string{"--label", "setosa", "--label", "y y", "--label", "z"}, []string{`"setosa", "y y", "z"`, `"setosa", "versicolor", "virginica"`}},
		"mixed labels":      {1, []string{"--label", "setosa", "--label", "2", "--label", "z"}, []string{"all text or all integers"}},
		"unknown task":      {1, []string{"--task", "guessing"}, []string{"guessing"}},
		"unknown flag":      {2, []string{"--colour", "red"}, []string{"unknown flag: --colour", "usage: rowcast model register"}},
	} {
		t.Run(name, func(t *testing.T) {
			e := db.fails(t, tc.status, append([]string{"model", "register", "refused", model}, tc.args...)...)
			for _, s := range tc.says {
				require.Contains(t, e, s)
			}
		})
	}
	require.NoError(t, os.WriteFile(yaml, []byte("name: plants\nfeeture: []\n"), 0o600))
	e = db.fails(t, 1, "model", "register", model)
	require.Contains(t, e, "feeture")
	require.Contains(t, e, "features")
	require.Contains(t, db.fails(t, 1, "model", "register", "No Good", demo("iris", "model.onnx")), `"No Good" is not a valid model name`)
	require.Zero(t, one[int](t, db, "SELECT count(*)::integer FROM ml.models WHERE model NOT IN ('bare', 'plants', 'flowers', 'elsewhere')"))
}

func TestWhatIsNoModelIsRefusedAndNotStored(t *testing.T) {
	db := served(t)
	folder := t.TempDir()
	text := filepath.Join(folder, "model.onnx")
	require.NoError(t, os.WriteFile(text, []byte("This is a shopping list.\n"), 0o600))
	require.Contains(t, db.fails(t, 1, "model", "register", "list", text), "is no ONNX model")
	empty := filepath.Join(folder, "empty.onnx")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	require.Contains(t, db.fails(t, 1, "model", "register", "list", empty), "empty")
	require.Contains(t, db.fails(t, 1, "model", "register", "list", folder), "is a folder without MLmodel")
	require.Contains(t, db.fails(t, 1, "model", "register", "list", filepath.Join(folder, "none.onnx")), "no such file")
	require.Zero(t, one[int](t, db, "SELECT (SELECT count(*) FROM ml_private.artifact) + (SELECT count(*) FROM ml_private.model)"))
}

func TestUploadGoesOnWhereItStopped(t *testing.T) {
	db := served(t)
	// More than two chunks. No model: an upload is only bytes.
	file := filepath.Join(t.TempDir(), "large.onnx")
	content := make([]byte, 2<<20+12345)
	for i := range content {
		content[i] = byte(i * i >> 7)
	}
	require.NoError(t, os.WriteFile(file, content, 0o600))
	sha := shaOf(t, file)
	require.Zero(t, one[int](t, db, "SELECT ml.begin_upload($1, $2)", sha, len(content)))
	one[any](t, db, "SELECT ml.upload_chunk($1, 0, $2)::text", sha, content[:1<<20])
	require.Equal(t, sha+"\n", db.does(t, "model", "upload", file))
	require.Equal(t, sha+"\n", db.does(t, "model", "upload", file), "again: it is there")
	require.Equal(t, content, one[[]byte](t, db, "SELECT string_agg(data, '' ORDER BY number) FROM ml_private.artifact_chunk"))
	require.Contains(t, db.fails(t, 1, "model", "upload", file+"x"), "cannot read the model file")

	db.does(t, "model", "upload", demo("iris_v2", "model.onnx"))
	require.Equal(t, 1, one[int](t, db, "SELECT ml.register_artifact('iris', $1)", shaOf(t, demo("iris_v2", "model.onnx"))))
}

func TestACorruptDownloadLeavesNoFile(t *testing.T) {
	db := served(t)
	db.does(t, "model", "register", demo("iris", "model.onnx"))
	db.Exec(t, "UPDATE ml_private.artifact_chunk SET data = set_byte(data, 100, get_byte(data, 100) # 1)")
	folder := t.TempDir()
	file := filepath.Join(folder, "iris.onnx")
	require.NoError(t, os.WriteFile(file, []byte("the file before"), 0o600))
	require.Contains(t, db.fails(t, 1, "model", "download", "iris", file), "hash")
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "the file before", string(content))
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	require.Len(t, entries, 1)
	require.Contains(t, db.fails(t, 1, "model", "download", "iris", filepath.Join(folder, "none", "iris.onnx")), "cannot write")
}

func TestCommandsRunWithTheRolesRights(t *testing.T) {
	db := served(t)
	db.does(t, "model", "register", demo("iris", "model.onnx"))
	role, roleURL := db.Role(t, "")
	plain := database{&pgtest.Database{Name: db.Name, URL: roleURL}}
	require.Contains(t, plain.does(t, "model", "list"), "No models yet")
	for _, args := range [][]string{
		{"show", "iris"}, {"download", "iris", filepath.Join(t.TempDir(), "x")}, {"promote", "iris", "1"}, {"drop", "iris", "--all"}, {"grant", "iris", role},
		{"register", "mine", demo("iris", "model.onnx")}, {"upload", demo("iris", "model.onnx")},
	} {
		require.Contains(t, plain.fails(t, 1, append([]string{"model"}, args...)...), "permission denied", "%v", args)
	}
	require.Contains(t, plain.fails(t, 1, "gateway", "rotate"), "permission denied")
	db.does(t, "model", "grant", "iris", role)
	require.Contains(t, plain.does(t, "model", "show", "iris"), "Granted to  "+role)
	require.Contains(t, plain.fails(t, 1, "model", "promote", "iris", "1"), "but not change it")
	require.Contains(t, db.fails(t, 1, "model", "grant", "iris", "nobody_at_all"), `role "nobody_at_all" does not exist`)
	if cluster := pgtest.Cluster(t); cluster != nil { // its socket asks for no password
		u, err := url.Parse(cluster.TCPURL(db.Name))
		require.NoError(t, err)
		u.User = url.UserPassword(role, "wrong")
		wrong := database{&pgtest.Database{URL: u.String()}}
		require.Contains(t, wrong.fails(t, 1, "model", "list"), "Check user and password in DATABASE_URL.")
	}
}
