package convert

import (
	"archive/tar"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/rowcast/rowcast/internal/rowcast"
)

// PackFolder writes an MLflow model folder as a tar. The same files give the same bytes, whoever packs them and when.
func PackFolder(folder string, w io.Writer) error {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return unreadable(err)
	}
	defer func() { _ = root.Close() }()
	if _, err := root.Stat(mlmodelName); err != nil {
		return refused("%q is a folder without %s, so it is no MLflow model", clip(folder), mlmodelName).
			WithHint("Name the model file in it, or the folder that holds %s.", mlmodelName)
	}
	t := tar.NewWriter(w)
	count, total := 0, int64(0)
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return unreadable(err)
		case d.IsDir():
			return nil
		case !d.Type().IsRegular():
			return refused("the folder holds a link or a device, %q", clip(name)).WithHint("Copy the files that links point to: cp -rL FOLDER COPY")
		}
		info, err := d.Info()
		if err != nil {
			return unreadable(err)
		}
		count, total = count+1, total+info.Size()
		if count > maxEntries || total > maxUnpacked {
			return rowcast.Errorf(rowcast.CodeTooLarge, "the folder holds more than %d files or %d bytes", maxEntries, int64(maxUnpacked)).
				WithHint("Register the model's folder alone.")
		}
		return packFile(t, root, name, info.Size())
	})
	if err != nil {
		return err
	}
	if err := t.Close(); err != nil {
		return rowcast.Errorf(rowcast.CodeInvalidArgument, "cannot pack the folder").WithCause(err)
	}
	return nil
}

func packFile(t *tar.Writer, root *os.Root, name string, size int64) error {
	file, err := root.Open(name)
	if err != nil {
		return unreadable(err)
	}
	defer func() { _ = file.Close() }()
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "model/" + filepath.ToSlash(name), Size: size, Mode: 0o644}); err != nil {
		return rowcast.Errorf(rowcast.CodeInvalidArgument, "cannot pack %q", clip(name)).WithCause(err)
	}
	if _, err := io.CopyN(t, file, size); err != nil {
		return unreadable(err)
	}
	return nil
}

func unreadable(err error) *rowcast.Error {
	return rowcast.Errorf(rowcast.CodeInvalidArgument, "cannot read the model folder").WithCause(err)
}

// Origin is what MLflow keeps around a model folder rather than in it.
type Origin struct {
	Name       string // the registered model's, else the logged model's, else the folder's, as a model name; "" where none will do
	Parameters map[string]any
	Tags       map[string]any
}

// FolderOrigin looks around an MLflow model folder: in the file that MLflow writes when it fetches a model from its registry, and, where the folder lies in
// a file store, in the parameters and tags of its run and of the logged model.
func FolderOrigin(folder string) Origin {
	o := Origin{Parameters: map[string]any{}, Tags: map[string]any{}}
	names := []string{}
	if text, err := os.ReadFile(filepath.Join(folder, registeredName)); err == nil && len(text) <= maxMLmodel {
		names = append(names, parseRegistered(text).Name)
	}
	absolute, err := filepath.Abs(folder)
	if err != nil {
		absolute = folder
	}
	// A store has RUN/artifacts/NAME, with the run's parameters in RUN/params, or, since MLflow 3, models/MODEL/artifacts.
	store := filepath.Dir(absolute)
	if filepath.Base(store) == "artifacts" {
		store = filepath.Dir(store)
	}
	if fields := storeMeta(store); fields != nil {
		m := mlmodel{fields: fields}
		if id := m.text("model_id"); id != "" {
			names = append(names, m.text("name"))
			// The run that logged it, where it is still there; what the model itself says counts more.
			run := filepath.Join(store, "..", "..", path.Base(m.text("source_run_id")))
			readStore(run, &o)
		}
		readStore(store, &o)
	}
	names = append(names, filepath.Base(absolute))
	for _, n := range names {
		if o.Name = modelName(n); o.Name != "" {
			break
		}
	}
	return o
}

// ArchiveOrigin is FolderOrigin for a packed folder at path.
func ArchiveOrigin(data []byte, file string) Origin {
	name := ""
	if a, err := openArchive(data); err == nil {
		if root, err := a.root(); err == nil && a.has(path.Join(root, registeredName)) {
			if text, err := a.read(path.Join(root, registeredName), maxMLmodel); err == nil {
				name = modelName(parseRegistered(text).Name)
			}
		}
	}
	if name == "" {
		base := filepath.Base(file)
		for _, suffix := range []string{".zip", ".tar", ".gz", ".tgz", ".tar"} {
			base = strings.TrimSuffix(base, suffix)
		}
		name = modelName(base)
	}
	return Origin{Name: name}
}

func storeMeta(store string) map[string]any {
	text, err := os.ReadFile(filepath.Join(store, "meta.yaml"))
	if err != nil || len(text) > maxMLmodel {
		return nil
	}
	fields, err := yamlObject(text)
	if err != nil {
		return nil
	}
	return fields
}

// readStore reads the parameters and tags that a file store keeps, one file each.
func readStore(store string, o *Origin) {
	const most, longest = 10_000, 64 << 10
	read := func(kind string) map[string]any {
		values := map[string]any{}
		entries, err := os.ReadDir(filepath.Join(store, kind))
		if err != nil {
			return nil
		}
		for _, e := range entries[:min(len(entries), most)] {
			if info, err := e.Info(); err != nil || !info.Mode().IsRegular() || info.Size() > longest {
				continue
			}
			if text, err := os.ReadFile(filepath.Join(store, kind, e.Name())); err == nil {
				values[e.Name()] = strings.TrimSuffix(string(text), "\n")
			}
		}
		return values
	}
	maps.Copy(o.Parameters, read("params"))
	tags := read("tags")
	for _, bookkeeping := range []string{"mlflow.modelVersions", "mlflow.log-model.history", "mlflow.loggedModels"} {
		delete(tags, bookkeeping)
	}
	maps.Copy(o.Tags, tags)
}

// modelName makes a name of a model in Rowcast of any other, "" where nothing is left of it.
func modelName(s string) string {
	s = strings.Trim(regexp.MustCompile(`[^a-z0-9_]+`).ReplaceAllString(strings.ToLower(s), "_"), "_")
	if s == "" || len(s) > 63 || s[0] >= '0' && s[0] <= '9' {
		return ""
	}
	switch s {
	case "artifacts", "model", "models", "tmp": // what everybody calls the folder
		return ""
	}
	return s
}
