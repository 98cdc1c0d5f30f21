package convert

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rowcast/rowcast/internal/onnx"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// FuzzMLmodel reads anything as a packed folder, and as the MLmodel and the input example of one whose model is real. It is refused with a reason, or what
// comes out can be registered: a graph, features with names, an example that is JSON.
func FuzzMLmodel(f *testing.F) {
	folders, err := filepath.Glob(filepath.Join(mlflowFolders, "*", mlmodelName))
	require.NoError(f, err)
	require.NotEmpty(f, folders)
	for _, path := range folders {
		text, err := os.ReadFile(path)
		require.NoError(f, err)
		example, _ := os.ReadFile(filepath.Join(filepath.Dir(path), "input_example.json")) // some have none
		entries := folderEntries(f, filepath.Dir(path), "")
		f.Add(zipOf(f, entries...), text, example)
		f.Add(gzipped(f, tarred(f, entries...)), text, example)
	}
	f.Add(tarred(f, folderEntries(f, mlflowModel("onnx_columns"), "m/")...), []byte("a: &a [1]\nb: *a\nflavors: {onnx: {data: model.onnx}}"), []byte(`[{"amount": 1}]`))
	trees := folderEntries(f, mlflowModel("lightgbm_text"), "")
	graph := folderEntries(f, mlflowModel("onnx_columns"), "")
	f.Fuzz(func(t *testing.T, archive, mlmodel, example []byte) {
		sound(t, archive)
		for _, folder := range [][]entry{trees, graph} {
			packed := []entry{{name: mlmodelName, content: string(mlmodel)}, {name: "input_example.json", content: string(example)}}
			for _, e := range folder {
				if filepath.Ext(e.name) == ".lgb" || filepath.Ext(e.name) == ".onnx" {
					packed = append(packed, e)
				}
			}
			sound(t, tarred(t, packed...))
		}
	})
}

// sound fails where an import is neither refused as it should be nor complete.
func sound(t *testing.T, data []byte) {
	i, err := From(data)
	if err != nil {
		var e *rowcast.Error
		require.ErrorAs(t, err, &e)
		require.Contains(t, []rowcast.Code{rowcast.CodeArtifactRefused, rowcast.CodeTooLarge}, e.Code)
		require.NotEmpty(t, e.Message)
		return
	}
	if i.Format == FormatONNX {
		return // left to the reader of ONNX
	}
	_, err = onnx.Inspect(i.ONNX)
	require.NoError(t, err)
	for _, f := range i.Features {
		require.NotEmpty(t, f.Name)
	}
	if i.Example != nil {
		require.True(t, json.Valid(i.Example))
	}
	_, err = json.Marshal(i.Tags)
	require.NoError(t, err)
}
