package convert

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func fixedTime() time.Time { return time.Unix(1_700_000_000, 0) }

func TestAFolderIsPackedWithoutWhatLiesOutside(t *testing.T) {
	folder := t.TempDir()
	var b bytes.Buffer
	require.ErrorContains(t, PackFolder(folder, &b), "without MLmodel")
	require.ErrorContains(t, PackFolder(filepath.Join(folder, "none"), &b), "cannot read")
	require.NoError(t, os.WriteFile(filepath.Join(folder, "MLmodel"), []byte("flavors: {}"), 0o600))
	require.NoError(t, PackFolder(folder, &b))
	require.NoError(t, os.Symlink("/etc/passwd", filepath.Join(folder, "model.onnx")))
	require.ErrorContains(t, PackFolder(folder, &b), "holds a link or a device")
}

// A file store of MLflow keeps names, parameters and tags around the folder.
func TestWhatAStoreKeepsAroundAModel(t *testing.T) {
	store := t.TempDir()
	write := func(path, content string) {
		t.Helper()
		at := filepath.Join(store, filepath.FromSlash(path))
		require.NoError(t, os.MkdirAll(filepath.Dir(at), 0o700))
		require.NoError(t, os.WriteFile(at, []byte(content), 0o600))
	}
	write("0/4c1f/meta.yaml", "run_id: 4c1f\nrun_name: bold-ox-1\n")
	write("0/4c1f/params/depth", "3")
	write("0/4c1f/tags/team", "risk")
	write("0/4c1f/tags/mlflow.user", "ann")
	write("0/models/m-7/meta.yaml", "model_id: m-7\nname: Churn Model\nsource_run_id: 4c1f\n")
	write("0/models/m-7/params/rate", "0.1\n")
	write("0/models/m-7/tags/team", "growth")
	write("0/models/m-7/tags/mlflow.modelVersions", "[{}]")
	write("0/models/m-7/artifacts/MLmodel", "flavors: {}")
	want := Origin{Name: "churn_model", Parameters: map[string]any{"depth": "3", "rate": "0.1"}, Tags: map[string]any{"team": "growth", "mlflow.user": "ann"}}
	require.Equal(t, want, FolderOrigin(filepath.Join(store, "0", "models", "m-7", "artifacts")))

	// Before MLflow 3 the folder lies in the run's artifacts.
	write("0/4c1f/artifacts/Scorer-2/MLmodel", "flavors: {}")
	want = Origin{Name: "scorer_2", Parameters: map[string]any{"depth": "3"}, Tags: map[string]any{"team": "risk", "mlflow.user": "ann"}}
	require.Equal(t, want, FolderOrigin(filepath.Join(store, "0", "4c1f", "artifacts", "Scorer-2")))

	// Fetched from the registry: by the name there.
	write("fetched/MLmodel", "flavors: {}")
	write("fetched/registered_model_meta", "model_name: Churn\nmodel_version: '7'\n")
	require.Equal(t, "churn", FolderOrigin(filepath.Join(store, "fetched")).Name)
	data := tarred(t, folderEntries(t, filepath.Join(store, "fetched"), "")...)
	require.Equal(t, "churn", ArchiveOrigin(data, "x.tar").Name)
	require.Equal(t, "churn_2", ArchiveOrigin(tarred(t, entry{name: "MLmodel"}), "/tmp/Churn-2.tar.gz").Name)
	require.Empty(t, ArchiveOrigin(tarred(t, entry{name: "MLmodel"}), "/tmp/model.zip").Name, "every model is called so")

	i, err := From(tarred(t, append(folderEntries(t, mlflowModel("onnx_columns"), ""),
		entry{name: "registered_model_meta", content: "model_name: Churn\nmodel_version: '7'\n"})...))
	require.NoError(t, err)
	require.Equal(t, "Churn", i.Parameters["mlflow_model"])
	require.Equal(t, "7", i.Parameters["mlflow_model_version"])
}
