package convert

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/rowcast"
)

const mlflowFolders = "testdata/mlflow"

// entry is a file of an archive that a test makes up.
type entry struct {
	name, content string
	kind          byte // of tar
	link          string
	mode          fs.FileMode // of zip
}

func tarred(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: e.name, Size: int64(len(e.content)), Mode: 0o600}
		if e.kind != 0 {
			h.Typeflag, h.Linkname, h.Size = e.kind, e.link, 0
		}
		require.NoError(t, w.WriteHeader(h))
		if h.Size > 0 {
			_, err := w.Write([]byte(e.content))
			require.NoError(t, err)
		}
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(data)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}

func zipOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, e := range entries {
		h := &zip.FileHeader{Name: e.name, Method: zip.Deflate}
		h.SetMode(e.mode | 0o600)
		w, err := z.CreateHeader(h)
		require.NoError(t, err)
		_, err = w.Write([]byte(e.content))
		require.NoError(t, err)
	}
	require.NoError(t, z.Close())
	return b.Bytes()
}

// folderEntries are the files of a folder below a prefix.
func folderEntries(t testing.TB, folder, prefix string) []entry {
	t.Helper()
	files, err := os.ReadDir(folder)
	require.NoError(t, err)
	var list []entry
	for _, f := range files {
		content, err := os.ReadFile(filepath.Join(folder, f.Name()))
		require.NoError(t, err)
		list = append(list, entry{name: prefix + f.Name(), content: string(content)})
	}
	return list
}

func mlflowModel(name string) string { return filepath.Join(mlflowFolders, name) }

func fromFolder(t testing.TB, folder string) (*Import, error) {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, PackFolder(folder, &b))
	return From(b.Bytes())
}

// real are features of type real, which may be missing or not.
func realFeatures(missing bool, names ...string) []rowcast.Feature {
	var list []rowcast.Feature
	for _, n := range names {
		list = append(list, rowcast.Feature{Name: n, Type: rowcast.TypeReal, Missing: missing})
	}
	return list
}

func TestAnMLflowFolderOfONNX(t *testing.T) {
	i, err := fromFolder(t, mlflowModel("onnx_columns"))
	require.NoError(t, err)
	require.Equal(t, FormatMLflow+"-onnx", i.Format)
	model, err := os.ReadFile(filepath.Join(mlflowModel("onnx_columns"), "model.onnx"))
	require.NoError(t, err)
	require.Equal(t, model, i.ONNX, "the graph stays as it is")
	require.Equal(t, []rowcast.Feature{
		{Name: "amount", Type: rowcast.TypeReal}, {Name: "hour", Type: rowcast.TypeBigint}, {Name: "urgent", Type: rowcast.TypeBoolean},
	}, i.Features)
	require.JSONEq(t, `[41.5473518371582, 1, false]`, string(i.Example))
	require.Len(t, i.Warnings, 1)
	require.Contains(t, i.Warnings[0], `calls "urgent" optional, but its tensor is bool`)

	i, err = fromFolder(t, mlflowModel("onnx_matrix"))
	require.NoError(t, err)
	require.Empty(t, i.Features, "its signature is a tensor without names")
	require.JSONEq(t, `[41.5473518371582, 1.0, -0.4203539192676544]`, string(i.Example))
	require.Equal(t, map[string]any{"team": "risk", "reviewed": true}, i.Tags)
	require.Equal(t, "onnx", i.Parameters["mlflow_flavor"])
	require.Regexp(t, `^3\.`, i.Parameters["mlflow_version"])
	require.Len(t, i.Parameters["model_uuid"], 32)
	require.Empty(t, i.Warnings)
}

func TestAnMLflowFolderOfTrees(t *testing.T) {
	i, err := fromFolder(t, mlflowModel("lightgbm_text"))
	require.NoError(t, err)
	require.Equal(t, FormatMLflow+"-lightgbm", i.Format)
	require.Equal(t, realFeatures(true, "amount", "hour", "score"), i.Features)
	require.JSONEq(t, `[41.5473518371582, 1.0, -0.4203539192676544]`, string(i.Example))
	require.Len(t, i.Labels, 3)
	require.Equal(t, "lightgbm", i.Parameters["mlflow_flavor"])

	i, err = fromFolder(t, mlflowModel("xgboost_ubj"))
	require.NoError(t, err)
	require.Equal(t, FormatMLflow+"-xgboost", i.Format)
	require.Equal(t, realFeatures(true, "amount", "hour", "score"), i.Features, "optional in the signature")
	require.Len(t, i.Labels, 2)

	i, err = fromFolder(t, mlflowModel("xgboost_json"))
	require.NoError(t, err)
	require.Equal(t, realFeatures(false, "amount", "hour", "score"), i.Features, "required by the signature")
	require.Equal(t, rowcast.TaskRegression, i.Task)
	require.Nil(t, i.Example)
}

