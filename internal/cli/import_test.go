package cli_test

import (
	"archive/zip"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

func mlflowModel(name string) string {
	return filepath.Join("..", "convert", "testdata", "mlflow", name)
}

// zipFolder packs a folder as a person would, with the folder itself in it.
func zipFolder(t *testing.T, folder, path string) {
	t.Helper()
	out, err := os.Create(path)
	require.NoError(t, err)
	z := zip.NewWriter(out)
	files, err := os.ReadDir(folder)
	require.NoError(t, err)
	for _, f := range files {
		content, err := os.ReadFile(filepath.Join(folder, f.Name()))
		require.NoError(t, err)
		w, err := z.Create(filepath.Base(folder) + "/" + f.Name())
		require.NoError(t, err)
		_, err = w.Write(content)
		require.NoError(t, err)
	}
	require.NoError(t, z.Close())
	require.NoError(t, out.Close())
}

// A folder, a zip and a tar.gz of MLflow, each by itself: named by its file, described by its MLmodel, equal to the library.
func TestMLflowModelsAreRegisteredByTheirFolder(t *testing.T) {
	db := served(t)
	packed := t.TempDir()
	for _, name := range []string{"onnx_matrix", "onnx_columns", "xgboost_ubj", "xgboost_json", "lightgbm_text"} {
		t.Run(name, func(t *testing.T) {
			folder := mlflowModel(name)
			flavor, _, _ := strings.Cut(name, "_")
			register := func(path string) string {
				status, out, errOut := rowcast("model", "register", path, "--database-url", db.URL)
				require.Zero(t, status, errOut)
				if name == "onnx_columns" {
					require.Contains(t, errOut, `the signature calls "urgent" optional, but its tensor is bool`)
				} else {
					require.Empty(t, errOut)
				}
				return out
			}
			require.Contains(t, register(folder), name+" version 1 registered: ")
			zipped := filepath.Join(packed, name+".zip")
			zipFolder(t, folder, zipped)
			require.Contains(t, register(zipped), ", converted from mlflow-"+flavor)
			tarred := filepath.Join(packed, strings.ToUpper(name)+".tar.gz")
			require.NoError(t, exec.Command("tar", "-C", filepath.Dir(folder), "-czf", tarred, name).Run())
			require.Contains(t, register(tarred), name+" version 3 registered: ")

			require.Equal(t, 1, one[int](t, db, "SELECT count(DISTINCT sha256)::integer FROM ml.versions WHERE model = $1", name), "the same model")
			require.Equal(t, 3, one[int](t, db, "SELECT count(DISTINCT source_sha256)::integer FROM ml.versions WHERE model = $1", name), "of three files")
			for version, original := range map[string]string{"2": zipped, "3": tarred} {
				again := filepath.Join(packed, "again")
				db.does(t, "model", "download", name+"@"+version, again, "--original")
				require.Equal(t, shaOf(t, original), shaOf(t, again))
			}
			require.Regexp(t, `^3\.`, one[string](t, db, "SELECT parameters ->> 'mlflow_version' FROM ml.versions WHERE model = $1 AND version = 1", name))
			equalsItsLibrary(t, db, name)
		})
	}
	require.JSONEq(t, `{"team": "risk", "reviewed": true}`, one[string](t, db, "SELECT tags::text FROM ml.versions WHERE model = 'onnx_matrix' AND version = 1"))
	require.JSONEq(t, `{"inputs": {"amount": [[41.54735]], "hour": [[1]], "urgent": [[false]]}, "outputs": {"variable": [[42.54735]]}}`,
		one[string](t, db, "SELECT example::text FROM ml.versions WHERE model = 'onnx_columns' AND version = 1"), "the input example is what is replayed")

	// A folder comes back as the tar that was made of it.
	t.Chdir(t.TempDir())
	require.Contains(t, db.does(t, "model", "download", "lightgbm_text@1", "--original"), "written to lightgbm_text-1.tar ")
	require.NoError(t, exec.Command("tar", "-xf", "lightgbm_text-1.tar").Run())
	require.FileExists(t, filepath.Join("model", "model.lgb"))
	require.Contains(t, db.does(t, "model", "download", "lightgbm_text@2", "--original"), "written to lightgbm_text-2.zip ")
	require.Contains(t, db.does(t, "model", "download", "lightgbm_text@3", "--original"), "written to lightgbm_text-3.tar.gz ")
	require.Contains(t, db.does(t, "model", "download", "lightgbm_text@1"), "written to lightgbm_text-1.onnx ")
}

// equalsItsLibrary compares every row of the model's data with what the library said.
func equalsItsLibrary(t *testing.T, db database, name string) {
	t.Helper()
	conn := db.Conn(t)
	ctx := t.Context()
	for _, kind := range []string{"data", "expected"} {
		f, err := os.Open(mlflowModel(name) + "." + kind + ".csv")
		require.NoError(t, err)
		header, err := io.ReadAll(io.LimitReader(f, 200))
		require.NoError(t, err)
		_, err = f.Seek(0, io.SeekStart)
		require.NoError(t, err)
		line, _, _ := strings.Cut(string(header), "\n")
		var columns []string
		for _, c := range strings.Split(strings.TrimSpace(line), ",") {
			sqlType := map[string]string{"id": "bigint", "urgent": "boolean"}[c]
			if sqlType == "" && kind == "data" {
				sqlType = "real"
			}
			if sqlType == "" {
				sqlType = "double precision"
			}
			columns = append(columns, pgx.Identifier{c}.Sanitize()+" "+sqlType)
		}
		table := pgx.Identifier{name + "_" + kind}.Sanitize()
		_, err = conn.Exec(ctx, "CREATE TABLE "+table+" ("+strings.Join(columns, ", ")+")")
		require.NoError(t, err)
		_, err = conn.PgConn().CopyFrom(ctx, f, "COPY "+table+" FROM STDIN (FORMAT csv, HEADER)")
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	row, least := "d", "0"
	if name == "onnx_matrix" {
		row = "ARRAY[d.amount, d.hour, d.score]" // its signature has no names
		least = "1"                              // skl2onnx computes in float32 what scikit-learn does in float64
	}
	// How many rows there are, how many labels or values differ, and how many probabilities.
	sql := `SELECT count(*), count(*) FILTER (WHERE coalesce((e ->> 'label')::float8, (e ->> 'value')::float8) IS NULL
			OR abs(predict('NAME@1', ROW) - coalesce((e ->> 'label')::float8, (e ->> 'value')::float8)) > 1e-6 * abs(predict('NAME@1', ROW))),
		count(*) FILTER (WHERE e ? 'label' AND EXISTS (
			SELECT FROM jsonb_each_text(e) x WHERE x.key LIKE 'probability_%'
			AND (abs((predict_proba('NAME@1', ROW))[1 + substr(x.key, 13)::integer] - x.value::float8) <= 1e-6 * greatest(x.value::float8, LEAST)) IS NOT TRUE))
		FROM NAME_data d JOIN (SELECT id, to_jsonb(x) - 'id' AS e FROM NAME_expected x) x USING (id)`
	var rows, wrong, far int
	require.NoError(t, conn.QueryRow(ctx, strings.NewReplacer("NAME", name, "ROW", row, "LEAST", least).Replace(sql)).Scan(&rows, &wrong, &far))
	require.Equal(t, []int{60, 0, 0}, []int{rows, wrong, far}, "rows, wrong ones, far probabilities")
}

// One file of a library, and what a person sees of it.
func TestAnImportedModelInText(t *testing.T) {
	db := served(t)
	home, err := os.Getwd()
	require.NoError(t, err)
	file := filepath.Join(mlflowModel("lightgbm_text"), "model.lgb")
	folder := t.TempDir()
	renamed := filepath.Join(folder, "churn.bin")
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(renamed, content, 0o600))
	require.Regexp(t, `^churn version 1 registered: classification, 3 features, [0-9.]+ kB, converted from lightgbm-text\.
predict\('churn', …\) uses it now\.
$`, db.does(t, "model", "register", "churn", renamed))
	shown := db.does(t, "model", "show", "churn")
	require.Contains(t, shown, "Made of   lightgbm-text, 21.4 kB, SHA-256 "+shaOf(t, renamed))
	require.Contains(t, shown, "amount double precision, may be missing")
	require.Regexp(t, `(?m)^1 +champion +lightgbm-text `, shown)
	require.Contains(t, db.does(t, "model", "show", "churn", "--json"), `"source_sha256": "`+shaOf(t, renamed)+`"`)
	require.Equal(t, "multiclass num_class:3", one[string](t, db, "SELECT parameters ->> 'objective' FROM ml.versions"))
	require.Contains(t, one[string](t, db, "SELECT parameters ->> 'trained_with' FROM ml.versions"), "LightGBM")

	// What people say wins over what the file says.
	require.NoError(t, os.WriteFile(filepath.Join(folder, "model.yaml"), []byte(`
name: churn
features: [{name: a, missing: true}, {name: b, type: bigint, default: 7}, c]
labels: [stays, leaves, unsure]
trained_with: 2026-11
tags: {team: growth}
`), 0o600))
	db.does(t, "model", "register", renamed, "--tag", "reviewed=true")
	require.Equal(t, []string{"a", "b", "c"}, one[[]string](t, db, "SELECT features FROM ml.versions WHERE version = 2"))
	require.Equal(t, []string{"stays", "leaves", "unsure"}, one[[]string](t, db, "SELECT labels FROM ml.versions WHERE version = 2"))
	require.JSONEq(t, `{"team": "growth", "reviewed": true}`, one[string](t, db, "SELECT tags::text FROM ml.versions WHERE version = 2"))
	require.Equal(t, "2026-11", one[string](t, db, "SELECT parameters ->> 'trained_with' FROM ml.versions WHERE version = 2"))
	require.Contains(t, []string{"stays", "leaves", "unsure"}, one[string](t, db, "SELECT predict_label('churn@2', '{1, 2, 3}')"))
	require.Equal(t, "double precision", one[string](t, db, "SELECT signature #>> '{features, 0, type}' FROM ml.versions WHERE version = 2"))

	t.Chdir(t.TempDir())
	require.Contains(t, db.does(t, "model", "download", "churn", "--original"), "churn version 1 written to churn-1.txt (SHA-256 "+shaOf(t, renamed)+")")
	back, err := os.ReadFile("churn-1.txt")
	require.NoError(t, err)
	require.Equal(t, content, back)

	// The original of an ONNX file is the file itself.
	iris := filepath.Join(home, demo("iris", "model.onnx"))
	db.does(t, "model", "register", "plants", iris)
	require.Contains(t, db.does(t, "model", "download", "plants", "--original"), "written to plants-1.onnx ")
	require.Equal(t, shaOf(t, iris), shaOf(t, "plants-1.onnx"))
}

// A file store of MLflow keeps names, parameters and tags around the folder: they become the version's.
func TestAModelInAStoreOfMLflow(t *testing.T) {
	db := served(t)
	store := t.TempDir()
	model := filepath.Join(store, "0", "models", "m-7")
	require.NoError(t, os.CopyFS(filepath.Join(model, "artifacts"), os.DirFS(mlflowModel("xgboost_ubj"))))
	for path, content := range map[string]string{
		filepath.Join(model, "meta.yaml"):                    "model_id: m-7\nname: Churn\nsource_run_id: 4c1f\n",
		filepath.Join(model, "tags", "stage"):                "canary",
		filepath.Join(store, "0", "4c1f", "params", "depth"): "3",
		filepath.Join(store, "0", "4c1f", "tags", "team"):    "risk",
	} {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	}
	require.Contains(t, db.does(t, "model", "register", filepath.Join(model, "artifacts"), "--tag", "team=growth"), "churn version 1 registered")
	require.JSONEq(t, `{"team": "growth", "stage": "canary"}`, one[string](t, db, "SELECT tags::text FROM ml.versions"))
	require.Equal(t, "3", one[string](t, db, "SELECT parameters ->> 'depth' FROM ml.versions"))
}

// What validation has to say about a file reaches whoever registers it, by hand, by a migration or in SQL.
func TestWarningsReachWhoRegisters(t *testing.T) {
	db := served(t)
	early := filepath.Join("..", "convert", "testdata", "xgboost", "early.ubj")
	const noted = ` of model "early": Training stopped early: the `
	status, out, errOut := rowcast("model", "register", "early", early, "--database-url", db.URL)
	require.Zero(t, status, errOut)
	require.Contains(t, out, "early version 1 registered: ")
	require.Contains(t, errOut, "warning: version 1"+noted)
	require.Equal(t, 1, strings.Count(errOut, "\n"), errOut)

	dir := filepath.Join(t.TempDir(), "models")
	db.does(t, "model", "migration", "new", "early_v2", "--file", early, "--dir", dir)
	status, _, errOut = rowcast("model", "migration", "plan", "--dir", dir, "--database-url", db.URL)
	require.Equal(t, 2, status, errOut)
	require.Contains(t, errOut, "warning: version 2"+noted)
	status, _, errOut = rowcast("model", "migration", "up", "--dir", dir, "--database-url", db.URL)
	require.Zero(t, status, errOut)
	require.Contains(t, errOut, "warning: version 2"+noted)
}

// A migration takes what register takes, and refuses what it refuses before anything is written.
func TestAMigrationOfAnImportedModel(t *testing.T) {
	db := served(t)
	dir := filepath.Join(t.TempDir(), "models")
	written := strings.Fields(db.does(t, "model", "migration", "new", "churn_v2", "--file", mlflowModel("onnx_matrix"), "--dir", dir))
	require.Len(t, written, 3)
	require.Regexp(t, `/artifacts/churn_v2-[0-9a-f]{12}\.tar$`, written[2])
	again := strings.Fields(db.does(t, "model", "migration", "new", "churn_v3", "--file", mlflowModel("onnx_matrix"), "--tag", "team=growth", "--dir", dir))
	require.Equal(t, written[2], again[2], "the same folder is the same tar")
	db.does(t, "model", "migration", "new", "trees", "--file", filepath.Join("..", "convert", "testdata", "xgboost", "binary_logistic.ubj"), "--dir", dir)
	db.does(t, "model", "migration", "up", "--dir", dir)
	require.Equal(t, []string{"churn@1 mlflow-onnx", "churn@2 mlflow-onnx", "trees@1 xgboost-ubj"},
		one[[]string](t, db, "SELECT array_agg(model || '@' || version || ' ' || format ORDER BY model, version) FROM ml.versions"))
	require.JSONEq(t, `{"team": "growth", "reviewed": true}`, one[string](t, db, "SELECT tags::text FROM ml.versions WHERE model = 'churn' AND version = 2"))
	db.does(t, "model", "migration", "down", "all", "--dir", dir)
	require.Zero(t, one[int](t, db, "SELECT count(*)::integer FROM ml.models"))

	pointer := write(t, "model.onnx", "version https://git-lfs.github.com/spec/v1\noid sha256:"+strings.Repeat("ab", 32)+"\nsize 12345\n")
	nowhere := filepath.Join(t.TempDir(), "models")
	require.Contains(t, db.fails(t, 1, "model", "migration", "new", "m", "--file", pointer, "--dir", nowhere), "git lfs pull")
	require.Contains(t, db.fails(t, 1, "model", "migration", "new", "m", "--file", mlflowModel("sklearn"), "--dir", nowhere), "skl2onnx")
	require.Contains(t, db.fails(t, 1, "model", "migration", "new", "m", "--file", filepath.Join("..", "convert", "testdata", "refused", "xgboost.pkl"), "--dir", nowhere),
		"is a Python pickle of XGBoost")
	require.NoDirExists(t, nowhere)
}

// Two branches that were merged in the wrong order: nobody would run the older file.
func TestALateMigrationIsTold(t *testing.T) {
	db := served(t)
	dir := filepath.Join(t.TempDir(), "models")
	for _, name := range []string{"first", "late", "third"} {
		db.does(t, "model", "migration", "new", name, "--dir", dir)
	}
	elsewhere := t.TempDir()
	late, err := filepath.Glob(filepath.Join(dir, "000002_late.*"))
	require.NoError(t, err)
	require.Len(t, late, 2)
	for _, path := range late {
		require.NoError(t, os.Rename(path, filepath.Join(elsewhere, filepath.Base(path))))
	}
	require.NotContains(t, db.does(t, "model", "migration", "up", "--dir", dir), "nothing shows")
	for _, path := range late {
		require.NoError(t, os.Rename(filepath.Join(elsewhere, filepath.Base(path)), path))
	}
	const told = "000002_late.up.sql is below version 3, but nothing shows that it ran"
	require.Contains(t, db.does(t, "model", "migration", "plan", "--dir", dir), told)
	require.Contains(t, db.does(t, "model", "migration", "up", "--dir", dir), told)
}

func TestWhatCannotBeImportedIsRefusedBeforeItIsUploaded(t *testing.T) {
	db := served(t)
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	refused := filepath.Join("..", "convert", "testdata", "refused")
	require.Equal(t, `rowcast: the file is a Python pickle of scikit-learn compressed with gzip, which is code and is never run here
    hint: Convert it in Python, where the model is: from skl2onnx import to_onnx; `+
		`open("model.onnx", "wb").write(to_onnx(model, X[:1], options={"zipmap": False}).SerializeToString())  # X: the rows it was trained on
`, db.fails(t, 1, "model", "register", "m", filepath.Join(refused, "sklearn.joblib.gz")))
	require.Contains(t, db.fails(t, 1, "model", "register", "m", mlflowModel("sklearn")), "mlflow.sklearn.load_model(FOLDER); from skl2onnx import to_onnx")
	require.Contains(t, db.fails(t, 1, "model", "register", "m", mlflowModel("function")), "is a Python function, which is code")
	require.Contains(t, db.fails(t, 1, "model", "register", "m", mlflowModel("onnx_external")), "save_as_external_data=False")
	require.Contains(t, db.fails(t, 1, "model", "register", "m", mlflowModel("lightgbm_skops")), `model.booster_.save_model("model.txt")`)
	require.Contains(t, db.fails(t, 1, "model", "register", "m", t.TempDir()), "is a folder without MLmodel")
	require.Contains(t, db.fails(t, 2, "model", "register", filepath.Join(refused, "..", "mlflow", "lightgbm_text", "model.lgb")), "what is the model's name?")

	// From SQL the same, by the sidecar's child.
	content, err := os.ReadFile(filepath.Join(refused, "xgboost.pkl"))
	require.NoError(t, err)
	_, err = db.Conn(t).Exec(t.Context(), "SELECT ml.register_model('m', $1)", content)
	require.ErrorContains(t, err, "the file is a Python pickle of XGBoost, which is code and is never run here (SQLSTATE 22000)")

	// A bomb: 100 MB of zeros in a few kilobytes.
	folder := t.TempDir()
	bomb := folder + ".tar.gz"
	require.NoError(t, os.WriteFile(filepath.Join(folder, "MLmodel"), []byte("flavors: {onnx: {data: model.onnx}}"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "model.onnx"), make([]byte, 100<<20), 0o600))
	require.NoError(t, exec.Command("tar", "-C", folder, "-czf", bomb, ".").Run())
	require.Contains(t, db.fails(t, 1, "model", "register", "m", bomb), "unpacks to more than a model's folder can hold: SQLSTATE 54000")
	require.Zero(t, one[int](t, db, "SELECT (SELECT count(*) FROM ml_private.artifact) + (SELECT count(*) FROM ml_private.model)"))

	left, err := os.ReadDir(temporary)
	require.NoError(t, err)
	require.Empty(t, left, "the tar of a folder is a temporary file")
}
