package convert

import (
	"archive/zip"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// zipped packs empty files of the names.
func zipped(t testing.TB, names ...string) string {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, n := range names {
		w, err := z.Create(n)
		require.NoError(t, err)
		_, err = w.Write([]byte(n))
		require.NoError(t, err)
	}
	require.NoError(t, z.Close())
	return b.String()
}

// Golden file: UPDATE_GOLDEN=1 writes it.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if os.Getenv("UPDATE_GOLDEN") != "" {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o600))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

func told(t testing.TB, name string, err error) string {
	t.Helper()
	var e *rowcast.Error
	require.ErrorAs(t, err, &e, name)
	require.Contains(t, []rowcast.Code{rowcast.CodeArtifactRefused, rowcast.CodeTooLarge}, e.Code, name)
	text := "## " + name + "\n" + e.Error() + "\n"
	if e.Detail != "" {
		text += "detail: " + e.Detail + "\n"
	}
	if e.Hint != "" {
		text += "hint: " + e.Hint + "\n"
	}
	return text
}

// What is recognised and refused says what it is and how it becomes something that can be registered. The files are real where the library is at hand;
// of the others there is the start that makes them known.
func TestForeignFilesAreRefusedWithTheLineThatConvertsThem(t *testing.T) {
	var all strings.Builder
	files, err := filepath.Glob("testdata/refused/*")
	require.NoError(t, err)
	for _, file := range files {
		if ext := filepath.Ext(file); ext == ".py" || ext == ".golden" {
			continue
		}
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		_, err = From(data)
		all.WriteString(told(t, filepath.Base(file), err))
		data = append([]byte{}, data...)
		_, early := Detect(bytes.NewReader(data), int64(len(data)))
		require.Equal(t, err, early, "%s: before the upload as well", file)
	}
	for _, c := range []struct{ name, content string }{
		{"git-lfs pointer", "version https://git-lfs.github.com/spec/v1\noid sha256:" + strings.Repeat("4d", 32) + "\nsize 132735\n"},
		{"PyTorch before zip", "\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."},
		{"PyTorch", zipped(t, "churn/data.pkl", "churn/version", "churn/data/0")},
		{"Keras HDF5", "\x89HDF\r\n\x1a\n\x00\x00\x00\x00"},
		{"Keras", zipped(t, "metadata.json", "config.json", "model.weights.h5")},
		{"Keras JSON", `{"class_name": "Sequential", "config": {"layers": []}}`},
		{"TensorFlow SavedModel", "\x08\x01\x12\x9b\x10\n\x99\x08\n\x10\n\x0eVarHandleOp"},
		{"TensorFlow SavedModel in a zip", zipped(t, "m/saved_model.pb", "m/variables/variables.index")},
		{"TensorFlow Lite", "\x1c\x00\x00\x00TFL3\x14\x00"},
		{"safetensors", "\x40\x00\x00\x00\x00\x00\x00\x00" + `{"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}    ` + "\x00\x00\x00\x00"},
		{"GGUF", "GGUF\x03\x00\x00\x00"},
		{"CatBoost", "CBM1\x00\x10\x00\x00"},
		{"CatBoost JSON", `{"features_info": {}, "oblivious_trees": []}`},
		{"PMML", "<?xml version=\"1.0\"?>\n<PMML version=\"4.4\">"},
		{"skops", zipped(t, "schema.json", "1.npy")},
		{"H2O", zipped(t, "model.ini", "trees/t00_000.bin")},
		{"XGBoost, old", "binf\x00\x00\x00\x3f"},
		{"other JSON", `{"name": "churn"}`},
		{"zip of an ONNX file", zipped(t, "churn/churn.onnx")},
		{"other zip", zipped(t, "readme.txt")},
		{"zstd", "\x28\xb5\x2f\xfd\x04"},
		{"lz4", "\x04\x22\x4d\x18\x64"},
	} {
		_, err := From([]byte(c.content))
		all.WriteString(told(t, c.name, err))
	}
	golden(t, "testdata/refused/refused.golden", all.String())
}

// The name plays no part; what begins like nothing known is left to the reader of ONNX.
func TestFormatsAreToldByTheirContent(t *testing.T) {
	read := func(path string) []byte {
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		return data
	}
	cases := map[string]struct {
		data []byte
		want Format
	}{
		"onnx":       {read("testdata/mlflow/onnx_matrix/model.onnx"), FormatONNX},
		"lightgbm":   {read("testdata/mlflow/lightgbm_text/model.lgb"), FormatLightGBM},
		"ubj":        {read("testdata/mlflow/xgboost_ubj/model.ubj"), FormatXGBoostUBJ},
		"json":       {read("testdata/mlflow/xgboost_json/model.json"), FormatXGBoostJSON},
		"nothing":    {nil, FormatONNX},
		"text":       {[]byte("This is a shopping list.\n"), FormatONNX},
		"zip":        {[]byte(zipped(t, "m/MLmodel")), FormatMLflow},
		"JSON after": {append([]byte("\xef\xbb\xbf \r\n"), read("testdata/mlflow/xgboost_json/model.json")...), FormatXGBoostJSON},
	}
	for name, c := range cases {
		got, err := Detect(bytes.NewReader(c.data), int64(len(c.data)))
		require.NoError(t, err, name)
		require.Equal(t, c.want, got, name)
	}
	_, err := Detect(bytes.NewReader(nil), 5)
	require.Equal(t, rowcast.CodeInvalidArgument, rowcast.CodeOf(err), "a file that can't be read is no refused model")
}