func TestAPackedFolderIsTheSame(t *testing.T) {
	folder := mlflowModel("onnx_columns")
	want, err := fromFolder(t, folder)
	require.NoError(t, err)
	for name, data := range map[string][]byte{
		"zip":         zipOf(t, folderEntries(t, folder, "")...),
		"zip, inside": zipOf(t, folderEntries(t, folder, "model/")...),
		"tar":         tarred(t, folderEntries(t, folder, "./")...),
		"tar, inside": tarred(t, folderEntries(t, folder, "a/b/")...),
		"tar.gz":      gzipped(t, tarred(t, folderEntries(t, folder, "onnx_columns/")...)),
		"with links elsewhere": tarred(t, append(folderEntries(t, folder, ""),
			entry{name: "code/MLmodel", content: "flavors: {sklearn: {}}"})...),
	} {
		got, err := From(data)
		require.NoError(t, err, name)
		require.Equal(t, want, got, name)
	}
	var once, again bytes.Buffer
	require.NoError(t, PackFolder(folder, &once))
	require.NoError(t, os.Chtimes(filepath.Join(folder, "MLmodel"), fixedTime(), fixedTime()))
	require.NoError(t, PackFolder(folder, &again))
	require.Equal(t, once.Bytes(), again.Bytes(), "the same files give the same bytes")
}

// The lines that refuse a folder, in one file to read.
func TestFoldersOfPythonAreRefusedWithTheLineThatConvertsThem(t *testing.T) {
	var all strings.Builder
	for _, name := range []string{"sklearn", "function", "lightgbm_sklearn", "lightgbm_skops", "onnx_external"} {
		_, err := fromFolder(t, mlflowModel(name))
		all.WriteString(told(t, name, err))
	}
	old, err := os.ReadFile("testdata/refused/xgboost_old.deprecated")
	require.NoError(t, err)
	trees, err := os.ReadFile(filepath.Join(mlflowModel("lightgbm_text"), "model.lgb"))
	require.NoError(t, err)
	for _, c := range []struct {
		name    string
		mlmodel string
		files   []entry
	}{
		{"pytorch", "flavors: {pytorch: {model_data: data}, python_function: {}}", nil},
		{"tensorflow", "flavors: {tensorflow: {}, python_function: {}}", nil},
		{"catboost", "flavors: {catboost: {}, python_function: {}}", nil},
		{"transformers", "flavors: {transformers: {}, python_function: {}}", nil},
		{"spark", "flavors: {spark: {}, python_function: {}}", nil},
		{"no flavor", "flavors: {}", nil},
		{"no YAML", "flavors: [\x00", nil},
		{"a list", "- flavors", nil},
		{"aliases", "a: &a [1, 2]\nb: &b [*a, *a]\nc: [*b, *b]", nil},
		{"old XGBoost", "flavors: {xgboost: {data: model.xgb}}", []entry{{name: "model.xgb", content: string(old)}}},
		{"XGBoost of LightGBM", "flavors: {xgboost: {data: model.xgb}}", []entry{{name: "model.xgb", content: string(trees)}}},
		{"a file outside", "flavors: {lightgbm: {data: ../../etc/passwd}}", nil},
		{"an absolute file", "flavors: {lightgbm: {data: /etc/passwd}}", nil},
		{"no model file", "flavors: {lightgbm: {data: model.lgb}}", nil},
		{"a signature of others", "flavors: {lightgbm: {data: model.lgb}}\nsignature: {inputs: '[{\"type\": \"double\", \"name\": \"a\"}]'}",
			[]entry{{name: "model.lgb", content: string(trees)}}},
		{"a signature that names others", "flavors: {lightgbm: {data: model.lgb}}\nsignature: {inputs: '[{\"type\": \"double\", \"name\": \"amount\"}, " +
			"{\"type\": \"double\", \"name\": \"hours\"}, {\"type\": \"double\", \"name\": \"score\"}]'}", []entry{{name: "model.lgb", content: string(trees)}}},
		{"a signature that is none", "flavors: {lightgbm: {data: model.lgb}}\nsignature: {inputs: '{'}", []entry{{name: "model.lgb", content: string(trees)}}},
	} {
		_, err := From(tarred(t, append([]entry{{name: "MLmodel", content: c.mlmodel}}, c.files...)...))
		all.WriteString(told(t, c.name, err))
	}
	golden(t, "testdata/mlflow/refused.golden", all.String())
}

// Nothing of an archive is written to a disk, and yet what would lead out of its folder is refused: whoever packed it meant no good.
func TestHostileArchivesAreRefused(t *testing.T) {
	model := entry{name: "MLmodel", content: "flavors: {onnx: {data: model.onnx}}"}
	zeros := strings.Repeat("\x00", 100<<20)
	many := []entry{model}
	for range maxEntries {
		many = append(many, entry{name: strings.Repeat("x", len(many)%50+1) + string(rune('a'+len(many)%26)) + strings.Repeat("y", len(many)/50)})
	}
	truncated := gzipped(t, tarred(t, model))
	for name, c := range map[string]struct {
		data   []byte
		reason string
	}{
		"tar: path up":          {tarred(t, model, entry{name: "../../etc/cron.d/x"}), "leads out of its folder"},
		"tar: path up, inside":  {tarred(t, model, entry{name: "a/../../x"}), "leads out of its folder"},
		"tar: absolute":         {tarred(t, model, entry{name: "/etc/passwd"}), "leads out of its folder"},
		"tar: link":             {tarred(t, model, entry{name: "model.onnx", kind: tar.TypeSymlink, link: "/etc/passwd"}), "holds a link or a device"},
		"tar: hard link":        {tarred(t, model, entry{name: "model.onnx", kind: tar.TypeLink, link: "MLmodel"}), "holds a link or a device"},
		"tar: device":           {tarred(t, model, entry{name: "model.onnx", kind: tar.TypeChar}), "holds a link or a device"},
		"tar: twice":            {tarred(t, model, model), "twice"},
		"tar: cut off":          {tarred(t, model)[:530], "damaged"},
		"tar.gz: cut off":       {truncated[:len(truncated)-12], "damaged"},
		"tar.gz: bomb":          {gzipped(t, tarred(t, model, entry{name: "model.onnx", content: zeros})), "unpacks to more than"},
		"zip: path up":          {zipOf(t, model, entry{name: "../x"}), "leads out of its folder"},
		"zip: backslash":        {zipOf(t, model, entry{name: "..\\x"}), "leads out of its folder"},
		"zip: absolute":         {zipOf(t, model, entry{name: "/x"}), "leads out of its folder"},
		"zip: link":             {zipOf(t, model, entry{name: "model.onnx", content: "/etc/passwd", mode: fs.ModeSymlink}), "holds a link or a device"},
		"zip: bomb":             {zipOf(t, model, entry{name: "model.onnx", content: zeros}), "unpacks to more than"},
		"zip: many":             {zipOf(t, many...), "more than 10000 files"},
		"zip: cut off":          {zipOf(t, model)[:40], "damaged"},
		"two models":            {tarred(t, entry{name: "a/MLmodel"}, entry{name: "b/MLmodel"}), "several MLflow models"},
		"tar without MLmodel":   {tarred(t, entry{name: "a/model.onnx"}), "no MLmodel"},
		"archive in an archive": {tarred(t, model, entry{name: "model.onnx", content: string(tarred(t, model))}), "is mlflow"},
	} {
		_, err := From(c.data)
		require.ErrorContains(t, err, c.reason, name)
		told(t, name, err)
	}
	// A zip that says less than it holds.
	lying := zipOf(t, model, entry{name: "model.onnx", content: strings.Repeat("y", 1<<20)})
	at := bytes.LastIndex(lying, []byte("PK\x01\x02"))
	copy(lying[at+24:], "\x10\x00\x00\x00")
	_, err := From(lying)
	require.ErrorContains(t, err, "damaged")
}

func TestInputExamples(t *testing.T) {
	features := append(realFeatures(false, "a"), realFeatures(true, "b")...)
	for _, c := range []struct{ example, row, reason string }{
		{`{"columns": ["b", "a"], "data": [[1, 2], [3, 4]]}`, `[2, 1]`, ""},
		{`{"index": [7], "columns": ["a", "b"], "data": [[1, null]]}`, `[1, null]`, ""},
		{`{"columns": ["a", "b"], "data": [[null, 1]]}`, "", `no value for "a"`},
		{`{"columns": ["a", "c"], "data": [[null, 1]]}`, "", `no column "b"`},
		{`{"columns": ["a"], "data": [[1]]}`, "", "1 values, the model takes 2"},
		{`[[1, 2], [3, 4]]`, `[1, 2]`, ""},
		{`{"inputs": [[1, 2]]}`, `[1, 2]`, ""},
		{`[{"b": 1, "a": 2}]`, `[2, 1]`, ""},
		{`[[1, [2]]]`, "", "no scalar"},
		{`[1, 2]`, "", "no table"},
		{`{"data": []}`, "", "no table"},
		{`nonsense`, "", "no table"},
		{``, "", "no table"},
	} {
		row, reason := exampleRow([]byte(c.example), features)
		if c.reason != "" {
			require.Contains(t, reason, c.reason, c.example)
			require.Nil(t, row)
			continue
		}
		require.Empty(t, reason, c.example)
		require.JSONEq(t, c.row, string(row), c.example)
	}
}

func TestColumnsOfASignature(t *testing.T) {
	columns, named, err := parseColumns([]byte(`[{"type": "long", "name": "a"}, {"type": "string", "name": "b", "optional": true},
		{"type": "datetime", "name": "c", "required": false}, {"type": "integer", "name": 3.0, "required": true}]`))
	require.NoError(t, err)
	require.True(t, named)
	require.Equal(t, []column{{"a", rowcast.TypeBigint, false}, {"b", rowcast.TypeText, true}, {"c", "", true}, {"3", rowcast.TypeBigint, false}}, columns)
	for _, schema := range []string{`[]`, `[{"type": "double"}]`, `[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, 3]}, "name": "x"}]`} {
		_, named, err := parseColumns([]byte(schema))
		require.NoError(t, err)
		require.False(t, named, schema)
	}
	_, _, err = parseColumns([]byte(`[{"type": "double", "name": "a"}, {"type": "double", "name": "a"}]`))
	require.ErrorContains(t, err, `two inputs "a"`)
}
